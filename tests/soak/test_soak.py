"""Half an hour of change and of streams that come and go: the process at the end is the process of the beginning.

`make soak ARGS="--soak-minutes 2 -s"` shows in two minutes that it works; the slope of so short a run proves nothing, so
only a long one is judged by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import grpc
import psutil
import pytest
import yaml
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.pki.authority import Authority
from controlplane.xds import types
from tests.e2e.plane import Plane, gateway, respond
from tests.support.ports import free_port

STREAMS, CHANGES_PER_SECOND, ROUTES = 200, 20.0, 40
LIFE_SECONDS = (10.0, 60.0)
WARM_UP = 300.0
SAMPLE_SECONDS = 5.0
LONG = 900.0
"""Seconds of samples, from which on a slope says something."""
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
SUBSCRIBED = (types.CLUSTER, types.LISTENER, types.SCOPED_ROUTES)


@dataclass
class Client:
    """One node: a stream that acknowledges all, ends, and comes back with what it has."""

    name: str
    target: str
    credentials: grpc.ChannelCredentials
    held: dict[str, dict[str, str]] = field(default_factory=lambda: {url: {} for url in SUBSCRIBED})
    last: bytes = b""
    responses: int = 0
    errors: list[str] = field(default_factory=list)

    async def live(self, random_: random.Random) -> None:
        """Stream after stream, until cancelled."""
        while True:
            end = time.monotonic() + random_.uniform(*LIFE_SECONDS)
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
            async with grpc.aio.secure_channel(self.target, self.credentials, options=options) as channel:
                call = channel.stream_stream(DELTA)()
                try:
                    if not await self._talk(call, end):
                        self.errors.append(f"{self.name}: ended with {await call.code()}")
                    elif random_.random() < 0.5:  # in good order; else the connection just goes
                        await call.done_writing()
                        while await call.read() is not grpc.aio.EOF:
                            pass
                except grpc.aio.AioRpcError as error:
                    self.errors.append(f"{self.name}: {error.code()} {error.details()}")
            if random_.random() < 0.2:  # as one that restarted
                self.held = {url: {} for url in SUBSCRIBED}

    async def _talk(self, call: grpc.aio.StreamStreamCall, end: float) -> bool:
        """Ask, and acknowledge what comes, until it is time; False when the server ended it."""
        for url in SUBSCRIBED:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=url,
                node={"id": self.name},
                initial_resource_versions=self.held[url],
                resource_names_subscribe=["*"],
            )
            await call.write(request.SerializeToString())
        while (data := await call.read()) is not grpc.aio.EOF:
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
            self.responses += 1
            self.last = data if response.resources else self.last
            held = self.held[response.type_url]
            held.update((one.name, one.version) for one in response.resources)
            for name in response.removed_resources:
                held.pop(name, None)
            ack = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
            await call.write(ack.SerializeToString())
            if time.monotonic() > end:
                return True
        return False


@dataclass
class Sample:
    at: float
    rss: int
    fds: int
    tasks: float
    blocks: float


def sample(plane: Plane, process: psutil.Process) -> Sample:
    return Sample(
        time.monotonic(),
        process.memory_info().rss,
        process.num_fds(),
        plane.metric("controlplane_tasks"),
        plane.metric("controlplane_allocated_blocks"),
    )


def slope(points: list[tuple[float, float]], of: Callable[[Iterable[float]], float]) -> tuple[float, float]:
    """The relative slope per hour by least squares over ten parts, each by one number `of` it, and half of its 95 % interval.

    By parts, because neighbouring samples of a process's memory are anything but independent.
    """
    size = max(1, len(points) // 10)
    parts = [points[i : i + size] for i in range(0, size * (len(points) // size), size)]
    xs, ys = [fmean(x for x, _ in part) for part in parts], [of(y for _, y in part) for part in parts]
    middle_x, middle_y = fmean(xs), fmean(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    found = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - middle_y - found * (x - middle_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    error = math.sqrt(rest / max(1, len(xs) - 2) / spread)
    hour = 3600 / middle_y
    return found * hour, 2.31 * error * hour  # Student's t for 8 degrees of freedom


def document(port: int) -> str:
    """A gateway; the answers of its routes are words that occur nowhere else in the text."""
    routes = [respond(f"r{number}", f"/r{number}", f"edit-{-number}-") for number in range(ROUTES)]
    return yaml.safe_dump(gateway(port=port, routes=[*routes, respond("main", "/", "edge")]))


def change(plane: Plane, text: str, until: float) -> tuple[int, str]:
    """Edit one route after the other; how often, and the last word. In a thread of its own."""
    bodies, begun, count = [f"edit-{-number}-" for number in range(ROUTES)], time.monotonic(), 0
    while time.monotonic() < until:
        count += 1
        place, body = count % ROUTES, f"edit-{count}-"
        text = text.replace(bodies[place], body)
        bodies[place] = body
        plane.write(text)
        time.sleep(max(0.0, begun + count / CHANGES_PER_SECOND - time.monotonic()))
    return count, f"edit-{count}-"


async def watch(plane: Plane, process: psutil.Process, until: float) -> list[Sample]:
    found = []
    while time.monotonic() < until:
        await asyncio.sleep(SAMPLE_SECONDS)
        found.append(await asyncio.to_thread(sample, plane, process))
    return found


async def soak(plane: Plane, text: str, seconds: float) -> tuple[list[Sample], list[Client], int]:
    """Load the control plane for so long; what was seen of it."""
    authority = Authority.open(plane.state)
    clients, random_ = [], random.Random(1)
    for number in range(STREAMS):
        issued = authority.issue_node(f"n{number}", "edge", {"role": "edge"})
        keys = grpc.ssl_channel_credentials(authority.trust_bundle, issued.key, issued.certificate)
        clients.append(Client(f"n{number}", plane.xds, keys))
    tasks = [asyncio.create_task(client.live(random_)) for client in clients]
    end = time.monotonic() + seconds
    try:
        (count, word), samples = await asyncio.gather(
            asyncio.to_thread(change, plane, text, end), watch(plane, psutil.Process(plane.child.pid), end)
        )
        async with asyncio.timeout(30):
            while not all(word.encode() in client.last for client in clients):  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.1)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    return samples, clients, count


@pytest.mark.soak
def test_memory_and_counts_stay_level_under_change(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seconds = 60 * request.config.getoption("--soak-minutes")
    with Plane(tmp_path, insecure=False) as plane:
        text = document(free_port())
        plane.write(text)
        plane.start().ready()
        samples, clients, changes = asyncio.run(soak(plane, text, seconds))
        nacks, problems, output = plane.metric("controlplane_nacks_total"), plane.problems(), plane.output()
        assert plane.stop() == 0
    warm_up = min(WARM_UP, seconds / 3)
    settled = [one for one in samples if one.at >= samples[0].at + warm_up]
    memory, interval = slope([(one.at, one.rss) for one in settled], fmean)
    # What waits for the collector is in every sample but the lowest of some minutes, and is no growth.
    blocks, blocks_interval = slope([(one.at, one.blocks) for one in settled], min)
    errors = [error for client in clients for error in client.errors]
    print(
        f"\n{seconds / 60:g} min, {changes} changes, {sum(c.responses for c in clients)} responses, {len(errors)} errors"
    )
    print(f"RSS {settled[0].rss / 1e6:.1f} -> {settled[-1].rss / 1e6:.1f} MB: {memory:+.2%} +- {interval:.2%} an hour")
    print(f"blocks {settled[0].blocks:.0f} -> {settled[-1].blocks:.0f}: {blocks:+.2%} +- {blocks_interval:.2%} an hour")
    print(
        f"descriptors {[one.fds for one in (settled[0], settled[-1])]}, tasks {[one.tasks for one in (settled[0], settled[-1])]}"
    )
    minutes = settled[:: round(60 / SAMPLE_SECONDS)]
    print(
        f"minute by minute: RSS {[round(one.rss / 1e6, 1) for one in minutes]} MB, blocks {[round(one.blocks) for one in minutes]}"
    )
    assert errors == []
    assert (nacks, problems) == (0, [])
    assert "stream failed" not in output
    assert changes > 0.5 * CHANGES_PER_SECOND * seconds
    assert (
        max(one.fds for one in settled) - min(one.fds for one in settled) <= STREAMS / 4
    )  # some are between two streams
    # A stream has two, and a busy machine may have half of the streams between two lives at once.
    assert max(one.tasks for one in settled) - min(one.tasks for one in settled) <= 2 * STREAMS
    assert settled[-1].rss < 1.2 * settled[0].rss
    if settled[-1].at - settled[0].at >= LONG:
        assert memory < 0.01 or memory - interval < 0, "memory grows"
        assert blocks < 0.01 or blocks - blocks_interval < 0, "objects grow"
