"""From an EndpointSlice in a real cluster to the proxy that uses it: how long, and what it costs the control plane.

The clock runs from the answer of the API server to the first answer by an endpoint that the slice brought: five of ten are
replaced, so a client in a tight loop meets one within a few requests. A watcher that does nothing else shows what of it is
the cluster's. The proxy has every service as a cluster of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench.cluster import (
    ENDPOINTS,
    Beside,
    Cluster,
    Sight,
    bare_watch,
    cluster,
    samples,
    slice_path,
    specs_folder,
    version,
)
from tests.bench.probing import Client, bystander, wait_for
from tests.bench.processes import ControlPlane, Envoy, until
from tests.bench.result import Plan, Result, growth, median, percentile
from tests.bench.specs import LABELS
from tests.support.ports import free_port

SIZES, QUICK = (100, 5_000), (10,)
MEDIAN_GOAL_MS, TAIL_GOAL_MS, CPU_GROWTH_GOAL, GROWTH_GOAL = 10.0, 40.0, 1.5, 1.5
SYNC_GOAL_SECONDS, SYNC_GOAL_MB, SYNC_SIZE = 8.0, 400.0, 5_000
NEW, QUICK_NEW = 20, 3
"""RouteSpecs that name a service which nobody named before, one after the other."""
PAUSE = 0.05
"""Seconds between changes: each is one of its own."""

_GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: bench, namespace: services}}
spec:
  fleet: {{selector: {{matchLabels: {{role: bench}}}}}}
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
"""
_ROUTE = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {{name: s{index}, namespace: services}}
spec:
  gateway: services/bench
  backends:
    - name: only
      members: [{{kubernetes: {{cluster: bench, service: services/s{index}, port: http}}}}]
      loadBalancer: {{policy: roundRobin}}
  routes:
    - name: only
      hosts: [s{index}.example.com]
      match: [{{path: {{prefix: /}}}}]
      public: true
      to: [{{backend: only}}]
"""
_HTTP = """\
        - {match}
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: {name}
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {name}}}}}}}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"""


def run(plan: Plan) -> Iterator[Result]:
    """Latency and CPU."""
    refused: list[Result] = []
    with cluster("endpoints", refused) as api:
        if api is None:
            yield from refused
            return
        medians: dict[int, float] = {}
        costs: dict[int, float] = {}
        named: dict[int, float] = {}
        for size in plan.of(SIZES, QUICK):
            api.load_services(size + NEW)
            yield from _measure(api, size, plan, medians, costs, named)
        yield from growth("endpoints", "p50", medians, GROWTH_GOAL)
        yield from growth("endpoints", "CPU of a change", costs, CPU_GROWTH_GOAL)
        yield from growth("endpoints", "CPU of a service that is named first", named, CPU_GROWTH_GOAL)


def sync(plan: Plan) -> Iterator[Result]:
    """From the start of the process, with nothing on disk, to having every endpoint; and the largest memory until then."""
    refused: list[Result] = []
    with cluster("sync", refused) as api:
        if api is None:
            yield from refused
            return
        for size in plan.of((SYNC_SIZE,), QUICK):
            api.load_services(size)
            rounds = [_sync(api, size, plan.folder / "sync") for _ in range(1 if plan.quick else 3)]
            taken, used, peaks = zip(*rounds, strict=True)
            yield Result("sync", size, "start to every endpoint", median(taken), "s", SYNC_GOAL_SECONDS)
            yield Result("sync", size, "CPU until then", median(used), "s")
            yield Result("sync", size, "peak memory", max(peaks), "MB", SYNC_GOAL_MB)


def _sync(api: Cluster, size: int, folder: Path) -> tuple[float, float, float]:
    specs = specs_folder(folder, *_documents(size, free_port()))
    with api.control_plane(specs, folder) as control_plane:
        control_plane.ready()
        expected = {"services": size, "endpoints": size * ENDPOINTS}
        until(lambda: _delivered(control_plane) == expected, "every endpoint is here")
        taken, used = time.monotonic() - control_plane.started, control_plane.cpu_seconds()
        time.sleep(0.5)  # what is done next to the first sync counts for the peak
        return taken, used, control_plane.peak_memory_bytes() / 1e6


def _delivered(control_plane: ControlPlane) -> dict[str, int]:
    found = control_plane.asked("/v1/sources")["sources"]
    (source,) = (one for one in found if one["name"] == "kubernetes/bench")
    return {name: source[name] for name in ("services", "endpoints")}


def _measure(
    api: Cluster, size: int, plan: Plan, medians: dict[int, float], costs: dict[int, float], named: dict[int, float]
) -> Iterator[Result]:
    folder, port = plan.folder / "endpoints", free_port()
    specs = specs_folder(folder, *_documents(size, port))
    with ExitStack() as stack:
        stack.enter_context(Envoy(_pods(), folder, "pods"))
        control_plane = stack.enter_context(api.control_plane(specs, folder))
        control_plane.ready()
        envoy = stack.enter_context(Envoy.of(control_plane, LABELS, folder))
        client = Client(port)
        for index in (0, size // 2, size - 1):
            until(lambda host=f"s{index}.example.com": _answers(client, host, envoy), f"s{index} answers", step=0.05)
        slices = slice_path(0).rpartition("/")[0]
        sight = Sight(stack.enter_context(Beside(bare_watch, api.folder, api.api.port, slices)))
        watched = [(f"s{index}.example.com", "/") for index in range(1, size, 2)]
        with bystander(port, watched[:: max(1, len(watched) // 200)]) as stop:
            waited, written = _changes(api, client, size, samples(plan), sight)
            seen = stop()
        bare = [one * 1000 for one in sight.after(written)]
        idle = _idle(control_plane, 1.0 if plan.quick else 5.0)
        costs[size] = _cost(api, control_plane, size, samples(plan), idle) * 1000
        first, used = _name(control_plane, client, specs, range(size, size + (QUICK_NEW if plan.quick else NEW)), idle)
        named[size] = used * 1000
        client.close()
    ours = [one * 1000 for one in waited]
    medians[size] = median(ours)
    yield Result("endpoints", size, "p50", medians[size], "ms", MEDIAN_GOAL_MS)
    yield Result("endpoints", size, "p99", percentile(ours, 0.99), "ms", TAIL_GOAL_MS)
    yield Result("endpoints", size, "max", max(ours), "ms")
    yield Result("endpoints", size, "a bare watcher's p50", median(bare), "ms")
    yield Result("endpoints", size, "a bare watcher's p99", percentile(bare, 0.99), "ms")
    beyond = [mine - theirs for mine, theirs in zip(ours, bare, strict=True)]
    yield Result("endpoints", size, "beyond a bare watcher, p99", percentile(beyond, 0.99), "ms")
    yield Result("endpoints", size, "answers elsewhere", seen.total(), "")
    wrong = sum(count for answer, count in seen.items() if answer.status != 200)
    yield Result("endpoints", size, "unexpected answers elsewhere", wrong, "", 0)
    yield Result("endpoints", size, "CPU of a change", costs[size], "ms")
    yield Result("endpoints", size, "CPU when idle", idle * 1000, "ms/s")
    yield Result("endpoints", size, "a service that is named first, p50", median(first) * 1000, "ms")
    yield Result("endpoints", size, "CPU of a service that is named first", named[size], "ms")


def _changes(api: Cluster, client: Client, size: int, count: int, sight: Sight) -> tuple[list[float], dict[str, float]]:
    """Seconds that each change took to be used, and when which version was written."""
    chance, session = random.Random(size), api.session()
    waited: list[float] = []
    written: dict[str, float] = {}
    for _ in range(count):
        time.sleep(chance.uniform(PAUSE, 2 * PAUSE))
        index = chance.randrange(0, size, 2)
        turn, answer = api.turn(session, index)
        began = time.monotonic()
        body = f"turn-{turn}".encode()
        waited.append(wait_for(client, f"s{index}.example.com", "/", lambda got, body=body: got.body == body) - began)
        written[version(answer)] = began
        sight.look()
    session.close()
    return waited, written


def _idle(control_plane: ControlPlane, seconds: float) -> float:
    """CPU seconds a second."""
    time.sleep(1.0)
    before = control_plane.cpu_seconds()
    time.sleep(seconds)
    return (control_plane.cpu_seconds() - before) / seconds


def _cost(api: Cluster, control_plane: ControlPlane, size: int, count: int, idle: float) -> float:
    """CPU seconds of the control plane a change, beyond those when idle."""
    chance, session = random.Random(size + 1), api.session()
    began, before = time.monotonic(), control_plane.cpu_seconds()
    for _ in range(count):
        index = chance.randrange(0, size, 2)
        api.turn(session, index)
        time.sleep(PAUSE)
    session.close()
    time.sleep(0.5)  # what is written behind belongs to it
    return (control_plane.cpu_seconds() - before - idle * (time.monotonic() - began)) / count


def _name(
    control_plane: ControlPlane, client: Client, specs: Path, indices: range, idle: float
) -> tuple[list[float], float]:
    """Seconds until a document answers that names a service of the cluster which nobody named before, and CPU seconds of one.

    From the rename that saves it: the service and its slices are read, and the route waits for them.
    """
    waited: list[float] = []
    began, before = time.monotonic(), control_plane.cpu_seconds()
    for index in indices:
        time.sleep(PAUSE)
        beside = specs / f".new-{index}"
        beside.write_text(_ROUTE.format(index=index))
        beside.rename(specs / f"new-{index}.yaml")
        saved = time.monotonic()
        waited.append(wait_for(client, f"s{index}.example.com", "/", lambda got: got.status == 200) - saved)
    time.sleep(0.5)  # what is written behind belongs to it
    used = control_plane.cpu_seconds() - before - idle * (time.monotonic() - began)
    return waited, used / len(indices)


def _answers(client: Client, host: str, envoy: Envoy) -> bool:
    envoy.check()
    return client.ask(host, "/").status == 200


def _documents(size: int, port: int) -> Iterator[str]:
    yield _GATEWAY.format(port=port)
    for index in range(size):
        yield _ROUTE.format(index=index)


def _pods() -> str:
    """One Envoy that is every pod of the namespace, and answers what its address says."""
    chains = (("turn-0", "10.200.128.0", 18), ("turn-1", "10.200.192.0", 18))
    listener = "static_resources:\n  listeners:\n"
    listener += "    - address: {socket_address: {address: 0.0.0.0, port_value: 8080}}\n      filter_chains:\n"
    for name, prefix, length in chains:
        match = f"filter_chain_match: {{prefix_ranges: [{{address_prefix: {prefix}, prefix_len: {length}}}]}}"
        listener += _HTTP.format(name=name, match=match)
    return listener + _HTTP.format(name="stays", match="filter_chain_match: {}")
