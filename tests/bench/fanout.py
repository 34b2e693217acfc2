"""The xDS server alone, with a crowd of raw gRPC clients: what a change costs for each stream, and what a stream holds.

One process serves N load assignments from a store, another holds the streams, each on a connection of its own and
subscribed to all N by name; both are driven over pipes. The clients decode what they must to acknowledge, and no more.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.resources import Resource
from controlplane.snapshot.store import Store, View
from controlplane.xds import types
from controlplane.xds.nodes import Node, Peer
from controlplane.xds.observer import SilentObserver, Variant
from controlplane.xds.server import XdsServer, dynamic_credentials
from tests.bench.result import Plan, Result, median
from tests.protocol.keys import Authority

URL = types.LOAD_ASSIGNMENT
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
PATIENCE = 120.0

CPU_GOAL_US, LAST_GOAL_MS, BYTES_GOAL, GROWTH_GOAL = 175.0, 200.0, 330.0, 1.1
IDLE_GOAL_KB, RESUMED_GOAL_KB, COLD_GOAL_S, TLS_GOAL = 60.0, 150.0, 7.0, 2.0
RESUME_GOAL, RESUME_BYTES_GOAL = 0.5, 0.01


def run(plan: Plan) -> Iterator[Result]:
    """Fan-out, memory, reconnect storms, and what mutual TLS adds, at 500 and 5,000 load assignments."""
    streams, storm = (20, 10) if plan.quick else (1_000, 500)
    changes = 3 if plan.quick else 30
    costs: dict[int, float] = {}
    sizes = plan.of((500, 5_000), (100,))
    for size in sizes:
        with _pair(size) as (server, clients):
            yield from _memory(server, clients, size, min(streams, 300), "idle", IDLE_GOAL_KB, wildcard=False)
            yield from _memory(server, clients, size, min(streams, 300), "idle, by *", IDLE_GOAL_KB, wildcard=True)
        with _pair(size) as (server, clients):
            yield from _storms(server, clients, size, storm)
        with _pair(size) as (server, clients):
            clients.ask("open", streams)
            cost, last, sent = _changes(server, clients, changes)
        costs[size] = cost
        yield Result("fanout", size, "CPU of a stream and change", cost, "us", CPU_GOAL_US)
        yield Result("fanout", size, f"last of {streams:,} streams, p50", last, "ms", LAST_GOAL_MS)
        yield Result("fanout", size, "bytes of a stream and change", sent, "B", BYTES_GOAL)
    if len(costs) > 1:
        yield Result("fanout", max(costs), "growth of CPU", costs[max(costs)] / costs[min(costs)], "x", GROWTH_GOAL)
    size = max(sizes)
    with _pair(size, tls=True) as (server, clients):
        clients.ask("open", streams)
        cost, last, _ = _changes(server, clients, changes)
    yield Result("fanout", size, "mTLS: CPU of a stream and change", cost, "us")
    yield Result("fanout", size, "mTLS: CPU against plaintext", cost / costs[size], "x", TLS_GOAL)
    yield Result("fanout", size, f"mTLS: last of {streams:,} streams, p50", last, "ms", LAST_GOAL_MS)


def _memory(
    server: Child, clients: Child, size: int, streams: int, what: str, goal: float, *, wildcard: bool
) -> Iterator[Result]:
    """Resident bytes of the server for each stream, after an answer in full and after a resume."""
    clients.ask("open", min(20, streams), wildcard)  # what the first ones make is shared
    before = server.ask("memory")
    clients.ask("open", streams, wildcard)
    yield Result("fanout", size, f"memory, {what}", (server.ask("memory") - before) / streams / 1000, "kB", goal)
    if not wildcard:
        clients.ask("close")
        server.ask("left")
        before = server.ask("memory")
        clients.ask("open", streams, wildcard, True)
        left = max(0.0, server.ask("memory") - before) / streams / 1000
        yield Result("fanout", size, "memory, after a resume", left, "kB", RESUMED_GOAL_KB)


def _storms(server: Child, clients: Child, size: int, streams: int) -> Iterator[Result]:
    """All streams at once, from nothing and with all versions."""
    taken: dict[str, tuple[float, int]] = {}
    for what, resume in (("cold", False), ("resume", True)):
        before = server.ask("cpu")
        taken[what] = clients.ask("open", streams, False, resume)
        yield Result("fanout", size, f"storm of {streams}, {what}: CPU", server.ask("cpu") - before, "s")
        clients.ask("close")
        server.ask("left")
    (cold, cold_bytes), (warm, warm_bytes) = taken["cold"], taken["resume"]
    yield Result("fanout", size, f"storm of {streams}, cold", cold, "s", COLD_GOAL_S)
    yield Result("fanout", size, f"storm of {streams}, resume", warm, "s")
    yield Result("fanout", size, "time of resume against cold", warm / cold, "x", RESUME_GOAL)
    yield Result("fanout", size, "bytes of resume against cold", warm_bytes / cold_bytes, "x", RESUME_BYTES_GOAL)


def _changes(server: Child, clients: Child, count: int) -> tuple[float, float, float]:
    """CPU in us and bytes of one stream and change, and ms to the last of all streams."""
    streams = clients.ask("count")
    for number in range(3):
        _change(server, clients, f"warm{number}")
    size, cpu = clients.ask("bytes"), server.ask("cpu")
    lasts = [_change(server, clients, f"change{number}") * 1000 for number in range(count)]
    cpu, size = server.ask("cpu") - cpu, clients.ask("bytes") - size
    return cpu / count / streams * 1e6, median(lasts), size / count / streams


def _change(server: Child, clients: Child, content: str) -> float:
    clients.ask("expect")
    at = server.ask("change", content)
    last: float = clients.ask("arrived")
    server.ask("settled")
    return last - at


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
        self.process.join(10)


@contextmanager
def _pair(size: int, *, tls: bool = False) -> Iterator[tuple[Child, Child]]:
    authority = Authority() if tls else None
    keys: tuple[Any, ...] = (None, None)
    if authority is not None:
        ours, theirs = authority.issue(), authority.issue("spiffe://bench.test/node/n")
        keys = (
            (ours.certificate, ours.key, authority.certificate),
            (theirs.certificate, theirs.key, authority.certificate),
        )
    server = Child(_serve, size, keys[0])
    try:
        clients = Child(_crowd, size, server.ask("port"), keys[1])
        try:
            yield server, clients
        finally:
            clients.end()
    finally:
        server.end()


def _assignment(index: int, content: str = "") -> Resource:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=_name(index))
    for number in range(2):
        lb = message.endpoints.add(locality={"zone": content}).lb_endpoints.add()
        lb.endpoint.address.socket_address.address = f"10.0.{index % 250}.{number}"
        lb.endpoint.address.socket_address.port_value = 8080
    return Resource(URL, _name(index), message.SerializeToString(deterministic=True))


def _name(index: int) -> str:
    return f"gatewayspec/bench/shop/backend-{index}"


async def _obey(pipe: Connection, actions: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
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


# -- the server's process --------------------------------------------------------------------------------------------


class _Listening(SilentObserver):
    """Knows when all streams have acknowledged a publication."""

    def __init__(self) -> None:
        self.streams = 0
        self.waiting = 0
        self.all = asyncio.Event()

    def connected(self, stream: int, node: Node, variant: Variant) -> None:
        self.streams += 1

    def disconnected(self, stream: int, node: Node) -> None:
        self.streams -= 1

    def expect(self) -> None:
        self.waiting = self.streams
        self.all.clear()

    def settled(self, stream: int, sequence: int) -> None:
        self.waiting -= 1
        if self.waiting == 0:
            self.all.set()


class _Everything:
    """Everybody sees the same."""

    ready = True

    def __init__(self, store: Store) -> None:
        self._view = store.view(["gateway"])

    def admit(self, node: Node, peer: Peer) -> View:
        return self._view


def _serve(pipe: Connection, size: int, keys: Any) -> None:
    asyncio.run(_server(pipe, size, keys))


async def _server(pipe: Connection, size: int, keys: Any) -> None:
    store = Store()
    store.publish({"gateway": [(URL, one.name, one) for one in map(_assignment, range(size))]})
    listening = _Listening()
    server = XdsServer(store, _Everything(store), observer=listening)
    port = await server.start("127.0.0.1:0", dynamic_credentials(lambda: keys) if keys else None)
    gc.freeze()

    async def change(content: str) -> float:
        one = _assignment(size // 2, content)
        listening.expect()
        at = time.monotonic()
        store.publish({"gateway": [(URL, one.name, one)]})
        server.changed()
        return at

    async def settled() -> None:
        await asyncio.wait_for(listening.all.wait(), PATIENCE)

    async def left() -> None:
        async with asyncio.timeout(PATIENCE):
            while listening.streams:  # noqa: ASYNC110 - rare, and not measured
                await asyncio.sleep(0.05)

    async def memory() -> int:
        await asyncio.sleep(0.5)
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - no disk behind it
        return resident * os.sysconf("SC_PAGE_SIZE")

    actions = {
        "hello": _nothing, "port": _constant(port), "change": change, "settled": settled, "left": left,
        "memory": memory, "cpu": _cpu,
    }  # fmt: skip
    await _obey(pipe, actions)


async def _nothing() -> None:
    pass


async def _cpu() -> float:
    return time.process_time()


def _constant(value: int) -> Callable[[], Awaitable[int]]:
    async def said() -> int:
        return value

    return said


# -- the clients' process --------------------------------------------------------------------------------------------


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
        self._requests: dict[tuple[bool, bool], bytes] = {}

    def _request(self, wildcard: bool, resume: bool) -> bytes:
        if (found := self._requests.get((wildcard, resume))) is None:
            names = ["*"] if wildcard else [_name(index) for index in range(self._size)]
            initial = {one.name: one.version for one in map(_assignment, range(self._size))} if resume else {}
            found = self._requests[wildcard, resume] = discovery_pb2.DeltaDiscoveryRequest(
                type_url=URL, resource_names_subscribe=names, initial_resource_versions=initial
            ).SerializeToString()
        return found

    async def open(self, count: int, wildcard: bool = False, resume: bool = False) -> tuple[float, int]:
        """Seconds and bytes until each has its answer; with names a resume has none, so one more name is asked for."""
        request = self._request(wildcard, resume)
        before = await self.bytes()
        began = time.monotonic()
        await self.expect(count)
        for _ in range(count):
            self._begin(request, resume)
        last = await self.arrived()
        return last - began, await self.bytes() - before

    def _begin(self, request: bytes, resume: bool) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        target = f"127.0.0.1:{self._port}"
        if self._keys:
            certificate, key, ca = self._keys
            channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca, key, certificate), options)
        else:
            channel = grpc.aio.insecure_channel(target, options)
        client = _Client(channel, channel.stream_stream(METHOD)())
        client.task = asyncio.create_task(self._talk(client, request, resume))
        self._clients.append(client)

    async def _talk(self, client: _Client, request: bytes, resume: bool) -> None:
        node = discovery_pb2.DeltaDiscoveryRequest(node={"id": f"n{len(self._clients)}"}).SerializeToString()
        await client.call.write(node + request)
        if resume:
            asked = discovery_pb2.DeltaDiscoveryRequest(type_url=URL, resource_names_subscribe=["absent"])
            await client.call.write(asked.SerializeToString())
        while (data := await client.call.read()) is not grpc.aio.EOF:
            client.bytes += len(data)
            nonce = discovery_pb2.DeltaDiscoveryResponse.FromString(data).nonce
            ack = discovery_pb2.DeltaDiscoveryRequest(type_url=URL, response_nonce=nonce)
            await client.call.write(ack.SerializeToString())
            self._waiting -= 1
            if self._waiting == 0:
                self._last = time.monotonic()
                self._all.set()

    async def expect(self, count: int = 0) -> None:
        self._waiting = count or len(self._clients)
        self._all.clear()

    async def arrived(self) -> float:
        await asyncio.wait_for(self._all.wait(), PATIENCE)
        return self._last

    async def count(self) -> int:
        return len(self._clients)

    async def bytes(self) -> int:
        return sum(client.bytes for client in self._clients)

    async def close(self) -> None:
        for client in self._clients:
            client.task.cancel()
            client.call.cancel()
            await client.channel.close()
        self._clients.clear()


def _crowd(pipe: Connection, size: int, port: int, keys: Any) -> None:
    asyncio.run(_clients(pipe, size, port, keys))


async def _clients(pipe: Connection, size: int, port: int, keys: Any) -> None:
    crowd = _Crowd(size, port, keys)
    actions = {
        "hello": _nothing, "open": crowd.open, "expect": crowd.expect, "arrived": crowd.arrived, "count": crowd.count,
        "bytes": crowd.bytes, "close": crowd.close,
    }  # fmt: skip
    await _obey(pipe, actions)
