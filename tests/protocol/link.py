"""What a dialogue goes over: a session by itself, or a real gRPC stream of a real server.

Both have the same clock, which stands still unless a dialogue lets time pass, so that the same dialogues run over both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import grpc

from controlplane.snapshot.store import Store, View
from controlplane.xds.bounds import Limits, Timing
from controlplane.xds.delta import DeltaSession
from controlplane.xds.holds import Holds
from controlplane.xds.nodes import Denied, Ended, Node, Peer, Status
from controlplane.xds.observer import Observer
from controlplane.xds.server import _AGGREGATED, _SERVICES, XdsServer
from controlplane.xds.session import Session
from controlplane.xds.stream import Stream
from controlplane.xds.wire import Encoder
from tests.support.waiting import PATIENCE

IDENTIFIER = "replica-1"

Admit = Callable[[Node], View | None]


class Link(Protocol):
    """The way of requests to a session and of responses from it, which are handed to `arrived`."""

    session: Session
    now: float

    def receive(self, data: bytes) -> None:
        """Send one request."""

    def changed(self) -> None:
        """The store or the directory has changed."""

    def poll(self) -> None:
        """Time has passed."""

    def end(self) -> None:
        """Leave nothing behind."""


class Direct:
    """No network at all."""

    def __init__(
        self, kind: type[Session], admit: Admit, store: Store, arrived: Callable[[bytes], None], *,
        only: str | None, observer: Observer, timing: Timing, limits: Limits, holds: Holds | None,
    ) -> None:  # fmt: skip
        self.now = 0.0
        self._arrived = arrived
        self.session = kind(
            admit, Encoder(IDENTIFIER), only=only, observer=observer, timing=timing, limits=limits, holds=holds
        )

    def receive(self, data: bytes) -> None:
        self.session.receive(data, self.now)
        self.poll()

    def changed(self) -> None:
        self.session.changed(self.now)
        self.poll()

    def poll(self) -> None:
        while responses := self.session.poll(self.now):
            for data in responses:
                self._arrived(data)
            if self.session.deadline is None or self.session.deadline > self.now:
                break  # otherwise there is more, for which others need not wait

    def end(self) -> None:
        pass


class StoppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is set by hand: what waits for a time waits until it is told that it is that time."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Watched(XdsServer):
    """A server that tells of its one stream."""

    opened: Callable[[Stream], None]

    def _open(self, *arguments: Any) -> Stream:
        stream = super()._open(*arguments)
        self.opened(stream)
        return stream


class Wire:
    """A real server and a client of it on loopback. Quiet means: all that was said was heard, on both sides."""

    loop = StoppedLoop()

    def __init__(
        self, kind: type[Session], admit: Admit, store: Store, arrived: Callable[[bytes], None], *,
        only: str | None, observer: Observer, timing: Timing, limits: Limits, holds: Holds | None,
    ) -> None:  # fmt: skip
        assert holds is None, "what is held back belongs to the server"
        self._admit = admit
        self._arrived = arrived
        self._stream: Stream | None = None
        self._said = self._heard = self._answered = self._taken = 0
        self.ready = True
        self.loop.now = 0.0
        self._run(self._start(kind, store, only, {"observer": observer, "timing": timing, "limits": limits}))

    async def _start(self, kind: type[Session], store: Store, only: str | None, options: dict[str, Any]) -> None:
        self._server = Watched(store, self, identifier=IDENTIFIER, **options)
        self._server.opened = self._opened
        port = await self._server.start("127.0.0.1:0")
        form = "Delta" if kind is DeltaSession else "Stream"
        service, suffix = (_AGGREGATED, "AggregatedResources") if only is None else _SERVICES[only]
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own)
        self._call: Any = self._channel.stream_stream(f"/{service}/{form}{suffix}")()
        self._reader = asyncio.create_task(self._read())

    def meet(self, peer: Peer) -> None:
        """Everybody is welcome."""

    def admit(self, node: Node, peer: Peer) -> View | None:
        return self._admit(node)

    def _opened(self, stream: Stream) -> None:
        receive, poll = stream.session.receive, stream.session.poll

        def heard(data: bytes, now: float) -> None:
            self._heard += 1
            receive(data, now)

        def polled(now: float) -> list[bytes]:
            responses = poll(now)
            self._answered += len(responses)
            return responses

        stream.session.receive, stream.session.poll = heard, polled  # type: ignore[method-assign]
        self._stream = stream

    async def _read(self) -> None:
        while (data := await self._call.read()) is not grpc.aio.EOF:
            self._taken += 1
            self._arrived(data)

    @property
    def session(self) -> Session:
        assert self._stream is not None
        return self._stream.session

    @property
    def now(self) -> float:
        return self.loop.now

    @now.setter
    def now(self, now: float) -> None:
        self.loop.now = now

    def receive(self, data: bytes) -> None:
        self._said += 1
        self._run(self._call.write(data))
        self.poll()

    def changed(self) -> None:
        self._server.changed()
        self.poll()

    def poll(self) -> None:
        self._run(self._quiet())

    async def _quiet(self) -> None:
        patience = time.monotonic() + PATIENCE
        for _ in range(3):
            await asyncio.sleep(0)  # for what the clock has set off
        while not self._is_quiet():
            assert time.monotonic() < patience, "the stream does not come to rest"
            await asyncio.sleep(0)
        if self._reader.done():
            code, details = await self._call.code(), await self._call.details()
            raise Denied(details) if code is grpc.StatusCode.PERMISSION_DENIED else Ended(Status[code.name], details)

    def _is_quiet(self) -> bool:
        if self._reader.done() or (self._stream is None and not self._said):
            return True
        stream = self._stream
        if stream is None or (self._said, self._answered) != (self._heard, self._taken):
            return False
        due = stream.session.deadline is not None and stream.session.deadline <= self.now
        busy = due or stream.outdated or stream.outbox or stream.writing or stream.failure or stream._awake
        return not busy

    def end(self) -> None:
        self._run(self._stop())

    async def _stop(self) -> None:
        self._call.cancel()
        await asyncio.wait([self._reader])
        await self._channel.close()
        while self._server._streams:  # noqa: ASYNC110 - what it waits for signals nobody
            await asyncio.sleep(0)
        await self._server._server.stop(None)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)
