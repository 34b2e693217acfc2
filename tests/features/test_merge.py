"""Several gateways on one proxy: merged by listener and host, and who has a host that two of them want."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features.conftest import Backends
from tests.support.certificates import authority
from tests.support.client import trusting
from tests.support.edge import HTTPS, Edge
from tests.support.tokens import key_set, rsa_key, token

pytestmark = pytest.mark.envoy


def gateway(name: str, body: str) -> str:
    return f"""
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: {name}, namespace: platform}}
spec:
  fleet: {{selector: {{matchLabels: {{role: edge}}}}}}
  identity: {{jwt: [{{name: corp, issuer: "https://id.example.com/", audiences: [{name}], jwks: {{inline: 'KEYS'}}, claimsToHeaders: {{sub: x-{name}-user}}}}]}}
{body}"""


SPEC = "\n---\n".join(
    (
        gateway(
            "alpha",
            """\
  delegates: [{name: team, namespaces: [team], hosts: [alpha.example.com], backends: [web], addresses: [127.0.0.0/8]}]
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: web, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: web, hosts: [alpha.example.com, both.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: web}]}
    - {name: members, hosts: [alpha.example.com], match: [{path: {prefix: /members}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: web}]}
""",
        ),
        gateway(
            "beta",
            """\
  listeners:
    - {name: shared, port: 8080, protocol: HTTP}
    - {name: own, port: 8081, protocol: HTTP}
  backends: [{name: web, members: [{static: {address: 127.0.0.1, port: @two@}}]}]
  routes:
    - {name: web, hosts: [beta.example.com, both.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: web}]}
    - {name: members, hosts: [beta.example.com], match: [{path: {prefix: /members}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: web}]}
    - {name: any, hosts: ["*"], match: [{path: {exact: /beta}}], public: true, to: [{backend: web}]}
""",
        ),
        """
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: team, namespace: team}
spec:
  gateway: platform/alpha
  backends: [{name: mine, members: [{static: {address: 127.0.0.1, port: @two@}}]}]
  routes:
    - {name: mine, hosts: [alpha.example.com], match: [{path: {prefix: /team}}], public: true, to: [{backend: mine}]}
    - {name: theirs, hosts: [alpha.example.com], match: [{path: {prefix: /team/theirs}}], public: true, to: [{backend: web}]}
    - {name: same, hosts: [alpha.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: mine}]}
""",
    )
)


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC.replace("KEYS", key_set(rsa_key())), ports) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "port", "path", "backend"),
    [
        ("alpha.example.com", 8080, "/", "one"),
        ("beta.example.com", 8080, "/", "two"),
        ("beta.example.com", 8081, "/", "two"),
        ("other.example.com", 8080, "/beta", "two"),
        ("alpha.example.com", 8080, "/team", "two"),
        ("alpha.example.com", 8080, "/team/theirs", "one"),
    ],
)
def test_each_host_has_its_own_gateway(
    edge: Edge, backends: Backends, host: str, port: int, path: str, backend: str
) -> None:
    assert edge.request(path, host, port=port).backend == backend


def test_the_incumbent_keeps_a_host_and_the_challenger_is_told(edge: Edge, backends: Backends) -> None:
    assert edge.request("/", "both.example.com").backend == "one"
    assert edge.request("/", "both.example.com", port=8081).backend == "two", "where it has the port alone"
    told = [one for one in edge.diagnostics if one.subject == "GatewaySpec platform/beta"]
    assert [(one.path, "both.example.com" in one.message) for one in told] == [("spec.routes[web].hosts", True)]


def test_an_equal_route_of_another_document_does_not_take_over(edge: Edge, backends: Backends) -> None:
    assert edge.request("/x", "alpha.example.com").backend == "one"
    assert [one.path for one in edge.diagnostics if one.subject == "RouteSpec team/team"] == [
        "spec.routes[same].match[0].path"
    ]


def test_a_listener_of_one_gateway_is_closed_to_the_others(edge: Edge) -> None:
    assert edge.request("/", "alpha.example.com", port=8081).status == 404


def test_providers_of_the_same_name_stay_apart(edge: Edge, backends: Backends) -> None:
    for own, other in (("alpha", "beta"), ("beta", "alpha")):
        good = edge.request("/members", f"{own}.example.com", headers={"authorization": f"Bearer {token(aud=own)}"})
        assert (good.status, good.seen(f"x-{own}-user")) == (200, "anna")
        wrong = {"authorization": f"Bearer {token(aud=other)}"}
        assert edge.request("/members", f"{own}.example.com", headers=wrong).status == 403


def test_identity_headers_of_all_gateways_are_removed(edge: Edge, backends: Backends) -> None:
    forged = {"x-alpha-user": "root", "x-beta-user": "root"}
    for host in ("alpha.example.com", "beta.example.com"):
        answer = edge.request("/", host, headers=forged)
        assert {answer.seen(name) for name in forged} == {None}


CONTESTED = """
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: {name}, namespace: platform}}
spec:
  fleet: {{selector: {{matchLabels: {{role: edge}}}}}}
  listeners: [{{name: http, port: 8080, protocol: HTTP}}]
  identity:
    jwt:
      - {{name: corp, issuer: "https://id.example.com/", audiences: [{name}], jwks: {{inline: 'KEYS'}}, {corp}}}
      - {{name: plain, issuer: "https://id.example.com/", audiences: [{name}], jwks: {{inline: 'KEYS'}}}}
  backends: [{{name: web, members: [{{static: {{address: 127.0.0.1, port: @one@}}}}]}}]
  routes:
    - {{name: public, hosts: [{name}.example.com], match: [{{path: {{prefix: /}}}}], public: true, to: [{{backend: web}}]}}
    - {{name: corp, hosts: [{name}.example.com], match: [{{path: {{prefix: /corp}}}}], auth: {{anyOf: [{{jwt: corp}}]}}, to: [{{backend: web}}]}}
    - {{name: plain, hosts: [{name}.example.com], match: [{{path: {{prefix: /plain}}}}], auth: {{anyOf: [{{jwt: plain}}]}}, to: [{{backend: web}}]}}
"""
READS, WRITES = "from: [{header: x-badge}]", "claimsToHeaders: {sub: x-badge}"


def contested(first: str, second: str, ports: dict[str, int]) -> Edge:
    """Two gateways, of which `alpha` is the older one."""
    specs = (CONTESTED.format(name="alpha", corp=first), CONTESTED.format(name="beta", corp=second))
    return Edge("---".join(specs).replace("KEYS", key_set(rsa_key())), ports)


def conflicts(edge: Edge) -> list[tuple[str, str]]:
    return [(one.subject, one.path) for one in edge.diagnostics if one.code == "GW0213"]


def test_a_header_of_tokens_stays_one_when_another_gateway_writes_a_claim_to_it(
    ports: dict[str, int], backends: Backends
) -> None:
    """The younger gateway is out of use where it says so, and still nobody forges the header for its backends."""
    with contested(READS, WRITES, ports) as edge:
        assert conflicts(edge) == [("GatewaySpec platform/beta", "spec.identity.jwt[corp].claimsToHeaders")]
        badge = {"x-badge": token(aud="alpha")}
        assert edge.request("/corp", "alpha.example.com", headers=badge).status == 200
        assert edge.request("/corp", "alpha.example.com").status == 401
        bearer = {"authorization": f"Bearer {token(aud='beta')}", "x-badge": "root"}
        assert edge.request("/corp", "beta.example.com", headers=bearer).status == 503
        for path in ("/", "/plain"):
            answer = edge.request(path, "beta.example.com", headers=bearer)
            assert (answer.status, answer.seen("x-badge")) == (200, None)


def test_a_claim_header_stays_one_when_another_gateway_takes_tokens_from_it(
    ports: dict[str, int], backends: Backends
) -> None:
    with contested(WRITES, READS, ports) as edge:
        assert conflicts(edge) == [("GatewaySpec platform/beta", "spec.identity.jwt[corp].from")]
        headers = {"authorization": f"Bearer {token(aud='alpha')}", "x-badge": "root"}
        assert edge.request("/corp", "alpha.example.com", headers=headers).seen("x-badge") == "anna"
        assert edge.request("/", "alpha.example.com", headers=headers).seen("x-badge") is None
        assert edge.request("/corp", "beta.example.com", headers={"x-badge": token(aud="beta")}).status == 503
        assert edge.request("/plain", "beta.example.com", headers=headers).status == 403


SECURE = """
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: {name}, namespace: platform}}
spec:
  fleet: {{selector: {{matchLabels: {{role: edge}}}}}}
  listeners: [{{name: https, port: 8443, protocol: HTTPS, tls: [{{hosts: ["{host}"], certificate: {{secretRef: {name}}}}}]}}]
  routes: [{routes}]
"""
ROUTE = '{{name: r, hosts: ["a.example.com"], match: [{{path: {{prefix: /}}}}], public: true, respond: {{status: 200, body: {0}}}}}'


@pytest.mark.parametrize("routes", ["", ROUTE.format("younger")], ids=["without routes", "with routes"])
def test_a_narrower_certificate_takes_no_host_from_an_older_gateway(routes: str, tmp_path: Path) -> None:
    authority().leaf("*.example.com").write(tmp_path, "alpha")
    authority().leaf("a.example.com").write(tmp_path, "beta")
    older = SECURE.format(name="alpha", host="*.example.com", routes=ROUTE.format("older"))
    younger = SECURE.format(name="beta", host="a.example.com", routes=routes)
    with Edge(f"{older}---{younger}", secrets=tmp_path) as edge:
        tls = trusting(authority().pem)
        assert edge.request("/", "a.example.com", port=HTTPS, tls=tls, sni="a.example.com").body == b"older"
        told = [(one.subject, one.path) for one in edge.diagnostics if one.code == "GW0213"]
    lost = ["spec.listeners[https].tls[0].hosts", *(["spec.routes[r].hosts"] if routes else [])]
    assert told == [("GatewaySpec platform/beta", path) for path in lost]


def test_who_lost_a_port_for_its_client_address_keeps_its_limits(ports: dict[str, int]) -> None:
    """Its hosts are served there all the same: on plain HTTP there is no name before the request."""
    older = """\
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  routes: [{name: r, hosts: [alpha.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}]
"""
    younger = """\
  listeners: [{name: http, port: 8080, protocol: HTTP, use: [flood], clientIP: {trustedHops: 1}}]
  policies: [{name: flood, rateLimit: {local: [{requests: 1, per: hour}]}}]
  routes: [{name: r, hosts: [beta.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}]
"""
    spec = "\n---\n".join((gateway("alpha", older), gateway("beta", younger))).replace("KEYS", key_set(rsa_key()))
    with Edge(spec, ports) as edge:
        assert [one.code for one in edge.diagnostics] == ["GW0213"]
        assert [edge.request("/", "beta.example.com").status for _ in range(3)] == [200, 429, 429]
