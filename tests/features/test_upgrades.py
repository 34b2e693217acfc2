"""WebSockets where a route takes them, and no upgrade anywhere else. gRPC through HTTP/2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.features.conftest import Backends
from tests.support.edge import Edge, gateway_text
from tests.support.tokens import key_set, rsa_key, token
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.envoy

SPEC = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity: {jwt: [{name: corp, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {inline: 'KEYS'}}]}
  policies: [{name: two, rateLimit: {local: [{requests: 2, per: hour}]}}]
  backends:
    - {name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: grpc, protocol: GRPC, members: [{static: {address: 127.0.0.1, port: @grpc@}}]}
  routes:
    - {name: chat, hosts: [shop.example.com], match: [{path: {prefix: /chat}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: floating, hosts: [shop.example.com], match: [{path: {regex: "/.*[.]ws"}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: limited, hosts: [limited.example.com], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: corp}]}, use: [two], websocket: true, to: [{backend: one}]}
    - {name: members, hosts: [shop.example.com], match: [{path: {prefix: /members}}], auth: {anyOf: [{jwt: corp}]}, websocket: true, to: [{backend: one}]}
    - {name: wild, hosts: ["*.wild.example.com"], match: [{path: {prefix: /}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: wild-seg, hosts: ["*.wild.example.com"], match: [{path: {prefix: /seg}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: plain, hosts: [shop.example.com], match: [{path: {prefix: /plain}}], public: true, to: [{backend: one}]}
    - {name: plain-floating, hosts: [shop.example.com], match: [{path: {regex: "/.*[.]txt"}}], public: true, to: [{backend: one}]}
    - {name: plain-wild, hosts: ["*.plain.example.com"], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
    - {name: plain-wild-seg, hosts: ["*.plain.example.com"], match: [{path: {prefix: /seg}}], public: true, to: [{backend: one}]}
    - {name: plain-any, hosts: ["*"], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
    - {name: grpc, hosts: [grpc.example.com], match: [{path: {prefix: /test}}], public: true, to: [{backend: grpc}]}
    - {name: grpc-members, hosts: [members.example.com], match: [{path: {prefix: /test}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: grpc}]}
""")

TAKES = [
    ("shop.example.com", "/chat/room"),
    ("SHOP.example.com:80", "/chat/room"),
    ("shop.example.com", "/x/y.ws"),
    ("SHOP.example.com", "/x/y.ws"),
    ("shop.example.com", "/chat/y.ws"),
    ("a.wild.example.com", "/any"),
    ("A.wild.example.com", "/any"),
    ("a.wild.example.com", "/seg/x"),
]
TAKES_NONE = [
    ("shop.example.com", "/plain"),
    ("SHOP.example.com", "/plain"),
    ("shop.example.com", "/x/y.txt"),
    ("SHOP.example.com", "/x/y.txt"),
    ("shop.example.com", "/plain/y.txt"),
    ("a.plain.example.com", "/any"),
    ("A.plain.example.com", "/any"),
    ("a.plain.example.com", "/seg/x"),
    ("other.example.org", "/any"),
    ("OTHER.example.org", "/any"),
]


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC.replace("KEYS", key_set(rsa_key())), ports) as running:
        assert not running.diagnostics
        yield running


@pytest.mark.parametrize(("host", "path"), TAKES)
def test_websocket(edge: Edge, backends: Backends, host: str, path: str) -> None:
    with edge.upgrade(path, host) as socket:
        assert socket.status == 101
        assert [socket.say(text) for text in ("hello", "again")] == ["one: hello", "one: again"]


@pytest.mark.parametrize(("host", "path"), TAKES)
def test_an_upgrade_takes_no_header_from_the_backend(edge: Edge, backends: Backends, host: str, path: str) -> None:
    """A proxy between Envoy and the backend leaves out each header that `connection` names, also one that says who calls."""
    with edge.upgrade(path, host, headers=[("connection", "x-user-id, keep-alive")]) as socket:
        assert (socket.status, socket.say("hello")) == (101, "one: hello")
    assert [value for name, value in backends.one.websocket_headers if name == "connection"] == ["upgrade"]


@pytest.mark.parametrize("path", ["/chat/room", "/x/y.ws"])
def test_a_request_that_upgrades_nothing_says_so_on_a_route_for_websockets(
    edge: Edge, backends: Backends, path: str
) -> None:
    answer = edge.request(path, headers={"connection": "x-user-id, keep-alive"})
    assert (answer.status, answer.seen("connection"), answer.seen("upgrade")) == (200, None, None)


@pytest.mark.parametrize(("host", "path"), [*TAKES, *TAKES_NONE])
@pytest.mark.parametrize("offer", ["TLS/1.2", "TLS/1.3, TLS/1.2", "tls/1.0", "h2c"])
def test_an_offer_that_nobody_has_to_take_up_is_passed_over(
    edge: Edge, backends: Backends, host: str, path: str, offer: str
) -> None:
    """Java clients make one with every request in clear, and go on with HTTP/1.1 when it comes to nothing."""
    answer = edge.request(path, host, headers={"upgrade": offer, "connection": "Upgrade"})
    assert (answer.status, answer.backend, answer.seen("upgrade")) == (200, "one", None)


@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "foo", "h2c", "foo, websocket"])
@pytest.mark.parametrize(("host", "path"), TAKES_NONE)
def test_no_upgrade_elsewhere(edge: Edge, backends: Backends, host: str, path: str, protocol: str) -> None:
    with edge.upgrade(path, host, protocol=protocol) as refused:
        assert refused.status in ({403, 200} if protocol == "h2c" else {403})
    assert backends.one.open_websockets == 0


@pytest.mark.parametrize(("host", "path"), TAKES)
def test_no_other_protocol_on_a_route_for_websockets(edge: Edge, backends: Backends, host: str, path: str) -> None:
    with edge.upgrade(path, host, protocol="foo") as refused:
        assert refused.status == 403
    assert backends.one.requests == 0


@pytest.mark.parametrize(("host", "path"), TAKES)
def test_the_same_routes_take_plain_requests(edge: Edge, backends: Backends, host: str, path: str) -> None:
    assert edge.request(path, host).status == 200


def test_refused_upgrades_use_up_no_limit_of_the_route(edge: Edge, backends: Backends) -> None:
    """They are refused before authentication."""
    for _ in range(3):
        with edge.upgrade("/", "limited.example.com", protocol="foo") as refused:
            assert refused.status == 403
    headers = {"authorization": f"Bearer {token()}"}
    answers = [edge.request("/", "limited.example.com", headers=headers).status for _ in range(3)]
    assert answers == [200, 200, 429]


@pytest.mark.parametrize("target", ["/chat/refused-soon", "/x/refused-late.ws"])
def test_the_access_log_names_the_route_that_refused_an_upgrade(edge: Edge, target: str) -> None:
    """Also one that is found late, which refuses by itself."""
    with edge.upgrade(target, protocol="foo") as refused:
        assert refused.status == 403

    def line() -> dict[str, Any] | None:
        lines = [json.loads(one) for one in edge.envoy.log().splitlines() if one.startswith("{")]
        return next((one for one in lines if one["path"] == target), None)

    said = until(line, "the access log")
    assert (said["route"], said["spec"]) == (
        "chat" if "soon" in target else "floating",
        "GatewaySpec platform/shop",
    )


def test_a_websocket_needs_the_token_too(edge: Edge, backends: Backends) -> None:
    with edge.upgrade("/members") as refused:
        assert refused.status == 401
    with edge.upgrade("/members", headers={"authorization": f"Bearer {token()}"}) as socket:
        assert (socket.status, socket.say("hi")) == (101, "one: hi")


def _channel(edge: Edge, host: str) -> grpc.Channel:
    return grpc.insecure_channel(
        f"127.0.0.1:{edge.port()}",
        options=[
            ("grpc.default_authority", host),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


def test_grpc(edge: Edge, backends: Backends) -> None:
    with _channel(edge, "grpc.example.com") as channel:
        assert channel.unary_unary("/test/Echo")(b"hello", timeout=PATIENCE) == b"hello"
        assert list(channel.stream_stream("/test/Chat")(iter([b"a", b"b"]), timeout=PATIENCE)) == [b"a", b"b"]
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/test/Fail")(b"", timeout=PATIENCE)
        assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("host", "method", "code"),
    [
        ("members.example.com", "/test/Echo", grpc.StatusCode.UNAUTHENTICATED),
        ("grpc.example.com", "/other/Echo", grpc.StatusCode.UNIMPLEMENTED),
        ("GRPC.example.com", "/other/Echo", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_refusals_speak_grpc(edge: Edge, backends: Backends, host: str, method: str, code: grpc.StatusCode) -> None:
    with _channel(edge, host) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(method)(b"", timeout=PATIENCE)
    assert refused.value.code() is code


def test_grpc_with_a_token(edge: Edge, backends: Backends) -> None:
    with _channel(edge, "MEMBERS.example.com") as channel:
        call = channel.unary_unary("/test/Echo")
        assert call(b"hi", timeout=PATIENCE, metadata=[("authorization", f"Bearer {token()}")]) == b"hi"
    assert "authorization" not in dict(backends.grpc.metadata)
