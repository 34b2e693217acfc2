"""From a saved file to the first answer by it: file system, watcher, parser, compiler, xDS, Envoy, all of them real.

The clock runs from the return of the rename to the moment at which a client in a tight loop has the new answer. What
the rename itself takes is the file system's affair, and is shown beside it: it waits when the journal of the disk is
being written, for whomever. Half of the edits change a body; the other half change the path, which makes a shard and
takes one away. Before each edit the prober does a piece of work that is always the same, and whose tail is that of the
machine. A bystander asks for routes that nobody edits all the time; it must never see anything but 200. All sizes run
at the same time and are edited in turns, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.fleet import fleet
from tests.bench.probing import BYSTANDER_PAUSE, Answer, Client, bystander, plain_work, resolution, wait_for
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
    with ExitStack() as stack:
        sides = [_Side(stack, shape, size, plan.folder / name / str(size), len(sizes)) for size in sizes]
        for side in sides:
            side.resolution = side.alone(200 if plan.quick else 2_000)
        for number in range(10 if plan.quick else plan.edits):
            for side in sides:
                side.edit(number)
        for side in sides:
            side.seen = side.stop()
    medians: dict[int, float] = {}
    for size, side in zip(sizes, sides, strict=True):
        samples = [edit.answered * 1000 for edit in side.edits]
        medians[size] = median(samples)
        yield Result(name, size, "p50", medians[size], "ms", MEDIAN_GOAL_MS)
        yield Result(name, size, "p99", percentile(samples, 0.99), "ms", TAIL_GOAL_MS)
        yield Result(name, size, "max", max(samples), "ms")
        yield Result(name, size, "rename p99", percentile([edit.renamed * 1000 for edit in side.edits], 0.99), "ms")
        yield Result(name, size, "prober's resolution p50", median(side.resolution) * 1000, "ms")
        yield Result(name, size, "prober's resolution p99", percentile(side.resolution, 0.99) * 1000, "ms")
        yield Result(name, size, "plain work p50", median([edit.worked * 1000 for edit in side.edits]), "ms")
        yield Result(name, size, "plain work p99", percentile([edit.worked * 1000 for edit in side.edits], 0.99), "ms")
        yield Result(name, size, "answers elsewhere", side.seen.total(), "")
        yield Result(name, size, "unexpected answers elsewhere", _unexpected(side.seen), "", 0)
    yield from growth(name, "p50", medians, GROWTH_GOAL)


@dataclass(frozen=True, slots=True)
class Edit:
    """Seconds that plain work took before, and the rename; seconds from then to the answer."""

    worked: float
    renamed: float
    answered: float


class _Side:
    """One size: a fleet, its prober and its bystander."""

    def __init__(self, stack: ExitStack, shape: Shape, size: int, folder: Path, sides: int) -> None:
        """Start everything; it ends with the stack. All `sides` together have one bystander's looks."""
        self.resolution: list[float] = []
        self.edits: list[Edit] = []
        self.seen: Counter[Answer] = Counter()
        self._running = stack.enter_context(fleet(shape, size, folder))
        self._client = Client(self._running.port)
        stack.callback(self._client.close)
        watched = bystander(self._running.port, self._running.watched(), BYSTANDER_PAUSE * sides)
        self.stop = stack.enter_context(watched)
        self._chance = random.Random(size)

    def alone(self, looks: int) -> list[float]:
        """What the prober cannot tell apart."""
        specs = self._running.specs
        return resolution(self._client, specs.host(0), specs.path(0), looks)

    def edit(self, number: int) -> None:
        """Save one document differently, and wait for the answer."""
        specs = self._running.specs
        time.sleep(self._chance.uniform(*PAUSES))
        worked = plain_work()
        index = self._chance.choice(self._running.edited())
        if number % 2:
            body, extra = f"body{number}", None
        else:
            body, extra = f"path{number}", f"e{number}"
        before, saved = specs.save(index, body, extra)
        expected = body.encode()
        path = specs.path(index, extra or "")
        answered = wait_for(self._client, specs.host(index), path, lambda answer: answer.body == expected)
        self.edits.append(Edit(worked, saved - before, answered - saved))


def _unexpected(seen: Counter[Answer]) -> int:
    return sum(count for answer, count in seen.items() if answer.status != 200)
