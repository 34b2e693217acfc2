"""A control plane as a process of its own, as a user runs it, and real Envoys that are connected to it."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import yaml

from tests.support.children import Child
from tests.support.client import Connection, Response
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

_http = build_opener(ProxyHandler({}))

COMMAND = [sys.executable, "-m", "controlplane"]

Admin = tuple[int, str]
"""Status and body of an answer of the admin API."""


def gateway(
    name: str = "edge",
    *,
    port: int = 10080,
    role: str = "edge",
    routes: Iterable[dict[str, Any]] | None = None,
    listeners: Iterable[dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A GatewaySpec with one HTTP listener and one route that Envoy answers itself."""
    return {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "GatewaySpec",
        "metadata": {"name": name, "namespace": "platform"},
        "spec": {
            "fleet": {"selector": {"matchLabels": {"role": role}}},
            "listeners": list(listeners or [{"name": "http", "port": port, "protocol": "HTTP"}]),
            "routes": list(routes if routes is not None else [respond("main", "/", name)]),
            **more,
        },
    }


def respond(name: str, prefix: str, body: str, hosts: Iterable[str] = ("*",), **more: Any) -> dict[str, Any]:
    """A public route that Envoy answers with this body."""
    route = {"name": name, "hosts": list(hosts), "match": [{"path": {"prefix": prefix}}], "public": True}
    return {**route, "respond": {"status": 200, "body": body}, **more}


def forward(name: str, prefix: str, backend: str, hosts: Iterable[str] = ("*",), **more: Any) -> dict[str, Any]:
    """A public route to a backend."""
    route = {"name": name, "hosts": list(hosts), "match": [{"path": {"prefix": prefix}}], "public": True}
    return {**route, "to": [{"backend": backend}], **more}


def static(name: str, *ports: int, **more: Any) -> dict[str, Any]:
    """A backend on loopback."""
    members = [{"static": {"address": "127.0.0.1", "port": port}} for port in ports]
    return {"name": name, "members": members, **more}


class Plane:
    """A project folder (specs, secrets, state), and the control plane that serves it."""

    def __init__(self, folder: Path, *flags: str, insecure: bool = True, **environment: str) -> None:
        """`insecure` saves a test that is not about certificates the time to make them."""
        self.folder = folder
        self.specs, self.secrets, self.state = folder / "specs", folder / "secrets", folder / "state"
        for path in (self.specs, self.secrets):
            path.mkdir(exist_ok=True)
        self.insecure = insecure
        self.flags = list(flags)
        self.environment = environment
        self.log = folder / "log"
        self.log.touch()
        self._child: Child | None = None
        self._began = 0
        self._envoys: list[Envoy] = []

    # -- the process ---------------------------------------------------------------------------------------------

    def start(self, *flags: str) -> Self:
        """Start it, without waiting. It listens where it did the last time, so that proxies come back."""
        self._began = self.log.stat().st_size
        again = ["--xds", self.xds, "--admin", self.admin] if self._child else []
        command = [*COMMAND, "serve", "--specs", str(self.specs), "--secrets", str(self.secrets)]
        command += ["--state", str(self.state), "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", *again]
        command += ["--insecure"] * self.insecure
        self._child = Child([*command, *self.flags, *flags], self.log, **self.environment)
        return self

    def listening(self, seconds: float = PATIENCE) -> Self:
        """Wait until it listens."""
        line = until(lambda: self.said("listening"), "it listens", seconds)[0]
        self.xds, self.admin = line["xds"], line["admin"].removeprefix("http://")
        return self

    def ready(self, seconds: float = PATIENCE) -> Self:
        """Wait until it serves."""
        self.listening(seconds)
        until(lambda: self.get("/readyz")[0] == 200, "it is ready", seconds)
        return self

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait until it ends by itself; its exit code."""
        until(lambda: not self.child.running, "it ends", seconds)
        return self.child.stop()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self.child.stop()

    def kill(self) -> None:
        """As a crash would."""
        self.child.stop(signal.SIGKILL)

    def output(self) -> str:
        """What it has written since its last start."""
        with self.log.open("rb") as stream:
            stream.seek(self._began)
            return stream.read().decode(errors="replace")

    def said(self, message: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines with this message and these fields since its last start."""
        if self._child is not None and message == "listening":
            self._child.check()
        found = []
        for text in self.output().splitlines():
            if text.startswith("{") and text.endswith("}"):
                line = json.loads(text)
                if line.get("message") == message and fields.items() <= line.items():
                    found.append(line)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop_envoys()
        if self._child is not None:
            self._child.stop()

    # -- files ---------------------------------------------------------------------------------------------------

    def write(self, *documents: dict[str, Any] | str, file: str = "gateway.yaml", folder: str = "specs") -> Path:
        """Save a file as an editor does: written beside it, then renamed."""
        text = "---\n".join(one if isinstance(one, str) else yaml.safe_dump(one) for one in documents)
        path = self.folder / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text)
        beside.rename(path)
        return path

    def remove_secret(self, name: str, namespace: str = "platform") -> None:
        shutil.rmtree(self.secrets / namespace / name)

    # -- what it says --------------------------------------------------------------------------------------------

    def get(self, path: str, host: str | None = None, method: str = "GET") -> Admin:
        """Status and body of an answer of the admin API."""
        request = Request(f"http://{self.admin}{path}", method=method, headers={"Host": host} if host else {})
        try:
            with _http.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        """The content of a JSON answer."""
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def problems(self, severity: str = "error") -> list[dict[str, Any]]:
        """What it says is wrong."""
        return [one for one in self.json("/v1/problems")["problems"] if one["severity"] == severity]

    def problem(self, check: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait for a problem, of whatever severity."""

        def found() -> dict[str, Any] | None:
            return next((one for one in self.json("/v1/problems")["problems"] if check(one)), None)

        return until(found, what)

    def metric(self, name: str) -> float:
        """The sum of the samples whose name and labels begin so."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def gateways(self) -> list[str]:
        """The gateways that it serves."""
        return [one["name"] for one in self.json("/v1/gateways")["gateways"]]

    def version(self, gateway: str = "platform/edge") -> str:
        """The version of what a gateway's nodes get."""
        return str(self.json(f"/v1/gateways/{gateway}/snapshot")["version"])

    def kept(self) -> None:
        """Wait until the state on disk, which is written behind, has everything."""
        until(lambda: (state := self.json("/v1/sources")["state"])["rows"] and not state["pending"], "it is kept")

    def kept_text(self, name: str = "edge", kind: str = "GatewaySpec") -> str:
        """The text of an object of files in the state on disk."""
        with closing(sqlite3.connect(f"{(self.state / 'state.sqlite').as_uri()}?mode=ro", uri=True)) as connection:
            question = "SELECT text FROM object WHERE CAST(name AS TEXT) = ? AND CAST(kind AS TEXT) = ?"
            return "".join(text.decode() for (text,) in connection.execute(question, (name, kind)))

    def barrier(self) -> None:
        """Wait until files that were saved before this call have been read: a file saved now is."""
        name = f"barrier-{free_port()}"
        path = self.write(gateway(name, role="nobody"), file=f"{name}.yaml")
        until(lambda: f"platform/{name}" in self.gateways(), "a later file is served")
        path.unlink()
        until(lambda: f"platform/{name}" not in self.gateways(), "a later file is gone")

    # -- proxies -------------------------------------------------------------------------------------------------

    def bootstrap(
        self, node: str = "envoy-1", *, cluster: str = "edge", through: int | None = None, **labels: str
    ) -> str:
        """The output of `controlplane bootstrap`; `through`: a port of loopback where the node finds it instead."""
        from controlplane.bootstrap import bootstrap, render
        from controlplane.pki.authority import Authority

        authority = None if self.insecure else Authority.open(self.state)
        xds = self.xds if through is None else f"127.0.0.1:{through}"
        return render(bootstrap(node, cluster, labels or {"role": "edge"}, xds, "127.0.0.1:0", authority))

    def stop_envoys(self) -> None:
        while self._envoys:
            self._envoys.pop().stop()

    def envoy(self, node: str = "envoy-1", bootstrap: str | None = None, **labels: str) -> Envoy:
        """A proxy that has started; it ends with this control plane. `bootstrap`: another than that of the node."""
        envoy = Envoy(bootstrap or self.bootstrap(node, **labels))
        self._envoys.append(envoy)
        return envoy


def ask(port: int, path: str = "/", host: str = "example.com", **headers: str) -> Response:
    """One request on a connection of its own."""
    with Connection(port) as connection:
        return connection.request(path, host, headers=headers)


def answers(port: int, body: str | None = None, path: str = "/", status: int = 200, host: str = "example.com") -> bool:
    """Whether a request gets this answer now."""
    try:
        found = ask(port, path, host)
    except OSError:
        return False
    return found.status == status and (body is None or found.body.decode() == body)
