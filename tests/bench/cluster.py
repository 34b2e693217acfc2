"""A real Kubernetes API that benches share for a whole run, in a network namespace of its own: what is loaded stays loaded.

Thousands of objects are written on several connections; what others see of them is told by processes of their own, so
that neither they nor whoever measures delays the other.
"""

from __future__ import annotations

import atexit
import http.client
import json
import multiprocessing
import re
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from tests.bench.processes import ControlPlane, until
from tests.bench.result import Plan, Result
from tests.bench.specs import LABELS
from tests.support.kubernetes import ApiError, Kubernetes, Object
from tests.support.network import network
from tests.support.tools import tool

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
SERVICES, TEAM, BURST = "services", "team", "burst"
"""The namespaces of the services, of a team that adds RouteSpecs one by one, and of one that creates all at once."""
ENDPOINTS = 10
"""Of each service."""
_SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{SERVICES}/endpointslices"
_ROUTES = "/apis/gatewayspec.dev/v1alpha1/namespaces/{}/routespecs"
_WRITERS = 8


class Session:
    """The administrator on one connection that stays open."""

    def __init__(self, folder: Path, port: int) -> None:
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        context.load_cert_chain(folder / "admin.pem")
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)

    def close(self) -> None:
        """No more."""
        self._connection.close()

    def send(self, method: str, path: str, thing: Object | None = None, kind: str = "application/json") -> bytes:
        """The answer, as it came. Raises ApiError."""
        body = None if thing is None else json.dumps(thing).encode()
        self._connection.request(method, path, body, {"Content-Type": kind})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise ApiError(answer.status, content.decode())
        return content

    def watch(self, path: str) -> Iterator[bytes]:
        """The events from now on, as lines; the first line is empty, when the watch has begun."""
        at = version(self.send("GET", f"{path}?limit=1"))
        self._connection.request("GET", f"{path}?watch=true&timeoutSeconds=3600&resourceVersion={at}")
        answer = self._connection.getresponse()
        self._connection.sock.settimeout(None)  # nothing may happen for minutes
        yield b""
        while line := answer.readline():
            yield line


class Cluster:
    """The API server, and how much has been loaded into it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-kubernetes-"))
        self.api = Kubernetes(self.folder).start()
        self.api.define(*(yaml.safe_load(file.read_text()) for file in sorted((MANIFESTS / "crds").glob("*.yaml"))))
        for namespace in (SERVICES, TEAM, BURST, "controlplane"):
            self.api.create({"kind": "Namespace", "metadata": {"name": namespace}})
        self.services = 0
        self.routes = 0
        self._turns: dict[int, int] = {}
        self.api.service_account("controlplane", "controlplane")
        for name in ("endpoints", "specs", "status", "lease"):
            for thing in yaml.safe_load_all((MANIFESTS / "rbac" / f"{name}.yaml").read_text()):
                self.api.apply(thing)

    def session(self) -> Session:
        """A new connection."""
        return Session(self.folder, self.api.port)

    def load_services(self, count: int) -> None:
        """Have at least this many services, each with one slice of `ENDPOINTS` endpoints."""
        wanted = range(self.services, count)
        self.write([("POST", f"/api/v1/namespaces/{SERVICES}/services", service(index)) for index in wanted])
        self.write([("POST", _SLICES, slice_of(index, 0)) for index in wanted])
        self.services = max(self.services, count)

    def turn(self, session: Session, index: int) -> tuple[int, bytes]:
        """Give half of a service's endpoints new addresses, whatever they were: the turn, and the answer."""
        turn = self._turns[index] = 1 - self._turns.get(index, 0)
        return turn, session.send("PUT", slice_path(index), slice_of(index, turn))

    def load_routes(self, count: int) -> None:
        """Have at least this many RouteSpecs of the team."""
        wanted = range(self.routes, count)
        self.write([("POST", _ROUTES.format(TEAM), route(index)) for index in wanted])
        self.routes = max(self.routes, count)

    def told(self) -> bool:
        """Whether every RouteSpec of the team says what became of it."""
        with closing(self.session()) as session:
            return all("status" in one for one in json.loads(session.send("GET", routes_path()))["items"])

    def write(self, requests: Sequence[tuple[str, str, Object]]) -> float:
        """All of these, on several connections at once; time.monotonic() when the last was answered."""
        waiting = iter(requests)
        failures: list[Exception] = []

        def work() -> None:
            try:
                with closing(self.session()) as session:
                    for request in waiting:
                        session.send(*request)
            except (ApiError, OSError, http.client.HTTPException) as error:
                failures.append(error)

        with network().entered():
            threads = [threading.Thread(target=work) for _ in range(min(_WRITERS, len(requests)))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        return time.monotonic()

    def control_plane(self, files: Path, folder: Path, **more: Any) -> ControlPlane:
        """A control plane with the rights of manifests/rbac in this cluster; `more` configures it."""
        token = self.api.token("controlplane", "controlplane", 6 * 3600)
        kubeconfig = self.api.kubeconfig(folder / "kubeconfig", {"token": token})
        source = {"name": "bench", "kubeconfig": str(kubeconfig), "region": "here", **more}
        configuration = folder / "controlplane.yaml"
        configuration.write_text(yaml.safe_dump({"sources": {"kubernetes": [source]}}))
        return ControlPlane(files, folder, "--config", str(configuration))


def service(index: int) -> Object:
    """A service without a cluster IP: nothing allocates one, and there is room for as many as one likes."""
    ports = [{"name": "http", "port": 80}]
    spec = {"clusterIP": "None", "ports": ports, "selector": {"app": f"s{index}"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s{index}"}, "spec": spec}


def slice_of(index: int, turn: int) -> Object:
    """The slice of a service: half of its endpoints stay, the other half are those of this turn, 0 or 1.

    Those that stay are below 10.200.128.0, those of turn 0 below 10.200.192.0, those of turn 1 are the rest.
    """
    half = ENDPOINTS // 2
    places = [*range(index * half, (index + 1) * half)]
    numbers = [16 + place % 32_000 for place in places]
    numbers += [(2 + turn) * 16_384 + 16 + place % 16_000 for place in places]
    ready = {"ready": True, "serving": True, "terminating": False}
    addresses = [f"10.200.{number >> 8}.{number & 255}" for number in numbers]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"s{index}", "labels": {"kubernetes.io/service-name": f"s{index}"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": ready} for address in addresses],
    }


def gateway(port: int, namespace: str) -> str:
    """A gateway that grants every host to the RouteSpecs of a namespace."""
    fleet = {"selector": {"matchLabels": dict(LABELS)}}
    delegate = {"name": "team", "namespaces": [namespace], "hosts": ["*"]}
    listener = {"name": "http", "port": port, "protocol": "HTTP"}
    spec = {"fleet": fleet, "listeners": [listener], "delegates": [delegate]}
    metadata = {"name": "bench", "namespace": SERVICES}
    kind = {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "GatewaySpec"}
    return yaml.safe_dump({**kind, "metadata": metadata, "spec": spec})


def slice_path(index: int) -> str:
    """Where the slice of a service is."""
    return f"{_SLICES}/s{index}"


def routes_path(namespace: str = TEAM) -> str:
    """Where the RouteSpecs of a namespace are."""
    return _ROUTES.format(namespace)


def route(index: int, body: str = "start", name: str = "r") -> Object:
    """A RouteSpec of one host that Envoy answers itself."""
    respond = {"status": 200, "body": body}
    rule = {"name": "only", "hosts": [host(index, name)], "match": [{"path": {"prefix": "/"}}], "public": True}
    return {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "RouteSpec",
        "metadata": {"name": f"{name}{index}"},
        "spec": {"gateway": f"{SERVICES}/bench", "routes": [{**rule, "respond": respond}]},
    }


def host(index: int, name: str = "r") -> str:
    """The host of a RouteSpec."""
    return f"{name}{index}.example.com"


@contextmanager
def cluster(bench: str, refused: list[Result]) -> Iterator[Cluster | None]:
    """The cluster of this run, entered; None, and a row that says why, when it cannot be had."""
    missing = [name for name in ("etcd", "kube-apiserver") if tool(name) is None]
    reason = f"no {' and no '.join(missing)} here: make tools" if missing else ""
    home = None
    if not reason:
        try:
            home = network()
        except OSError as error:
            reason = str(error)
    if home is None:
        refused.append(Result(bench, 0, f"not measured: {reason}", 0.0, ""))
        yield None
        return
    with home.entered():
        yield _shared()


@cache
def _shared() -> Cluster:
    made = Cluster()
    atexit.register(shutil.rmtree, made.folder, ignore_errors=True)
    atexit.register(made.api.stop)
    return made


class Beside:
    """A process that does something with the API beside a measurement: watches it, or writes."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here
        self.pipe.recv()

    def said(self) -> list[Any]:
        """What it said since the last look."""
        found = []
        while self.pipe.poll():
            found.append(self.pipe.recv())
        return found

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._process.close()
        self.pipe.close()


def bare_watch(pipe: Connection, folder: Path, port: int, path: str) -> None:
    """For `Beside`: what a watcher sees that does nothing else: the resource version of every event, and when it came."""
    for line in Session(folder, port).watch(path):
        now = time.monotonic()
        found = re.search(rb'"resourceVersion":"(\d+)"', line)
        pipe.send((found[1].decode(), now) if found else None)


def version(answer: bytes) -> str:
    """The resource version of an object or list."""
    return str(json.loads(answer)["metadata"]["resourceVersion"])


class Sight:
    """What a bare watcher saw, and when: to be looked at after every write, for a pipe holds little."""

    def __init__(self, watcher: Beside) -> None:
        self._watcher = watcher
        self._seen: dict[str, float] = {}

    def look(self) -> None:
        """Take what the watcher has said."""
        self._seen |= dict(one for one in self._watcher.said() if one)

    def quiet(self, seconds: float) -> None:
        """Wait until it has seen nothing for so long."""
        while self._watcher.pipe.poll(seconds):
            self.look()

    def after(self, writes: dict[str, float]) -> list[float]:
        """Seconds from each write, by resource version, to when the watcher had it; all of them are waited for."""
        until(lambda: self.look() or writes.keys() <= self._seen.keys(), "the bare watcher has all")
        return [self._seen[one] - at for one, at in writes.items()]


def specs_folder(folder: Path, *documents: str) -> Path:
    """A folder of specs with these documents, 100 a file."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "specs").mkdir(parents=True)
    for number in range(0, len(documents), 100):
        (folder / "specs" / f"{number:05d}.yaml").write_text("---\n".join(documents[number : number + 100]))
    return folder / "specs"


def samples(plan: Plan) -> int:
    """How many changes of a kind are measured."""
    return 10 if plan.quick else plan.edits
