"""What a change costs the control plane: CPU of its process over a series of edits, less what it uses when idle."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from tests.bench.fleet import Fleet, fleet, settled
from tests.bench.result import Plan, Result, growth
from tests.bench.specs import Shape

GROWTH_GOAL = 1.5
PAUSE = 0.05
"""Seconds between edits: each is a commit of its own."""


def run(plan: Plan) -> Iterator[Result]:
    """Milliseconds of CPU a change."""
    costs: dict[int, float] = {}
    for size in plan.of((100, 20_000), (100,)):
        with fleet(Shape.HOSTS, size, plan.folder / "cpu") as running:
            idle = _idle(running, 1.0 if plan.quick else 5.0)
            costs[size] = _cost(running, 10 if plan.quick else plan.edits, idle) * 1000
        yield Result("cpu", size, "CPU of a change", costs[size], "ms")
        yield Result("cpu", size, "CPU when idle", idle * 1000, "ms/s")
    yield from growth("cpu", "CPU of a change", costs, GROWTH_GOAL)


def _idle(running: Fleet, seconds: float) -> float:
    """CPU seconds a second."""
    time.sleep(1.0)
    before = running.control_plane.cpu_seconds()
    time.sleep(seconds)
    return (running.control_plane.cpu_seconds() - before) / seconds


def _cost(running: Fleet, edits: int, idle: float) -> float:
    """CPU seconds a change."""
    chance = random.Random(edits)
    began, before = time.monotonic(), running.control_plane.cpu_seconds()
    for number in range(edits):
        running.specs.save(chance.choice(running.edited()), f"body{number}")
        time.sleep(PAUSE)
    running.specs.save(0, "settled")
    settled(running, 0)
    time.sleep(PAUSE)
    used = running.control_plane.cpu_seconds() - before
    return (used - idle * (time.monotonic() - began)) / (edits + 1)
