"""Uploads and streams that take longer than other requests may, and those that may not.

Nothing here waits for a time to pass: a request that meets a limit shows that others have outlived it.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.client import BadStatusLine
from pathlib import Path
from typing import Any

import pytest

from tests.features.conftest import Backends
from tests.support.client import Http2
from tests.support.edge import Edge, gateway_text
from tests.support.relay import Relay
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

LIMITED, UNLIMITED, SHARED, LONELY = 8080, 8081, 8082, 8083

SPEC = gateway_text("""
  defaults: {timeouts: {request: 200ms}}
  listeners:
    - {name: limited, port: 8080, protocol: HTTP, timeouts: {requestReceived: 200ms}}
    - {name: unlimited, port: 8081, protocol: HTTP, timeouts: {requestReceived: 0s}}
    - {name: shared, port: 8082, protocol: HTTP, timeouts: {requestReceived: 200ms}}
    - {name: lonely, port: 8083, protocol: HTTP, limits: {connections: 1}}
  backends:
    - {name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: sleepy, idleTimeout: 100ms, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: narrow, limits: {requests: 2}, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: grpc, protocol: GRPC, members: [{static: {address: 127.0.0.1, port: @grpc@}}]}
  routes:
    - {name: web, hosts: [shop.example.com], match: [{path: {prefix: /}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: sleepy, hosts: [shop.example.com], match: [{path: {prefix: /sleepy}}], public: true, to: [{backend: sleepy}]}
    - {name: narrow, hosts: [shop.example.com], match: [{path: {prefix: /narrow}}], public: true, websocket: true, to: [{backend: narrow}]}
    - {name: grpc, hosts: [shop.example.com], match: [{path: {prefix: /test}}], public: true, timeouts: {request: 0s}, to: [{backend: grpc}]}
---
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: uploads, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: shared, port: 8082, protocol: HTTP, timeouts: {requestReceived: 1h}}]
  routes: []
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC, ports) as running:
        assert not running.diagnostics
        yield running


def begin(connection: Http2) -> int:
    """An upload that is not complete."""
    stream = connection.open("/upload", "shop.example.com", "POST", end=False)
    connection.send(stream, b"a")
    return stream


def outlive(edge: Edge) -> None:
    """Wait until a request that began just now has met the limits."""
    with edge.http2(LIMITED) as connection:
        assert connection.answer(begin(connection)).status == 408


@pytest.mark.parametrize("port", [UNLIMITED, SHARED])
def test_an_upload_takes_as_long_as_its_listener_grants(edge: Edge, backends: Backends, port: int) -> None:
    """Of the listeners of one port the most patient one counts: somebody is there for such uploads."""
    with edge.http2(port) as connection:
        stream = begin(connection)
        outlive(edge)
        connection.send(stream, b"b", end=True)
        assert connection.answer(stream).json()["body"] == "ab"


def test_the_time_of_a_request_begins_when_it_is_complete(edge: Edge, backends: Backends) -> None:
    backends.one.then("slow")
    assert edge.request("/", port=UNLIMITED).status == 504


def test_a_websocket_that_has_begun_lives_on(edge: Edge) -> None:
    with edge.upgrade("/chat", port=LIMITED) as socket:
        assert socket.say("one") == "one: one"
        outlive(edge)
        assert socket.say("two") == "one: two"


def test_a_stream_of_messages_that_has_begun_lives_on(edge: Edge) -> None:
    headers = {"content-type": "application/grpc", "te": "trailers"}
    one, two = b"\0\0\0\0\1a", b"\0\0\0\0\1b"
    with edge.http2(LIMITED) as connection:
        stream = connection.open("/test/Chat", "shop.example.com", "POST", headers, end=False)
        connection.send(stream, one)
        assert connection.receive(stream, len(one)) == one
        outlive(edge)
        connection.send(stream, two)
        assert connection.receive(stream, len(two)) == two


def test_a_backend_gets_as_many_requests_at_a_time_as_its_limits_say(edge: Edge) -> None:
    """A WebSocket is one for as long as it lives."""

    def status() -> int:
        with edge.upgrade("/narrow", port=UNLIMITED) as socket:
            return socket.status

    def refused() -> bool:
        answer = edge.request("/narrow", port=UNLIMITED)
        return answer.status == 503 and answer.body.endswith(b"reset reason: overflow")

    with edge.upgrade("/narrow", port=UNLIMITED) as one:
        with edge.upgrade("/narrow", port=UNLIMITED) as two:
            assert (one.say("hi"), two.say("hi")) == ("one: hi", "one: hi")
            assert status() == 503
            assert refused()
        until(lambda: status() == 101, "there is room again")
        assert one.say("hi") == "one: hi"


def test_a_connection_to_a_backend_is_closed_before_the_backend_does_it(edge: Edge, backends: Backends) -> None:
    """A request that meets a connection which its backend is closing is lost: nobody knows whether it was acted on."""
    assert edge.request("/sleepy", port=UNLIMITED).status == 200
    closed = "cluster.gatewayspec/platform/shop/sleepy.upstream_cx_idle_timeout"
    until(lambda: edge.envoy.stats(f"{closed}$")[closed], "the connection is closed")
    assert edge.request("/sleepy", port=UNLIMITED).status == 200


SILENT = gateway_text("""
  defaults: {timeouts: {request: 100ms}}
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: grpc, protocol: GRPC, members: [{static: {address: 127.0.0.1, port: @relay@}}]}]
  routes: [{name: grpc, hosts: [shop.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: grpc}]}]
""")


def ping_soon(configuration: dict[str, Any]) -> None:
    """Both times that a backend over HTTP/2 has until a connection is given up."""
    (options,) = configuration["static_resources"]["clusters"][0]["typed_extension_protocol_options"].values()
    keepalive = options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]
    keepalive.update(dict.fromkeys(keepalive, "0.05s"))


def test_a_connection_on_which_nothing_comes_any_more_is_left(ports: dict[str, int]) -> None:
    """One connection has all requests of a backend that speaks HTTP/2, and would keep them."""
    headers = {"content-type": "application/grpc", "te": "trailers"}

    def echoed() -> bool:
        stream = connection.open("/test/Echo", "shop.example.com", "POST", headers, end=False)
        connection.send(stream, b"\0\0\0\0\1a", end=True)
        return connection.answer(stream).header("grpc-status") == "0"

    with (
        Relay(ports["grpc"]) as relay,
        Edge(SILENT, {"relay": relay.port}, change=ping_soon) as edge,
        edge.http2() as connection,
    ):
        assert echoed()
        relay.fall_silent()
        assert not echoed()
        until(echoed, "another connection is made")


def test_a_listener_takes_as_many_connections_as_it_says(edge: Edge, backends: Backends) -> None:
    def answered() -> bool:
        try:
            return edge.request("/", port=LONELY).status == 200
        except (ConnectionError, BadStatusLine):
            return False

    with edge.connect(LONELY) as first:
        assert first.request("/", "shop.example.com").status == 200
        assert not answered()
        assert first.request("/", "shop.example.com").status == 200
    until(answered, "there is room again")


def test_an_idle_connection_to_a_backend_is_probed(edge: Edge, backends: Backends) -> None:
    """What stands between the two, a NAT or a load balancer, forgets it otherwise, and the next request is lost."""

    def probed() -> bool:
        fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(
            int(remote.partition(":")[2], 16) == backends.one.port and state == "01" and timer.startswith("02:")
            for _, _, remote, state, _, timer, *_ in fields
        )

    assert edge.request("/", port=UNLIMITED).status == 200
    until(probed, "the kernel's timer of an established connection is that of its keepalive")
