"""What routes without a literal first segment cost: they are copied into every segment of their host, up to a bound.

One host of many segments, and a growing number of floating routes, up to one more than are copied (`MAX_FLOATING`):
from there on the host is one table. Compiler alone, in this process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from controlplane.compile.compiler import Compiler
from controlplane.compile.hosts import MAX_FLOATING
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.names import GatewayName
from tests.bench.compiling import put
from tests.bench.result import Plan, Result, median
from tests.bench.specs import Shape, Specs

SEGMENTS = 1_000


def run(plan: Plan) -> Iterator[Result]:
    """Milliseconds of one commit after an edit of a floating route, of another route, and the bytes of the host."""
    segments = 20 if plan.quick else SEGMENTS
    specs = Specs(plan.folder, Shape.SEGMENTS, segments, 8080, 8081)
    for size in plan.of((1, 8, MAX_FLOATING, MAX_FLOATING + 1), (1, MAX_FLOATING + 1)):
        compiler = Compiler()
        for text in [specs.gateway(), *(specs.document(index) for index in range(segments))]:
            put(compiler, text)
        for number in range(size):
            put(compiler, _floating(specs, number))
        began = time.perf_counter()
        compiler.commit_now()
        yield Result("floating", size, "compile all", (time.perf_counter() - began) * 1000, "ms")
        edits = 2 if plan.quick else 10
        floating = [_committed(compiler, _floating(specs, 0, f"body{number}")) for number in range(edits)]
        others = [_committed(compiler, specs.document(0, f"body{number}")) for number in range(edits)]
        scopes = [one for one in compiler.resources((GatewayName("bench/bench"),)) if one.type_url == SCOPED_ROUTE]
        yield Result("floating", size, "edit of a floating route p50", median(floating), "ms")
        yield Result("floating", size, "edit of another route p50", median(others), "ms")
        yield Result("floating", size, "scopes", len(scopes), "")
        yield Result("floating", size, "bytes of all scopes", sum(len(one.body) for one in scopes) / 1e6, "MB")


def _floating(specs: Specs, number: int, body: str = "start") -> str:
    index = specs.count + 2 * number  # even ones answer by themselves
    text = specs.document(index, body)
    return text.replace(f"{{prefix: {specs.path(index)}}}", f'{{regex: "/.*[.]f{number}"}}')


def _committed(compiler: Compiler, text: str) -> float:
    put(compiler, text)
    at = time.perf_counter()
    compiler.commit_now()
    return (time.perf_counter() - at) * 1000
