"""A route that cannot be compiled answers 503: its requests are not for others to take, least of all for a public one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controlplane.compile import match, route
from controlplane.compile.compiler import Compiler
from controlplane.names import GatewayName
from tests.compile import worlds
from tests.compile.shard_cases import KEY_SET
from tests.e2e.plane import gateway
from tests.support.edge import Edge, gateway_text

SPEC = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity: {jwt: [{name: corp, issuer: i, audiences: [a], jwks: {inline: 'KEYS'}}]}
  routes:
    - name: admin
      hosts: [shop.example.com]
      match: [{path: {prefix: /admin}}, {path: {template: "/report/{id}"}}, {path: {regex: "/x[.]y"}}]
      auth: {anyOf: [{jwt: corp}]}
      respond: {status: 200, body: admin}
    - {name: web, hosts: [shop.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: web}}
""")


def bad_action(make: Callable[..., None]) -> Callable[..., None]:
    def act(message: Any, spec: Any, *others: Any) -> None:
        make(message, spec, *others)
        if spec.name == "admin":
            message.direct_response.status = 99

    return act


def mistake(make: Callable[..., None]) -> Callable[..., None]:
    def act(message: Any, spec: Any, *others: Any) -> None:
        make(message, spec, *others)
        if spec.name == "admin":
            raise KeyError("a mistake of ours")

    return act


@pytest.mark.envoy
@pytest.mark.parametrize(("broken", "code"), [(bad_action, "GW0298"), (mistake, "GW0299")])
def test_what_cannot_be_compiled_is_closed(broken: Any, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "_act", broken(route._act))
    with Edge(SPEC.replace("KEYS", KEY_SET)) as edge:
        for path in ("/admin/x", "/report/1", "/x.y"):
            assert edge.request(path).status == 503
        assert edge.request("/other").body == b"web"
    (said,) = edge.diagnostics
    assert (said.code, said.path, said.subject) == (code, "spec.routes[admin]", "GatewaySpec platform/shop")
    assert "answers 503" in said.help


@pytest.mark.envoy
def test_a_condition_that_envoy_does_not_take_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    make = match.path_match

    def broken(path: Any) -> Any:
        message = make(path)
        if path.template:
            message.safe_regex.regex = ""
        return message

    monkeypatch.setattr(match, "path_match", broken)
    with Edge(SPEC.replace("KEYS", KEY_SET)) as edge:
        assert [edge.request(path).status for path in ("/admin/x", "/x.y", "/other")] == [503, 503, 200]
    assert [one.code for one in edge.diagnostics] == ["GW0298"]


def test_a_route_that_breaks_is_closed_whatever_it_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is served again when it is put right."""
    view = (GatewayName("platform/edge"),)

    def put(compiler: Compiler, name: str) -> dict[str, bytes]:
        paths = [{"path": {"prefix": f"/{part}"}} for part in (name, "both")]
        about = {"name": "admin", "hosts": ["a.test"], "match": paths, "public": True, "respond": {"status": 200}}
        said = gateway(routes=[about])
        compiler.put(worlds.ref(said), worlds.split(said))
        compiler.commit_now()
        return {one.name: one.body for one in compiler.resources(view)}

    lived = Compiler()
    before = put(lived, "old")
    with monkeypatch.context() as patched:
        patched.setattr(route, "_act", bad_action(route._act))
        assert put(lived, "new") == put(Compiler(), "new")
    assert put(lived, "old") == before
