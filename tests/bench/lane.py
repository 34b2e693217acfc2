"""Endpoints beside a large commit: from an EndpointSlice in a real cluster to the client of its load assignment, while the
control plane compiles and sends 20,000 changed shards, and while it does not.

What is measured is the control plane: clients are raw streams, for an Envoy that takes 20,000 shards over is late by itself.
One takes the shards and acknowledges them, in a process of its own; the other waits for one load assignment at a time.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.pki.authority import Authority
from controlplane.xds import types
from tests.bench.cluster import Beside, Cluster, Session, cluster, samples, specs_folder
from tests.bench.crowd import METHOD
from tests.bench.result import Plan, Result, median, percentile
from tests.bench.specs import LABELS
from tests.support.ports import free_port

SIZES, QUICK = (20_000,), (200,)
SERVICES, COMMITS = 10, 3
DELAY_GOAL_MS = 20.0
PAUSES = (0.02, 0.06)
"""Seconds between changes of endpoints, at random."""

_GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: bench, namespace: services}}
spec:
  fleet: {{selector: {{matchLabels: {{role: bench}}}}}}
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
  defaults: {{timeouts: {{request: {seconds}s}}}}
  backends:
"""
_BACKEND = (
    "    - {{name: b{index}, members: [{{kubernetes: {{cluster: bench, service: services/s{index}, port: http}}}}]}}\n"
)
_ROUTE = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {{name: r{index}, namespace: services}}
spec:
  gateway: services/bench
  routes:
    - {{name: only, hosts: [r{index}.example.com], match: [{{path: {{prefix: /}}}}], public: true, to: [{{backend: b{backend}}}]}}
"""


def run(plan: Plan) -> Iterator[Result]:
    """Milliseconds, and how many more among a large commit."""
    refused: list[Result] = []
    with cluster("lane", refused) as api:
        if api is None:
            yield from refused
            return
        api.load_services(SERVICES)
        for size in plan.of(SIZES, QUICK):
            quiet, among = _measure(api, size, plan)
            yield Result("lane", size, "p50", median(quiet), "ms")
            yield Result("lane", size, "p99", percentile(quiet, 0.99), "ms")
            yield Result("lane", size, "changes among commits", len(among), "")
            yield Result("lane", size, "p50 among commits", median(among), "ms")
            yield Result("lane", size, "p99 among commits", percentile(among, 0.99), "ms")
            yield Result("lane", size, "max among commits", max(among), "ms")
            delay = percentile(among, 0.99) - median(quiet)
            yield Result("lane", size, "p99 among commits beyond p50", delay, "ms", DELAY_GOAL_MS)


def _measure(api: Cluster, size: int, plan: Plan) -> tuple[list[float], list[float]]:
    """Milliseconds of every change of endpoints in quiet, and among commits."""
    folder, port = plan.folder / "lane", free_port()
    routes = (_ROUTE.format(index=index, backend=index % SERVICES) for index in range(size))
    specs = specs_folder(folder, *routes)
    _save(specs, port, 5)
    with ExitStack() as stack:
        session = stack.enter_context(closing(api.session()))
        control_plane = stack.enter_context(api.control_plane(specs, folder))
        control_plane.ready()
        said = control_plane.xds, control_plane.state
        shards = stack.enter_context(Beside(taking, *said, size))
        endpoints = stack.enter_context(closing(_Client(*said, "bench-1", types.LOAD_ASSIGNMENT)))
        assert endpoints.take() == SERVICES
        quiet = [_change(api, session, endpoints) for _ in range(samples(plan))]
        among = []
        for number in range(1 if plan.quick else COMMITS):
            _save(specs, port, 6 + number)
            while not shards.pipe.poll():
                among.append(_change(api, session, endpoints))
            shards.said()
    return quiet, among


def _save(specs: Path, port: int, seconds: int) -> None:
    """The gateway, with a timeout that is in every route."""
    beside = specs / ".gateway"
    beside.write_text(
        _GATEWAY.format(port=port, seconds=seconds) + "".join(_BACKEND.format(index=index) for index in range(SERVICES))
    )
    beside.rename(specs / "gateway.yaml")


def _change(api: Cluster, session: Session, endpoints: _Client) -> float:
    """Milliseconds from a written slice to its load assignment."""
    time.sleep(random.uniform(*PAUSES))
    index = random.randrange(SERVICES)
    api.turn(session, index)
    began = time.monotonic()
    while not endpoints.take():
        """A response without resources."""
    return (time.monotonic() - began) * 1000


class _Client:
    """A stream that asks for all of one type, and acknowledges."""

    def __init__(self, target: str, state: Path, node: str, type_url: str) -> None:
        authority = Authority.open(state)
        issued = authority.issue_node(node, "bench", LABELS)
        credentials = grpc.ssl_channel_credentials(authority.trust_bundle, issued.key, issued.certificate)
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.secure_channel(target, credentials, options)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        method = self._channel.stream_stream(METHOD, request_serializer=lambda message: message.SerializeToString())
        self._call = method(iter(self._requests.get, None), timeout=600)
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=["*"])
        request.node.id, request.node.cluster, request.node.user_agent_name = node, "bench", "envoy"
        self._requests.put(request)

    def take(self) -> int:
        """Wait for a response, acknowledge it; the resources that it held."""
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(next(self._call))
        ack = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        self._requests.put(ack)
        return len(response.resources)

    def close(self) -> None:
        """The stream ends."""
        self._call.cancel()
        self._channel.close()


def taking(pipe: Connection, target: str, state: Path, size: int) -> None:
    """For `Beside`: take shards; says whenever so many have come after the first answer."""
    client = _Client(target, state, "bench-2", types.SCOPED_ROUTES)
    client.take()
    pipe.send(None)
    while True:
        came = 0
        while came < size:
            came += client.take()
        pipe.send(came)
