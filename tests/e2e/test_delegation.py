"""Delegation, as two teams and a platform team live it: kubectl's objects, the rights that are shipped, a real Envoy.

Whoever has a path keeps it, and the other one is told so in the status of its object: by the age of the objects, not by
what the control plane happened to see first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.plane import Plane, ask, gateway, respond
from tests.support.client import Connection
from tests.support.kubernetes import Kubernetes, Object
from tests.support.load import Load
from tests.support.load import answers as always
from tests.support.ports import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
HOST = "teams.example.com"
GATEWAY = "platform/edge"
GRANTED = {"name": "teams", "namespaces": ["zebra", "aardvark"], "hosts": [HOST], "pathPrefixes": ["/pay", "/cart"]}


class Company:
    """A cluster with the custom resources and rights as they are shipped, a control plane with these rights, a proxy."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.cluster = Kubernetes(folder / "kubernetes").start()
        stack.callback(self.cluster.stop)
        self.cluster.define(*(yaml.safe_load(file.read_text()) for file in sorted((MANIFESTS / "crds").glob("*.yaml"))))
        for namespace in ("controlplane", "platform", *GRANTED["namespaces"]):
            self.cluster.create({"kind": "Namespace", "metadata": {"name": namespace}})
        self.cluster.service_account("controlplane", "controlplane")
        for file in ("endpoints.yaml", "specs.yaml", "status.yaml", "lease.yaml"):
            for thing in yaml.safe_load_all((MANIFESTS / "rbac" / file).read_text()):
                self.cluster.apply(thing)
        self.port = free_port()
        self.write(gateway(port=self.port, routes=[respond("rest", "/", "platform", [HOST])], delegates=[GRANTED]))
        project = folder / "project"
        project.mkdir()
        token = {"token": self.cluster.token("controlplane", "controlplane")}
        kubeconfig = self.cluster.kubeconfig(folder / "kubeconfig", token)
        config = folder / "controlplane.yaml"
        config.write_text(
            yaml.safe_dump({"sources": {"kubernetes": [{"name": "one", "kubeconfig": str(kubeconfig), "specs": True}]}})
        )
        self.plane = stack.enter_context(Plane(project, "--config", str(config)))
        self.plane.start().ready().envoy().ready()
        until(lambda: self.body("/") == "platform", "the gateway answers")

    def write(self, thing: Object) -> None:
        """An object, as a whole."""
        self.cluster.spec(yaml.safe_dump(thing))

    def routes(self, namespace: str, *paths: str, host: str = HOST, **more: Any) -> None:
        """The RouteSpec of a team: a route for each path, answered with the name of its namespace."""
        written = [respond(f"route-{number}", path, namespace, [host], **more) for number, path in enumerate(paths)]
        self.write(
            {
                "apiVersion": "gatewayspec.dev/v1alpha1",
                "kind": "RouteSpec",
                "metadata": {"namespace": namespace, "name": "team"},
                "spec": {"gateway": GATEWAY, "routes": written},
            }
        )

    def delete(self, namespace: str) -> None:
        self.cluster.delete("RouteSpec", "team", namespace)

    def body(self, path: str, host: str = HOST) -> str:
        """What a request is answered with."""
        found = ask(self.port, path, host)
        return found.body.decode() if found.status == 200 else str(found.status)

    def told(self, namespace: str, reason: str) -> dict[str, Any]:
        """The status of a team's object, once it says this of what is written now."""

        def said() -> dict[str, Any] | None:
            found = self.cluster.get("RouteSpec", "team", namespace)
            status = found.get("status", {})
            current = status.get("observedGeneration") == found["metadata"]["generation"]
            reasons = {one["type"]: one["reason"] for one in status.get("conditions", ())}
            return dict(status) if current and reasons.get("Compiled") == reason else None

        return until(said, f"{namespace} is told {reason}", step=0.05)

    def load(self, path: str, body: str) -> Load:
        """Constant load: every request has this answer."""
        return Load(lambda: Connection(self.port), always(path, HOST, check=lambda found: found.body.decode() == body))


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    with ExitStack() as stack:
        yield Company(tmp_path_factory.mktemp("company"), stack)


@pytest.fixture
def here(company: Company) -> Iterator[Company]:
    yield company
    for namespace in GRANTED["namespaces"]:
        if any(one["metadata"]["namespace"] == namespace for one in _route_specs(company.cluster)):
            company.delete(namespace)
    until(lambda: company.body("/pay") == "platform", "what teams had is the gateway's again")


def _route_specs(cluster: Kubernetes) -> list[Object]:
    return list(cluster.call("GET", "/apis/gatewayspec.dev/v1alpha1/routespecs")["items"])


def a_second_later() -> None:
    """Ages of objects are in seconds."""
    now = datetime.now(UTC).replace(microsecond=0)
    until(lambda: datetime.now(UTC).replace(microsecond=0) > now, "the next second begins")


def test_what_is_granted_is_served_and_what_is_not_is_refused(here: Company) -> None:
    with here.load("/", "platform"):
        here.routes("zebra", "/pay")
        until(lambda: here.body("/pay/1") == "zebra", "the granted path is the team's")
        here.told("zebra", "Compiled")

        here.routes("zebra", "/pay", "/admin")
        assert here.told("zebra", "NotGranted")["lastError"]["path"].startswith("spec.routes[route-1]")
        assert here.body("/admin") == "platform"
        assert here.body("/pay/1") == "zebra", "what is granted in the same object goes on"

        here.routes("zebra", "/pay", host="other.example.com")
        here.told("zebra", "NotGranted")
        until(lambda: here.body("/pay") == "platform", "the path is the gateway's again")
        assert here.body("/pay", "other.example.com") == "404"


def test_backends_of_a_team_lead_nowhere_but_to_what_was_granted(here: Company) -> None:
    """Neither to addresses of this machine or of clouds, nor to services of other namespaces."""
    for member in (
        {"static": {"address": "169.254.169.254", "port": 80}},
        {"dns": {"host": "localhost", "port": 80}},
        {"kubernetes": {"cluster": "one", "service": "platform/vault", "port": 80}},
    ):
        route = {"name": "pay", "hosts": [HOST], "match": [{"path": {"prefix": "/pay"}}], "public": True}
        here.write(
            {
                "apiVersion": "gatewayspec.dev/v1alpha1",
                "kind": "RouteSpec",
                "metadata": {"namespace": "zebra", "name": "team"},
                "spec": {
                    "gateway": GATEWAY,
                    "backends": [{"name": "elsewhere", "members": [member]}],
                    "routes": [{**route, "to": [{"backend": "elsewhere"}]}],
                },
            }
        )
        here.told("zebra", "NotGranted")
        until(lambda: here.body("/pay") == "503", "the route says that it leads nowhere")


def test_who_came_first_keeps_the_path_whatever_happens(here: Company) -> None:
    """The challenger comes first in the alphabet; restarts, with and without the API server, change nothing."""
    here.routes("zebra", "/pay")
    until(lambda: here.body("/pay") == "zebra", "the first one has it")
    a_second_later()
    with here.load("/pay", "zebra") as load:
        here.routes("aardvark", "/pay", "/cart")
        status = here.told("aardvark", "Conflict")
        assert "zebra" in status["lastError"]["message"]
        until(lambda: here.body("/cart") == "aardvark", "what nobody else has is the challenger's")
        here.told("zebra", "Compiled")
        before = here.plane.version()

        here.plane.kept()
        here.plane.kill()
        here.plane.start().ready()
        load.during(100)
        assert here.plane.version() == before

        here.plane.kill()
        here.cluster.kill()
        here.plane.start().ready()
        load.during(100)
        assert here.body("/cart") == "aardvark"
        assert here.plane.version() == before
        here.cluster.start()
        until(lambda: here.plane.metric('controlplane_source_up{source="kubernetes/one"}') == 1, "it is read again")
        load.during(50)
        here.told("aardvark", "Conflict")
        # An edit of the older object is no new claim.
        here.routes("zebra", "/pay", "/pay/more")
        here.told("zebra", "Compiled")
        load.during(50)


def test_deletion_hands_over_and_who_comes_back_is_the_challenger(here: Company) -> None:
    here.routes("zebra", "/pay")
    until(lambda: here.body("/pay") == "zebra", "the first one has it")
    a_second_later()
    here.routes("aardvark", "/pay")
    here.told("aardvark", "Conflict")
    answers = set()
    here.delete("zebra")

    def handed_over() -> bool:
        answers.add(here.body("/pay"))
        return "aardvark" in answers

    until(handed_over, "the challenger has it", step=0)
    assert answers <= {"zebra", "aardvark"}, "nobody else ever answers, and nobody is refused"
    here.told("aardvark", "Compiled")
    a_second_later()
    with here.load("/pay", "aardvark"):
        here.routes("zebra", "/pay")
        here.told("zebra", "Conflict")


def test_of_two_of_one_age_the_smaller_uid_has_it(here: Company) -> None:
    """Two that were created within a second: the same one has it here, at every replica and after every restart."""
    for _ in range(20):
        a_second_later()
        for namespace in GRANTED["namespaces"]:
            here.routes(namespace, "/pay")
        found = {one["metadata"]["namespace"]: one["metadata"] for one in _route_specs(here.cluster)}
        if len({one["creationTimestamp"] for one in found.values()}) == 1:
            break
        for namespace in GRANTED["namespaces"]:
            here.delete(namespace)
    else:
        pytest.fail("never two within a second")
    first, second = sorted(found, key=lambda namespace: str(found[namespace]["uid"]))
    here.told(first, "Compiled")
    here.told(second, "Conflict")
    until(lambda: here.body("/pay") == first, "it has it")
    here.plane.kept()
    with here.load("/pay", first):
        here.plane.kill()
        here.plane.start().ready()
