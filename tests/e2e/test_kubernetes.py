"""From a Kubernetes object to the answer of a real Envoy, in a network namespace of its own, and whatever happens on the way.

`kubernetes` here is a real API server; endpoints have addresses of the namespace, since loopback ones are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.e2e.plane import Plane, answers, ask, forward, gateway, respond
from tests.support.backends import HttpBackend
from tests.support.client import Connection
from tests.support.kubernetes import Kubernetes, Object
from tests.support.load import Load
from tests.support.network import network
from tests.support.ports import free_port
from tests.support.tools import needs, unavailable
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

CRDS = Path(__file__).resolve().parents[2] / "manifests" / "crds"
ROUTE = {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "RouteSpec"}


class Scene:
    """A cluster with one service of three pods, a control plane that watches it, and a proxy."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.cluster = Kubernetes(folder / "kubernetes").start()
        stack.callback(self.cluster.stop)
        self.cluster.define(*(yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))))
        for namespace in ("shop", "platform", "team"):
            self.cluster.create({"kind": "Namespace", "metadata": {"name": namespace}})
        self.backends = {
            f"10.200.1.{number}": stack.enter_context(
                HttpBackend(f"pod-{number}", address=f"10.200.1.{number}", port=8080)
            )
            for number in range(1, 5)
        }
        self.cluster.service("shop", "web", {"http": 80})
        self.pods(1, 2)
        (folder / "project").mkdir()
        kubeconfig = self.cluster.kubeconfig(folder / "kubeconfig")
        config = folder / "controlplane.yaml"
        cluster = {"name": "one", "kubeconfig": str(kubeconfig), "specs": True, "region": "here"}
        config.write_text(yaml.safe_dump({"sources": {"kubernetes": [cluster]}}))
        self.port = free_port()
        member = {"kubernetes": {"cluster": "one", "service": "shop/web", "port": "http"}}
        backend = {"name": "web", "members": [member], "loadBalancer": {"policy": "roundRobin"}}
        delegates = [{"name": "team", "namespaces": ["team"], "hosts": ["*"], "pathPrefixes": ["/team"]}]
        self.gateway = gateway(
            port=self.port, routes=[forward("web", "/", "web")], backends=[backend], delegates=delegates
        )
        self.plane = stack.enter_context(Plane(folder / "project", "--config", str(config)))
        self.plane.write(self.gateway)
        self.plane.start().ready()
        self.envoy = self.plane.envoy()
        self.envoy.ready()
        until(lambda: self.served() == {"pod-1", "pod-2"}, "both pods answer")

    def pods(self, *numbers: int, name: str = "web-1") -> None:
        """The ready pods of a slice."""
        self.cluster.slice("shop", name, "web", [f"10.200.1.{number}" for number in numbers], {"http": 8080})

    def served(self) -> set[str]:
        """Which pods answer."""
        return {
            json.loads(found.body)["backend"] for found in (ask(self.port) for _ in range(8)) if found.status == 200
        }

    def load(self) -> Load:
        def check(connection: Connection) -> None:
            found = connection.request("/", "example.com")
            assert found.status == 200, found

        return Load(lambda: Connection(self.port), check)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    needs("etcd", "kube-apiserver")
    try:
        home = network()
    except OSError as error:
        unavailable(str(error))
    with home.entered(), ExitStack() as stack:
        yield Scene(tmp_path_factory.mktemp("kubernetes"), stack)


@pytest.fixture
def here(scene: Scene) -> Scene:
    """The scene as it began, entered."""
    until(lambda: scene.plane.metric('controlplane_source_up{source="kubernetes/one"}') == 1, "the cluster can be read")
    scene.pods(1, 2)
    scene.pods(name="web-2")
    until(lambda: scene.served() == {"pod-1", "pod-2"}, "both pods answer")
    return scene


def test_a_slice_written_is_used_by_the_proxy(here: Scene) -> None:
    for number in range(20):
        pods = (1, 3) if number % 2 == 0 else (2, 4)
        here.pods(*pods)
        wanted = {f"pod-{pod}" for pod in pods}
        with Connection(here.port) as connection:
            until(
                lambda: json.loads(connection.request("/", "example.com").body)["backend"] in wanted,  # noqa: B023
                "a new pod answers",
                step=0.0005,
            )


def test_no_request_fails_while_pods_come_move_drain_and_go(here: Scene) -> None:
    def endpoint(number: int, *, ready: bool, serving: bool, terminating: bool) -> Object:
        conditions = {"ready": ready, "serving": serving, "terminating": terminating}
        return {"addresses": [f"10.200.1.{number}"], "conditions": conditions}

    with here.load() as load:
        for _ in range(3):
            here.pods(1, 2, 3)  # scaled up
            load.during(20)
            here.pods(1, 2)  # one moves to another slice
            here.pods(3, name="web-2")
            load.during(20)
            draining = endpoint(1, ready=False, serving=True, terminating=True)
            ready = endpoint(2, ready=True, serving=True, terminating=False)
            here.cluster.slice("shop", "web-1", "web", [draining, ready], {"http": 8080})
            until(lambda: "pod-1" not in here.served(), "a pod that drains gets no new request while others are ready")
            here.pods(2)
            load.during(20)
            here.pods(1, 2)
            here.cluster.delete("EndpointSlice", "web-2", "shop")
            load.during(20)
    assert load.failures == []


def test_all_pods_drain_and_still_serve(here: Scene) -> None:
    """What only drains is used when there is nothing better."""
    with here.load() as load:
        going = [
            {"addresses": [f"10.200.1.{number}"], "conditions": {"ready": False, "serving": True, "terminating": True}}
            for number in (1, 2)
        ]
        here.cluster.slice("shop", "web-1", "web", going, {"http": 8080})
        load.during(100)
    assert load.failures == []


def test_the_api_server_dies_and_comes_back_under_load(here: Scene) -> None:
    with here.load() as load:
        here.cluster.kill()
        until(lambda: "Unreachable" in here.plane.get("/v1/sources")[1], "it is said")
        load.during(100)
        here.cluster.start()
        here.pods(1, 3)
        until(lambda: here.served() == {"pod-1", "pod-3"}, "what changed meanwhile arrives")
    assert load.failures == []


def test_documents_of_the_cluster_are_served(here: Scene) -> None:
    """A RouteSpec object, from its creation to the answer of the proxy."""
    with here.load() as load:
        for number in range(5):
            name = f"route-{number}"
            body = {"gateway": "platform/edge", "routes": [respond(name, f"/team/{name}", name)]}
            here.cluster.create({**ROUTE, "metadata": {"namespace": "team", "name": name}, "spec": body})
            until(lambda: answers(here.port, name, f"/team/{name}"), f"{name} answers", step=0.001)  # noqa: B023
        for number in range(5):
            here.cluster.delete("RouteSpec", f"route-{number}", "team")
        until(lambda: "backend" in ask(here.port, "/team/route-4").body.decode(), "deleted ones are gone")
    assert load.failures == []


def test_a_control_plane_that_starts_without_the_cluster_serves_what_was(here: Scene) -> None:
    """The cluster is away, and the control plane starts anew: the proxies keep their endpoints and lose no request."""
    here.plane.kept()
    with here.load() as load:
        here.cluster.kill()
        here.plane.kill()
        here.plane.start().ready()
        load.during(100)
        here.cluster.start()
        here.pods(2, 4)
        until(lambda: here.served() == {"pod-2", "pod-4"}, "it goes on")
    assert load.failures == []
