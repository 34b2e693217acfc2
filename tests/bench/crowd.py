"""Raw gRPC clients for benches of the xDS server: a crowd of streams in a process of its own, driven over a pipe.

Each stream is on a connection of its own. The clients decode what they must to acknowledge, and no more.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.resources import delimited, version_entry
from controlplane.xds import types

URL = types.LOAD_ASSIGNMENT
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
PATIENCE = 120.0
FORMS = 16
"""Of what the clients that come back say: more than a server could have learnt by heart from the first of them."""


def resource_name(index: int) -> str:
    """What the load assignments of these benches are called."""
    return f"gatewayspec/bench/shop/backend-{index}"


class Asked(Protocol):
    """A process that does what it is asked."""

    def ask(self, what: str, *arguments: Any) -> Any: ...


class Child:
    """Another process that does what it is asked, one thing at a time."""

    def __init__(self, main: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=main, args=(theirs, *arguments), daemon=True)
        self.process.start()
        self.ask("hello")

    def ask(self, what: str, *arguments: Any) -> Any:
        self._pipe.send((what, *arguments))
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(what)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        self._pipe.close()
        self.process.terminate()
        self.process.join(PATIENCE)


async def obey(pipe: Connection, actions: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            what, *arguments = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            return
        try:
            answer = await actions[what](*arguments)
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            answer = RuntimeError(f"{what}: {error!r}")
        pipe.send(answer)


async def nothing() -> None:
    pass


async def cpu_seconds() -> float:
    return time.process_time()


def constant(value: int) -> Callable[[], Awaitable[int]]:
    async def said() -> int:
        return value

    return said


@dataclass(slots=True)
class _Client:
    """One stream on a connection of its own."""

    channel: Any
    call: Any
    task: Any = None
    bytes: int = 0


class _Crowd:
    """All clients."""

    def __init__(self, size: int, port: int, keys: Any) -> None:
        self._size = size
        self._port = port
        self._keys = keys
        self._clients: list[_Client] = []
        self._waiting = 0
        self._all = asyncio.Event()
        self._last = 0.0
        self._failed = ""
        self._requests: dict[tuple[bool, bool], list[bytes]] = {}
        self._versions: dict[str, str] = {}
        """What the first client was given in full, whoever the server is."""

    def _made(self, wildcard: bool, resume: bool) -> list[bytes]:
        """The first request, in several forms: Envoy sorts names, but the versions of a map come in no order."""
        if (found := self._requests.get((wildcard, resume))) is None:
            names = ["*"] if wildcard else sorted(resource_name(index) for index in range(self._size))
            initial = list(self._versions.items())[:-1] if resume else []
            head = discovery_pb2.DeltaDiscoveryRequest(type_url=URL, resource_names_subscribe=names).SerializeToString()
            chance = random.Random(len(initial))
            found = self._requests[wildcard, resume] = []
            for _ in range(FORMS if resume else 1):
                chance.shuffle(initial)
                found.append(head + b"".join(delimited(5, version_entry(*one)) for one in initial))
        return found

    async def open(self, count: int, wildcard: bool = False, resume: bool = False) -> tuple[float, int]:
        """Seconds and bytes until each has its answer; who resumes lacks one resource, so that there is an answer."""
        requests = self._made(wildcard, resume)
        before = await self.bytes()
        began = time.monotonic()
        await self.expect(count)
        for number in range(count):
            self._begin(requests[number % len(requests)])
        last = await self.arrived()
        return last - began, await self.bytes() - before

    def _begin(self, request: bytes) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        target = f"127.0.0.1:{self._port}"
        if self._keys:
            certificate, key, ca = self._keys
            channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca, key, certificate), options)
        else:
            channel = grpc.aio.insecure_channel(target, options)
        client = _Client(channel, channel.stream_stream(METHOD)())
        client.task = asyncio.create_task(self._watched(client, self._talk(client, request, f"n{len(self._clients)}")))
        self._clients.append(client)

    async def _watched(self, client: _Client, talk: Awaitable[None]) -> None:
        """A stream that fails is said where the crowd is waited for: it would never be complete."""
        with suppress(grpc.RpcError):  # a write that fails does not say why, the call does
            await talk
        ended = f"{await client.call.code()}: {await client.call.details()}"
        if self._clients:  # they are not being closed
            self._failed = self._failed or ended
            self._all.set()

    async def _talk(self, client: _Client, request: bytes, node_id: str) -> None:
        node = discovery_pb2.DeltaDiscoveryRequest(node={"id": node_id}).SerializeToString()
        await client.call.write(node + request)
        while (data := await client.call.read()) is not grpc.aio.EOF:
            client.bytes += len(data)
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
            if not self._versions:
                self._versions = {one.name: one.version for one in response.resources}
            ack = discovery_pb2.DeltaDiscoveryRequest(type_url=URL, response_nonce=response.nonce)
            await client.call.write(ack.SerializeToString())
            self._waiting -= 1
            if self._waiting == 0:
                self._last = time.monotonic()
                self._all.set()

    async def expect(self, count: int = 0) -> None:
        self._waiting = count or len(self._clients)
        self._all.clear()

    async def arrived(self) -> float:
        try:
            await asyncio.wait_for(self._all.wait(), PATIENCE * 0.9)
        except TimeoutError:
            raise TimeoutError(f"{self._waiting} of {len(self._clients)} streams have no answer yet") from None
        if self._failed:
            raise RuntimeError(f"a stream failed: {self._failed}")
        return self._last

    async def count(self) -> int:
        return len(self._clients)

    async def bytes(self) -> int:
        return sum(client.bytes for client in self._clients)

    async def close(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            client.task.cancel()
            client.call.cancel()
            await client.channel.close()


def crowd(pipe: Connection, size: int, port: int, keys: Any) -> None:
    asyncio.run(_clients(pipe, size, port, keys))


async def _clients(pipe: Connection, size: int, port: int, keys: Any) -> None:
    crowd = _Crowd(size, port, keys)
    actions = {
        "hello": nothing, "open": crowd.open, "expect": crowd.expect, "arrived": crowd.arrived, "count": crowd.count,
        "bytes": crowd.bytes, "close": crowd.close,
    }  # fmt: skip
    await obey(pipe, actions)
