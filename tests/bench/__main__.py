"""`python -m tests.bench [NAMES] [--quick]`: measure, print a table, write build/bench.json.

The numbers are of this machine and of what else it does: the load is printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from controlplane.xds import environment
from tests.bench import (
    compared,
    compiling,
    cpu,
    datacenter,
    dataplane,
    endpoints,
    fanout,
    floating,
    lane,
    load,
    propagation,
    routes,
    status,
    validate,
)
from tests.bench.result import Bench, Plan, Result

BENCHES: Mapping[str, Bench] = {
    "propagation": propagation.hosts,
    "segments": propagation.segments,
    "cpu": cpu.run,
    "load": load.run,
    "validate": validate.run,
    "dataplane": dataplane.run,
    "compile": compiling.run,
    "floating": floating.run,
    "fanout": fanout.run,
    "peers": compared.run,
    "endpoints": endpoints.run,
    "lane": lane.run,
    "sync": endpoints.sync,
    "routes": routes.run,
    "status": status.run,
    "consul": datacenter.run,
}
OUTPUT = Path("build/bench.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 0 also when a goal is missed, for a number is not an error."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHES], help=f"of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    parser.add_argument("--sizes", type=_sizes, help="instead of each bench's own, such as 100,1000")
    parser.add_argument("--edits", type=int, default=200, help="edits of each size (default: 200)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    options = parser.parse_args(arguments)
    environment.prepare()  # as `serve` does; the processes that are started inherit it
    results: list[Result] = []
    failed: list[str] = []
    print(_HEADER)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        plan = Plan(Path(folder), options.sizes, options.edits, options.quick)
        for name in options.names or BENCHES:
            print(f"{name} (load of the machine: {os.getloadavg()[0]:.2f} of {os.cpu_count()})", flush=True)
            try:
                for result in BENCHES[name](plan):
                    print(_line(result), flush=True)
                    results.append(result)
            except Exception as error:  # noqa: BLE001 - what was measured is kept, and the others go on
                failed.append(name)
                print(f"  {name} stopped: {error!r}", flush=True)
    _write(options.output, results)
    missed = [result for result in results if result.holds is False]
    print(f"{len(results)} numbers in {options.output}; {len(missed)} goals missed")
    if failed:
        print(f"not finished: {', '.join(failed)}")
    return 1 if failed else 0


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


_HEADER = f"{'':2}{'size':>7}  {'metric':<34}{'value':>12} {'unit':<6}{'goal':>10}  holds"


def _line(result: Result) -> str:
    value = f"{result.value:,.0f}" if result.value >= 10_000 else f"{result.value:,.2f}"
    goal = "" if result.goal is None else f"<= {result.goal:g}"
    holds = {True: "yes", False: "NO", None: ""}[result.holds]
    return f"{'':2}{result.size:>7,}  {result.metric:<34}{value:>12} {result.unit:<6}{goal:>10}  {holds}".rstrip()


def _write(output: Path, results: Iterable[Result]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps([result.as_dict() for result in results], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
