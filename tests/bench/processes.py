"""The processes that a bench measures: a control plane, and real Envoys. Each is a context manager that ends its own.

Their cost is read from the kernel: CPU by the clock of the process, memory from /proc (Linux only).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import ProxyHandler, build_opener

from controlplane.bootstrap import bootstrap, render
from controlplane.cli.envoy import find
from controlplane.pki.authority import Authority

START_SECONDS = 120.0


def until(said: Callable[[], Any], what: str, seconds: float = START_SECONDS, step: float = 0.01) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := said()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(step)
    return answer


class Process:
    """A child whose output goes to files, ended with SIGTERM."""

    def __init__(self, command: list[str], folder: Path, name: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.errors = folder / f"{name}.log"
        self.started = time.monotonic()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, **environment}
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """User and system time of all threads so far."""
        return time.clock_gettime((~self.pid << 3) | 2)  # clock_getcpuclockid(3) has no Python name

    def peak_memory_bytes(self) -> int:
        """The largest resident set so far."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def check(self) -> None:
        """Raise when it has ended."""
        if (code := self.process.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with {code}:\n{self.errors.read_text(errors='replace')[-2000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(12)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ControlPlane(Process):
    """`controlplane serve` on free ports, with mutual TLS."""

    def __init__(self, specs: Path, folder: Path, *flags: str) -> None:
        self.state = folder / "state"
        command = ["serve", "--specs", str(specs), "--state", str(self.state)]
        ports = ["--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        super().__init__([sys.executable, "-m", "controlplane", *command, *ports, *flags], folder, "controlplane")
        listening = self._said("listening")
        self.xds: str = listening["xds"]
        self.admin: str = listening["admin"]

    def _said(self, event: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            self.check()
            for line in self.errors.read_bytes().splitlines():
                said: dict[str, Any] = json.loads(line)
                if said["message"] == event:
                    return said
            return None

        found: dict[str, Any] = until(look, f"{self.name} says {event!r}")
        return found

    def ready(self) -> None:
        """Wait for the first complete compile."""
        self._said("ready")

    def asked(self, path: str) -> Any:
        """A JSON answer of the admin API."""
        with build_opener(ProxyHandler({})).open(f"{self.admin}{path}", timeout=30) as answer:
            return json.load(answer)


class Envoy(Process):
    """A real Envoy with one worker."""

    def __init__(self, configuration: str, folder: Path, name: str = "envoy") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.yaml"
        file.touch(mode=0o600)
        file.write_text(configuration)
        flags = ["--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        super().__init__([str(find()), "-c", str(file), *flags], folder, name)

    @classmethod
    def of(cls, control_plane: ControlPlane, labels: Mapping[str, str], folder: Path) -> Self:
        """An Envoy that is fed by this control plane."""
        authority = Authority.open(control_plane.state)
        return cls(render(bootstrap("bench-1", "bench", labels, control_plane.xds, authority=authority)), folder)
