"""The gRPC server: the one module of this package that imports grpc.

It moves bytes between streams and their sessions: no serializer, no message classes. One coroutine a stream writes,
one reads; `changed()` wakes every writer, and there is neither polling nor a delay here. What a stream may see is
decided by the `Directory`, what is sent by the `Session`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import grpc
import structlog

from controlplane.snapshot.store import Store, View
from controlplane.xds import types
from controlplane.xds.bounds import Limits, Timing
from controlplane.xds.delta import DeltaSession
from controlplane.xds.nodes import Denied, Directory, Ended, Node, Peer, Status
from controlplane.xds.observer import Observer, SilentObserver, StreamStatus
from controlplane.xds.peers import certificate_uris
from controlplane.xds.session import Session
from controlplane.xds.sotw import SotwSession
from controlplane.xds.wire import Encoder

log = structlog.get_logger(__name__)

ServerKeys = tuple[bytes, bytes, bytes]
"""PEM: the server's certificate chain, its private key, and the CA certificates that client certificates need."""

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

_DRAIN_SHARE = 0.9
"""Of the drain window, over which streams are ended: the rest is for the last of them to finish."""


def _options(limits: Limits) -> list[tuple[str, int]]:
    """Channel options. Dead peers are found within about a minute; a peer may ping, but not flood."""
    return [
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 15_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.connection_streams),
        ("grpc.so_reuseport", 0),
    ]


def dynamic_credentials(load: Callable[[], ServerKeys]) -> Any:
    """Server credentials that require and verify a client certificate, and read the keys anew for each handshake.

    Streams that are open stay when the keys rotate. `load` is called on threads of grpc; when it fails, or gives what
    it gave before, the keys in use stay.
    """
    current = load()

    def configuration(keys: ServerKeys) -> Any:
        chain, key, client_ca = keys
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=client_ca)

    def fetch() -> Any:
        nonlocal current
        try:
            keys = load()
        except Exception as error:  # noqa: BLE001 - whatever it is, handshakes go on with the keys in use
            log.error("server keys not reloaded", error=type(error).__name__)
            return None
        if keys == current:
            return None
        current = keys
        return configuration(keys)

    return grpc.dynamic_ssl_server_credentials(configuration(current), fetch, require_client_authentication=True)


class _Stream:
    """One open stream: its session, and what wakes its writer."""

    def __init__(self, number: int, method: str, session: Session, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.method = method
        self.session = session
        self.peer = peer
        self.connected = loop.time()
        self.outdated = False  # the store or the directory changed since the session looked
        self.finished = False  # the client half-closed, or the server drains: end with OK
        self.failure: Ended | Denied | None = None
        self._loop = loop
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Have the writer look at the session."""
        self._woken.set()

    async def sleep(self) -> None:
        """Until woken, or until the session's deadline."""
        deadline = self.session.deadline
        timer = self._loop.call_at(deadline, self.wake) if deadline is not None else None
        try:
            await self._woken.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._woken.clear()


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
        self._streams: dict[int, _Stream] = {}
        self._opened = 0
        self._stopping = False
        self._server: Any = None

    async def start(self, address: str, credentials: Any = None) -> int:
        """Listen on `host:port` and return the port (0 asks for a free one). Without credentials: plaintext."""
        server = grpc.aio.server(options=_options(self._limits), maximum_concurrent_rpcs=None)
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
                methods[f"Fetch{suffix}"] = grpc.unary_unary_rpc_method_handler(_fetch)
            handlers.append(grpc.method_handlers_generic_handler(service, methods))
        return handlers

    def _streaming(self, method: str, kind: type[Session], only: str | None) -> Any:
        """A handler that passes bytes through in both directions."""
        return grpc.stream_stream_rpc_method_handler(partial(self._serve, method, kind, only))

    async def _serve(self, method: str, kind: type[Session], only: str | None, _requests: Any, context: Any) -> None:
        if self._stopping or not self._directory.ready:
            reason = "shutting down" if self._stopping else "not ready: nothing has been compiled yet"
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
        if len(self._streams) >= self._limits.streams:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {self._limits.streams} streams")
        self._opened += 1
        number = self._opened
        peer = _peer(context)
        session = kind(
            partial(self._admit, peer),
            self._encoder,
            only=only,
            stream=number,
            observer=self._observer,
            timing=self._timing,
            limits=self._limits,
        )
        stream = _Stream(number, method, session, peer, asyncio.get_running_loop())
        self._streams[number] = stream
        reader = asyncio.create_task(self._guard(stream, self._read(stream, context)))
        try:
            await self._guard(stream, self._write(stream, context))
            if (failure := stream.failure) is not None:
                await context.abort(*_status(failure))
        finally:
            del self._streams[number]
            reader.cancel()
            if session.node is not None:
                self._observer.disconnected(number, session.node)

    def _admit(self, peer: Peer, node: Node) -> View | None:
        return self._directory.admit(node, peer)

    async def _read(self, stream: _Stream, context: Any) -> None:
        loop = asyncio.get_running_loop()
        while (data := await context.read()) is not grpc.aio.EOF:
            stream.session.receive(data, loop.time())
            del data  # a megabyte that would stay while the stream waits
            stream.wake()
        stream.finished = True

    async def _write(self, stream: _Stream, context: Any) -> None:
        loop = asyncio.get_running_loop()
        session = stream.session
        while not (stream.finished or stream.failure):
            if stream.outdated:
                stream.outdated = False
                session.changed(loop.time())
            for response in session.poll(loop.time()):
                await context.write(response)
                del response
            await stream.sleep()

    async def _guard(self, stream: _Stream, work: Awaitable[None]) -> None:
        """Whatever goes wrong on one stream ends that stream with a status, and nothing else."""
        try:
            await work
        except (Ended, Denied) as failure:
            stream.failure = stream.failure or failure
            node = stream.session.node
            log.warning("stream ended", stream=stream.number, node=node.id if node else None, reason=str(failure))
        except Exception:  # the process and all other streams go on
            log.exception("stream failed", stream=stream.number)
            stream.failure = stream.failure or Ended(Status.UNAVAILABLE, "internal error")
        stream.wake()

    @staticmethod
    def _finish(stream: _Stream) -> None:
        stream.finished = True
        stream.wake()


async def _fetch(_request: bytes, context: Any) -> None:
    reason = "unary Fetch is not served; use the streaming method, state of the world or delta"
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, reason)


def _status(failure: Ended | Denied) -> tuple[Any, str]:
    if isinstance(failure, Denied):
        return grpc.StatusCode.PERMISSION_DENIED, str(failure)
    return grpc.StatusCode[failure.status.name], failure.reason


def _peer(context: Any) -> Peer:
    """Who the handshake proved. grpc lists names of all kinds together, so the certificate itself is read."""
    certificate = b"".join(context.auth_context().get("x509_pem_cert", ()))
    if not certificate:
        return Peer(address=context.peer())
    return Peer(context.peer(), certificate_uris(certificate), authenticated=True, certificate=certificate)
