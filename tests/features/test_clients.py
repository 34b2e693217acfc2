"""Where a client comes from, how its path is read, and what is written down about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest

from tests.features.conftest import Backends
from tests.support.edge import Edge, gateway_text
from tests.support.tokens import key_set, rsa_key
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

SPEC = gateway_text("""
  listeners:
    - {name: direct, port: 8080, protocol: HTTP}
    - {name: two-hops, port: 8081, protocol: HTTP, clientIP: {trustedHops: 2}}
    - {name: proxied, port: 8082, protocol: HTTP, clientIP: {proxyProtocol: true}}
  identity: {jwt: [{name: corp, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {inline: 'KEYS'}}]}
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: plain, hosts: [shop.example.com], match: [{path: {prefix: /plain}}], public: true, to: [{backend: one}]}
    - {name: public, hosts: [paths.example.com], match: [{path: {prefix: /public}}], public: true, to: [{backend: one}]}
    - {name: admin, hosts: [paths.example.com], match: [{path: {prefix: /admin}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: dropped-admin, hosts: [dropped.example.com], match: [{path: {prefix: /admin}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: dropped-rest, hosts: [dropped.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
    - {name: no-parameters, hosts: [dropped.example.com], match: [{path: {regex: "[^;]*;.*"}}], public: true, respond: {status: 400}}
    - {name: rest, hosts: [paths.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC.replace("KEYS", key_set(rsa_key())), ports) as running:
        yield running


def forwarded(edge: Edge, said: str | None, port: int, preface: bytes = b"") -> str | None:
    headers = {"x-forwarded-for": said} if said else {}
    answer = edge.request("/plain", headers=headers, port=port, preface=preface)
    assert answer.status == 200
    return answer.seen("x-forwarded-for")


def test_nobody_is_trusted_unless_said(edge: Edge, backends: Backends) -> None:
    """What a client writes stands before what Envoy saw, which comes last (its own address for a client on loopback)."""
    seen = forwarded(edge, None, 8080)
    assert seen
    assert (forwarded(edge, "203.0.113.1", 8080) or "").replace(" ", "") == f"203.0.113.1,{seen}"
    assert _logged(edge, "/plain/direct?x=1", 8080, {"x-forwarded-for": "203.0.113.1"})["clientIP"] == "127.0.0.1"


@pytest.mark.parametrize(("port", "believed"), [(8080, None), (8081, "shop.example.com"), (8082, None)])
def test_only_trusted_proxies_say_how_a_request_came_to_them(
    edge: Edge, backends: Backends, port: int, believed: str | None
) -> None:
    """A backend that makes links, or decides, by the host of such a header must not have it from the client."""
    said = {"x-forwarded-host": "shop.example.com", "forwarded": "host=shop.example.com"}
    preface = b"PROXY TCP4 203.0.113.7 203.0.113.1 1111 80\r\n" if port == 8082 else b""
    answer = edge.request("/plain", headers=said, port=port, preface=preface)
    assert (answer.status, answer.seen("x-forwarded-host")) == (200, believed)
    assert answer.seen("forwarded") == (believed and f"host={believed}")


def test_trusted_hops(edge: Edge, backends: Backends) -> None:
    said = {"x-forwarded-for": "198.51.100.66, 203.0.113.1, 192.0.2.7"}
    assert _logged(edge, "/plain/hops", 8081, said)["clientIP"] == "203.0.113.1"


def test_an_entry_with_a_port_names_no_client(edge: Edge, backends: Backends) -> None:
    """As some proxies write it: all that comes through them counts as one client."""
    for port in (1000, 2000):
        said = {"x-forwarded-for": f"203.0.113.1:{port}, 192.0.2.7"}
        assert _logged(edge, f"/plain/with-port/{port}", 8081, said)["clientIP"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("preface", "client"),
    [
        (b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 80\r\n", "203.0.113.5"),
        (b"PROXY TCP6 2001:db8::5 2001:db8::1 4711 80\r\n", "2001:db8::5"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes((203, 0, 113, 6, 192, 0, 2, 1)) + b"\x12\x67\x00\x50",
            "203.0.113.6",
        ),
    ],
    ids=["version 1, IPv4", "version 1, IPv6", "version 2"],
)
def test_proxy_protocol(edge: Edge, backends: Backends, preface: bytes, client: str) -> None:
    assert (forwarded(edge, "198.51.100.66", 8082, preface) or "").endswith(client)


def test_proxy_protocol_is_required_where_said(edge: Edge) -> None:
    """Otherwise a client that reaches the port itself could leave it out, and share the proxy's address."""
    with pytest.raises((ConnectionError, OSError)):
        edge.request("/plain", port=8082)


CLIENTS = [
    "203.0.113.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "::1", "::ffff:203.0.113.1", "fe80::1%eth0", "203.0.113.1:80", "[2001:db8::1]:443", "unknown", "_x", "",
]  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_whoever_asks_finds_the_fallback(edge: Edge, backends: Backends, client: str) -> None:
    """The filter that looks in a host's fallback tags by client address: its range must leave nobody out."""
    said = {"x-forwarded-for": f"{client}, 192.0.2.7"}
    assert edge.request("/rest/x", "paths.example.com", headers=said, port=8081).seen_path == "/rest/x"


UNKNOWN = b"PROXY UNKNOWN\r\n"
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
UNIX = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8" + b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")


@pytest.mark.parametrize("preface", [UNKNOWN, LOCAL, UNIX], ids=["unknown", "local", "unix"])
def test_a_proxy_that_names_no_address_finds_the_fallback_or_is_refused(
    edge: Edge, backends: Backends, preface: bytes
) -> None:
    try:
        answer = edge.request("/rest/x", "paths.example.com", port=8082, preface=preface)
    except OSError:
        assert preface is UNIX
    else:
        assert answer.seen_path == "/rest/x"
    assert edge.request("/rest/x", "paths.example.com").seen_path == "/rest/x"


PREFACE = b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 80\r\n"


@pytest.mark.parametrize(
    "target",
    [
        "/public/../admin",
        "/public/./../admin/x",
        "//admin",
        "/public//../admin",
        "/%61dmin",
        "/%61%64%6d%69%6e",
        "/public/%2e%2e/admin",
        "/public/%2E./admin",
        "/public\\..\\admin",
        "\\admin",
        "http://paths.example.com/admin",
        "http://other.example.com/admin",
        "/admin/;x=1",
        "/admin?/public",
        "/admin#/public",
        "/./admin",
        "/admin/../admin",
    ],
)
def test_the_way_a_path_is_written_is_no_way_around_authentication(edge: Edge, backends: Backends, target: str) -> None:
    answer = edge.request(target, "paths.example.com")
    assert answer.backend is None or not _means_admin(answer.seen_path), answer
    assert answer.status in {400, 401, 404, 307, 200}


def test_a_parameter_is_a_part_of_its_segment(edge: Edge, backends: Backends) -> None:
    """`/admin;x=1` is not `/admin`, as Envoy normalises paths: for a backend that thinks otherwise, a route refuses them.

    Wherever a parameter stands: such a backend takes `/;x/admin` for `/admin` too.
    """
    assert edge.request("/admin;x=1", "paths.example.com").seen_path == "/admin;x=1"
    for target in (
        "/admin;x=1",
        "/admin;",
        "/admin;x=1/y",
        "/admin/;x",
        "/;x/admin",
        "//;/admin",
        "/x/../admin;a",
        "/x/..;/admin",
        "/.;/admin",
        "/%2e%2e;/admin",
        "/%61dmin;x",
        "/admin;x?y",
        "//admin;x",
        "/admin",
    ):
        answer = edge.request(target, "dropped.example.com")
        assert answer.status in {400, 401}, (target, answer)
    assert edge.request("/admins?a;b", "dropped.example.com").seen_path == "/admins?a;b"


def _means_admin(path: str) -> bool:
    """Whether a backend would take this path for `/admin`."""
    return path.partition("?")[0].strip("/").partition("/")[0].lower() == "admin"


@pytest.mark.parametrize(
    "target", ["/admin%2Fx", "/admin%2fx", "/public%2F..%2Fadmin", "/public/..%2fadmin", "/%2Fadmin"]
)
def test_encoded_slashes_are_sent_to_what_they_mean(edge: Edge, backends: Backends, target: str) -> None:
    answer = edge.request(target, "paths.example.com")
    assert answer.status == 307
    location = answer.header("location") or ""
    followed = edge.request(location.removeprefix("http://paths.example.com"), "paths.example.com")
    assert followed.status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"x-gatewayspec-path": "p/public"},
        {"x-gatewayspec-host": "0.0.0.0:8080|paths.example.com", "x-gatewayspec-path": "p/public"},
        {"x-gatewayspec-host": ""},
        {"X-GatewaySpec-Key": "0.0.0.0:8080|paths.example.com/public"},
        {"x-gatewayspec-shard": "0.0.0.0:8080|paths.example.com/public"},
        {"x-envoy-original-path": "/public"},
        {"x-original-url": "/public"},
        {"x-rewrite-url": "/public"},
        {"x-forwarded-host": "shop.example.com"},
        {"x-forwarded-prefix": "/public"},
        {"x-http-method-override": "OPTIONS"},
    ],
    ids="+".join,
)
def test_no_header_chooses_another_route(edge: Edge, backends: Backends, headers: dict[str, str]) -> None:
    assert edge.request("/admin", "paths.example.com", headers=headers).status == 401


def test_the_backend_sees_the_path_that_was_judged(edge: Edge, backends: Backends) -> None:
    assert edge.request("/public/../x/./y//z", "paths.example.com").seen_path == "/x/y/z"


@pytest.mark.parametrize(
    ("target", "host", "headers"),
    [
        ("/plain", "shop.example.com", {"x_user": "1"}),
        ("/plain", "shop.example.com", {f"x-{number}": "1" for number in range(101)}),
        ("/plain", "shop.example.com", {"x-long": "a" * 61 * 1024}),
        ("/plain", "", {}),
    ],
    ids=["underscore", "too many headers", "too long", "no host"],
)
def test_what_is_refused_at_the_door(
    edge: Edge, backends: Backends, target: str, host: str, headers: dict[str, str]
) -> None:
    assert edge.request(target, host, headers=headers).status in {400, 404, 431}
    assert backends.one.requests == 0


def _logged(edge: Edge, target: str, port: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The line of the access log for a request whose path no other test asks for: lines of earlier ones may come late."""
    edge.request(target, headers=headers or {}, port=port)

    def line() -> dict[str, Any] | None:
        lines = [json.loads(one) for one in edge.envoy.log().splitlines() if one.startswith("{")]
        return next((one for one in lines if unquote(one["path"] or "") == target.partition("?")[0]), None)

    return until(line, "the access log")


def test_the_access_log_names_route_and_spec(edge: Edge, backends: Backends) -> None:
    line = _logged(edge, "/plain/x?secret=1", 8080, {"authorization": "Basic secret", "cookie": "a=secret"})
    assert (line["route"], line["spec"]) == ("plain", "GatewaySpec platform/shop")
    assert (line["method"], line["host"], line["path"], line["status"]) == ("GET", "shop.example.com", "/plain/x", 200)
    assert "secret" not in json.dumps(line)
    missed = _logged(edge, "/nothing", 8080)
    assert (missed["status"], missed["route"]) == (404, None)


def test_clients_cannot_write_another_path_into_the_log(edge: Edge, backends: Backends) -> None:
    assert _logged(edge, "/plain/real", 8080, {"x-envoy-original-path": "/forged"})["path"] == "/plain/real"


def test_log_lines_are_escaped(edge: Edge, backends: Backends) -> None:
    assert _logged(edge, '/plain/"},{"x', 8080)["path"] == "/plain/%22%7D,%7B%22x"
