"""The processes of the demo: started one after the other, watched, and stopped by their process ids in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.cli.exit import Exit, Failure

STOP_SECONDS = 12.0
"""What a process gets to end by itself; the control plane drains for up to ten."""
START_SECONDS = 30.0
_POLL_SECONDS = 0.02


class Process:
    """A child process whose output goes to a file. A context manager: leaving it ends the process."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end our children in order.
            self._child = subprocess.Popen(  # noqa: S603  our own words, no shell
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def check(self) -> None:
        """Raise Failure, with the end of its log, when it is not running."""
        if self._child is not None and self._child.poll() is None:
            return
        code = self._child.returncode if self._child else None
        raise Failure(Exit.FAILED, f"{self.name} ended with {code}; the end of its log:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The last lines it printed."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(f"    {line[:400]}" for line in text.splitlines()[-lines:])


def wait(what: str, holds: Callable[[], bool], processes: Sequence[Process], seconds: float = START_SECONDS) -> None:
    """Return as soon as `holds`; Failure when a process ends, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            tails = "\n".join(f"  {process.name}:\n{process.tail()}" for process in processes)
            raise Failure(Exit.TIMED_OUT, f"{what}: not after {seconds:.0f} s\n{tails}")
        time.sleep(_POLL_SECONDS)


def control_plane(folder: Path, specs: Path, secrets: Path, state: Path, xds: int, admin: int) -> Process:
    """`controlplane serve`, as a user would start it."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "controlplane",
        "serve",
        "--specs",
        specs,
        "--secrets",
        secrets,
        "--state",
        state,
    ]
    command += ["--xds", f"127.0.0.1:{xds}", "--admin", f"127.0.0.1:{admin}"]
    return Process("control plane", command, folder / "controlplane.log")


def envoy(folder: Path, binary: Path, bootstrap: Path) -> Process:
    """One Envoy that knows nothing but its bootstrap."""
    command: list[str | Path] = [
        binary,
        "--config-path",
        bootstrap,
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "warning",
    ]
    return Process("Envoy", command, folder / "envoy.log")


def write_bootstrap(file: Path, state: Path, xds: int, admin: int, label: str) -> None:
    """`controlplane bootstrap`, into a file that only its owner can read: it holds a private key."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "controlplane",
        "bootstrap",
        "--state",
        state,
        "--xds",
        f"127.0.0.1:{xds}",
    ]
    command += ["--node-id", "demo-1", "--node-cluster", "demo", "--label", label, "--admin", f"127.0.0.1:{admin}"]
    finished = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  our own words, no shell
    if finished.returncode:
        raise Failure(Exit.FAILED, f"bootstrap failed:\n{finished.stderr.decode(errors='replace')}")
    with ExitStack() as stack:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        stack.enter_context(os.fdopen(descriptor, "wb")).write(finished.stdout)
