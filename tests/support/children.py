"""Child processes that cannot outlive the test run, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import PATIENCE

LEASHED = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: survives exec, unlike a flag of the parent
os.execv(sys.argv[1], sys.argv[1:])
"""


class Child:
    """A process whose output goes to a file. A context manager that ends it."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        """Start `command` (with an absolute program); standard output and errors are appended to `log`."""
        self.log = log
        # Not preexec_fn: code of Python between fork and exec may deadlock in a process that runs grpc.
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", LEASHED, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """Everything that it has written."""
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raise with the end of its log when it has ended."""
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"pid {self.pid} ended with {code}:\n{self.said()[-4000:]}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """Ask it to end, and return its exit code; it is killed when it does not end in time."""
        if self.running:
            self._process.send_signal(number)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
