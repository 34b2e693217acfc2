"""What becomes of 1,000 RouteSpecs that are created at once, told in their status: how soon, and in how many writes.

A watcher that does nothing else counts: every event of an object after the first is a write of its status. The clock runs
from the answer to the last creation to the event with which the last object is compiled and programmed in a real Envoy.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench.cluster import (
    BURST,
    Beside,
    Cluster,
    Session,
    cluster,
    gateway,
    host,
    route,
    routes_path,
    specs_folder,
)
from tests.bench.probing import Client
from tests.bench.processes import ControlPlane, Envoy, until
from tests.bench.result import Plan, Result
from tests.bench.specs import LABELS
from tests.support.ports import free_port

SIZES, QUICK = (1_000,), (20,)
SECONDS_GOAL, WRITES_GOAL = 3.0, 2
IDLE_SECONDS, QUICK_IDLE_SECONDS = 20.0, 3.0
_NAME = "b"


def run(plan: Plan) -> Iterator[Result]:
    """Seconds and writes."""
    refused: list[Result] = []
    with cluster("status", refused) as api:
        if api is None:
            yield from refused
            return
        for size in plan.of(SIZES, QUICK):
            yield from _measure(api, size, plan)


def _measure(api: Cluster, size: int, plan: Plan) -> Iterator[Result]:
    folder, port = plan.folder / "status", free_port()
    specs = specs_folder(folder, gateway(port, BURST))
    with ExitStack() as stack:
        control_plane = stack.enter_context(api.control_plane(specs, folder, specs=True, namespaces=[BURST]))
        control_plane.ready()
        envoy = stack.enter_context(Envoy.of(control_plane, LABELS, folder))
        # One that is there, and told, before the clock starts: the proxy is connected, and the lease is held.
        watcher = stack.enter_context(Beside(true_statuses, api.folder, api.api.port, routes_path(BURST)))
        api.write([("POST", routes_path(BURST), route(size, name=_NAME))])
        client = Client(port)
        until(lambda: envoy.check() or client.ask(host(size, _NAME), "/").status == 200, "the first route answers")
        client.close()
        until(lambda: any(true for _, true, _ in watcher.said()), "its status is true", step=0.1)
        began, used = time.monotonic(), control_plane.cpu_seconds()
        created = api.write([("POST", routes_path(BURST), route(index, name=_NAME)) for index in range(size)])
        writes, done = _follow(watcher, size, control_plane)
        used = control_plane.cpu_seconds() - used
        time.sleep(QUICK_IDLE_SECONDS if plan.quick else IDLE_SECONDS)
        idle = len(watcher.said())
    yield Result("status", size, "last created to all true", done - created, "s", SECONDS_GOAL)
    yield Result("status", size, "first created to last created", created - began, "s")
    yield Result("status", size, "writes of an object, the most", max(writes.values()), "", WRITES_GOAL)
    yield Result("status", size, "writes of an object, the mean", writes.total() / size, "")
    yield Result("status", size, "CPU of the control plane meanwhile", used, "s")
    yield Result("status", size, "writes when nothing changes", idle, "", 0)


def _follow(watcher: Beside, size: int, control_plane: ControlPlane) -> tuple[Counter[str], float]:
    """Writes of each object until all are true, and when that was."""
    events: Counter[str] = Counter()
    true: dict[str, float] = {}
    deadline = time.monotonic() + 120
    while len(true) < size:
        control_plane.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(true)} of {size} statuses are true")
        time.sleep(0.02)
        for name, is_true, at in watcher.said():
            events[name] += 1
            if is_true:
                true.setdefault(name, at)
            else:
                true.pop(name, None)
    return Counter({name: count - 1 for name, count in events.items()}), max(true.values())


def true_statuses(pipe: Connection, folder: Path, port: int, path: str) -> None:
    """For `Beside`: of every event the name of the object, whether it is compiled and programmed, and when it came."""
    for line in Session(folder, port).watch(path):
        now = time.monotonic()
        if not line:
            pipe.send(None)
            continue
        found = json.loads(line)["object"]
        conditions = {one["type"]: one["status"] for one in found.get("status", {}).get("conditions", ())}
        pipe.send((found["metadata"]["name"], conditions == {"Compiled": "True", "Programmed": "True"}, now))
