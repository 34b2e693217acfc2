"""The xDS server alone, with a crowd of raw gRPC clients: what a change costs for each stream, and what a stream holds.

One process serves N load assignments from a store, another holds the streams, each subscribed to all N by name; both are
driven over pipes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from envoy.config.endpoint.v3 import endpoint_pb2

from controlplane.resources import Resource
from controlplane.snapshot.store import Store, View
from controlplane.xds.bounds import Limits
from controlplane.xds.leftovers import QUIET_SECONDS
from controlplane.xds.nodes import Node, Peer
from controlplane.xds.observer import SilentObserver, Variant
from controlplane.xds.server import XdsServer, dynamic_credentials
from tests.bench.crowd import PATIENCE, URL, Asked, Child, constant, cpu_seconds, crowd, nothing, obey, resource_name
from tests.bench.result import Plan, Result, median
from tests.protocol.keys import Authority

CPU_GOAL_US, LAST_GOAL_MS, BYTES_GOAL, GROWTH_GOAL = 175.0, 200.0, 330.0, 1.1
IDLE_GOAL_KB, RESUMED_GOAL_KB, COLD_GOAL_S, TLS_GOAL = 60.0, 150.0, 7.0, 2.0
RESUME_GOAL, RESUME_BYTES_GOAL = 0.5, 0.01


def run(plan: Plan) -> Iterator[Result]:
    """Fan-out, memory, reconnect storms, and what mutual TLS adds, at 500 and 5,000 load assignments."""
    streams, storm = (20, 10) if plan.quick else (1_000, 500)
    rounds, count = (1, 3) if plan.quick else (5, 6)
    sizes = plan.of((500, 5_000), (100,))
    for size in sizes:
        with _pair(size) as (server, clients):
            yield from _memory(server, clients, size, min(streams, 300), "idle", IDLE_GOAL_KB, wildcard=False)
            yield from _memory(server, clients, size, min(streams, 300), "idle, by *", IDLE_GOAL_KB, wildcard=True)
        with _pair(size) as (server, clients):
            yield from _storms(server, clients, size, storm)
    yield from _fanned_out(sizes, streams, rounds, count)


def _fanned_out(sizes: Sequence[int], streams: int, rounds: int, count: int) -> Iterator[Result]:
    """What a change costs at each size, and at the largest one with mutual TLS: in turns, for they are compared."""
    largest = max(sizes)
    seen: dict[tuple[int, bool], list[tuple[float, float, float]]] = {}
    with ExitStack() as stack:
        pairs = {
            (size, tls): stack.enter_context(_pair(size, tls=tls, patient=True))
            for size, tls in [*((size, False) for size in sizes), (largest, True)]
        }
        for _, clients in pairs.values():
            clients.ask("open", streams)
        for _ in range(rounds):
            for which, (server, clients) in pairs.items():
                seen.setdefault(which, []).append(changes(server, clients, count))
    costs = {which: median([cost for cost, _, _ in each]) for which, each in seen.items()}
    for (size, tls), each in seen.items():
        what, goal = ("mTLS: ", None) if tls else ("", CPU_GOAL_US)
        yield Result("fanout", size, f"{what}CPU of a stream and change", costs[size, tls], "us", goal)
        last = median([last for _, last, _ in each])
        yield Result("fanout", size, f"{what}last of {streams:,} streams, p50", last, "ms", LAST_GOAL_MS)
        if not tls:
            sent = median([sent for _, _, sent in each])
            yield Result("fanout", size, "bytes of a stream and change", sent, "B", BYTES_GOAL)
    if (smallest := min(sizes)) < largest:
        growth = costs[largest, False] / costs[smallest, False]
        yield Result("fanout", largest, "growth of CPU", growth, "x", GROWTH_GOAL)
    yield Result(
        "fanout", largest, "mTLS: CPU against plaintext", costs[largest, True] / costs[largest, False], "x", TLS_GOAL
    )


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


def changes(server: Asked, clients: Asked, count: int, warm: int = 3) -> tuple[float, float, float]:
    """CPU in us and bytes of one stream and change, and ms to the last of all streams."""
    streams = clients.ask("count")
    for number in range(warm):
        _change(server, clients, f"warm{number}")
    size, cpu = clients.ask("bytes"), server.ask("cpu")
    lasts = [_change(server, clients, f"change{number}") * 1000 for number in range(count)]
    cpu, size = server.ask("cpu") - cpu, clients.ask("bytes") - size
    return cpu / count / streams * 1e6, median(lasts), size / count / streams


def _change(server: Asked, clients: Asked, content: str) -> float:
    clients.ask("expect")
    at = server.ask("change", content)
    last: float = clients.ask("arrived")
    server.ask("settled", clients.ask("count"))
    return last - at


@contextmanager
def _pair(size: int, *, tls: bool = False, patient: bool = False) -> Iterator[tuple[Child, Child]]:
    """Server and clients. `patient`: the crowd comes before what is measured, and on a busy machine it may take longer
    than a server should let anybody wait."""
    authority = Authority() if tls else None
    keys: tuple[Any, ...] = (None, None)
    if authority is not None:
        ours, theirs = authority.issue(), authority.issue("spiffe://bench.test/node/n")
        keys = (
            (ours.certificate, ours.key, authority.certificate),
            (theirs.certificate, theirs.key, authority.certificate),
        )
    server = Child(serve, size, keys[0], patient)
    try:
        clients = Child(crowd, size, server.ask("port"), keys[1])
        try:
            yield server, clients
        finally:
            clients.end()
    finally:
        server.end()


def _assignment(index: int, content: str = "") -> Resource:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=resource_name(index))
    for number in range(2):
        lb = message.endpoints.add(locality={"zone": content}).lb_endpoints.add()
        lb.endpoint.address.socket_address.address = f"10.0.{index % 250}.{number}"
        lb.endpoint.address.socket_address.port_value = 8080
    return Resource(URL, resource_name(index), message.SerializeToString(deterministic=True))


# -- the server's process --------------------------------------------------------------------------------------------


class _Listening(SilentObserver):
    """Knows when all streams have acknowledged a publication."""

    def __init__(self) -> None:
        self.streams = 0
        self.waiting = 0
        self.all = asyncio.Event()

    def connected(self, stream: int, node: Node, variant: Variant, *, shown: bool) -> None:
        self.streams += 1

    def disconnected(self, stream: int, node: Node, reason: str | None) -> None:
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

    def meet(self, peer: Peer) -> None:
        """Everybody is welcome."""

    def admit(self, node: Node, peer: Peer) -> View:
        return self._view


def serve(pipe: Connection, size: int, keys: Any, patient: bool = False) -> None:
    limits = Limits(waiting_seconds=PATIENCE) if patient else Limits()
    asyncio.run(_server(pipe, size, keys, limits))


async def _server(pipe: Connection, size: int, keys: Any, limits: Limits) -> None:
    store = Store()
    store.publish({"gateway": [(URL, one.name, one) for one in map(_assignment, range(size))]})
    listening = _Listening()
    server = XdsServer(store, _Everything(store), observer=listening, limits=limits)
    port = await server.start("127.0.0.1:0", dynamic_credentials(lambda: keys) if keys else None)
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)  # as `serve` does when it is ready

    async def change(content: str) -> float:
        one = _assignment(size // 2, content)
        listening.expect()
        at = time.monotonic()
        store.publish({"gateway": [(URL, one.name, one)]})
        server.changed()
        return at

    async def settled(_: int) -> None:
        await asyncio.wait_for(listening.all.wait(), PATIENCE)

    async def left() -> None:
        async with asyncio.timeout(PATIENCE):
            while listening.streams:  # noqa: ASYNC110 - rare, and not measured
                await asyncio.sleep(0.05)

    async def memory() -> int:
        gc.collect()
        await asyncio.sleep(QUIET_SECONDS + 0.5)  # as long as the server takes to give memory back
        resident = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - no disk behind it
        return resident * os.sysconf("SC_PAGE_SIZE")

    actions = {
        "hello": nothing, "port": constant(port), "change": change, "settled": settled, "left": left,
        "memory": memory, "cpu": cpu_seconds,
    }  # fmt: skip
    await obey(pipe, actions)
