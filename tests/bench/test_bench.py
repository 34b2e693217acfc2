"""The benches run and write their file. What they measure is not judged here: tests share a machine with tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.result import Result, exponent, percentile

_FIELDS = {"bench", "size", "metric", "value", "unit", "goal", "holds"}
_SERVERS = ("endpoints", "sync", "routes", "status", "consul")
"""With a real API server or Consul; they say so when there is none."""


@pytest.mark.envoy
@pytest.mark.parametrize("name", ["propagation", "segments", "cpu", "load", *_SERVERS])
def test_it_runs_with_a_real_envoy(name: str, tmp_path: Path) -> None:
    _runs(name, tmp_path / "bench.json")


@pytest.mark.parametrize("name", ["validate", "compile", "floating", "fanout"])
def test_it_runs(name: str, tmp_path: Path) -> None:
    _runs(name, tmp_path / "bench.json")


def _runs(name: str, output: Path) -> None:
    assert main([name, "--quick", "--output", str(output)]) == 0
    written = json.loads(output.read_text())
    assert written
    assert all(set(one) == _FIELDS and one["bench"] == name for one in written)


def test_a_goal_is_the_largest_value_that_holds() -> None:
    assert Result("b", 1, "m", 15.0, "ms", 15.0).holds
    assert Result("b", 1, "m", 15.1, "ms", 15.0).holds is False
    assert Result("b", 1, "m", 15.1, "ms").holds is None


def test_the_exponent_of_linear_and_of_constant_cost() -> None:
    assert exponent({10: 20.0, 100: 200.0, 1000: 2000.0}) == pytest.approx(1)
    assert exponent({10: 7.0, 1000: 7.0}) == pytest.approx(0)
    assert exponent({10: 7.0}) is None


def test_a_percentile_is_a_sample() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(number) for number in range(100)], 0.99) == 98.0
