"""What no peer can do to the server or to the others: crowds, silence, slowness, and coming and going."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import textwrap
from types import FrameType
from typing import Any

import grpc
import pytest

from controlplane.snapshot.listing import Listing
from controlplane.xds.admission import Admission, Rate
from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Ended, Status
from controlplane.xds.server import dynamic_credentials
from controlplane.xds.session import Session
from controlplane.xds.stream import Stream as OpenStream
from controlplane.xds.turns import Turns
from controlplane.xds.wire import Encoder
from tests.protocol.dialogue import CDS, EDS, resource
from tests.protocol.keys import Authority
from tests.protocol.rig import DELTA, PATIENCE, SOTW, Rig, Stream, run, running, until


def test_a_bucket_lets_a_burst_in_and_then_so_many_a_second() -> None:
    now = 0.0
    rate = Rate(3, 2.0, lambda: now)
    assert [rate.take() for _ in range(4)] == [True, True, True, False]
    now = 1.0
    assert [rate.take() for _ in range(3)] == [True, True, False]
    now = 1000.0
    assert [rate.take() for _ in range(4)] == [True, True, True, False]


def test_err_11_those_that_begin_take_turns_and_nobody_waits_for_ever() -> None:
    async def test() -> None:
        turns = Turns(Limits(beginning_streams=1, waiting_streams=1, waiting_seconds=0.01))
        first = await turns.take("a")
        with pytest.raises(Ended) as caught:
            await turns.take("b")
        assert caught.value.status is Status.UNAVAILABLE
        assert "try again" in caught.value.reason
        first.end()
        first.end()  # gives back once
        (await turns.take("b")).end()
        patient = Turns(Limits(beginning_streams=1, waiting_streams=1))
        first = await patient.take("a")
        second = asyncio.create_task(patient.take("b"))
        await asyncio.sleep(0)
        with pytest.raises(Ended):  # one waits already
            await patient.take("c")
        first.end()
        (await second).end()

    run(test)


def test_err_11_a_turn_ends_by_itself_when_its_peer_does_not_read() -> None:
    async def test() -> None:
        turns = Turns(Limits(beginning_streams=1, beginning_seconds=0.01))
        await turns.take("a")
        (await asyncio.wait_for(turns.take("b"), PATIENCE)).end()

    run(test)


def test_err_11_one_identity_has_a_quarter_of_the_turns() -> None:
    async def test() -> None:
        turns = Turns(Limits(beginning_streams=8, beginning_seconds=1000.0))
        mine = [await turns.take("a") for _ in range(2)]
        third = asyncio.create_task(turns.take("a"))
        await asyncio.sleep(0)
        assert not third.done()
        for each in "bcd":  # though somebody waits
            for _ in range(2):
                await turns.take(each)
        mine[0].end()
        await third

    run(test)


def test_err_11_those_that_wait_are_served_in_a_round_of_identities() -> None:
    async def test() -> None:
        turns = Turns(Limits(beginning_streams=1))
        first = await turns.take("a")
        served: list[str] = []

        async def wait(name: str) -> None:
            turn = await turns.take(name[0])
            served.append(name)
            turn.end()

        names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        tasks = []
        for name in names:
            tasks.append(asyncio.create_task(wait(name)))
            await asyncio.sleep(0)
        tasks.pop(1).cancel()  # who is gone takes no turn
        await asyncio.sleep(0)
        first.end()
        await asyncio.gather(*tasks)
        assert served == ["a1", "b1", "c1", "a3", "b2", "a4"]
        assert not turns._queues
        assert not turns._taken
        assert turns._free == 1

    run(test)


def test_err_11_a_turn_that_comes_as_its_stream_ends_goes_on_to_the_next() -> None:
    async def test() -> None:
        turns = Turns(Limits(beginning_streams=1))
        first = await turns.take("a")
        waits = asyncio.create_task(turns.take("b"))
        await asyncio.sleep(0)
        first.end()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        (await asyncio.wait_for(turns.take("c"), PATIENCE)).end()

    run(test)


def test_err_11_who_does_not_read_first_answers_keeps_nobody_from_theirs() -> None:
    async def test() -> None:
        limits = Limits(beginning_streams=4, beginning_seconds=1000.0)
        async with running(limits=limits) as rig, rig.channel(narrow=True) as held_channel, rig.channel() as channel:
            rig.publish(*(resource(EDS, f"e{number}", "x" * 200_000) for number in range(40)), resource(CDS, "a"))
            held = [Stream(held_channel, DELTA, node="held") for _ in range(8)]
            for stream in held:
                await stream.send(EDS, resource_names_subscribe=[f"e{number}" for number in range(40)])
            await until(lambda: len(rig.server.nodes()) == 1)  # that has a turn
            good = Stream(channel, DELTA)
            await good.send(CDS)
            await good.take(CDS)
            for stream in held:
                stream.call.cancel()

    run(test)


def test_err_11_a_storm_is_slowed_down_with_a_status_that_says_so() -> None:
    async def test() -> None:
        limits = Limits(openings_burst=2, openings_per_second=0.0)
        async with running(limits=limits) as rig, rig.channel() as channel:
            for _ in range(2):
                stream = Stream(channel, DELTA)
                await stream.send(CDS)
                await stream.take(CDS)
            code, details = await Stream(channel, DELTA).ended()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "try again" in details

    run(test)


def test_err_11_all_of_a_storm_are_answered_in_turn() -> None:
    async def test() -> None:
        async with running(limits=Limits(beginning_streams=2)) as rig, rig.channel() as channel:
            rig.publish(*(resource(EDS, f"e{number}") for number in range(50)))
            streams = [Stream(channel, DELTA, node=f"n{number}") for number in range(40)]
            await asyncio.gather(*(stream.send(EDS, resource_names_subscribe=["*"]) for stream in streams))
            answers = await asyncio.gather(*(stream.take(EDS) for stream in streams))
            assert all(len(answer.resources) == 50 for answer in answers)
            silent = Stream(channel, DELTA)  # nothing to answer: its turn goes on to the next all the same
            await silent.send(EDS)
            for _ in range(4):
                await Stream(channel, DELTA).send(EDS)
            last = Stream(channel, DELTA)
            await last.send(CDS)
            await last.take(CDS)

    run(test)


def test_err_13_streams_of_one_identity_are_counted() -> None:
    async def test() -> None:
        async with running(limits=Limits(identity_streams=2)) as rig, rig.channel() as channel:
            streams = [Stream(channel, method) for method in (DELTA, SOTW)]
            for stream in streams:
                await stream.send(CDS)
                await stream.take(CDS)
            third = Stream(channel, DELTA)
            await third.send(CDS)
            code, details = await third.ended()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "one identity" in details
            other = Stream(channel, DELTA, node="other")
            await other.send(CDS)
            await other.take(CDS)
            await streams[0].call.done_writing()
            await streams[0].ended()
            await until(lambda: len(rig.server.nodes()) == 2)
            again = Stream(channel, DELTA)
            await again.send(CDS)
            await again.take(CDS)

    run(test)


CERTIFICATES = pytest.mark.parametrize(
    "names", [("spiffe://example.test/node/n", "spiffe://example.test/node/m"), ()], ids=["named", "without names"]
)
"""Those of two peers; of an authority that is not ours, certificates may have no URI name."""


@CERTIFICATES
def test_err_13_an_identity_that_opens_too_often_is_slowed_down_alone(names: tuple[str, ...]) -> None:
    """By its certificate, before it has said a word."""

    async def test() -> None:
        authority = Authority()
        ours = authority.issue()
        keys = (ours.certificate, ours.key, authority.certificate)
        limits = Limits(identity_openings_burst=3, identity_openings_per_second=0.0, refusal_seconds=0.2)
        async with running(dynamic_credentials(lambda: keys), limits=limits) as rig:
            async with rig.channel(authority.issue(*names[:1]), authority.certificate) as channel:
                for _ in range(3):
                    stream = Stream(channel, DELTA)
                    await stream.send(CDS)
                    await stream.take(CDS)
                    stream.call.cancel()
                began = asyncio.get_running_loop().time()
                code, details = await Stream(channel, DELTA).ended()
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "too often" in details
                assert asyncio.get_running_loop().time() - began >= 0.2
            async with rig.channel(authority.issue(*names[1:]), authority.certificate) as channel:
                other = Stream(channel, DELTA, node="m")
                await other.send(CDS)
                await other.take(CDS)

    run(test)


@CERTIFICATES
def test_err_13_silent_streams_count_for_their_certificate(names: tuple[str, ...]) -> None:
    async def test() -> None:
        authority = Authority()
        ours = authority.issue()
        keys = (ours.certificate, ours.key, authority.certificate)
        limits = Limits(identity_streams=2, refusal_seconds=0.0)
        async with (
            running(dynamic_credentials(lambda: keys), limits=limits) as rig,
            rig.channel(authority.issue(*names[:1]), authority.certificate) as channel,
        ):
            silent = [Stream(channel, DELTA) for _ in range(2)]
            await until(lambda: len(rig.server._streams) == 2)
            code, details = await Stream(channel, DELTA).ended()
            assert (code, "one identity" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
            for stream in silent:
                stream.call.cancel()
            await until(lambda: not rig.server._streams)
            assert all(account.streams == 0 for account in rig.server._admission._accounts.values())

    run(test)


def test_accounts_of_idle_identities_are_forgotten() -> None:
    now = 0.0
    admission = Admission(Limits(identity_openings_burst=5, identity_openings_per_second=1.0), lambda: now)
    for number in range(1000):
        admission.leave(admission.enter(f"n{number}"))
    kept = admission.enter("kept")
    now = 10.0
    for number in range(2500):
        admission.leave(admission.enter(f"m{number}"))
        now += 1.0
    assert len(admission._accounts) < 1100
    assert admission._accounts["kept"] is kept


def test_a_flood_of_requests_ends_its_stream_and_acknowledgements_are_free() -> None:
    async def test() -> None:
        limits = Limits(identity_requests_burst=50, identity_requests_per_second=0.0)
        async with running(limits=limits) as rig, rig.channel() as channel:
            good, flood = Stream(channel, SOTW, node="good"), Stream(channel, DELTA, node="flood")
            await good.send(CDS)
            await good.take(CDS)
            for number in range(100):  # each is answered by an ACK
                rig.publish(resource(CDS, "a", str(number)))
                await good.take(CDS)
            await flood.send(CDS)
            await flood.take(CDS)
            for number in range(50):  # of other streams, or stale: they acknowledge nothing
                await flood.send(CDS, response_nonce=f"x{number}")
            code, details = await flood.ended()
            assert (code, "asks too much" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
            rig.publish(resource(CDS, "a", "last"))
            await good.take(CDS)

    run(test)


@pytest.mark.parametrize("method", [DELTA, SOTW])
def test_requests_that_ask_are_not_paid_for_by_what_was_answered(method: str) -> None:
    """Everything again, or other names, with the nonce of a response or without."""

    async def test() -> None:
        limits = Limits(identity_requests_burst=5, identity_requests_per_second=0.0)
        field = "resource_names_subscribe" if method == DELTA else "resource_names"
        for acknowledges in (False, True):
            async with running(limits=limits) as rig, rig.channel() as channel:
                rig.publish(*(resource(EDS, f"e{number}") for number in range(20)))
                stream = Stream(channel, method)
                nonce = ""

                async def ask(number: int, nonce: str, stream: Stream = stream) -> str:
                    said = {"response_nonce": nonce if acknowledges else ""}  # noqa: B023 - of this round
                    await stream.send(EDS, **{field: [f"e{number}"]}, **said)
                    return str((await stream.expect(EDS)).nonce)

                for number in range(5):
                    nonce = await ask(number, nonce)
                with pytest.raises((AssertionError, grpc.aio.AioRpcError), match="RESOURCE_EXHAUSTED"):
                    await ask(5, nonce)

    run(test)


@pytest.mark.parametrize("method", [DELTA, SOTW])
def test_acknowledgements_are_free_whatever_else_stands_in_them(method: str) -> None:
    """NACKs, and in the state of the world the names of the subscription, which every request repeats."""

    async def test() -> None:
        limits = Limits(identity_requests_burst=1, identity_requests_per_second=0.0)
        async with running(limits=limits) as rig, rig.channel() as channel:
            names = [f"e{number}" for number in range(500)]
            stream = Stream(channel, method)
            rig.publish(*(resource(EDS, name) for name in names))
            await stream.send(EDS, **{"resource_names_subscribe" if method == DELTA else "resource_names": names})
            said: dict[str, Any] = {} if method == DELTA else {"resource_names": names}
            for number in range(20):
                nonce = (await stream.expect(EDS)).nonce
                error = {"error_detail": {"code": 3, "message": "no"}} if number % 2 else {}
                await stream.send(EDS, response_nonce=nonce, **said, **error)
                rig.publish(resource(EDS, names[number], f"version {number}"))

    run(test)


def test_a_node_that_says_something_else_of_itself_in_each_request_is_ended() -> None:
    async def test() -> None:
        limits = Limits(identity_requests_burst=1000, identity_requests_per_second=0.0, node_change_requests=400)
        async with running(limits=limits) as rig, rig.channel() as channel:
            rig.publish(resource(CDS, "a"))
            flips, good = Stream(channel, DELTA, node="flips"), Stream(channel, DELTA, node="good")
            await good.send(CDS)
            response = await good.expect(CDS)
            await flips.send(CDS)
            await flips.take(CDS)
            for cluster in "abc":
                node = {"id": "flips", "cluster": cluster}
                await flips.call.write(flips.request(type_url=CDS, node=node).SerializeToString())
            code, details = await flips.ended()
            assert (code, "asks too much" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
            await good.ack(response)
            for _ in range(20):  # what stays as it is costs nothing more
                await good.send(CDS)
            rig.publish(resource(CDS, "a", "2"))
            await good.take(CDS)

    run(test)


@pytest.mark.parametrize("method", [DELTA, SOTW])
@pytest.mark.parametrize(
    "node",
    [
        {"metadata": {"x": "y" * (2 << 20)}},
        {"cluster": "c" * 2000},
        {"user_agent_name": "u" * 2000},
        {"metadata": {"labels": {str(number): "" for number in range(257)}}},
        {"metadata": {"labels": {"x": "y" * 16_384}}},
        {"locality": {"zone": "z" * 16_385}},
    ],
    ids=["metadata", "cluster", "agent", "labels", "a label", "locality"],
)
def test_a_node_of_more_than_is_believable_is_refused(method: str, node: dict[str, Any]) -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            stream = Stream(channel, method)
            await stream.call.write(stream.request(type_url=CDS, node={"id": "n", **node}).SerializeToString())
            code, details = await stream.ended()
            assert (code, "the node" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
            assert len(details) < 200

    run(test)


def test_a_refused_request_does_not_stay_until_the_collector_comes_by() -> None:
    async def test() -> None:
        async with running(limits=Limits(name_characters=100)) as rig, rig.channel() as channel:
            gc.collect()
            gc.disable()
            try:
                stream = Stream(channel, DELTA)
                await stream.send(EDS, resource_names_subscribe=["x" * 101])
                assert (await stream.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
                await until(lambda: not rig.server._streams)
                frames = [each for each in gc.get_objects() if isinstance(each, FrameType)]
                assert not [each for each in frames if each.f_code.co_name == "delta_request"]
            finally:
                gc.enable()

    run(test)


def test_a_stream_that_says_nothing_is_ended() -> None:
    async def test() -> None:
        async with running(limits=Limits(first_request_seconds=0.05)) as rig, rig.channel() as channel:
            code, details = await Stream(channel, DELTA).ended()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "no request" in details

    run(test)


def test_a_connection_that_says_nothing_is_closed() -> None:
    async def test() -> None:
        async with running(limits=Limits(handshake_seconds=0.2)) as rig:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            assert await asyncio.wait_for(_drained(reader), PATIENCE)
            writer.close()
            await writer.wait_closed()

    run(test)


async def _drained(reader: asyncio.StreamReader) -> bool:
    try:
        while await reader.read(1000):
            pass
    except ConnectionResetError:
        pass
    return True


def test_err_10_old_streams_end_with_ok_after_a_response() -> None:
    async def test() -> None:
        async with running(limits=Limits(stream_age_seconds=0.2)) as rig, rig.channel() as channel:
            stream = Stream(channel, DELTA)
            await stream.send(CDS)
            await stream.expect(CDS)  # an ACK may find that it has ended
            unanswered = Stream(channel, DELTA)
            await unanswered.send(EDS)
            assert (await stream.ended())[0] is grpc.StatusCode.OK
            rig.publish(resource(EDS, "a"))
            await unanswered.send(EDS, resource_names_subscribe=["a"])
            await unanswered.expect(EDS)
            assert (await unanswered.ended())[0] is grpc.StatusCode.OK

    run(test)


def test_bodies_of_changes_that_nobody_asks_for_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "CACHED_DRAFTS", 10)
    encoder = Encoder()
    for number in range(100):
        _, name, one = resource(EDS, "a", str(number))
        assert one is not None
        assert name.encode() in encoder.delta(EDS, Listing((one,))).encode("1")
    assert len(encoder._drafts) == 10


class Relay:
    """Passes bytes on to the server until it is told to fall silent, with both connections left open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, ours]
        self._tasks += [asyncio.create_task(self._pass(reader, ours)), asyncio.create_task(self._pass(theirs, writer))]

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    def fall_silent(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        self.fall_silent()
        for writer in self._writers:
            writer.transport.abort()


def test_err_07_a_peer_that_vanished_is_noticed() -> None:
    async def test() -> None:
        limits = Limits(keepalive_seconds=1.0, keepalive_timeout_seconds=3.0)
        async with running(limits=limits) as rig:
            relay = Relay(rig.port)
            listening = await relay.start()
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{relay.port}", options) as channel:
                stream = Stream(channel, DELTA)
                await stream.send(CDS)
                await stream.take(CDS)
                relay.fall_silent()
                await until(lambda: not rig.server.nodes())
                stream.call.cancel()
            await relay.close()
            listening.close()
            await listening.wait_closed()

    run(test)


_READER = """
    import sys
    import grpc
    from envoy.service.discovery.v3 import discovery_pb2

    channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
    request = discovery_pb2.DeltaDiscoveryRequest(
        type_url=sys.argv[3], node={"id": "stopped"}, resource_names_subscribe=["a"]
    )
    def requests():
        yield request.SerializeToString()
        sys.stdin.read()
    for response in channel.stream_stream(sys.argv[2])(requests()):
        print("got", flush=True)
"""


def test_a_stopped_process_holds_up_nobody_else() -> None:
    async def test() -> None:
        async with running() as rig, rig.channel() as channel:
            rig.publish(resource(EDS, "a", "0"))
            command = [sys.executable, "-c", textwrap.dedent(_READER), str(rig.port), DELTA, EDS]
            process = subprocess.Popen(  # noqa: ASYNC220 - once, before anything is measured
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                await asyncio.to_thread(process.stdout.readline)
                process.send_signal(signal.SIGSTOP)
                stream = Stream(channel, DELTA)
                await stream.send(EDS, resource_names_subscribe=["a"])
                await stream.take(EDS)
                for number in range(60):
                    rig.publish(resource(EDS, "a", f"{number} " + "x" * 200_000))
                    await stream.take(EDS)
                (held,) = (each for each in rig.server._streams.values() if each.session.node.id == "stopped")
                assert sum(map(len, held.outbox)) <= 2 * 200_100
            finally:
                process.kill()
                process.communicate()

    run(test)


async def _cycle(rig: Rig, channel: Any, number: int) -> None:
    stream = Stream(channel, (DELTA, SOTW)[number // 2 % 2])
    await stream.send(CDS)
    await stream.expect(CDS)
    if number % 2:
        rig.publish(resource(CDS, "a", str(number % 4)))
        stream.call.cancel()
    else:
        await stream.call.done_writing()
        await stream.ended()


def _alive() -> int:
    gc.collect()
    return sum(isinstance(each, (Session, OpenStream)) for each in gc.get_objects())


def test_err_12_a_thousand_streams_come_and_go_and_leave_nothing() -> None:
    async def test() -> None:
        limits = Limits(openings_burst=10_000)
        async with running(limits=limits) as rig, rig.channel() as channel:
            rig.publish(resource(CDS, "a"))
            counts = []
            for round_ in range(4):
                for number in range(250):
                    await _cycle(rig, channel, number + 250 * round_)
                await until(lambda: not rig.server._streams)
                await until(lambda: len(asyncio.all_tasks()) <= 4)
                rig.directory.peers.clear()
                rig.observer.acks.clear()
                await until(lambda: _alive() <= 2)  # the last RPCs may still be ending
                counts.append(len(gc.get_objects()))
            assert rig.server._admission.open == 0
            assert all(not account.streams for account in rig.server._admission._accounts.values())
            # The store remembers changes (4 objects of every other stream, bounded); nothing else may grow.
            assert counts[3] - counts[1] < 500 * 3

    run(test)
