"""Clients with a good certificate and bad intentions: each is ended with a reason, and nobody else waits for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.xds import types
from tests.e2e.plane import Plane, answers, gateway, respond
from tests.e2e.raw import AGGREGATED, Client, Live, issued
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

LATE = 10.0
"""Seconds that a change may take longer than without the hostile one, on a machine that has a lot else to do."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("hostile"), insecure=False) as plane:
        written(plane, "first")
        yield plane.start().ready()


PORT = free_port()


def written(plane: Plane, body: str) -> None:
    plane.write(gateway(port=PORT, routes=[respond("main", "/", body)]))


class Good:
    """A node that takes everything: the time from each edit to its arrival."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._client = Client(plane, issued(plane, "good", role="edge"), "good")
        self._number = 0

    def __enter__(self) -> Good:
        self._client.__enter__()
        self._live = Live(self._client, types.SCOPED_ROUTES)
        self._live.receive()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.close()
        self._client.__exit__()

    def latency(self) -> float:
        """Seconds from one edit until it is here."""
        self._number += 1
        word = f"good-{time.monotonic_ns()}"
        written(self._plane, word)
        began = time.monotonic()
        while word.encode() not in self._live.receive().SerializeToString():
            pass
        return time.monotonic() - began


Message = discovery_pb2.DeltaDiscoveryRequest
NODE = {"id": "bad"}


def subscriptions() -> Iterator[bytes]:
    """100,000 names, some thousands at a time."""
    for number in range(20):
        names = [f"name-{number}-{index}" for index in range(5_000)]
        yield Message(type_url=types.LOAD_ASSIGNMENT, node=NODE, resource_names_subscribe=names).SerializeToString()


def at_once() -> Iterator[bytes]:
    names = [f"name-{index}" for index in range(100_000)]
    yield Message(type_url=types.LOAD_ASSIGNMENT, node=NODE, resource_names_subscribe=names).SerializeToString()


def junk_types() -> Iterator[bytes]:
    for number in range(100):
        url = f"type.googleapis.com/envoy.junk.Type{number}"
        yield Message(type_url=url, node=NODE, resource_names_subscribe=["a"]).SerializeToString()


def metadata() -> Iterator[bytes]:
    node = {**NODE, "metadata": {"x": "y" * (8 << 20)}}
    yield Message(type_url=types.CLUSTER, node=node).SerializeToString()


def huge() -> Iterator[bytes]:
    yield Message(type_url="x" * (17 << 20), node=NODE).SerializeToString()


def long_name() -> Iterator[bytes]:
    yield Message(
        type_url=types.LOAD_ASSIGNMENT, node=NODE, resource_names_subscribe=["x" * 100_000]
    ).SerializeToString()


def flood() -> Iterator[bytes]:
    """As fast as it can, with nonces that nobody gave it: more than the burst, and faster than what comes back of it."""
    for number in range(400_000):
        yield Message(type_url=types.CLUSTER, node=NODE, response_nonce=f"bad{number}").SerializeToString()


def garbage() -> Iterator[bytes]:
    yield b"\xff" * 1000


REFUSED = {
    subscriptions: (grpc.StatusCode.RESOURCE_EXHAUSTED, "names"),
    at_once: (grpc.StatusCode.RESOURCE_EXHAUSTED, "names"),
    junk_types: (grpc.StatusCode.RESOURCE_EXHAUSTED, "types"),
    metadata: (grpc.StatusCode.INVALID_ARGUMENT, "the node has more than"),
    huge: (grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    long_name: (grpc.StatusCode.INVALID_ARGUMENT, "longer than"),
    flood: (grpc.StatusCode.RESOURCE_EXHAUSTED, "asks too much"),
    garbage: (grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no"),
}


@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: attack.__name__)
def test_it_is_ended_with_a_reason_and_the_others_do_not_wait(
    plane: Plane, attack: Callable[[], Iterator[bytes]]
) -> None:
    with Good(plane) as good, Client(plane, issued(plane, "bad", role="edge"), "bad") as bad:
        quiet = max(good.latency() for _ in range(5))
        call = bad.channel.stream_stream(f"{AGGREGATED}DeltaAggregatedResources")(attack(), timeout=4 * PATIENCE)
        worst = max(good.latency() for _ in range(5))
        with contextlib.suppress(grpc.RpcError):
            for _ in call:
                pass
        code, reason = REFUSED[attack]
        assert (call.code(), reason in call.details()) == (code, True), call.details()
        assert worst < quiet + LATE
    labels = [line for line in plane.get("/metrics")[1].splitlines() if "junk" in line or 'type="Type' in line]
    assert labels == []


def test_a_client_that_only_comes_and_goes_uses_up_its_own_share(plane: Plane) -> None:
    process = psutil.Process(plane.child.pid)
    with Good(plane) as good:
        good.latency()
        before = process.num_fds()
        stop = threading.Event()

        def flap() -> None:
            while not stop.is_set():
                with Client(plane, issued(plane, "flapping", role="edge"), "flapping") as client:
                    live = Live(client)
                    with contextlib.suppress(grpc.RpcError):
                        live.receive()
                    live.close()

        threads = [threading.Thread(target=flap) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert max(good.latency() for _ in range(20)) < LATE
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        until(lambda: [one["id"] for one in plane.json("/v1/nodes")["nodes"]] == ["good"], "they are gone")
        until(lambda: process.num_fds() <= before + 2, "their descriptors are free")


@pytest.mark.parametrize("answer", ["nothing", "NACK"])
def test_a_client_that_never_agrees_holds_up_itself_alone(plane: Plane, answer: str) -> None:
    """It may say that it is of the same kind as everybody else."""
    with Good(plane) as good, Client(plane, issued(plane, "bad", role="edge"), "bad") as bad:
        stop = threading.Event()
        live = Live(bad, types.SCOPED_ROUTES)
        seen: list[Any] = []

        def refuse() -> None:
            with contextlib.suppress(grpc.RpcError, StopIteration):
                while not stop.is_set():
                    response = live.next()
                    seen.append(response.nonce)
                    if answer == "NACK":
                        live.nack(response, "I do not like it")

        thread = threading.Thread(target=refuse)
        thread.start()
        try:
            assert max(good.latency() for _ in range(30)) < LATE
            expected = "nack" if answer == "NACK" else "pending"
            until(lambda: _states(plane, "bad") == [expected], f"the node is shown as {expected}")
        finally:
            stop.set()
            live.close()
            thread.join()
    written(plane, "after")
    with Client(plane, issued(plane, "later", role="edge"), "later") as later:
        until(lambda: b"after" in _everything(later), "a new client has the newest")


def _states(plane: Plane, node: str) -> list[str]:
    """Where a node stands, by type."""
    return [kind["state"] for one in plane.json("/v1/nodes")["nodes"] if one["id"] == node for kind in one["types"]]


def _everything(client: Client) -> bytes:
    return b"".join(one.SerializeToString() for one in client.ask(types.SCOPED_ROUTES))


@pytest.mark.envoy
def test_an_envoy_is_served_beside_one_that_refuses_everything(tmp_path: Path) -> None:
    port = free_port()
    with Plane(tmp_path, insecure=False) as plane:
        plane.write(gateway(port=port))
        plane.start().ready().envoy().ready()
        until(lambda: answers(port, "edge"), "it answers")
        (envoy,) = plane.json("/v1/nodes")["nodes"]
        major, minor, patch = envoy["envoy"].split("-")[0].split(".")[:3]
        says = {
            "user_agent_name": "envoy",
            "user_agent_build_version": {
                "version": {"major_number": int(major), "minor_number": int(minor), "patch": int(patch)}
            },
        }
        with Client(plane, issued(plane, "bad", role="edge"), "bad", says=says) as bad:
            live = Live(bad, types.SCOPED_ROUTES)
            for number in range(10):
                plane.write(gateway(port=port, routes=[respond("main", "/", str(number))]))
                with contextlib.suppress(grpc.RpcError):
                    live.nack(live.next(), "no")
                until(lambda number=number: answers(port, str(number)), "the Envoy has it")
            live.close()
