"""The gRPC server: methods, statuses, and the life of every stream. With transport.py the only one that knows grpc.

It moves bytes between streams and their sessions: no serializer, no message classes. One coroutine a stream writes,
one reads; `changed()` wakes every writer, and there is neither polling nor a delay here. What a stream may see is
decided by the `Directory`, what is sent by the `Session`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any

import grpc
import structlog

from controlplane.resources import Resource
from controlplane.snapshot.store import Store, View
from controlplane.xds import types
from controlplane.xds.admission import Admission, Crowding, identity
from controlplane.xds.bounds import Limits, Timing
from controlplane.xds.delta import DeltaSession
from controlplane.xds.holds import Family, Holds, family
from controlplane.xds.inventory import InventoryItem
from controlplane.xds.leftovers import LARGE_BYTES, Leftovers
from controlplane.xds.nodes import Denied, Directory, Ended, Node, Peer, Status
from controlplane.xds.observer import Observer, SilentObserver, StreamStatus
from controlplane.xds.session import Session
from controlplane.xds.sotw import SotwSession
from controlplane.xds.stream import Stream
from controlplane.xds.transport import channel_options, dynamic_credentials, peer_of
from controlplane.xds.wire import Encoder

__all__ = ["XdsServer", "dynamic_credentials"]

log = structlog.get_logger(__name__)

_SERVICES: Mapping[str, tuple[str, str]] = {
    types.CLUSTER: ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters"),
    types.LOAD_ASSIGNMENT: ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints"),
    types.SECRET: ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets"),
    types.LISTENER: ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners"),
    types.EXTENSION: ("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs"),
    types.ROUTE_CONFIGURATION: ("envoy.service.route.v3.RouteDiscoveryService", "Routes"),
    types.SCOPED_ROUTES: ("envoy.service.route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes"),
    types.VIRTUAL_HOST: ("envoy.service.route.v3.VirtualHostDiscoveryService", "VirtualHosts"),
    types.RUNTIME: ("envoy.service.runtime.v3.RuntimeDiscoveryService", "Runtime"),
}
"""Service and method suffix of each type: `Stream…`, `Delta…` and the unary `Fetch…`."""

_AGGREGATED = "envoy.service.discovery.v3.AggregatedDiscoveryService"

_AGE_VARIES = 0.1

_DRAIN_SHARE = 0.9
"""Of the drain window, over which streams are ended: the rest is for the last of them to finish."""


class XdsServer:
    """Serves views of a store to whoever the directory admits."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        *,
        observer: Observer | None = None,
        identifier: str = "",
        limits: Limits | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._observer: Observer = observer or SilentObserver()
        self._encoder = Encoder(identifier)
        self._limits = limits or Limits()
        self._timing = timing or Timing()
        self._streams: dict[int, Stream] = {}
        self._opened = 0
        self.holds = Holds(self.changed, self._takers)
        """What is held back from whom."""
        self._admission = Admission(self._limits, time.monotonic)
        self._leftovers = Leftovers()
        self._stopping = False
        self._server: Any = None

    async def start(self, address: str, credentials: Any = None) -> int:
        """Listen on `host:port` and return the port (0 asks for a free one). Without credentials: plaintext."""
        server = grpc.aio.server(options=channel_options(self._limits), maximum_concurrent_rpcs=None)
        server.add_generic_rpc_handlers(tuple(self._handlers()))
        port = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
        await server.start()
        self._server = server
        return int(port)

    def changed(self) -> None:
        """The store or the directory has changed: every stream looks, now."""
        for stream in self._streams.values():
            stream.outdated = True
            stream.wake()

    def inventory(self, node: str, type_url: str) -> list[InventoryItem]:
        """What a node has of a type, over all its streams."""
        sessions = (stream.session for stream in self._streams.values())
        found = [each for one in sessions if one.node and one.node.id == node for each in one.inventory(type_url)]
        return sorted(found, key=lambda item: item.name)

    def awaits(self, stream: int, type_url: str, names: frozenset[str], sequence: int) -> bool:
        """Whether a stream, one of `nodes`, lacks something under these names that was published up to this sequence number."""
        return stream not in self._streams or self._streams[stream].session.awaits(type_url, names, sequence)

    def _takers(self, resource: Resource) -> set[Family]:
        """The kinds of clients that have taken this content over."""
        sessions = (stream.session for stream in self._streams.values())
        return {family(session.node) for session in sessions if session.node is not None and session.took(resource)}

    def review(self) -> None:
        """Who was let in may not be any more: ask the directory about every stream, and end those that it denies.

        Unlike after `changed`, a stream whose peer does not read is not waited for.
        """
        for stream in list(self._streams.values()):
            if stream.failure is not None:
                continue
            node = stream.session.node
            try:
                if node is None:  # its first request may be on its way for as long as it likes to take
                    self._directory.meet(stream.peer)
                else:
                    self._directory.admit(node, stream.peer)
            except Denied as denied:
                log.warning("stream ended", stream=stream.number, node=node.id if node else None, reason=str(denied))
                stream.fail(denied)

    async def stop(self, drain_seconds: float) -> None:
        """Accept nothing more, end the streams with OK at random over the window, then cut what is left.

        Nothing is ever pushed because of it: a client keeps what it has and connects elsewhere.
        """
        self._stopping = True
        loop = asyncio.get_running_loop()
        for stream in self._streams.values():
            delay = random.random() * drain_seconds * _DRAIN_SHARE  # noqa: S311 - spreads load, keeps no secret
            loop.call_later(delay, self._finish, stream)
        if self._server is not None:
            await self._server.stop(drain_seconds)
            self._server = None
        self._leftovers.close()

    def nodes(self) -> list[StreamStatus]:
        """Every stream whose node is known, oldest first."""
        statuses = []
        for stream in self._streams.values():
            session = stream.session
            if session.node is None:
                continue
            statuses.append(
                StreamStatus(
                    stream=stream.number,
                    method=stream.method,
                    variant=session.variant,
                    node=session.node,
                    peer=stream.peer,
                    parts=session.view.parts if session.view is not None else None,
                    connected=stream.connected,
                    settled=session.settled,
                    types=session.status(),
                )
            )
        return statuses

    # -- handlers ------------------------------------------------------------------------------------------------

    def _handlers(self) -> list[Any]:
        handlers = [
            grpc.method_handlers_generic_handler(
                _AGGREGATED,
                {
                    "StreamAggregatedResources": self._streaming("StreamAggregatedResources", SotwSession, None),
                    "DeltaAggregatedResources": self._streaming("DeltaAggregatedResources", DeltaSession, None),
                },
            )
        ]
        for type_url, (service, suffix) in _SERVICES.items():
            methods = {f"Delta{suffix}": self._streaming(f"Delta{suffix}", DeltaSession, type_url)}
            if type_url != types.VIRTUAL_HOST:  # delta only
                methods[f"Stream{suffix}"] = self._streaming(f"Stream{suffix}", SotwSession, type_url)
                methods[f"Fetch{suffix}"] = grpc.stream_unary_rpc_method_handler(_fetch)
            handlers.append(grpc.method_handlers_generic_handler(service, methods))
        return handlers

    def _streaming(self, method: str, kind: type[Session], only: str | None) -> Any:
        """A handler that passes bytes through in both directions."""
        return grpc.stream_stream_rpc_method_handler(partial(self._serve, method, kind, only))

    async def _serve(self, method: str, kind: type[Session], only: str | None, _requests: Any, context: Any) -> None:
        if self._stopping or not self._directory.ready:
            reason = "shutting down" if self._stopping else "not ready: nothing has been compiled yet"
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
        peer = peer_of(context)
        account = None
        try:
            self._directory.meet(peer)
            account = self._admission.enter(identity(None, peer))
        except (Denied, Ended) as refusal:
            await self._refuse(context, peer, refusal)
        self._opened += 1
        stream = self._open(self._opened, method, kind, only, peer)
        stream.account = account
        timers = self._timers(stream)
        reader = asyncio.create_task(self._guard(stream, self._read(stream, context)))
        try:
            await self._guard(stream, self._write(stream, context))
        except asyncio.CancelledError:
            if stream.failure is None:  # the peer is gone
                raise
        finally:
            for timer in timers:
                timer.cancel()
            self._close(stream)
            if not stream.reading:  # grpc ends a read with its call, and never frees that of a cancelled one
                reader.cancel()
        if (failure := stream.failure) is not None:
            await context.abort(*_status(failure))

    async def _refuse(self, context: Any, peer: Peer, refusal: Ended | Denied) -> None:
        """End a stream of which nothing was read."""
        log.warning("stream refused", peer=peer.address, reason=str(refusal))
        if isinstance(refusal, Crowding):
            await asyncio.sleep(self._limits.refusal_seconds)
        await context.abort(*_status(refusal))

    def _open(self, number: int, method: str, kind: type[Session], only: str | None, peer: Peer) -> Stream:
        session = kind(
            partial(self._admit, number, peer),
            self._encoder,
            only=only,
            stream=number,
            observer=self._observer,
            timing=self._timing,
            limits=self._limits,
            holds=self.holds,
        )
        stream = self._streams[number] = Stream(number, method, session, peer, asyncio.get_running_loop())
        return stream

    def _close(self, stream: Stream) -> None:
        del self._streams[stream.number]
        stream.finished = True
        stream.task = None  # it ends with an error whose traceback holds the stream
        self._leftovers.ended()
        if stream.turn is not None:
            stream.turn.end()
        self._admission.leave(stream.account)
        if stream.session.node is not None:
            reason = str(stream.failure) if stream.failure is not None else None
            self._observer.disconnected(stream.number, stream.session.node, reason)

    def _timers(self, stream: Stream) -> list[asyncio.TimerHandle]:
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(self._limits.first_request_seconds, self._silent, stream)]
        if (age := self._limits.stream_age_seconds) is not None:
            varied = age * random.uniform(1 - _AGE_VARIES, 1 + _AGE_VARIES)  # noqa: S311 - spreads load
            timers.append(loop.call_later(varied, self._aged, stream))
        return timers

    def _admit(self, number: int, peer: Peer, node: Node) -> View | None:
        view = self._directory.admit(node, peer)
        stream = self._streams[number]
        if stream.account is None:
            stream.account = self._admission.introduce(identity(node, peer))
        return view

    def _silent(self, stream: Stream) -> None:
        if stream.session.node is None and stream.failure is None:
            seconds = self._limits.first_request_seconds
            stream.failure = Ended(Status.INVALID_ARGUMENT, f"no request within {seconds:g} s")
            stream.wake()

    def _aged(self, stream: Stream) -> None:
        """A client takes a stream that ended without a response for an outage: such a one is left alone."""
        if stream.sent or stream.session.node is None:
            self._finish(stream)
        else:
            asyncio.get_running_loop().call_later(1.0, self._aged_again, stream.number)

    def _aged_again(self, number: int) -> None:
        if (stream := self._streams.get(number)) is not None:
            self._aged(stream)

    async def _read(self, stream: Stream, context: Any) -> None:
        loop, stream.reading = asyncio.get_running_loop(), True
        while (data := await context.read()) is not grpc.aio.EOF and not stream.finished:
            stream.reading = False
            if (node := stream.session.node) is None:
                stream.turn = await self._admission.turns.take(stream.peer.uris or stream.peer.address)
            if len(data) >= LARGE_BYTES:
                self._leftovers.passed(len(data))
            stream.session.receive(data, loop.time())
            if node is not None and stream.session.node is not node and stream.account is not None:
                self._admission.introduced_anew(stream.account)
            if stream.owed and stream.session.answered:  # as most requests do
                stream.owed -= 1
            elif stream.account is not None:
                self._admission.asked(stream.account, len(data))
            del data  # a megabyte that would stay while the stream waits
            stream.heard()
            stream.reading = True
        stream.finished = True

    async def _write(self, stream: Stream, context: Any) -> None:
        while not (stream.finished or stream.failure):
            responses = stream.take()
            stream.writing = True
            while responses and stream.failure is None:
                stream.owed += 1
                if (size := len(responses[-1])) >= LARGE_BYTES:
                    self._leftovers.passed(size)
                await context.write(responses.pop())
                stream.sent = True
            stream.writing = False
            stream.begun()
            await stream.sleep()

    async def _guard(self, stream: Stream, work: Awaitable[None]) -> None:
        """Whatever goes wrong on one stream ends that stream with a status, and nothing else."""
        try:
            await work
        except (Ended, Denied) as failure:
            failure.__traceback__ = failure.__context__ = None  # they hold the request, until the collector comes by
            stream.failure = stream.failure or failure
            node = stream.session.node
            log.warning("stream ended", stream=stream.number, node=node.id if node else None, reason=str(failure))
        except Exception:  # the process and all other streams go on
            if stream.number not in self._streams:
                return  # so a read ends whose call is over
            log.exception("stream failed", stream=stream.number)
            stream.failure = stream.failure or Ended(Status.UNAVAILABLE, "internal error")
        stream.wake()

    @staticmethod
    def _finish(stream: Stream) -> None:
        stream.finished = True
        stream.wake()


async def _fetch(_requests: Any, context: Any) -> None:
    """Not unary to grpc: that would read the whole request first, as slowly and as large as its sender likes, and from those
    who are denied too. On the wire there is no difference.
    """
    reason = "unary Fetch is not served; use the streaming method, state of the world or delta"
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, reason)


def _status(failure: Ended | Denied) -> tuple[Any, str]:
    if isinstance(failure, Denied):
        return grpc.StatusCode.PERMISSION_DENIED, str(failure)
    return grpc.StatusCode[failure.status.name], failure.reason
