"""Route shards through a real Envoy: the same answers as one plain table, and nothing that can be forged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPException
from random import Random

import pytest

from controlplane.compile import hosts
from tests.compile.reference import decide
from tests.compile.shard_cases import AUTH, gateway, request, routes
from tests.support.client import dial
from tests.support.edge import Edge

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize(("seed", "crowd"), [(seed, hosts.MAX_FLOATING) for seed in range(6)] + [(4, 3)])
def test_shards_answer_as_one_plain_table(seed: int, crowd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "MAX_FLOATING", crowd)
    random = Random(seed)
    said = routes(random, (3, 12, 40, 80, 120, 200)[seed])
    wrong = []
    with Edge(json.dumps(gateway(said))) as edge, edge.connect() as connection:
        for _ in range(300):
            asked = request(random, said)
            answer = connection.request(asked.target, asked.host, asked.method, asked.headers)
            expected = decide(said, asked)
            name = answer.body.decode() if answer.status == 200 else None
            if (answer.status, name) != (expected.status, expected.route if expected.status == 200 else None):
                wrong.append((asked, expected, answer.status, name))
    assert wrong == []


SECRET, OPEN = "secret.example.com", "open.example.com"
LOCKED = {"auth": AUTH, "respond": {"status": 200, "body": "SECRET"}}
PUBLIC = {"public": True, "respond": {"status": 200, "body": "open"}}
FORGING = [
    # Everything under the secret host wants a token, in every kind of shard: segment, floating, root.
    {"name": "root", "hosts": [SECRET], "match": [{"path": {"prefix": "/"}}], **LOCKED},
    {"name": "segment", "hosts": [SECRET], "match": [{"path": {"prefix": "/api"}}], **LOCKED},
    {"name": "template", "hosts": [SECRET], "match": [{"path": {"template": "/{any}/x"}}], **LOCKED},
    {"name": "regex", "hosts": [SECRET], "match": [{"path": {"regex": ".*[.]css"}}], **LOCKED},
    {"name": "wild", "hosts": ["*.wild.example.com"], "match": [{"path": {"prefix": "/"}}], **LOCKED},
    {"name": "wild-segment", "hosts": ["*.wild.example.com"], "match": [{"path": {"prefix": "/api"}}], **LOCKED},
    # The same paths are public on another host, and one path is public for every host that is not known.
    {"name": "open", "hosts": [OPEN], "match": [{"path": {"prefix": "/"}}], **PUBLIC},
    {"name": "open-segment", "hosts": [OPEN], "match": [{"path": {"prefix": "/api"}}], **PUBLIC},
    {"name": "any", "hosts": ["*"], "match": [{"path": {"prefix": "/any"}}], **PUBLIC},
    {"name": "half", "hosts": ["half.example.com"], "match": [{"path": {"prefix": "/public"}}], **PUBLIC},
    {"name": "half-root", "hosts": ["half.example.com"], "match": [{"path": {"exact": "/"}}], **LOCKED},
    {"name": "half-locked", "hosts": ["half.example.com"], "match": [{"path": {"prefix": "/locked"}}], **LOCKED},
]  # fmt: skip


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with Edge(json.dumps(gateway(FORGING))) as edge:
        yield edge


FORGED = [
    {},
    {"x-gatewayspec-host": f"0.0.0.0:8080|{OPEN}"},
    {"x-gatewayspec-host": f"0.0.0.0:8080|{OPEN}", "x-gatewayspec-path": "p/api"},
    {"x-gatewayspec-scope": f"0.0.0.0:8080|{OPEN}/api"},
    {"x-gatewayspec-scope": ""},
    {"X-GatewaySpec-Scope": f"0.0.0.0:8080|{OPEN}/?"},
    {"x-gatewayspec-path": "p/api"},
    {"x-gatewayspec-path": ""},
    {"x-gatewayspec-host": ""},
    {"X-GatewaySpec-Host": "0.0.0.0:8080|", "X-GatewaySpec-Path": "p/?"},
    {"x-envoy-original-path": "/any"},
    {"x-envoy-original-path": "/public", "x-forwarded-host": OPEN},
    {"x-envoy-decorator-operation": "open", "x-original-url": "/any", "x-rewrite-url": "/any"},
    {"x-http-method-override": "OPTIONS"},
    {"origin": "https://x.test", "access-control-request-method": "GET"},
    {"expect": "100-continue"},
    {"upgrade": "h2c", "connection": "upgrade"},
    {"upgrade": "websocket", "connection": "upgrade"},
]
PATHS = [
    "/", "/api", "/api/x", "/zzz", "/a/x", "/x.css", "//", "///", "//api", "/api//x", "/./api", "/zzz/../api", "/%61pi", "/api%3Fx",
    "/api;x=1", "/;", "/?", "/??", "/?/any", "/?x=/../any", "/any/../api", "/any/..", "/any/%2e%2e/api", "/any/..;/api", "/any\\..\\api",
    "/api?/any", "/" + "a" * 255, "/" + "a" * 256, "/" + "a" * 20_000, "/p", "/p/api", "/|", "/a|b", "/*", "/%00", "/%", "/~", "/%7e",
]  # fmt: skip
SPELLINGS = [
    SECRET, "SECRET.example.COM", f"{SECRET}:8080", f"{SECRET}.", f"{SECRET}.:1", "Secret.Example.Com.:8080", f"{SECRET}:",
    "a.wild.example.com", "A.Wild.example.com", "a.b.wild.example.com:99", "a.wild.example.com.",
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_request_reaches_a_protected_host_without_a_token(edge: Edge, host: str) -> None:
    """Every way to look a route up, whatever else the request says."""
    reached = []
    for method in ("GET", "OPTIONS", "FOO"):
        for path in PATHS:
            for headers in FORGED if path in ("/", "/api", "/zzz", "/any/../api") else FORGED[:1]:
                answer = edge.request(path, host, method, headers)
                if answer.status not in {307, 400, 401, 403, 431, 501} or answer.body in (b"open", b"SECRET"):
                    reached.append((method, path, headers, answer.status, answer.body))
    assert reached == []


@pytest.mark.parametrize("headers", FORGED)
@pytest.mark.parametrize(
    "path", ["/", "//", "/?", "/public/..", "/%2e", "/./", "/public/%2e%2e", "/locked", "/locked/x"]
)
def test_public_paths_of_a_host_lend_nothing_to_the_others(edge: Edge, path: str, headers: dict[str, str]) -> None:
    answer = edge.request(path, "half.example.com", "GET", headers)
    assert answer.status in ({307, 403} if path == "//" else {401, 403})
    assert edge.request("/public", "half.example.com").body == b"open"


ODD_HOSTS = [
    "", " ", "|", "||", f"|{OPEN}", f"{OPEN}|", f"0.0.0.0:8080|{OPEN}", f"{SECRET}|{OPEN}", "*", "*.wild.example.com", "?", "/", f"{OPEN}/", f"{SECRET}/any",
    f"{SECRET}..", f".{SECRET}", ".wild.example.com", "wild.example.com", "..", ".", "[::1]", "[::1]:80", f"[{SECRET}]", f"[{OPEN}", f"user@{OPEN}",
    f"{OPEN}:{SECRET}", f"{SECRET}:{OPEN}", f"{SECRET}:80:80", f"{SECRET}%2e", f"{SECRET}\\", f"{OPEN},{SECRET}", "a" * 255, "a" * 256, "a." * 127 + "a", "a." * 128,
    "a." * 10_000, "a" * 60_000, "%REQ(x)%", "%PATH(NQ)%", "\u00e9.example.com",
]  # fmt: skip


@pytest.mark.parametrize("host", ODD_HOSTS, ids=lambda host: f"{host[:30]!r}-{len(host)}")
def test_odd_hosts_reach_no_route_of_another_host(edge: Edge, host: str) -> None:
    """They are refused, or they are hosts that nobody knows: only what is declared for "*" is there for them."""
    name = re.split("[:]", host.lower())[0].removesuffix(".")
    for path in ("/", "/api", "/zzz", "/public", "/locked", "/x.css"):
        try:
            answer = edge.request(path, host.encode().decode("latin-1"))
        except (OSError, HTTPException):
            continue
        if name == SECRET or name.endswith(".wild.example.com"):
            assert answer.status in {307, 400, 401, 404}, path
        elif name == OPEN:
            assert answer.status in {200, 400, 404}
        else:
            assert answer.status in {400, 404, 413, 431}, (path, answer)
        assert answer.body != b"SECRET"
    assert edge.request("/api", OPEN).body == b"open"


def raw(edge: Edge, request: str) -> bytes:
    """The answer to these bytes, up to the end of the connection."""
    with dial(edge.port()) as connection:
        connection.sendall(request.encode("latin-1"))
        connection.settimeout(5)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


@pytest.mark.parametrize(
    "request_line",
    [
        "OPTIONS * HTTP/1.1",
        "GET * HTTP/1.1",
        f"CONNECT {OPEN}:80 HTTP/1.1",
        f"CONNECT {SECRET}:80 HTTP/1.1",
        f"GET http://{SECRET}/api HTTP/1.1",
        f"GET http://{SECRET} HTTP/1.1",
        f"GET http://{SECRET}?x=/any HTTP/1.1",
        f"GET http://{SECRET}/any/../api HTTP/1.1",
        f"GET HTTP://{SECRET}:80/api HTTP/1.1",
        f"GET http://x@{SECRET}/api HTTP/1.1",
        "GET  /api HTTP/1.1",
        "GET /api",
        "GET /api HTTP/1.0",
        "GET /api HTTP/9.9",
        "GET api HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET ../api HTTP/1.1",
        "GET /api#/any HTTP/1.1",
        "PRI * HTTP/2.0",
    ],
)
@pytest.mark.parametrize("host", [OPEN, SECRET])
def test_odd_request_lines(edge: Edge, request_line: str, host: str) -> None:
    """An authority in the request line counts, not the header; nothing gets past the token of the host that counts."""
    answer = raw(edge, f"{request_line}\r\nhost: {host}\r\nconnection: close\r\n\r\n")
    assert b"SECRET" not in answer
    if host == SECRET or f"{SECRET}" in request_line:
        assert b"open" not in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("lines", ["GET /api HTTP/1.0", "GET / HTTP/1.0", "GET /any HTTP/1.0", "GET /any HTTP/1.1"])
def test_without_a_host_header_no_route_is_reached(edge: Edge, lines: str) -> None:
    answer = raw(edge, f"{lines}\r\nconnection: close\r\n\r\n")
    assert answer.split()[1] in {b"400", b"404", b"426"}


@pytest.mark.parametrize("hosts", [(OPEN, SECRET), (SECRET, OPEN)])
def test_two_host_headers_reach_no_route(edge: Edge, hosts: tuple[str, str]) -> None:
    answer = raw(edge, f"GET /api HTTP/1.1\r\nhost: {hosts[0]}\r\nhost: {hosts[1]}\r\nconnection: close\r\n\r\n")
    assert answer.split()[1] in {b"400", b"404"}


@pytest.mark.parametrize(
    "hosts", [(SECRET, "x.wild.test"), ("x.wild.test", "y.wild.test"), (SECRET, "nobody.example.org")]
)
def test_two_host_headers_are_no_host_below_a_wildcard(hosts: tuple[str, str]) -> None:
    """Envoy joins them: what a backend takes for the first would come to it by the route of the last."""
    said = [
        {"name": name, "hosts": [host], "match": [{"path": {"prefix": "/"}}], **PUBLIC}
        for name, host in (("w", "*.wild.test"), ("a", "*"))
    ]
    with Edge(json.dumps(gateway(said))) as edge:
        lines = "".join(f"host: {host}\r\n" for host in hosts)
        assert raw(edge, f"GET /api HTTP/1.1\r\n{lines}connection: close\r\n\r\n").split()[1] == b"404"
        assert edge.request("/api", ",".join(hosts)).status == 404
        assert [edge.request("/api", host).body for host in hosts] == [b"open"] * 2


NO_NAMES = [
    "x@a.wild.test", "a.wild.test@x.wild.test", "%61.wild.test", "a%2Ewild.test", "a.wild.test%2F.wild.test", "a.wild.test;x.wild.test",
    "a.wild.test&x.wild.test", "a.wild.test...", ".a.wild.test", "a..wild.test", "[a.wild.test]", "[a].wild.test", "a.wild.test:x", ".",
]  # fmt: skip


def test_what_is_no_name_is_no_host_below_a_wildcard() -> None:
    """Envoy lets it pass, and a backend that makes a URL of it may read another host, whose routes want a token."""
    said = [
        {"name": f"r{len(host)}", "hosts": [host], "match": [{"path": {"prefix": "/"}}], **PUBLIC}
        for host in ("*.wild.test", "*")
    ]
    said.append({"name": "s", "hosts": ["a.wild.test"], "match": [{"path": {"prefix": "/"}}], **LOCKED})
    with Edge(json.dumps(gateway(said))) as edge:
        assert {host: edge.request("/", host).status for host in NO_NAMES} == dict.fromkeys(NO_NAMES, 404)
        for host in ("b.wild.test", "B_1.wild.test.:80", "192.0.2.1", "[2001:db8::1]", "[::ffff:192.0.2.1]:80", "x"):
            assert edge.request("/", host).body == b"open", host


@pytest.mark.parametrize("host", ["{}:x@{}", "{}:@{}", "{}:80@{}"])
def test_nothing_but_a_port_is_left_out_of_a_host(edge: Edge, host: str) -> None:
    """What stands before an `@` is no host, and what stands behind it is one to who reads it as that of a URL."""
    assert edge.request("/api", host.format(OPEN, SECRET)).status == 404
    assert edge.request("/api", f"{OPEN}:80").body == b"open"


def test_internal_headers_cannot_come_over_http2_either(edge: Edge) -> None:
    with edge.http2() as connection:
        for headers in FORGED[:10]:
            for path in ("/", "/api", "/zzz"):
                assert connection.request(path, SECRET, headers=headers).status == 401
        assert connection.request("/api", "A.WILD.example.com").status == 401
        assert connection.request("/any", "unknown.test").body == b"open"


SHIFTED = [
    "*/other",
    "*/other/x",
    "*//other",
    "*.wild.test/other/x.wild.test",
    "*?/other",
    "*#/other",
    "*\\other/",
    "*|x",
    "[*]/other",
    "*:80/other",
]


def test_a_host_cannot_shift_the_key_into_another_segment() -> None:
    """Envoy refuses every authority with a character that ends a part of the key.

    Else such a host would find the shard of a segment that the path does not have, and its floating public route.
    """
    said = []
    for host in ("*", "*.wild.test"):
        said += [
            {"name": f"r{len(said)}", "hosts": [host], "match": [{"path": {"prefix": "/"}}], **PUBLIC},
            {"name": f"o{len(said)}", "hosts": [host], "match": [{"path": {"prefix": "/other"}}], **PUBLIC},
            {"name": f"l{len(said)}", "hosts": [host], "match": [{"path": {"prefix": "/locked"}}], **LOCKED},
        ]
    with Edge(json.dumps(gateway(said))) as edge:
        for host in SHIFTED:
            assert edge.request("/locked/x", host).status == 400, host
            with pytest.raises(ConnectionResetError), edge.http2() as connection:
                connection.request("/locked/x", host)
        for host in ("*", "*:80", "*.wild.test", "x.wild.test", "y"):
            assert edge.request("/locked/x", host).status == 401, host
            assert edge.request("/other/x", host).status == 200, host
