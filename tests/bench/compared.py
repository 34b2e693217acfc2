"""The fan-out bench for go-control-plane too: the same load assignments, the same clients, in the same run.

`tests/bench/peers/` is the Go server; it is built once when there is a Go that is new enough, else each row says so. The
clients are those of `fanout`; what they cost is in every number but the CPU, which is the server's alone.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.crowd import Child, crowd
from tests.bench.fanout import changes, serve
from tests.bench.result import Plan, Result, median

FOLDER = Path(__file__).parent / "peers"
BINARY = Path(__file__).resolve().parents[2] / ".tools" / "bench" / "peers"
CPU_GOAL = 0.05
"""Of the best mode of go-control-plane, where there is much that did not change."""


class Mode(NamedTuple):
    """A way to serve, and whether the clients subscribe by `*` or by name."""

    label: str
    kind: str
    wildcard: bool


OURS = Mode("ours", "", wildcard=False)
PEERS = (
    Mode("go-control-plane, SnapshotCache", "snapshot", wildcard=False),
    Mode("go-control-plane, LinearCache", "linear", wildcard=False),
    Mode("go-control-plane, LinearCache by *", "linear", wildcard=True),
)


def run(plan: Plan) -> Iterator[Result]:
    """CPU, time to the last stream and bytes of one change; storms and memory at the largest size."""
    reason = _build()
    modes = (OURS, *PEERS) if reason is None else (OURS,)
    if reason is not None:
        yield Result("peers", 0, f"go-control-plane: {reason}", 0.0, "")
    streams = 20 if plan.quick else 1_000
    sizes = plan.of((500, 5_000), (100,))
    for size in sizes:
        costs: dict[str, list[tuple[float, float, float]]] = {mode.label: [] for mode in modes}
        for _ in range(1 if plan.quick else 3):
            for mode in modes:  # interleaved, so that what else the machine does meets all
                with _pair(mode, size) as (server, clients):
                    clients.ask("open", streams, mode.wildcard)
                    costs[mode.label].append(changes(server, clients, 2 if mode.kind else 10, warm=1))
        for mode in modes:
            cpu, last, sent = (median(samples) for samples in zip(*costs[mode.label], strict=True))
            yield Result("peers", size, f"{mode.label}: CPU of a stream and change", cpu, "us")
            yield Result("peers", size, f"{mode.label}: last of {streams:,} streams", last, "ms")
            yield Result("peers", size, f"{mode.label}: bytes of a stream and change", sent, "B")
        if reason is None:
            best = min(median([cpu for cpu, _, _ in costs[mode.label]]) for mode in PEERS)
            ours = median([cpu for cpu, _, _ in costs[OURS.label]])
            goal = CPU_GOAL if size >= 5_000 else None
            yield Result("peers", size, "our CPU against the best peer", ours / best, "x", goal)
    for mode in modes:
        yield from _storms(mode, max(sizes), 10 if plan.quick else 500)


def _storms(mode: Mode, size: int, streams: int) -> Iterator[Result]:
    """All streams at once, from nothing and with all versions, and what each of them costs in memory."""
    with _pair(mode, size) as (server, clients):
        clients.ask("open", min(20, streams), mode.wildcard)
        before = server.ask("memory")
        cold, sent = clients.ask("open", streams, mode.wildcard)
        yield Result("peers", size, f"{mode.label}: storm of {streams}, cold", cold, "s")
        held = (server.ask("memory") - before) / streams / 1000
        yield Result("peers", size, f"{mode.label}: memory of a stream", held, "kB")
        clients.ask("close")
        server.ask("left")
        resumed, resent = clients.ask("open", streams, mode.wildcard, True)
        yield Result("peers", size, f"{mode.label}: storm of {streams}, resume", resumed, "s")
        yield Result("peers", size, f"{mode.label}: bytes of resume against cold", resent / sent, "x")


class _Peer:
    """The Go server, asked as `Child` is."""

    def __init__(self, kind: str, size: int) -> None:
        self.process = subprocess.Popen(
            [BINARY, kind, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.port = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, what: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        at = time.monotonic()
        self.process.stdin.write(" ".join(map(str, (what, *arguments))) + "\n")
        answer = self._line()
        match what:
            case "change":
                return at
            case "cpu":
                return float(answer)
            case "memory":
                return int(answer)
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def _pair(mode: Mode, size: int) -> Iterator[tuple[Child | _Peer, Child]]:
    server = _Peer(mode.kind, size) if mode.kind else Child(serve, size, None)
    try:
        clients = Child(crowd, size, server.port if isinstance(server, _Peer) else server.ask("port"), None)
        try:
            yield server, clients
        finally:
            clients.end()
    finally:
        server.end()


def _build() -> str | None:
    """Build the Go server, unless it is newer than its sources; why that cannot be done."""
    sources = [FOLDER / name for name in ("main.go", "go.mod", "go.sum")]
    if BINARY.exists() and BINARY.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return None
    if shutil.which("go") is None:
        return "not measured, there is no Go here"
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(BINARY), "."]
    built = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    return None if built.returncode == 0 else f"not measured, go build failed: {built.stderr.strip()[-200:]}"
