"""The server over real gRPC streams: methods, statuses, identity, rotation, shutdown."""

from __future__ import annotations

import asyncio
import gc
import sys
from datetime import timedelta
from typing import Any

import grpc
import pytest

from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Denied, Node, Peer
from controlplane.xds.peers import certificate_uris
from controlplane.xds.server import XdsServer, dynamic_credentials
from controlplane.xds.session import Session
from controlplane.xds.types import PUSH_ORDER
from tests.protocol.dialogue import CDS, EDS, LDS, SDS, SRDS, removed, resource
from tests.protocol.keys import Authority
from tests.protocol.rig import DELTA, PATIENCE, SOTW, Stream, run, running, until

PER_TYPE = {
    "cluster.v3.ClusterDiscoveryService": "Clusters",
    "endpoint.v3.EndpointDiscoveryService": "Endpoints",
    "listener.v3.ListenerDiscoveryService": "Listeners",
    "route.v3.RouteDiscoveryService": "Routes",
    "route.v3.ScopedRoutesDiscoveryService": "ScopedRoutes",
    "secret.v3.SecretDiscoveryService": "Secrets",
    "extension.v3.ExtensionConfigDiscoveryService": "ExtensionConfigs",
    "runtime.v3.RuntimeDiscoveryService": "Runtime",
}


SHORT = {
    "Clusters": "cds",
    "Endpoints": "eds",
    "Listeners": "lds",
    "Routes": "rds",
    "ScopedRoutes": "srds",
    "Secrets": "sds",
    "ExtensionConfigs": "ecds",
    "Runtime": "rtds",
}


def test_fetch_is_refused_before_its_request_is_read() -> None:
    """Half of a large message would stay for as long as its sender likes, once for each of as many calls as he likes."""

    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            call = channel.stream_unary("/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters")()
            assert await asyncio.wait_for(call.code(), PATIENCE) is grpc.StatusCode.UNIMPLEMENTED

    run(test)


def test_who_is_not_welcome_is_refused_before_a_request_is_read() -> None:
    """Half of a large message would stay for as long as the first request may take."""

    def turned_away(peer: Peer) -> None:
        raise Denied("the client certificate is revoked")

    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.directory.welcome = turned_away
            call = channel.stream_stream(DELTA)()
            assert await asyncio.wait_for(call.code(), PATIENCE) is grpc.StatusCode.PERMISSION_DENIED

    run(test)


def test_who_is_not_welcome_any_more_loses_a_stream_that_has_said_nothing_yet() -> None:
    def turned_away(peer: Peer) -> None:
        raise Denied("the client certificate is revoked")

    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            met: list[Peer] = []
            rig.directory.welcome = met.append
            call = channel.stream_stream(DELTA)()
            await until(lambda: bool(met))
            rig.directory.welcome = turned_away
            rig.server.review()
            assert await asyncio.wait_for(call.code(), PATIENCE) is grpc.StatusCode.PERMISSION_DENIED

    run(test)


@pytest.mark.parametrize("method", [DELTA, SOTW])
def test_a_change_is_pushed_and_acknowledged(method: str) -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.publish(resource(LDS, "l"), resource(SDS, "s"))
            stream = Stream(channel, method)
            await stream.send(LDS)
            await stream.take(LDS)
            rig.publish(resource(LDS, "l", "2"))
            message = await stream.take(LDS)
            assert message.control_plane.identifier == "r"
            await until(lambda: rig.observer.settlements[-1:] == [2])
            (status,) = rig.server.nodes()
            assert (status.node.id, status.parts, status.settled) == ("n", ("gateway",), 2)
            assert [each.state for each in status.types] == ["synced"]

    run(test)


@pytest.mark.parametrize("form", ["Stream", "Delta"])
@pytest.mark.parametrize(("service", "suffix"), PER_TYPE.items())
def test_every_type_has_its_own_streams(service: str, suffix: str, form: str) -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            method = f"/envoy.service.{service}/{form}{suffix}"
            stream = Stream(channel, method)
            url = next(kind.url for kind in PUSH_ORDER if kind.short == SHORT[suffix])
            rig.publish(resource(url, "a"))
            names = {"resource_names_subscribe": ["a"]} if form == "Delta" else {"resource_names": ["a"]}
            await stream.send("", **names)
            message = await stream.expect(url)
            assert len(message.resources) == 1

    run(test)


@pytest.mark.parametrize(("service", "suffix"), PER_TYPE.items())
def test_fetch_is_not_served_and_says_so(service: str, suffix: str) -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/envoy.service.{service}/Fetch{suffix}")(b"", timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "streaming" in caught.value.details()

    run(test)


def test_unknown_methods_are_unimplemented() -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            for method in ("/envoy.api.v2.ClusterDiscoveryService/StreamClusters",
                           "/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts"):  # fmt: skip
                stream = Stream(channel, method)
                assert (await stream.ended())[0] is grpc.StatusCode.UNIMPLEMENTED

    run(test)


def test_not_ready_is_unavailable() -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.directory.ready = False
            code, details = await Stream(channel, DELTA).ended()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "not ready" in details
            rig.directory.ready = True
            stream = Stream(channel, DELTA)
            await stream.send(CDS)
            await stream.expect(CDS)

    run(test)


def test_a_bad_request_ends_its_stream_alone() -> None:
    async def test() -> None:
        async with running(limits=Limits(message_bytes=2000)) as rig, rig.channel() as channel:
            rig.publish(resource(CDS, "a"))
            good = Stream(channel, DELTA)
            await good.send(CDS)
            await good.take(CDS)
            garbage = Stream(channel, DELTA)
            await garbage.call.write(b"\xff\xff\xff")
            assert (await garbage.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
            untyped = Stream(channel, SOTW)
            await untyped.send("")
            assert (await untyped.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
            huge = Stream(channel, DELTA)
            await huge.send(EDS, resource_names_subscribe=["x" * 3000])
            assert (await huge.ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
            rig.publish(resource(CDS, "a", "2"))
            await good.take(CDS)
            await until(lambda: len(rig.server.nodes()) == 1)

    run(test)


def test_an_exception_for_one_node_ends_its_stream_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:

            def admission(node: Node, peer: Peer) -> None:
                if node.id == "cursed":
                    raise ZeroDivisionError("secret detail")

            rig.directory.admission = admission
            good = Stream(channel, DELTA)
            await good.send(CDS)
            await good.take(CDS)
            cursed = Stream(channel, DELTA, node="cursed")
            await cursed.send(CDS)
            code, details = await cursed.ended()
            assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "internal error")
            rig.publish(resource(CDS, "a"))
            await good.take(CDS)

    run(test)
    assert "stream failed" in capsys.readouterr().out


def test_a_refused_node_is_told_and_a_revoked_one_loses_its_stream() -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:

            def refuse(node: Node, peer: Peer) -> None:
                raise Denied("this certificate is not node n")

            stream = Stream(channel, DELTA)
            await stream.send(CDS)
            await stream.take(CDS)
            rig.directory.admission = refuse
            rig.server.changed()
            assert (await stream.ended())[0] is grpc.StatusCode.PERMISSION_DENIED
            again = Stream(channel, SOTW)
            await again.send(CDS)
            code, details = await again.ended()
            assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, "this certificate is not node n")

    run(test)


def test_the_peer_is_what_its_certificate_says() -> None:
    async def test() -> None:
        authority = Authority()
        ours = authority.issue()
        keys = (ours.certificate, ours.key, authority.certificate)
        uris = ("spiffe://example.test/node/n", "urn:labels:tier=edge")
        async with running(dynamic_credentials(lambda: keys)) as rig:
            rig.publish(resource(CDS, "a"))
            async with rig.channel(authority.issue(*uris), authority.certificate) as channel:
                stream = Stream(channel, DELTA)
                await stream.send(CDS)
                await stream.take(CDS)
            (peer,) = set(rig.directory.peers)
            assert (peer.uris, peer.authenticated) == (uris, True)
            assert peer.certificate.startswith(b"-----BEGIN CERTIFICATE-----")
            async with rig.channel(authority.issue(), authority.certificate) as channel:
                stream = Stream(channel, DELTA)
                await stream.send(CDS)
                await stream.take(CDS)
            assert rig.directory.peers[-1].uris == ()

    run(test)


@pytest.mark.parametrize(
    "names",
    [b"\x30\x06\x86\x04a:\xff\xfe", b"\x30\x04\xa3\x02\x05\x00"],
    ids=["no text", "a kind that nobody knows"],
)
def test_a_certificate_whose_names_cannot_be_read_has_none(names: bytes) -> None:
    async def test() -> None:
        authority = Authority()
        ours = authority.issue()
        keys = (ours.certificate, ours.key, authority.certificate)
        async with running(dynamic_credentials(lambda: keys)) as rig:

            def refuse(node: Node, peer: Peer) -> None:
                raise Denied(f"{len(peer.uris)} names, authenticated: {peer.authenticated}")

            rig.directory.admission = refuse
            async with rig.channel(authority.issue(names=names), authority.certificate) as channel:
                stream = Stream(channel, DELTA)
                await stream.send(CDS)
                ended = await stream.ended()
            assert ended == (grpc.StatusCode.PERMISSION_DENIED, "0 names, authenticated: True")

    run(test)


def test_names_of_a_certificate_that_no_handshake_lets_in_are_none_either() -> None:
    for names in (b"\x30\x7f", b"\x30\x07\x87\x05abcde"):  # no DER, no address
        assert certificate_uris(Authority().issue(names=names).certificate) == ()


@pytest.mark.parametrize("case", ["none", "another authority", "expired", "plaintext"])
def test_a_peer_without_a_good_certificate_does_not_get_in(case: str) -> None:
    async def test() -> None:
        authority = Authority()
        ours = authority.issue()
        keys = (ours.certificate, ours.key, authority.certificate)
        async with running(dynamic_credentials(lambda: keys)) as rig:
            pair = {
                "none": None,
                "plaintext": None,
                "another authority": Authority("other CA").issue("spiffe://example.test/node/n"),
                "expired": authority.issue("spiffe://example.test/node/n", lifetime=-timedelta(days=1)),
            }[case]
            async with rig.channel(pair, None if case == "plaintext" else authority.certificate) as channel:
                call = channel.stream_stream(DELTA)(timeout=PATIENCE)
                assert await asyncio.wait_for(call.code(), PATIENCE) is grpc.StatusCode.UNAVAILABLE
            assert not rig.directory.peers

    run(test)


def test_keys_rotate_and_streams_stay() -> None:
    async def test() -> None:
        old, new = Authority("old"), Authority("new")
        ours = old.issue()
        keys = [(ours.certificate, ours.key, old.certificate)]

        def load() -> tuple[bytes, bytes, bytes]:
            if not keys:
                raise OSError("the files are being replaced")
            return keys[0]

        async with (
            running(dynamic_credentials(load)) as rig,
            rig.channel(old.issue(), old.certificate) as channel,
        ):
            stream = Stream(channel, DELTA)
            await stream.send(CDS)
            await stream.take(CDS)
            theirs = new.issue()
            keys[:] = [(theirs.certificate, theirs.key, new.certificate)]
            async with rig.channel(new.issue(), new.certificate) as other:
                second = Stream(other, DELTA)
                await second.send(CDS)
                await second.take(CDS)
            keys.clear()  # a reload that fails changes nothing
            async with rig.channel(new.issue(), new.certificate) as other:
                third = Stream(other, DELTA)
                await third.send(CDS)
                await third.take(CDS)
            rig.publish(resource(CDS, "a"))
            await stream.take(CDS)

    run(test)


def test_shutdown_ends_streams_with_ok_and_removes_nothing() -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.publish(resource(CDS, "a"))
            streams = [Stream(channel, DELTA) for _ in range(5)]
            for stream in streams:
                await stream.send(CDS)
                await stream.take(CDS)
            stopping = asyncio.create_task(rig.server.stop(0.5))
            for stream in streams:
                assert await asyncio.wait_for(stream.call.read(), PATIENCE) is grpc.aio.EOF
                assert (await stream.ended())[0] is grpc.StatusCode.OK
            await stopping
            assert rig.server.nodes() == []

    run(test)


def test_a_half_close_ends_the_stream_with_ok() -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            stream = Stream(channel, DELTA)
            await stream.send(CDS)
            await stream.take(CDS)
            await stream.call.done_writing()
            assert (await stream.ended())[0] is grpc.StatusCode.OK
            await until(lambda: not rig.server.nodes())

    run(test)


def test_a_stream_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.publish(resource(CDS, "a"))

            async def cycle(*, cancel: bool) -> None:
                stream = Stream(channel, DELTA)
                await stream.send(CDS)
                await stream.take(CDS)
                if cancel:
                    rig.publish(resource(CDS, "a", str(rig.store.sequence)))
                    stream.call.cancel()
                else:
                    await stream.call.done_writing()
                    await stream.ended()

            await cycle(cancel=True)
            await until(lambda: not rig.server._streams)
            tasks = len(asyncio.all_tasks())
            for number in range(100):
                await cycle(cancel=bool(number % 2))
            await until(lambda: not rig.server._streams)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            gc.collect()
            assert sum(isinstance(each, Session) for each in gc.get_objects()) <= 1

    run(test)
    assert "stream failed" not in capsys.readouterr().out


@pytest.mark.parametrize("end", ["the client is gone", "half-closed", "denied", "drained"])
def test_the_read_of_a_stream_that_ends_is_not_cancelled(
    end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """grpc never frees the operation of one that is, nor the request that has come for it."""
    reads: list[str] = []

    class Watched:
        def __init__(self, context: Any) -> None:
            self.context = context

        async def read(self) -> Any:
            reads.append("cancelled")  # unless something else becomes of it
            try:
                return await self.context.read()
            finally:
                if not isinstance(sys.exception(), asyncio.CancelledError):
                    reads[-1] = "ended"

    def deny(node: Node, peer: Peer) -> None:
        raise Denied("revoked")

    original = XdsServer._read
    monkeypatch.setattr(XdsServer, "_read", lambda self, stream, context: original(self, stream, Watched(context)))

    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.publish(resource(CDS, "a"))
            stream = Stream(channel, DELTA)
            await stream.send(CDS)
            await stream.take(CDS)
            await until(lambda: reads == ["ended", "ended", "cancelled"])
            if end == "the client is gone":
                stream.call.cancel()
            elif end == "half-closed":
                await stream.call.done_writing()
            elif end == "denied":
                rig.directory.admission = deny
                rig.server.review()
            else:
                await rig.server.stop(0.1)
            await until(lambda: not rig.server._streams)
            await until(lambda: reads == ["ended", "ended", "ended"])

    run(test)
    assert "stream failed" not in capsys.readouterr().out


def test_a_reader_that_stopped_gets_the_newest_state_when_it_goes_on() -> None:
    """Nothing is queued for it but what is on the wire, and the others do not wait."""

    async def test() -> None:
        async with running() as rig, rig.channel() as slow_channel, rig.channel() as channel:
            rig.publish(resource(EDS, "a", "0"))
            slow, quick = Stream(slow_channel, DELTA), Stream(channel, DELTA)
            for stream in (slow, quick):
                await stream.send(EDS, resource_names_subscribe=["a"])
                await stream.take(EDS)
            for number in range(60):
                rig.publish(resource(EDS, "a", f"{number} " + "x" * 200_000))
                await quick.take(EDS)
            seen = []
            while not seen or not seen[-1].startswith(b"59 "):
                message = await slow.take(EDS)
                seen.append(message.resources[0].resource.value[:3])
            assert len(seen) < 60

    run(test)


def test_too_many_streams_are_refused() -> None:
    async def test() -> None:
        async with running(limits=Limits(streams=1)) as rig, rig.channel() as channel:
            stream = Stream(channel, DELTA)
            await stream.send(CDS)
            await stream.take(CDS)
            assert (await Stream(channel, DELTA).ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(test)


def test_order_over_the_wire() -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.publish(resource(CDS, "a"), resource(SRDS, "r", "a"))
            stream = Stream(channel, DELTA)
            for url in (CDS, SRDS):
                await stream.send(url)
                await stream.take(url)
            rig.publish(resource(CDS, "b"), resource(SRDS, "r", "b"), removed(CDS, "a"))
            assert [each.name for each in (await stream.take(CDS)).resources] == ["b"]
            assert [each.name for each in (await stream.take(SRDS)).resources] == ["r"]
            assert (await stream.take(CDS)).removed_resources == ["a"]

    run(test)


async def _read_all(stream: Stream) -> None:
    while await asyncio.wait_for(stream.call.read(), PATIENCE) is not grpc.aio.EOF:
        pass


def test_a_review_ends_those_that_are_denied_though_they_do_not_read() -> None:
    """The rest of what was to be written to them is not."""

    async def test() -> None:
        async with running() as rig, rig.channel() as held_channel, rig.channel() as channel:

            def refuse(node: Node, peer: Peer) -> None:
                if node.id == "held":
                    raise Denied("revoked")

            rig.publish(*(resource(EDS, f"e{number}", "x" * 200_000) for number in range(40)))
            held, good = Stream(held_channel, DELTA, node="held"), Stream(channel, DELTA)
            await good.send(EDS, resource_names_subscribe=["e0"])
            await good.take(EDS)
            for number in range(40):
                await held.send(EDS, resource_names_subscribe=[f"e{number}"])
            await until(lambda: any(each.node.id == "held" for each in rig.server.nodes()))
            rig.server.review()  # nobody is denied
            assert len(rig.server.nodes()) == 2
            rig.directory.admission = refuse
            rig.server.review()
            await until(lambda: [each.node.id for each in rig.server.nodes()] == ["n"])
            with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
                await _read_all(held)
            assert (await held.ended())[0] is grpc.StatusCode.PERMISSION_DENIED
            rig.publish(resource(EDS, "e0", "2"))
            await good.take(EDS)

    run(test)
