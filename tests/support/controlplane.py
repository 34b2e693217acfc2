"""The control plane as users run it: `python -m controlplane serve` on folders of its own, and nodes that it feeds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from tests.support.children import Child
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

_http = build_opener(ProxyHandler({}))


class ControlPlane:
    """One control plane, and the folders it reads. A context manager that ends it."""

    def __init__(self, folder: Path, *, insecure: bool = False) -> None:
        """Folders below `folder`; nothing runs before `start`."""
        self.specs, self.secrets, self.state = (folder / name for name in ("specs", "secrets", "state"))
        folder.mkdir(exist_ok=True)
        for path in (self.specs, self.secrets, self.state):
            path.mkdir(mode=0o700)
        self._folder = folder
        self._insecure = ["--insecure"] if insecure else []
        self.config: Path | None = None
        self.program = [sys.executable, "-m", "controlplane"]
        self.xds = f"127.0.0.1:{free_port()}"
        self.admin_address = f"127.0.0.1:{free_port()}"
        self._child: Child | None = None

    def start(self, *, ready: bool = True) -> Self:
        """Start it (again) on the same addresses, and wait for its first complete compile unless told otherwise."""
        command = ["serve", "--specs", str(self.specs), "--secrets", str(self.secrets), "--state", str(self.state)]
        command += ["--xds", self.xds, "--admin", self.admin_address, *self._insecure]
        if self.config is not None:
            command += ["--config", str(self.config)]
        self._child = Child([*self.program, *command], self._folder / "log")
        if ready:
            until(self.is_ready, "the control plane is ready")
        return self

    def is_ready(self) -> bool:
        """Whether it has compiled everything once."""
        assert self._child is not None
        self._child.check()
        return self.get("/readyz")[0] == 200

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        assert self._child is not None
        return self._child.stop(number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped as by SIGSTOP: what happens meanwhile, it sees at once."""
        assert self._child is not None
        self._child.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.send(signal.SIGCONT)

    def log(self) -> str:
        """What it has logged so far."""
        assert self._child is not None
        return self._child.said()

    def write(self, name: str, text: str) -> None:
        """Save a spec as careful editors do: in one step."""
        written = self.specs / f".{name}.tmp"
        written.write_text(text)
        written.rename(self.specs / name)

    def remove(self, name: str) -> None:
        """Delete a spec."""
        (self.specs / name).unlink()

    def get(self, path: str) -> tuple[int, str]:
        """The answer of the admin API; status 0 when it does not listen."""
        try:
            with _http.open(f"http://{self.admin_address}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def json(self, path: str) -> Any:
        """The answer of the admin API, which must be good."""
        status, text = self.get(path)
        assert status == 200, text
        return json.loads(text)

    def bootstrap(self, node: str, labels: Mapping[str, str]) -> str:
        """What `controlplane bootstrap` prints for a node."""
        command = [sys.executable, "-m", "controlplane", "bootstrap", "--state", str(self.state), "--xds", self.xds]
        command += ["--node-id", node, "--node-cluster", "edge", *self._insecure]
        for key, value in labels.items():
            command += ["--label", f"{key}={value}"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE, env={**os.environ}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def envoy(self, node: str = "edge-1", labels: Mapping[str, str] | None = None) -> Envoy:
        """A node with these labels (default: `role=edge`), ready to serve."""
        return Envoy(self.bootstrap(node, labels or {"role": "edge"})).ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._child is not None:
            self._child.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
