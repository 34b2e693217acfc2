"""A real server on a free port and raw clients of it, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.snapshot.store import Store, View
from controlplane.xds.nodes import Node, Peer
from controlplane.xds.server import XdsServer
from tests.protocol.dialogue import Recorder
from tests.protocol.keys import Pair
from tests.support.waiting import PATIENCE

AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
DELTA = AGGREGATED + "DeltaAggregatedResources"
SOTW = AGGREGATED + "StreamAggregatedResources"


class OneView:
    """Everybody sees the same, or is refused, or breaks something."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ready = True
        self.welcome: Callable[[Peer], None] = lambda peer: None
        self.admission: Callable[[Node, Peer], None] = lambda node, peer: None
        self.peers: list[Peer] = []

    def meet(self, peer: Peer) -> None:
        self.welcome(peer)

    def admit(self, node: Node, peer: Peer) -> View | None:
        self.peers.append(peer)
        self.admission(node, peer)
        return self.store.view(["gateway"])


class Rig:
    """A server on a free port, and channels to it."""

    def __init__(self, **options: Any) -> None:
        self.store = Store()
        self.directory = OneView(self.store)
        self.observer = Recorder()
        self.server = XdsServer(self.store, self.directory, identifier="r", observer=self.observer, **options)
        self.port = 0

    def channel(self, pair: Pair | None = None, ca: bytes | None = None, *, narrow: bool = False) -> Any:
        """`narrow`: the peer is sent no more than 64 KiB of a stream that it does not read, as HTTP/2 has it."""
        # Its own connection, whatever other channels of this process there are.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if narrow:  # else gRPC grants more by itself, when it finds the connection fast
            options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
        target = f"127.0.0.1:{self.port}"
        if ca is None:
            return grpc.aio.insecure_channel(target, options=options)
        keys = (pair.key, pair.certificate) if pair else (None, None)
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca, *keys), options=options)

    def publish(self, *changes: Any) -> None:
        self.store.publish({"gateway": changes})
        self.server.changed()


class Stream:
    """One delta or state-of-the-world stream, by messages."""

    def __init__(self, channel: Any, method: str, node: str = "n") -> None:
        delta = "/Delta" in method
        self.request = discovery_pb2.DeltaDiscoveryRequest if delta else discovery_pb2.DiscoveryRequest
        self.response = discovery_pb2.DeltaDiscoveryResponse if delta else discovery_pb2.DiscoveryResponse
        self.node = node
        self.call = channel.stream_stream(method)()

    async def send(self, url: str, **fields: Any) -> None:
        await self.call.write(self.request(type_url=url, node={"id": self.node}, **fields).SerializeToString())

    async def ack(self, response: Any) -> None:
        await self.send(response.type_url, response_nonce=response.nonce)

    async def expect(self, url: str) -> Any:
        data = await asyncio.wait_for(self.call.read(), PATIENCE)
        assert data is not grpc.aio.EOF, await self.call.code()
        message = self.response.FromString(data)
        assert message.type_url == url
        return message

    async def take(self, url: str) -> Any:
        message = await self.expect(url)
        await self.ack(message)
        return message

    async def ended(self) -> tuple[Any, str]:
        """The status with which the stream ends."""
        return await asyncio.wait_for(self.call.code(), PATIENCE), await self.call.details()


@asynccontextmanager
async def running(credentials: Any = None, **options: Any) -> AsyncIterator[Rig]:
    rig = Rig(**options)
    rig.port = await rig.server.start("127.0.0.1:0", credentials)
    try:
        yield rig
    finally:
        await rig.server.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the server does on its own."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what it waits for signals nobody
            await asyncio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))  # type: ignore[arg-type]
