"""`controlplane validate`: wall time of the whole command, as a person or a CI job waits for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench.result import Plan, Result, exponent, median
from tests.bench.specs import Shape, Specs

GOAL_SIZE, GOAL_SECONDS = 1_000, 1.0


def run(plan: Plan) -> Iterator[Result]:
    """Seconds."""
    medians: dict[int, float] = {}
    for size in plan.of((100, GOAL_SIZE, 5_000), (100,)):
        folder = plan.folder / "validate"
        shutil.rmtree(folder, ignore_errors=True)
        specs = Specs(folder / "specs", Shape.HOSTS, size, 8080, 8081)
        specs.write()
        medians[size] = median([_validate(specs) for _ in range(1 if plan.quick else 7)])
        yield Result("validate", size, "wall time", medians[size], "s", GOAL_SECONDS if size == GOAL_SIZE else None)
    if (slope := exponent(medians)) is not None:
        yield Result("validate", max(medians), "exponent of wall time", slope, "")


def _validate(specs: Specs) -> float:
    command = [sys.executable, "-m", "controlplane", "validate", str(specs.folder)]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began
