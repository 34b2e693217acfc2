"""From a RouteSpec that is created in a real cluster to the answer of a real Envoy, alone and among other changes.

The clock runs from the answer of the API server to the first request that the new route answers; the status of what changes
is written all the while, that of what was there before. Blocks of creations alternate between quiet and 20 changes a second of other RouteSpecs, so that what else the
machine does meets both. A host that nobody has answers 404; anything but that, and then 200, is an error.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench.cluster import (
    TEAM,
    Beside,
    Cluster,
    Session,
    Sight,
    bare_watch,
    cluster,
    gateway,
    host,
    route,
    routes_path,
    samples,
    specs_folder,
    version,
)
from tests.bench.probing import TIMEOUT_SECONDS, Client, bystander
from tests.bench.processes import Envoy, until
from tests.bench.result import Plan, Result, growth, median, percentile
from tests.bench.specs import LABELS
from tests.support.ports import free_port

SIZES, QUICK = (100, 1_000, 3_000), (20,)
MEDIAN_GOAL_MS, TAIL_GOAL_MS, LOADED_GOAL, GROWTH_GOAL = 15.0, 50.0, 1.2, 1.5
CHANGES_A_SECOND = 20
BLOCK = 20
"""Creations in a row, of one kind."""
PAUSES = (0.05, 0.15)
"""Seconds between creations, at random."""
_QUIET, _LOADED = "", ", 20 changes a second"


def run(plan: Plan) -> Iterator[Result]:
    """Latency, and what must not happen."""
    refused: list[Result] = []
    with cluster("routes", refused) as api:
        if api is None:
            yield from refused
            return
        medians: dict[int, float] = {}
        for size in plan.of(SIZES, QUICK):
            api.load_routes(size)
            yield from _measure(api, size, plan, medians)
        yield from growth("routes", "p50", medians, GROWTH_GOAL)


def _measure(api: Cluster, size: int, plan: Plan, medians: dict[int, float]) -> Iterator[Result]:
    folder, port = plan.folder / "routes", free_port()
    specs = specs_folder(folder, gateway(port, TEAM))
    waited: dict[str, list[float]] = {_QUIET: [], _LOADED: []}
    written: dict[str, float] = {}
    answers: Counter[int] = Counter()
    every: list[float] = []
    with ExitStack() as stack:
        control_plane = stack.enter_context(api.control_plane(specs, folder, specs=True, namespaces=[TEAM]))
        control_plane.ready()
        envoy = stack.enter_context(Envoy.of(control_plane, LABELS, folder))
        client = Client(port)
        stack.callback(client.close)
        last = host(api.routes - 1)
        until(lambda: envoy.check() or client.ask(last, "/").status == 200, "the last route answers", step=0.05)
        until(api.told, "what is there has its status", step=0.5)
        sight = Sight(stack.enter_context(Beside(bare_watch, api.folder, api.api.port, routes_path())))
        sight.quiet(1.0)
        others = stack.enter_context(Beside(changing, api.folder, api.api.port, size))
        watched = [(host(index), "/") for index in range(1, size, 2)]
        stop = stack.enter_context(bystander(port, watched[:: max(1, len(watched) // 200)]))
        session = stack.enter_context(closing(api.session()))
        for number in range(2 * -(-samples(plan) // BLOCK)):
            kind = (_QUIET, _LOADED)[number % 2]
            others.pipe.send(kind == _LOADED)
            time.sleep(0.5)
            for _ in range(min(BLOCK, samples(plan))):
                every.append(_create(api, session, client, written, answers))
                waited[kind].append(every[-1])
                sight.look()
        others.pipe.send(False)
        time.sleep(0.5)
        made = sum(others.said())
        seen = stop()
        bare = [one * 1000 for one in sight.after(written)]
    for kind, seconds in waited.items():
        yield Result("routes", size, f"p50{kind}", median(seconds) * 1000, "ms", MEDIAN_GOAL_MS)
        yield Result("routes", size, f"p99{kind}", percentile(seconds, 0.99) * 1000, "ms", TAIL_GOAL_MS)
        yield Result("routes", size, f"max{kind}", max(seconds) * 1000, "ms")
    medians[size] = median(waited[_QUIET]) * 1000
    loaded = median(waited[_LOADED]) * 1000 / medians[size]
    yield Result("routes", size, "p50 among changes against quiet", loaded, "x", LOADED_GOAL)
    yield Result("routes", size, "a bare watcher's p50", median(bare), "ms")
    beyond = [mine * 1000 - theirs for mine, theirs in zip(every, bare, strict=True)]
    yield Result("routes", size, "beyond a bare watcher, p99", percentile(beyond, 0.99), "ms")
    yield Result("routes", size, "other changes made", made, "")
    wrong = sum(count for status, count in answers.items() if status not in {200, 404})
    yield Result("routes", size, "errors of new routes", wrong, "", 0)
    wrong = sum(count for answer, count in seen.items() if answer.status != 200)
    yield Result("routes", size, "answers elsewhere", seen.total(), "")
    yield Result("routes", size, "unexpected answers elsewhere", wrong, "", 0)


def _create(api: Cluster, session: Session, client: Client, written: dict[str, float], answers: Counter[int]) -> float:
    """Create one more RouteSpec: seconds until it answers."""
    time.sleep(random.uniform(*PAUSES))
    index = api.routes
    api.routes += 1
    answer = session.send("POST", routes_path(), route(index, f"new-{index}"))
    began = time.monotonic()
    written[version(answer)] = began
    while True:
        got = client.ask(host(index), "/")
        now = time.monotonic()
        answers[got.status] += 1
        if got.status == 200 and got.body == f"new-{index}".encode():
            return now - began
        if now - began > TIMEOUT_SECONDS:
            raise TimeoutError(f"{host(index)} still answers {got}")


def changing(pipe: Connection, folder: Path, port: int, size: int) -> None:
    """For `Beside`: change RouteSpecs among the first `size` while told so; says how many when told to stop."""
    session, chance = Session(folder, port), random.Random(size)
    pipe.send(None)
    works, made, due = False, 0, 0.0
    while True:
        if pipe.poll(max(0.0, due - time.monotonic()) if works else None):
            works = pipe.recv()
            if not works:
                pipe.send(made)
                made = 0
            due = time.monotonic()
            continue
        index = chance.randrange(0, size, 2)
        path = f"{routes_path()}/{route(index)['metadata']['name']}"
        session.send("PATCH", path, route(index, f"body-{chance.random()}"), "application/merge-patch+json")
        made += 1
        due += 1 / CHANGES_A_SECOND
