"""What the compiler alone does for one edited route, in this process: time, and runs of the graph's functions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from controlplane.compile.compiler import Compiler
from controlplane.names import ObjectRef
from controlplane.spec.parse import parse_piece
from controlplane.spec.pieces import Piece
from controlplane.spec.rows import Row, RowKey, rows
from tests.bench.result import Plan, Result, exponent, growth, median, percentile
from tests.bench.specs import Shape, Specs

GROWTH_GOAL = 1.5


def run(plan: Plan) -> Iterator[Result]:
    """Microseconds of one commit after one edit, at growing numbers of routes."""
    medians: dict[int, float] = {}
    whole: dict[int, float] = {}
    for size in plan.of((100, 1_000, 5_000, 20_000), (100,)):
        specs = Specs(plan.folder, Shape.HOSTS, size, 8080, 8081)
        compiler = Compiler()
        began = time.perf_counter()
        for text in [specs.gateway(), *(specs.document(index) for index in range(size))]:
            put(compiler, text)
        parsed = time.perf_counter()
        compiler.commit_now()
        whole[size] = (time.perf_counter() - parsed) * 1000
        samples = []
        edits = 20 if plan.quick else 200
        before = compiler.tables.graph.runs
        for number in range(edits):
            ref, made = _rows(specs.document(number * 2 * (size // 2 // edits or 1) % size, f"body{number}"))
            at = time.perf_counter()
            compiler.put(ref, made)
            compiler.commit_now()
            samples.append((time.perf_counter() - at) * 1e6)
        medians[size] = median(samples)
        yield Result("compile", size, "edit p50", medians[size], "us")
        yield Result("compile", size, "edit p99", percentile(samples, 0.99), "us")
        yield Result("compile", size, "runs an edit", (compiler.tables.graph.runs - before) / edits, "")
        yield Result("compile", size, "parse all", (parsed - began) * 1000, "ms")
        yield Result("compile", size, "compile all", whole[size], "ms")
    yield from growth("compile", "edit p50", medians, GROWTH_GOAL)
    if (slope := exponent(whole)) is not None:
        yield Result("compile", max(whole), "exponent of compile all", slope, "")


def _rows(text: str) -> tuple[ObjectRef, Mapping[RowKey, Row]]:
    parsed = parse_piece(Piece(text, 1), "bench.yaml", "bench")
    assert parsed.ref is not None
    assert parsed.document is not None
    return parsed.ref, rows(parsed.ref, parsed.document)


def put(compiler: Compiler, text: str) -> None:
    """Take over a document; the next commit compiles it."""
    ref, made = _rows(text)
    compiler.put(ref, made)
