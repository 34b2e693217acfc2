"""How long a control plane with many routes takes from the start of its process to its first push, and how much memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.pki.authority import Authority
from controlplane.pki.identity import server_uri
from tests.bench.processes import ControlPlane, until
from tests.bench.result import Plan, Result, exponent, median
from tests.bench.specs import LABELS, Shape, Specs
from tests.support.ports import free_port

SECONDS_GOAL, MEMORY_GOAL_MB = 12.0, 600.0
GOAL_SIZE = 20_000
_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_SCOPED_ROUTES = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"


def run(plan: Plan) -> Iterator[Result]:
    """Seconds and megabytes."""
    seconds: dict[int, float] = {}
    for size in plan.of((1_000, 5_000, GOAL_SIZE), (100,)):
        rounds = 3 if size == GOAL_SIZE else 1
        taken, used, peaks = zip(*(_load(size, plan) for _ in range(rounds)), strict=True)
        seconds[size] = median(taken)
        of_goal = size == GOAL_SIZE
        yield Result("load", size, "start to first push", seconds[size], "s", SECONDS_GOAL if of_goal else None)
        yield Result("load", size, "CPU until then", median(used), "s")
        yield Result("load", size, "peak memory", max(peaks), "MB", MEMORY_GOAL_MB if of_goal else None)
    if (slope := exponent(seconds)) is not None:
        yield Result("load", max(seconds), "exponent of start to first push", slope, "")


def _load(size: int, plan: Plan) -> tuple[float, float, float]:
    """Seconds and CPU seconds until the first push, and megabytes."""
    folder = plan.folder / "load"
    shutil.rmtree(folder, ignore_errors=True)
    specs = Specs(folder / "specs", Shape.HOSTS, size, free_port(), free_port())
    specs.write()
    with ControlPlane(specs.folder, folder) as control_plane:
        control_plane.ready()  # asking before that would cost it a handshake each time
        authority = Authority.open(control_plane.state)
        issued = authority.issue_node("bench-1", "bench", LABELS)
        credentials = grpc.ssl_channel_credentials(authority.trust_bundle, issued.key, issued.certificate)
        until(lambda: _first_push(control_plane, credentials, server_uri(authority.trust_domain)), "first push")
        taken, used = time.monotonic() - control_plane.started, control_plane.cpu_seconds()
        time.sleep(0.5)  # what is pushed next to the first answer counts for the peak
        return taken, used, control_plane.peak_memory_bytes() / 1e6


def _first_push(control_plane: ControlPlane, credentials: object, name: str) -> bool:
    """Ask for all shards once; whether they came."""
    control_plane.check()
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=_SCOPED_ROUTES)
    request.node.id, request.node.cluster = "bench-1", "bench"
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(control_plane.xds, credentials, options) as channel:
        call = channel.stream_stream(_METHOD, request_serializer=lambda message: message.SerializeToString())
        try:
            return bool(next(call(iter([request]), timeout=60), b""))
        except grpc.RpcError:
            return False
