"""A name that an older gateway of the port has TLS for is answered by no route of a younger one, whatever name a client said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.certificates import authority
from tests.support.client import trusting
from tests.support.edge import HTTPS, Edge

pytestmark = pytest.mark.envoy


def gateway(name: str, tls: str, hosts: list[str]) -> str:
    routes = "".join(
        f"""
    - {{name: r{number}, hosts: ["{host}"], match: [{{path: {{prefix: /}}}}, {{path: {{prefix: /api}}}}], public: true, respond: {{status: 200, body: {name}}}}}"""
        for number, host in enumerate(hosts)
    )
    return f"""
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: {name}, namespace: platform}}
spec:
  fleet: {{selector: {{matchLabels: {{role: edge}}}}}}
  listeners: [{{name: https, port: 8443, protocol: HTTPS, tls: [{tls}]}}]
  routes: {routes}
"""


OLDER = gateway("alpha", '{hosts: ["*.w.test", "*.v.test"], certificate: {secretRef: alpha}}', ["own.w.test"])
YOUNGER = gateway(
    "beta",
    '{hosts: ["*.test"], certificate: {secretRef: beta}}, {hosts: [b.else, "*.w.test"], certificate: {secretRef: same}}',
    ["*.w.test", "x.w.test", "own.w.test", "*.v.test", "x.v.test", "b.else", "c.test"],
)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    secrets = tmp_path_factory.mktemp("secrets")
    for name in ("alpha", "beta", "same"):
        authority().leaf("*.test", "*.w.test", "b.else").write(secrets, name)
    with Edge(f"{OLDER}---{YOUNGER}", secrets=secrets) as running:
        yield running


@pytest.mark.parametrize("path", ["/", "/api/x"])
@pytest.mark.parametrize("host", ["own.w.test", "x.w.test", "X.W.test:8443", "y.w.test", "x.v.test", "y.v.test"])
@pytest.mark.parametrize("sni", ["c.test", "b.else"])
def test_a_name_of_an_older_gateway_is_misdirected_on_the_connections_of_a_younger(
    edge: Edge, sni: str, host: str, path: str
) -> None:
    with edge.connect(HTTPS, trusting(None), sni) as connection:
        assert connection.request(path, sni).body == b"beta"
        answer = connection.request(path, host)
        assert (answer.status, answer.body) == (421, b"")


def test_the_older_gateway_has_its_names(edge: Edge) -> None:
    assert edge.request("/", "own.w.test", port=HTTPS, tls=trusting(None), sni="own.w.test").body == b"alpha"


def test_the_younger_gateway_is_told_whose_its_hosts_are(edge: Edge) -> None:
    told = [one.message for one in edge.diagnostics if one.code == "GW0213" and ".routes[" in one.path]
    for host in ("own.w.test", "x.w.test", "*.w.test", "x.v.test", "*.v.test"):
        assert any(f'host "{host}"' in message and "gateway platform/alpha" in message for message in told), host
    assert not any("b.else" in message or "c.test" in message for message in told)
