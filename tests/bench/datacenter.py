"""From a health check in a real Consul to the proxy that obeys it, beyond the time that Consul takes to tell anybody.

The clock runs from Consul's answer to the write. A client with a blocking query of its own, in a process of its own, shows
when Consul tells it; what the control plane and the proxy add is the difference, change by change.
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection

import yaml

from tests.bench.cluster import Beside, samples, specs_folder
from tests.bench.fleet import backend
from tests.bench.probing import Answer, Client, wait_for
from tests.bench.processes import ControlPlane, Envoy, until
from tests.bench.result import Plan, Result, median, percentile
from tests.bench.specs import LABELS
from tests.support.consul import Consul
from tests.support.ports import free_port
from tests.support.tools import tool

SIZES, QUICK = (100,), (5,)
BEYOND_GOAL_MS = 20.0
PAUSES = (0.55, 0.7)
"""Seconds between changes, at random: each is a first one after quiet. One that follows another of the same service within
half a second waits until that is over, so that a service that flaps costs little."""

_GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: bench, namespace: bench}}
spec:
  fleet: {{selector: {{matchLabels: {{role: bench}}}}}}
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
"""
_ROUTE = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {{name: s{index}, namespace: bench}}
spec:
  gateway: bench/bench
  backends: [{{name: only, members: [{{consul: {{datacenter: bench, service: s{index}}}}}]}}]
  routes:
    - name: only
      hosts: [s{index}.example.com]
      match: [{{path: {{prefix: /}}}}]
      public: true
      to: [{{backend: only}}]
"""


def run(plan: Plan) -> Iterator[Result]:
    """Latency with this many services."""
    if tool("consul") is None:
        yield Result("consul", 0, "not measured: no consul here: make tools", 0.0, "")
        return
    for size in plan.of(SIZES, QUICK):
        yield from _measure(size, plan)


def _measure(size: int, plan: Plan) -> Iterator[Result]:
    folder, port, ports = plan.folder / "consul", free_port(), (free_port(), free_port())
    documents = [_GATEWAY.format(port=port), *(_ROUTE.format(index=index) for index in range(size))]
    specs = specs_folder(folder, *documents)
    with ExitStack() as stack:
        consul = Consul(folder / "server").start()
        stack.callback(consul.kill)
        for index in range(size):
            for name, at in zip("ab", ports, strict=True):
                consul.register(f"s{index}", "127.0.0.1", at, node=f"node-{name}")
        token = folder / "token"
        token.write_text(consul.token())
        configuration = folder / "controlplane.yaml"
        source = {"name": "bench", "address": consul.address, "tokenFile": str(token)}
        configuration.write_text(yaml.safe_dump({"sources": {"consul": [source]}}))
        for name, at in zip("ab", ports, strict=True):
            stack.enter_context(backend(at, folder, name))
        control_plane = stack.enter_context(ControlPlane(specs, folder, "--config", str(configuration)))
        control_plane.ready()
        envoy = stack.enter_context(Envoy.of(control_plane, LABELS, folder))
        client = Client(port)
        for index in (0, size - 1):
            hosted = f"s{index}.example.com"
            until(lambda: envoy.check() or client.ask(hosted, "/").status == 200, f"{hosted} answers")  # noqa: B023
        asker = stack.enter_context(Beside(blocking_query, consul.port, token.read_text(), "s0"))
        told, used = _changes(consul, client, asker, samples(plan))
        client.close()
    beyond = [(ours - bare) * 1000 for ours, bare in zip(used, told, strict=True)]
    yield Result("consul", size, "p50", median(used) * 1000, "ms")
    yield Result("consul", size, "p99", percentile(used, 0.99) * 1000, "ms")
    yield Result("consul", size, "a bare blocking query's p50", median(told) * 1000, "ms")
    yield Result("consul", size, "a bare blocking query's p99", percentile(told, 0.99) * 1000, "ms")
    yield Result("consul", size, "beyond it, p50", median(beyond), "ms", BEYOND_GOAL_MS)
    yield Result("consul", size, "beyond it, p99", percentile(beyond, 0.99), "ms")


def _changes(consul: Consul, client: Client, asker: Beside, count: int) -> tuple[list[float], list[float]]:
    """Seconds until the bare query was answered, and until the proxy obeyed, of changes of one instance's health.

    Two instances are asked in turns: one that fails is gone when the other one answers three times in a row.
    """
    told, used = [], []
    for number in range(count):
        time.sleep(random.uniform(*PAUSES))
        asker.said()
        consul.check("s0", "node-a", "passing" if number % 2 else "critical")
        began = time.monotonic()
        in_a_row = 1 if number % 2 else 3
        wanted = b"a" if number % 2 else b"b"
        used.append(_in_a_row(client, wanted, in_a_row) - began)
        told.append(asker.pipe.recv() - began)
    return told, used


def _in_a_row(client: Client, body: bytes, count: int) -> float:
    """When the same backend has answered so often without another in between."""
    seen = 0

    def expected(answer: Answer) -> bool:
        nonlocal seen
        seen = seen + 1 if answer.body == body else 0
        return seen == count

    return wait_for(client, "s0.example.com", "/", expected)


def blocking_query(pipe: Connection, port: int, token: str, service: str) -> None:
    """For `Beside`: ask for the healthy instances of a service again and again; says when each answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    index = "0"
    while True:
        path = f"/v1/health/service/{service}?passing=true&wait=30s&index={index}"
        connection.request("GET", path, headers={"X-Consul-Token": token})
        answer = connection.getresponse()
        answer.read()
        now, before, index = time.monotonic(), index, answer.headers["X-Consul-Index"]
        if index != before:
            pipe.send(now)
