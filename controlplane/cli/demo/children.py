"""The child processes of the demo: started one after the other, watched, and stopped by their process ids in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import controlplane
from controlplane.cli.demo import leash
from controlplane.cli.exit import Exit, Failure

STOP_SECONDS = 12.0
"""What a process gets to end by itself; the control plane drains for up to ten."""
START_SECONDS = 90.0
_POLL_SECONDS = 0.01

Found = TypeVar("Found")


class Child:
    """A process whose output goes to a file. A context manager: leaving it ends the process."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = [sys.executable, "-I", leash.__file__, str(os.getpid()), *map(str, command)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end our children in order.
            self._process = subprocess.Popen(  # noqa: S603  our own words, no shell
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check(self) -> None:
        """Raise Failure, with the end of its log, when it is not running."""
        if self._process is not None and self._process.poll() is None:
            return
        code = self._process.returncode if self._process else None
        raise Failure(Exit.FAILED, f"{self.name} ended with {code}; the end of its log:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The last lines it printed."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(f"    {line[:400]}" for line in text.splitlines()[-lines:])


def wait(what: str, look: Callable[[], Found | None], children: Sequence[Child]) -> Found:
    """What `look` finds as soon as it finds something; Failure when a child ends, or after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while not (found := look()):
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            tails = "\n".join(f"  {child.name}:\n{child.tail()}" for child in children)
            raise Failure(Exit.TIMED_OUT, f"{what}: not within {START_SECONDS:.0f} s\n{tails}")
        time.sleep(_POLL_SECONDS)
    return found


class ControlPlane(Child):
    """`controlplane serve`, as a user would start it, on ports that the kernel chooses."""

    def __init__(self, folder: Path, specs: Path, secrets: Path, state: Path) -> None:
        command: list[str | Path] = [sys.executable, "-m", "controlplane", "serve", "--specs", specs]
        command += ["--secrets", secrets, "--state", state, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        super().__init__("control plane", command, folder / "controlplane.log")

    def addresses(self) -> tuple[str, str] | None:
        """Where it listens, xDS and admin, once its log says so."""
        for line in self.log.read_bytes().splitlines():
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # half a line, or a complaint of the interpreter
            if said.get("message") == "listening":
                return said["xds"], said["admin"].removeprefix("http://")
        return None


class Envoy(Child):
    """One Envoy that knows nothing but its bootstrap."""

    def __init__(self, folder: Path, binary: Path, bootstrap: Path) -> None:
        self._admin = folder / "envoy-admin"
        command: list[str | Path] = [binary, "--config-path", bootstrap, "--admin-address-path", self._admin]
        command += ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        super().__init__("Envoy", command, folder / "envoy.log")

    def admin(self) -> str | None:
        """Where its admin page is, once it has said so."""
        return (self._admin.read_text(encoding="utf-8") if self._admin.exists() else "") or None


def bootstrap(file: Path, state: Path, xds: str, label: str) -> None:
    """`controlplane bootstrap`, into a file that only its owner can read: it holds a private key."""
    arguments = ["--state", str(state), "--xds", xds, "--node-id", "demo-1", "--node-cluster", "demo", "--label", label]
    code, output, errors = run(["bootstrap", *arguments], file.parent)
    if code:
        raise Failure(Exit.FAILED, f"bootstrap failed:\n{errors}")
    file.touch(mode=0o600)
    file.write_text(output, encoding="utf-8")


def run(arguments: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """One short `controlplane` command in this folder: its exit code, stdout and stderr."""
    command = [sys.executable, "-m", "controlplane", *arguments]
    # The package need not be installed: then the working directory was where it was found.
    root = str(Path(controlplane.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)  # noqa: S603  our own
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
