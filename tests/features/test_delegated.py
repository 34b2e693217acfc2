"""Delegation through a real Envoy: what is granted by paths takes these paths, and nothing that somebody else serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from tests.compile.delegation_cases import World
from tests.compile.shard_cases import KEY_SET
from tests.features.conftest import Backends
from tests.support.certificates import authority
from tests.support.client import trusting
from tests.support.edge import HTTPS, Edge

pytestmark = pytest.mark.envoy


def documents(*said: dict[str, Any]) -> str:
    return "\n---\n".join(map(json.dumps, said))


@pytest.mark.parametrize("seed", [3, 17, 29, 41, 57, 83])
def test_envoy_answers_as_the_plain_rules_say(seed: int) -> None:
    random = Random(seed)
    world = World(random, {"one": "a", "two": "b"})  # files are as old as their names say
    wrong = []
    with Edge(documents(world.gateway, *world.specs)) as edge, edge.connect() as connection:
        for _ in range(300):
            asked = world.request(random)
            answer = connection.request(asked.target, asked.host, asked.method, asked.headers)
            expected = world.decide(asked)
            name = answer.body.decode() if answer.status == 200 else None
            if (answer.status, name) != (expected.status, expected.route if expected.status == 200 else None):
                wrong.append((asked, expected, answer.status, name))
    assert wrong == []


GATEWAY = """
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
    - name: https
      port: 8443
      protocol: HTTPS
      tls:
        - {hosts: ["*.s.test"], certificate: {secretRef: wild}}
        - {hosts: [own.s.test], certificate: {secretRef: own}}
  delegates:
    - {name: pay, namespaces: [pay], hosts: ["*.a.test", "*.s.test", "*"], pathPrefixes: [/pay]}
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: a, hosts: ["*.a.test"], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: gateway}}
    - {name: chat, hosts: ["*.a.test"], match: [{path: {prefix: /pay/chat}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: any-chat, hosts: ["*.a.test"], match: [{path: {regex: ".*[.]ws"}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: secure, hosts: ["*.s.test"], listeners: [https], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: secure}}
    - {name: plain, hosts: ["*.s.test"], listeners: [http], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: plain}}
"""
TEAM = """
---
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: app, namespace: pay}
spec:
  gateway: platform/edge
  routes:
    - {name: x, hosts: [x.a.test], match: [{path: {prefix: /pay/own}}], public: true, respond: {status: 200, body: team}}
    - {name: s, hosts: [x.s.test, own.s.test], match: [{path: {prefix: /pay/own}}], public: true, respond: {status: 200, body: team}}
    - {name: wild, hosts: ["*.o.test"], match: [{path: {prefix: /pay/own}}], public: true, respond: {status: 200, body: team}}
"""


@pytest.fixture(scope="module")
def edge(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    secrets = tmp_path_factory.mktemp("secrets")
    authority().leaf("*.s.test").write(secrets, "wild")
    authority().leaf("own.s.test").write(secrets, "own")
    with Edge(GATEWAY + TEAM, ports, secrets) as edge:
        yield edge


@pytest.mark.parametrize("host", ["x.a.test", "X.A.test", "x.a.test:80", "x.a.test."])
def test_the_rest_of_a_host_stays_with_the_wildcard(edge: Edge, host: str) -> None:
    """In the team's own first segment, in every other one, and in whatever spelling the host comes."""
    for path, body in (
        ("/pay/own", b"team"),
        ("/pay/own/x", b"team"),
        ("/pay/other", b"gateway"),
        ("/pay", b"gateway"),
        ("/", b"gateway"),
        ("/else/where", b"gateway"),
    ):
        answer = edge.request(path, host)
        assert (answer.status, answer.body) == (200, body), path


def test_what_nobody_serves_is_not_found(edge: Edge) -> None:
    assert edge.request("/pay/own", "y.o.test").body == b"team"
    for path in ("/pay/other", "/", "/zzz"):
        assert edge.request(path, "y.o.test").status == 404
        assert edge.request(path, "y.else.test").status == 404


@pytest.mark.parametrize(
    ("sni", "host"), [("x.s.test", "x.s.test"), ("own.s.test", "own.s.test"), ("y.s.test", "X.s.test")]
)
def test_the_rest_of_a_host_stays_within_its_certificate(edge: Edge, sni: str, host: str) -> None:
    """Whether the chain is for the wildcard or for the very host; and no connection reaches the host of another."""
    with edge.connect(HTTPS, trusting(authority().pem), sni) as connection:
        assert connection.request("/pay/own", host).body == b"team"
        assert connection.request("/pay/other", host).body == b"secure"
        assert connection.request("/zzz", host).body == b"secure"
        other = "x.s.test" if host == "own.s.test" else "own.s.test"
        for path in ("/pay/own", "/pay/other", "/zzz"):
            assert connection.request(path, "x.a.test").status == 421
            if host == "own.s.test":
                assert connection.request(path, other).status == 421


@pytest.mark.parametrize("host", ["x.s.test", "own.s.test"])
def test_only_what_was_granted_is_sent_on_to_https(edge: Edge, host: str) -> None:
    """A route for a host with a certificate is reached by HTTPS alone; the gateway's plain routes are not in its way."""
    sent = edge.request("/pay/own/x?y=1", host)
    assert (sent.status, dict(sent.headers)["location"]) == (308, f"https://{host}:8443/pay/own/x?y=1")
    for path in ("/pay/other", "/", "/zzz"):
        assert edge.request(path, host).body == b"plain"


@pytest.mark.parametrize("path", ["/pay/chat/room", "/pay/x.ws", "/zzz/x.ws"])
@pytest.mark.parametrize("host", ["x.a.test", "X.a.test:80"])
def test_upgrades_are_decided_by_the_route_that_is_found_in_the_end(
    edge: Edge, backends: Backends, host: str, path: str
) -> None:
    with edge.upgrade(path, host) as upgrade:
        assert upgrade.status == 101
    with edge.upgrade("/pay/own", host) as upgrade:
        assert upgrade.status == 403
    with edge.upgrade("/pay/other", host) as upgrade:
        assert upgrade.status == 403
    with edge.upgrade(path, host, protocol="other") as upgrade:
        assert upgrade.status == 403


FORGED = """
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  delegates: [{name: pay, namespaces: [pay], hosts: [a.test], pathPrefixes: [/pay], backends: [one]}]
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity: {jwt: [{name: corp, issuer: i, audiences: [a], jwks: {inline: 'KEYS'}, claimsToHeaders: {sub: x-user-id}}]}
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
---
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: app, namespace: pay}
spec:
  gateway: platform/edge
  routes:
    - {name: set, hosts: [a.test], match: [{path: {prefix: /pay/set}}], public: true, transform: {request: {headers: {set: {X-User-Id: admin}}}}, to: [{backend: one}]}
    - {name: add, hosts: [a.test], match: [{path: {prefix: /pay/add}}], public: true, transform: {request: {headers: {add: {x-user-id: admin}}}}, to: [{backend: one}]}
    - {name: own, hosts: [a.test], match: [{path: {prefix: /pay/own}}], public: true, transform: {request: {headers: {set: {x-team: pay}, remove: [x-user-id]}}}, to: [{backend: one}]}
"""


def test_no_route_tells_a_backend_who_calls(ports: dict[str, int], backends: Backends) -> None:
    with Edge(FORGED.replace("KEYS", KEY_SET), ports) as edge:
        assert [edge.request(path, "a.test").status for path in ("/pay/set", "/pay/add")] == [503, 503]
        assert backends.one.requests == 0
        assert edge.request("/pay/own", "a.test").seen("x-team") == "pay"
    assert [(one.code, one.path) for one in edge.diagnostics] == [
        ("GW0216", "spec.routes[add].transform.request.headers.add.x-user-id"),
        ("GW0216", "spec.routes[set].transform.request.headers.set.x-user-id"),
    ]
