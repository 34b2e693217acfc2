"""Filter chains that a listener loses, or moves away from, have routes until proxies have drained them, and no longer."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from controlplane.app.draining import DRAIN_SECONDS, Draining
from controlplane.app.in_place import InPlace
from controlplane.compile.chains import MAX_DRAINING
from controlplane.compile.compiler import Compiler
from controlplane.compile.offline import as_dict
from controlplane.compile.xds_types import EXTENSION, LISTENER, SCOPED_ROUTE
from controlplane.names import GatewayName, ObjectRef, View
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import rows
from controlplane.state.content import Note
from controlplane.xds.holds import Holds

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


def drains(compiler: Compiler) -> tuple[Draining, dict[Note, bytes]]:
    """What gives chains up, and what it has noted."""
    notes: dict[Note, bytes] = {}

    def note(name: Note, content: bytes | None) -> None:
        if content is None:
            notes.pop(name, None)
        else:
            notes[name] = content

    loop: Any = _Loop(compiler)  # as much of it as is needed
    return Draining(compiler, loop, InPlace(compiler, Store(), Holds()), note), notes


def declare(compiler: Compiler, text: str) -> ObjectRef:
    (parsed,) = parse_text(text, "spec.yaml", "files")
    assert parsed.ref is not None
    assert parsed.document is not None
    compiler.put(parsed.ref, rows(parsed.ref, parsed.document))
    return parsed.ref


def put(compiler: Compiler, *entries: tuple[str, str], gateway: str = "edge", listener: str = "https") -> ObjectRef:
    text = ", ".join(f"{{hosts: [{hosts}], certificate: {{secretRef: {secret}}}}}" for hosts, secret in entries)
    spec = SPEC.replace("@entries@", text).replace("name: edge", f"name: {gateway}")
    return declare(compiler, spec.replace("name: https", f"name: {listener}"))


def save(compiler: Compiler, *entries: tuple[str, str], gateway: str = "edge", listener: str = "https") -> None:
    put(compiler, *entries, gateway=gateway, listener=listener)
    compiler.commit_now()


def shards(compiler: Compiler, view: View = VIEW) -> set[str]:
    """The names of the shards that hold the route, listener group and host."""
    found = compiler.resources(view)
    assert not [one for one in found if one.type_url == LISTENER]  # there is no certificate at all
    return {one.name for one in found if one.type_url == SCOPED_ROUTE and b"one" in one.body}


def test_the_routes_of_a_lost_chain_stay_while_it_drains() -> None:
    compiler = Compiler()
    draining, _ = drains(compiler)
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
    assert [group.rpartition(":")[2] for _, group in compiler.tables.kept_chains.rows] == ["new"]
    save(compiler, ("b.test", "third"))
    assert shards(compiler) == set()


def test_a_name_that_goes_back_to_a_wildcard_is_served_on_its_open_connections() -> None:
    """The listener is still for it, by a wider name; and the connections of the wildcard are for it from then on."""
    compiler = Compiler()
    save(compiler, ('"*.test"', "wild"), ("a.test", "own"))
    own = shards(compiler)
    assert misdirected(compiler) == ["0.0.0.0:8443:platform:wild|a.test"]
    save(compiler, ('"*.test"', "wild"))
    assert own < shards(compiler)
    assert misdirected(compiler) == []


def misdirected(compiler: Compiler) -> list[str]:
    """The hosts that are below no wildcard where they are asked for, by the table of wildcard hosts."""
    (script,) = (one.body for one in compiler.resources(VIEW) if one.name == "gatewayspec/shard")
    return re.findall(r'\["(\S+)"\] = false', script.decode("latin-1"))


def limits(compiler: Compiler, view: View = VIEW) -> set[str]:
    """The filters of listeners' limits."""
    found = compiler.resources(view)
    return {one.name for one in found if one.type_url == EXTENSION and "limits/" in one.name}


def test_a_listener_and_a_gateway_that_get_other_names_are_the_same_to_proxies() -> None:
    """Group, shards and filters go by port and certificate: no connection notices."""
    compiler = Compiler()
    former = put(compiler, ("a.test", "tls"))
    compiler.commit_now()
    old, old_limits = shards(compiler), limits(compiler)
    save(compiler, ("a.test", "tls"), listener="web")
    assert (shards(compiler), limits(compiler)) == (old, old_limits)
    save(compiler, ("a.test", "tls"), gateway="next")
    compiler.remove(former)
    compiler.commit_now()
    now = (GatewayName("platform/next"),)
    assert (shards(compiler, now), limits(compiler, now)) == (old, old_limits)


PLAIN = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: @name@, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: @role@}}}
  listeners: [{name: http, port: @port@, protocol: HTTP}]
  routes:
    - {name: one, hosts: ["*"], match: [{path: {prefix: /one}}], public: true, respond: {status: 200, body: one}}
"""


def plain(compiler: Compiler, name: str, port: int, role: str = "edge") -> None:
    declare(compiler, PLAIN.replace("@name@", name).replace("@port@", str(port)).replace("@role@", role))
    compiler.commit_now()


def names(compiler: Compiler, view: View = VIEW) -> dict[str, set[str]]:
    """The listeners of a view, the limits of listener groups, and the shards with its route."""
    found = compiler.resources(view)
    return {
        "listeners": {one.name for one in found if one.type_url == LISTENER},
        "limits": limits(compiler, view),
        "shards": {one.name for one in found if one.type_url == SCOPED_ROUTE and b"one" in one.body},
    }


def test_a_listener_that_moves_to_another_port_has_its_routes_on_both_for_a_while() -> None:
    """Connections to the former port are open, and it is open itself where a proxy refuses the new one."""
    compiler = Compiler()
    draining, _ = drains(compiler)
    plain(compiler, "edge", 8080)
    before = names(compiler)
    plain(compiler, "edge", 8081)
    both = names(compiler)
    assert both["listeners"] == {"0.0.0.0:8081"}
    assert before["limits"] < both["limits"]
    assert before["shards"] < both["shards"]
    draining.tick(0.0)
    draining.tick(DRAIN_SECONDS)
    assert not names(compiler)["limits"] & before["limits"]
    assert names(compiler)["shards"] == both["shards"] - before["shards"]
    plain(compiler, "edge", 8080)
    plain(compiler, "edge", 8081)
    plain(compiler, "edge", 8080)
    assert [group for _, group in compiler.tables.kept_chains.rows] == ["0.0.0.0:8081"]


def test_an_https_listener_that_moves_is_redirected_to_where_it_is() -> None:
    compiler = Compiler()
    save(compiler, ("a.test", "tls"))
    old = shards(compiler)
    spec = SPEC.replace("@entries@", "{hosts: [a.test], certificate: {secretRef: tls}}").replace(
        "port: 8443", "port: 9443"
    )
    declare(compiler, spec.replace("listeners: [", "listeners: [{name: http, port: 8080, protocol: HTTP}, "))
    compiler.commit_now()
    found = [one for one in compiler.resources(VIEW) if one.type_url == SCOPED_ROUTE]
    assert old < {one.name for one in found}
    redirects = [route["redirect"] for route in routes_of(found) if "redirect" in route]
    assert {one["port_redirect"] for one in redirects if one.get("https_redirect")} == {9443}


def routes_of(shards: list[Resource]) -> list[dict[str, Any]]:
    """Every route of these shards."""
    tables = [as_dict(one)["route_configuration"] for one in shards]
    return [route for table in tables for host in table["virtual_hosts"] for route in host["routes"]]


def test_a_port_that_another_gateway_takes_over_is_its_own_at_once() -> None:
    """Unless no proxy can see both: then each has what it had."""
    compiler = Compiler()
    plain(compiler, "edge", 8080)
    old = names(compiler)["shards"]
    plain(compiler, "apart", 8080, role="other")
    plain(compiler, "edge", 8081)
    assert old < names(compiler)["shards"]
    plain(compiler, "next", 8080)
    assert not old & names(compiler)["shards"]
    together = (GatewayName("platform/edge"), GatewayName("platform/next"))
    assert old < names(compiler, together)["shards"], "those of the next one have the same names"


def test_what_is_drained_has_its_routes_after_a_restart_for_as_long_and_is_forgotten_then() -> None:
    """Redirects of the listener included: they are no route of the spec."""
    compiler = Compiler()
    draining, notes = drains(compiler)
    text = PLAIN.replace("protocol: HTTP}", "protocol: HTTP, redirect: {port: 443, code: 301}}")
    for port in (8080, 8081):
        declare(compiler, text.replace("@name@", "edge").replace("@port@", str(port)).replace("@role@", "edge"))
        compiler.commit_now()
        draining.look(0.0)
    before = compiler.resources(VIEW)
    assert {note.name.splitlines()[-1] for note in notes} == {"0.0.0.0:8080"}

    again = Compiler()
    draining, kept = drains(again)
    kept |= notes
    draining.restore(notes, 5000.0)
    declare(again, text.replace("@name@", "edge").replace("@port@", "8081").replace("@role@", "edge"))
    again.commit_now()
    draining.look(5000.0)
    assert again.resources(VIEW) == before
    assert kept == notes
    draining.tick(5000.0 + DRAIN_SECONDS - 1)
    assert again.resources(VIEW) == before
    draining.tick(5000.0 + DRAIN_SECONDS)
    draining.look(5000.0 + DRAIN_SECONDS)
    assert again.resources(VIEW) != before
    assert not kept


def test_a_note_is_forgotten_when_its_chain_is_back_or_its_listener_is_gone() -> None:
    compiler = Compiler()
    draining, notes = drains(compiler)
    for port in (8080, 8081, 8080):
        plain(compiler, "edge", port)
        draining.look(0.0)
    assert {note.name.splitlines()[-1] for note in notes} == {"0.0.0.0:8081"}
    compiler.remove(ObjectRef("files", "GatewaySpec", "platform", "edge"))
    compiler.commit_now()
    draining.look(0.0)
    assert not notes


def test_a_note_that_cannot_be_used_is_said_and_forgotten_and_the_others_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever wrote it: a start never ends by what was noted, and takes no more of it than an edit would keep."""
    compiler = Compiler()
    draining, notes = drains(compiler)
    for port in (8080, 8081):
        plain(compiler, "edge", port)
    draining.look(0.0)
    ((good, content),) = notes.items()
    ports = [str(port) for port in range(1000, 1100)]
    many = {
        Note(good.kind, good.name.replace("8080", port)): content.replace(b":8080", b":" + port.encode())
        for port in ports
    }
    bad = {Note(good.kind, f"bad {number}"): bytes([number]) * number for number in range(20)}
    other = Note("another kind", "of a later version")
    again = Compiler()
    draining, kept = drains(again)
    kept |= bad | many | {other: b"what it says"}
    draining.restore(dict(kept), 0.0)
    plain(again, "edge", 8081)
    draining.look(0.0)
    assert len(again.tables.kept_chains.rows) == MAX_DRAINING
    assert len(kept) == MAX_DRAINING + 1
    assert not bad.keys() & kept.keys()
    assert kept[other] == b"what it says"
    assert "a chain that proxies drain is not read" in capsys.readouterr().out


def test_what_is_drained_follows_its_listener_and_gateway_to_other_names() -> None:
    """They are the same to proxies: connections of before the move know of no name."""
    compiler = Compiler()
    former = put(compiler, ("a.test", "old"))
    compiler.commit_now()
    old = shards(compiler)
    save(compiler, ("a.test", "new"))
    both = shards(compiler)
    save(compiler, ("a.test", "new"), listener="web")
    assert shards(compiler) == both
    for order in (0, 1):
        if order:
            compiler.remove(former)
        next_one = put(compiler, ("a.test", "new"), gateway=f"next-{order}", listener="web")
        if not order:
            compiler.remove(former)
        compiler.commit_now()
        assert shards(compiler, (GatewayName(f"platform/next-{order}"),)) == both
        former = next_one
    save(compiler, ("a.test", "old"), gateway="next-1", listener="last")
    assert old < shards(compiler, (GatewayName("platform/next-1"),))
    assert {group.rpartition(":")[2] for _, group in compiler.tables.kept_chains.rows} == {"new"}


def test_a_listener_that_gets_another_certificate_and_another_name_at_once_drains_what_it_had() -> None:
    compiler = Compiler()
    save(compiler, ("a.test", "old"))
    old = shards(compiler)
    save(compiler, ("a.test", "new"), listener="web")
    assert old < shards(compiler)


def test_a_gateway_that_gets_another_name_while_its_listener_moves_drains_what_it_had() -> None:
    compiler = Compiler()
    plain(compiler, "edge", 8080)
    old = names(compiler)["shards"]
    compiler.remove(ObjectRef("files", "GatewaySpec", "platform", "edge"))
    plain(compiler, "next", 8081)
    assert old < names(compiler, (GatewayName("platform/next"),))["shards"]


def test_a_listener_that_is_somewhere_else_gets_nothing_of_one_that_is_gone() -> None:
    """Connections of one port do not reach what only another one was for."""
    compiler = Compiler()
    plain(compiler, "edge", 8080)
    old = names(compiler)["shards"]
    compiler.remove(ObjectRef("files", "GatewaySpec", "platform", "edge"))
    plain(compiler, "apart", 8081, role="other")
    assert not old & names(compiler, (GatewayName("platform/apart"),))["shards"]
    plain(compiler, "there", 8082)
    compiler.remove(ObjectRef("files", "GatewaySpec", "platform", "apart"))
    compiler.commit_now()
    assert not compiler.tables.kept_chains.rows
