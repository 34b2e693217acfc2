"""Filter chains that a listener loses have routes until proxies have drained them, and no longer."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from controlplane.app.draining import DRAIN_SECONDS, Draining
from controlplane.compile.compiler import Compiler
from controlplane.compile.xds_types import LISTENER, SCOPED_ROUTE
from controlplane.names import GatewayName
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import rows

SPEC = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: https, port: 8443, protocol: HTTPS, tls: [@entries@]}]
  routes:
    - {name: one, hosts: [a.test], match: [{path: {prefix: /one}}], public: true, respond: {status: 200, body: one}}
"""
VIEW = (GatewayName("platform/edge"),)


class _Loop:
    """Takes edits, and makes them when told to."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self.edits: dict[Hashable, Callable[[Compiler], None]] = {}

    def edit(self, key: Hashable, edit: Callable[[Compiler], None]) -> None:
        self.edits[key] = edit

    def flush(self, _: float) -> None:
        for edit in self.edits.values():
            edit(self._compiler)
        self.edits.clear()
        self._compiler.commit_now()


def save(compiler: Compiler, *entries: tuple[str, str]) -> None:
    text = ", ".join(f"{{hosts: [{hosts}], certificate: {{secretRef: {secret}}}}}" for hosts, secret in entries)
    (parsed,) = parse_text(SPEC.replace("@entries@", text), "spec.yaml", "files")
    assert parsed.ref is not None
    assert parsed.document is not None
    compiler.put(parsed.ref, rows(parsed.ref, parsed.document))
    compiler.commit_now()


def shards(compiler: Compiler) -> set[str]:
    """The names of the shards that hold the route, listener group and host."""
    found = compiler.resources(VIEW)
    assert not [one for one in found if one.type_url == LISTENER]  # there is no certificate at all
    return {one.name for one in found if one.type_url == SCOPED_ROUTE and b"one" in one.body}


def test_the_routes_of_a_lost_chain_stay_while_it_drains() -> None:
    compiler = Compiler()
    draining = Draining(compiler, _Loop(compiler))  # type: ignore[arg-type]  # as much of the loop as it needs
    save(compiler, ("a.test", "old"))
    old = shards(compiler)
    save(compiler, ("a.test", "new"))
    both = shards(compiler)
    assert old < both
    draining.tick(0.0)
    draining.tick(DRAIN_SECONDS - 1)
    assert shards(compiler) == both
    draining.tick(DRAIN_SECONDS)
    assert shards(compiler) == both - old


def test_a_chain_that_is_back_drains_no_longer_and_a_host_that_is_gone_has_no_routes() -> None:
    compiler = Compiler()
    save(compiler, ("a.test", "old"))
    old = shards(compiler)
    save(compiler, ("a.test", "new"))
    save(compiler, ("a.test", "old"))
    assert old < shards(compiler)
    assert [name for _, name in compiler.tables.kept_chains.rows] == ["new"]
    save(compiler, ("b.test", "third"))
    assert shards(compiler) == set()
