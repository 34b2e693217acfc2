"""TLS to clients by SNI, what each certificate may be used for, the way from HTTP to HTTPS, and TLS to backends."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compile.shard_cases import KEY_SET
from tests.features.conftest import Backends
from tests.support.backends import HttpBackend
from tests.support.certificates import Authority, authority, serving, write_secret
from tests.support.client import dial, trusting
from tests.support.edge import HTTPS, Edge, gateway_text

pytestmark = pytest.mark.envoy

SPEC = gateway_text("""
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
    - {name: moved, port: 8081, protocol: HTTP, redirect: {scheme: https, port: 443, code: 301}}
    - name: https
      port: 8443
      protocol: HTTPS
      tls:
        - {hosts: [shop.example.com], certificate: {secretRef: shop}}
        - {hosts: [partners.example.com, "*.partners.example.com"], certificate: {secretRef: partners}}
        - {hosts: [gone.example.com], certificate: {secretRef: gone}}
  backends:
    - {name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: secure, tls: {sni: inner.example.com, ca: {secretRef: ca}}, members: [{static: {address: 127.0.0.1, port: @secure@}}]}
    - {name: by-name, tls: {ca: {secretRef: ca}}, members: [{dns: {host: localhost, port: @local@}}]}
    - {name: wrong-name, tls: {sni: other.example.com, ca: {secretRef: ca}}, members: [{static: {address: 127.0.0.1, port: @secure@}}]}
    - {name: wrong-ca, tls: {sni: inner.example.com, ca: {secretRef: other-ca}}, members: [{static: {address: 127.0.0.1, port: @secure@}}]}
    - {name: public-ca, tls: {sni: inner.example.com}, members: [{static: {address: 127.0.0.1, port: @secure@}}]}
    - {name: mutual, tls: {mode: mutual, sni: inner.example.com, ca: {secretRef: ca}, clientCertificate: {secretRef: client}}, members: [{static: {address: 127.0.0.1, port: @mutual@}}]}
    - {name: not-mutual, tls: {sni: inner.example.com, ca: {secretRef: ca}}, members: [{static: {address: 127.0.0.1, port: @mutual@}}]}
    - {name: pattern, tls: {sni: inner.example.com, sanMatch: ["*.example.com"], ca: {secretRef: ca}}, members: [{static: {address: 127.0.0.1, port: @secure@}}]}
  routes:
    - {name: shop, hosts: [shop.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
    - {name: partners, hosts: [partners.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: partners}}
    - {name: some, hosts: ["*.partners.example.com"], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: some partner}}
    - {name: plain, hosts: [plain.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: plain}}
    - {name: acme, hosts: [shop.example.com], listeners: [http, moved], match: [{path: {prefix: /.well-known/acme-challenge}}], public: true, respond: {status: 200, body: challenge}}
    - {name: secure, hosts: [to.example.com], match: [{path: {prefix: /secure}}], public: true, to: [{backend: secure}]}
    - {name: by-name, hosts: [to.example.com], match: [{path: {prefix: /by-name}}], public: true, to: [{backend: by-name}]}
    - {name: wrong-name, hosts: [to.example.com], match: [{path: {prefix: /wrong-name}}], public: true, to: [{backend: wrong-name}]}
    - {name: wrong-ca, hosts: [to.example.com], match: [{path: {prefix: /wrong-ca}}], public: true, to: [{backend: wrong-ca}]}
    - {name: public-ca, hosts: [to.example.com], match: [{path: {prefix: /public-ca}}], public: true, to: [{backend: public-ca}]}
    - {name: mutual, hosts: [to.example.com], match: [{path: {prefix: /mutual}}], public: true, to: [{backend: mutual}]}
    - {name: not-mutual, hosts: [to.example.com], match: [{path: {prefix: /not-mutual}}], public: true, to: [{backend: not-mutual}]}
    - {name: pattern, hosts: [to.example.com], match: [{path: {prefix: /pattern}}], public: true, to: [{backend: pattern}]}
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("tls")
    secrets = folder / "secrets"
    ca = authority()
    ca.leaf("shop.example.com").write(secrets, "shop")
    ca.leaf("partners.example.com", "*.partners.example.com").write(secrets, "partners")
    ca.leaf("edge", client=True).write(secrets, "client")
    write_secret(secrets, "ca", {"ca.crt": ca.pem})
    write_secret(secrets, "other-ca", {"ca.crt": Authority("another").pem})
    inner = ca.leaf("inner.example.com")
    with (
        HttpBackend("secure", serving(folder, inner)) as secure,
        HttpBackend("local", serving(folder, ca.leaf("localhost"))) as local,
        HttpBackend("mutual", serving(folder, inner, ca.pem)) as mutual,
        Edge(SPEC, {**ports, "secure": secure.port, "local": local.port, "mutual": mutual.port}, secrets) as running,
    ):
        yield running


def trust(*protocols: str) -> ssl.SSLContext:
    return trusting(authority().pem, *protocols)


@pytest.mark.parametrize(
    ("host", "body"),
    [("partners.example.com", b"partners"), ("a.partners.example.com", b"some partner")],
)
def test_certificate_and_routes_by_sni(edge: Edge, host: str, body: bytes) -> None:
    """The client verifies the name: it is the certificate of the host."""
    assert edge.request("/", host, port=HTTPS, tls=trust(), sni=host).body == body


def test_https_reaches_the_backend(edge: Edge, backends: Backends) -> None:
    answer = edge.request("/x", port=HTTPS, tls=trust(), sni="shop.example.com")
    assert (answer.status, answer.seen("x-forwarded-proto")) == (200, "https")


def test_http2_by_alpn(edge: Edge) -> None:
    with edge.http2(HTTPS, trust("h2"), "partners.example.com") as connection:
        assert connection.request("/", "partners.example.com").body == b"partners"


def test_http2_connection_is_not_used_for_another_certificate(edge: Edge, backends: Backends) -> None:
    """Browsers reuse a connection for every name of its certificate; 421 tells them to open another."""
    with edge.http2(HTTPS, trust("h2"), "partners.example.com") as connection:
        assert connection.request("/", "shop.example.com").status == 421
        assert connection.request("/", "a.partners.example.com").body == b"some partner"
    assert backends.one.requests == 0


@pytest.mark.parametrize(
    "host", ["partners.example.com", "PARTNERS.example.com:443", "plain.example.com", "x.example.org", "*"]
)
def test_misdirected_requests(edge: Edge, host: str) -> None:
    assert edge.request("/", host, port=HTTPS, tls=trust(), sni="shop.example.com").status == 421


@pytest.mark.parametrize("sni", ["other.example.org", "gone.example.com", None])
def test_no_certificate_no_handshake(edge: Edge, sni: str | None) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial(edge.port(HTTPS), trusting(None), sni)


def test_a_missing_certificate_leaves_out_its_own_hosts_alone(edge: Edge) -> None:
    assert [diagnostic.path for diagnostic in edge.diagnostics] == [
        "spec.listeners[https].tls[2].certificate.secretRef"
    ]


def test_old_tls_is_refused(edge: Edge) -> None:
    old = trust()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial(edge.port(HTTPS), old, "shop.example.com")


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA"])
def test_weak_ciphers_are_refused(edge: Edge, cipher: str) -> None:
    weak = trust()
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial(edge.port(HTTPS), weak, "shop.example.com")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_tls(edge: Edge, version: ssl.TLSVersion) -> None:
    current = trust()
    current.minimum_version = current.maximum_version = version
    assert edge.request("/", port=HTTPS, tls=current, sni="shop.example.com").status == 200


@pytest.mark.parametrize(
    ("host", "path", "location"),
    [
        ("shop.example.com", "/x?q=1", "https://shop.example.com:8443/x?q=1"),
        ("SHOP.example.com:8080", "/", "https://SHOP.example.com:8443/"),
        ("partners.example.com", "/", "https://partners.example.com:8443/"),
        ("b.partners.example.com", "/", "https://b.partners.example.com:8443/"),
    ],
)
def test_hosts_with_a_certificate_are_sent_to_https(edge: Edge, host: str, path: str, location: str) -> None:
    answer = edge.request(path, host)
    assert (answer.status, answer.header("location")) == (308, location)


def test_hosts_without_a_certificate_are_served_in_clear(edge: Edge) -> None:
    assert edge.request("/", "plain.example.com").body == b"plain"


@pytest.mark.parametrize("host", ["shop.example.com", "SHOP.example.com", "plain.example.com", "unknown.example.org"])
def test_a_redirecting_listener_redirects_everything(edge: Edge, host: str) -> None:
    answer = edge.request("/x", host, port=8081)
    assert (answer.status, answer.header("location")) == (301, f"https://{host}/x")


@pytest.mark.parametrize("port", [8080, 8081])
def test_a_route_may_name_its_listeners(edge: Edge, port: int) -> None:
    assert edge.request("/.well-known/acme-challenge/x", port=port).body == b"challenge"


@pytest.mark.parametrize(
    ("path", "backend"), [("/secure", "secure"), ("/by-name", "local"), ("/mutual", "mutual"), ("/pattern", "secure")]
)
def test_tls_to_backends(edge: Edge, path: str, backend: str) -> None:
    answer = edge.request(path, "to.example.com")
    assert (answer.status, answer.backend) == (200, backend), answer.body


@pytest.mark.parametrize("path", ["/wrong-name", "/wrong-ca", "/public-ca", "/not-mutual"])
def test_backends_are_verified(edge: Edge, path: str) -> None:
    answer = edge.request(path, "to.example.com")
    assert (answer.status, answer.backend) == (503, None)


TWO_PORTS = gateway_text("""
  listeners:
    - {name: admin, port: 9443, protocol: HTTPS, tls: [{hosts: [admin.example.com], certificate: {secretRef: shop}}]}
    - {name: http, port: 8080, protocol: HTTP}
    - {name: https, port: 443, protocol: HTTPS, tls: [{hosts: [shop.example.com], certificate: {secretRef: shop}}]}
  routes:
    - {name: shop, hosts: [shop.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}
    - {name: admin, hosts: [admin.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}
    - {name: explicit, hosts: [admin.example.com], listeners: [http], match: [{path: {prefix: /explicit}}], public: true, redirect: {scheme: https}}
    - {name: any, hosts: ["*"], match: [{path: {prefix: /any}}], public: true, redirect: {scheme: https}}
    - {name: said, hosts: ["*"], match: [{path: {prefix: /said}}], public: true, redirect: {scheme: https, port: 1443}}
    - {name: elsewhere, hosts: [admin.other.com], match: [{path: {prefix: /elsewhere}}], public: true, redirect: {scheme: https, host: b.example.com}}
""")


def test_a_redirect_to_https_leads_to_the_listener_of_the_host(tmp_path: Path) -> None:
    """The listener that has its certificate, else port 443; the port of the request itself means nothing to HTTPS."""
    authority().leaf("shop.example.com", "admin.example.com").write(tmp_path, "shop")
    with Edge(TWO_PORTS, secrets=tmp_path) as edge:
        for target, host, location in (
            ("/x?y=1", "shop.example.com", "https://shop.example.com/x?y=1"),
            ("/x", "shop.example.com:8080", "https://shop.example.com/x"),
            ("/x", "admin.example.com", "https://admin.example.com:9443/x"),
            ("/explicit/x", "admin.example.com:8080", "https://admin.example.com:9443/explicit/x"),
            ("/any", "other.example.com", "https://other.example.com/any"),
            ("/said", "other.example.com", "https://other.example.com:1443/said"),
            ("/elsewhere", "admin.other.com:8080", "https://b.example.com/elsewhere"),
        ):
            assert edge.request(target, host).header("location") == location


GUARDED = """
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners:
    - name: https
      port: 8443
      protocol: HTTPS
      tls: [TLS]
  identity: {jwt: [{name: corp, issuer: i, audiences: [a], jwks: {inline: 'KEYS'}}]}
  routes:
    - {name: guarded, hosts: [a.example.com], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: corp}]}, respond: {status: 200, body: guarded}}
    - {name: public, hosts: ["*.example.com"], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: public}}
    - {name: rest, hosts: ["*"], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: rest}}
""".replace("KEYS", KEY_SET)
ANY, NAME = '{hosts: ["*"], certificate: {secretRef: any}}', "{hosts: [a.example.com], certificate: {secretRef: any}}"
WILD = '{hosts: ["*.example.com"], certificate: {secretRef: wild}}'
BOTH = '{hosts: ["*", a.example.com], certificate: {secretRef: any}}'
OTHER = """
---
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: other, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: https, port: 8443, protocol: HTTPS, tls: [TLS]}]
"""


@pytest.mark.parametrize(
    "spec",
    [
        GUARDED.replace("TLS", f"{BOTH}, {WILD}"),
        GUARDED.replace("TLS", f"{ANY}, {NAME}, {WILD}"),
        GUARDED.replace("TLS", f"{NAME}, {WILD}, {ANY}") + OTHER.replace("TLS", ANY),
    ],
    ids=["one entry", "one secret", "two gateways"],
)
def test_a_name_beside_any_host_stays_with_its_certificate(spec: str, tmp_path: Path) -> None:
    """Though another certificate is for a wildcard that covers the name."""
    authority().leaf("a.example.com", "b.test").write(tmp_path, "any")
    authority().leaf("*.example.com").write(tmp_path, "wild")
    with Edge(spec, secrets=tmp_path) as edge:
        for host, status, body in (
            ("a.example.com", 401, None),
            ("b.example.com", 200, b"public"),
            ("b.test", 200, b"rest"),
        ):
            answer = edge.request("/x", host, port=HTTPS, tls=trust(), sni=host)
            assert (answer.status, body or answer.body) == (status, answer.body), host


OWN = "{hosts: [a.example.com], certificate: {secretRef: own}}"
GUARDING = GUARDED.partition("    - {name: public")[0]
APART = GUARDED.replace("TLS", f"{WILD}, {ANY}").replace("[a.example.com]", "[c.example.com]")
APART += "---" + GUARDING.replace("name: edge", "name: other").replace("TLS", OWN)


@pytest.mark.parametrize(
    "spec",
    [
        GUARDED.replace("TLS", f"{WILD}, {OWN}, {ANY}"),
        GUARDED.replace("TLS", f"{WILD}, {ANY}, {OWN.replace('own', 'gone')}"),
        GUARDED.replace("[TLS]", f"[{WILD}, {ANY}]")
        .replace(
            "  identity:",
            f"    - {{name: own, port: 8443, protocol: HTTPS, tls: [{OWN}]}}\n  identity:",
        )
        .replace("hosts: [a.example.com], match", "hosts: [a.example.com], listeners: [own], match"),
        APART,
    ],
    ids=["one listener", "the certificate is missing", "two listeners", "two gateways"],
)
def test_a_wildcard_lends_its_connections_to_no_name_with_a_certificate_of_its_own(spec: str, tmp_path: Path) -> None:
    """A client says what name it likes (SNI): by another one it would get around the token that this name wants."""
    for name, *hosts in (("wild", "*.example.com"), ("any", "b.test"), ("own", "a.example.com")):
        authority().leaf(*hosts).write(tmp_path, name)
    with Edge(spec, secrets=tmp_path) as edge:
        for sni, host, status in (
            ("b.example.com", "a.example.com", 421),
            ("b.example.com", "A.Example.com.:8443", 421),
            ("b.test", "a.example.com", 421),
            ("b.test", "b.example.com", 421),
            ("b.example.com", "b.example.com", 200),
            ("b.test", "b.test", 200),
            ("a.example.com", "a.example.com", 421 if "gone" in spec else 401),
        ):
            answer = edge.request("/x", host, port=HTTPS, tls=trusting(None), sni=sni)
            assert answer.status == status, (sni, host, answer)


TWICE = """
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners:
    - {name: one, port: 8443, protocol: HTTPS, tls: [{hosts: [a.example.com], certificate: {secretRef: one}}]}
    - {name: two, port: 8443, protocol: HTTPS, tls: [{hosts: [a.example.com, b.example.com], certificate: {secretRef: two}}]}
  routes:
    - {name: a, hosts: [a.example.com, b.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}
"""


def test_a_host_of_two_listeners_of_one_port_is_the_first_ones(tmp_path: Path) -> None:
    """Envoy would refuse them both."""
    authority().leaf("a.example.com").write(tmp_path, "one")
    authority().leaf("b.example.com").write(tmp_path, "two")
    with Edge(TWICE, secrets=tmp_path) as edge:
        for host in ("a.example.com", "b.example.com"):
            assert edge.request("/", host, port=HTTPS, tls=trust(), sni=host).status == 200
    (said,) = edge.diagnostics
    assert (said.code, said.path) == ("GW0213", "spec.listeners[two].tls[0].hosts")
    assert said.message == 'TLS for host "a.example.com" on this port belongs to listener "one"'
