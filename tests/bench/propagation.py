"""From a saved file to the first answer by it: file system, watcher, parser, compiler, xDS, Envoy, all of them real.

The clock runs from the return of the rename to the moment at which a client in a tight loop has the new answer. What the
rename itself takes is the file system's affair, and is shown beside it: it waits when the journal of the disk is being
written, for whomever. Half of the edits change a body; the other half change the path, which makes a shard and takes one away. A bystander asks for
routes that nobody edits all the time; it must never see anything but 200.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.fleet import Fleet, fleet
from tests.bench.probing import Answer, Client, bystander, resolution, wait_for
from tests.bench.result import Plan, Result, growth, median, percentile
from tests.bench.specs import Shape

MEDIAN_GOAL_MS, TAIL_GOAL_MS, GROWTH_GOAL = 15.0, 40.0, 1.5
PAUSES = (0.05, 0.1)
"""Seconds between edits, at random: every edit is a first change after quiet, out of step with every timer."""
HOSTS, SEGMENTS, QUICK = (100, 1_000, 5_000, 20_000), (100, 1_000, 5_000), (100,)


def hosts(plan: Plan) -> Iterator[Result]:
    """One host a route."""
    yield from _propagation("propagation", Shape.HOSTS, plan.of(HOSTS, QUICK), plan)


def segments(plan: Plan) -> Iterator[Result]:
    """One host; routes with different first segments."""
    yield from _propagation("segments", Shape.SEGMENTS, plan.of(SEGMENTS, QUICK), plan)


def _propagation(name: str, shape: Shape, sizes: tuple[int, ...], plan: Plan) -> Iterator[Result]:
    medians: dict[int, float] = {}
    for size in sizes:
        with fleet(shape, size, plan.folder / name) as running:
            client = Client(running.port)
            null = resolution(client, running.specs.host(0), running.specs.path(0), 200 if plan.quick else 2_000)
            with bystander(running.port, running.watched()) as stop:
                edits = list(_edits(running, client, 10 if plan.quick else plan.edits))
                seen = stop()
            client.close()
        samples = [edit.answered * 1000 for edit in edits]
        medians[size] = median(samples)
        yield Result(name, size, "p50", medians[size], "ms", MEDIAN_GOAL_MS)
        yield Result(name, size, "p99", percentile(samples, 0.99), "ms", TAIL_GOAL_MS)
        yield Result(name, size, "max", max(samples), "ms")
        yield Result(name, size, "rename p99", percentile([edit.renamed * 1000 for edit in edits], 0.99), "ms")
        yield Result(name, size, "prober's resolution p50", median(null) * 1000, "ms")
        yield Result(name, size, "prober's resolution p99", percentile(null, 0.99) * 1000, "ms")
        yield Result(name, size, "answers elsewhere", seen.total(), "")
        yield Result(name, size, "unexpected answers elsewhere", _unexpected(seen), "", 0)
    yield from growth(name, "p50", medians, GROWTH_GOAL)


@dataclass(frozen=True, slots=True)
class Edit:
    """Seconds that the rename took, and seconds from then to the answer."""

    renamed: float
    answered: float


def _edits(running: Fleet, client: Client, count: int) -> Iterator[Edit]:
    chance = random.Random(count)
    specs = running.specs
    for number in range(count):
        time.sleep(chance.uniform(*PAUSES))
        index = chance.choice(running.edited())
        if number % 2:
            body, extra = f"body{number}", None
        else:
            body, extra = f"path{number}", f"e{number}"
        before, saved = specs.save(index, body, extra)
        expected = body.encode()
        path = specs.path(index, extra or "")
        answered = wait_for(client, specs.host(index), path, lambda answer, body=expected: answer.body == body)
        yield Edit(saved - before, answered - saved)


def _unexpected(seen: Counter[Answer]) -> int:
    return sum(count for answer, count in seen.items() if answer.status != 200)
