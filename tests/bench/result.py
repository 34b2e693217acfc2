"""What a bench says: one number with its unit and its goal, and the few statistics that make numbers of samples.

Every bench yields `Result`s; `__main__` prints and writes them. This module starts nothing and measures nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One number. `size` is what the bench is scaled by; `goal` is the largest value that is good enough."""

    bench: str
    size: int
    metric: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        return None if self.goal is None else self.value <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """The form in build/bench.json."""
        return {
            "bench": self.bench,
            "size": self.size,
            "metric": self.metric,
            "value": round(self.value, 4),
            "unit": self.unit,
            "goal": self.goal,
            "holds": self.holds,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: `sizes` None means those of the bench; `quick` is a smoke run whose numbers mean little."""

    folder: Path
    sizes: tuple[int, ...] | None = None
    edits: int = 200
    quick: bool = False

    def of(self, sizes: Sequence[int], quick: Sequence[int]) -> tuple[int, ...]:
        """The sizes to run."""
        return self.sizes or tuple(quick if self.quick else sizes)


Bench = Callable[[Plan], Iterator[Result]]


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of all samples does not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(samples: Sequence[float]) -> float:
    """The middle."""
    return statistics.median(samples)


def exponent(values: Mapping[int, float]) -> float | None:
    """The b of `value = a · size^b` that fits best; None with fewer than two sizes. 0: the size costs nothing."""
    points = [(math.log(size), math.log(value)) for size, value in values.items() if size > 0 and value > 0]
    if len(points) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def growth(bench: str, metric: str, values: Mapping[int, float], goal: float) -> Iterator[Result]:
    """How a metric grows from the smallest size to the largest: as a factor, which has the goal, and as an exponent."""
    if (slope := exponent(values)) is None:
        return
    small, large = min(values), max(values)
    yield Result(bench, large, f"{metric} against {small:,}", values[large] / values[small], "x", goal)
    yield Result(bench, large, f"exponent of {metric}", slope, "")
