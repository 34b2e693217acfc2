"""The status of custom resources in a real API server: what people learn with kubectl, written by one replica, with few rights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.xds import types
from tests.e2e.plane import Plane, answers
from tests.e2e.raw import AGGREGATED, Client
from tests.support.kubernetes import ApiError, Kubernetes
from tests.support.ports import free_port
from tests.support.waiting import until

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
RIGHTS = ("endpoints.yaml", "specs.yaml", "status.yaml", "lease.yaml")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """One with the custom resources as they are shipped, and the rights of manifests/rbac for one service account."""
    made = Kubernetes(tmp_path_factory.mktemp("kubernetes")).start()
    try:
        made.define(*(yaml.safe_load(file.read_text()) for file in sorted((MANIFESTS / "crds").glob("*.yaml"))))
        made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "controlplane"}})
        made.service_account("controlplane", "controlplane")
        for file in RIGHTS:
            for thing in yaml.safe_load_all((MANIFESTS / "rbac" / file).read_text()):
                made.apply(thing)
        yield made
    finally:
        made.stop()


@pytest.fixture
def plane(cluster: Kubernetes, tmp_path: Path) -> Iterator[Plane]:
    with replica(cluster, tmp_path) as made:
        yield made.ready()


def replica(cluster: Kubernetes, folder: Path) -> Plane:
    folder.mkdir(exist_ok=True)
    kubeconfig = cluster.kubeconfig(folder / "kubeconfig", {"token": cluster.token("controlplane", "controlplane")})
    config = folder / "controlplane.yaml"
    clusters = [{"name": "test", "kubeconfig": str(kubeconfig), "specs": True}]
    config.write_text(json.dumps({"sources": {"kubernetes": clusters}}))
    return Plane(folder, "--config", str(config)).start()


def gateway(namespace: str, **spec: Any) -> str:
    body = {
        "fleet": {"selector": {"matchLabels": {"role": namespace}}},
        "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}],
        **spec,
    }
    return document("GatewaySpec", namespace, "edge", body)


def team(namespace: str, name: str, path: str = "/", **route: Any) -> str:
    one = {"name": "web", "hosts": [f"{name}.test"], "match": [{"path": {"prefix": path}}], "public": True, **route}
    return document(
        "RouteSpec",
        namespace,
        name,
        {"gateway": f"{namespace}/edge", "routes": [{"respond": {"status": 200, "body": "x"}, **one}]},
    )


def document(kind: str, namespace: str, name: str, spec: Any) -> str:
    metadata = {"name": name, "namespace": namespace}
    return json.dumps({"apiVersion": "gatewayspec.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})


def conditions(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    said = found.get("status", {}).get("conditions", ())
    return {one["type"]: (one["status"], one["reason"]) for one in said}


def told(cluster: Kubernetes, kind: str, namespace: str, name: str, **expected: tuple[str, str]) -> dict[str, Any]:
    """The object, once its status says this of its current generation."""

    def answer() -> dict[str, Any] | None:
        found = cluster.get(kind, name, namespace)
        current = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
        return found if current and conditions(found).items() >= expected.items() else None

    return until(answer, f"{kind} {namespace}/{name} is told {expected}", step=0.05)


def writes(found: dict[str, Any]) -> set[str]:
    return {one["manager"] for one in found["metadata"]["managedFields"] if one.get("subresource") == "status"}


def test_people_learn_what_became_of_an_object(cluster: Kubernetes, plane: Plane) -> None:
    namespace = cluster.namespace()
    cluster.spec(gateway(namespace))
    good = {"Compiled": ("True", "Compiled"), "Programmed": ("True", "NoProxies")}
    found = told(cluster, "GatewaySpec", namespace, "edge", **good)
    assert found["status"]["fleet"] == {"matched": 0, "synced": 0, "pending": 0, "nacked": 0}
    assert found["status"]["snapshot"]
    assert writes(found) == {"controlplane-status"}

    cluster.spec(team(namespace, "api"))
    told(cluster, "RouteSpec", namespace, "api", **good)
    cluster.spec(team(namespace, "api", use=["nothing"]))
    found = told(cluster, "RouteSpec", namespace, "api", Compiled=("False", "Unresolved"))
    assert found["status"]["lastError"]["path"] == "spec.routes[web].use[0]"
    cluster.spec(team(namespace, "api", retires=3))
    found = told(cluster, "RouteSpec", namespace, "api", Compiled=("False", "Invalid"))
    assert found["status"]["lastError"]["help"] == 'did you mean "retry"?'
    cluster.spec(team(namespace, "api", path="/other", retires=3))  # the same error in another generation
    bad = {"Compiled": ("False", "Invalid"), "Programmed": ("False", "LastGood")}
    found = told(cluster, "RouteSpec", namespace, "api", **bad)
    assert "generation 2, the last good one" in str(found["status"]["conditions"])
    cluster.spec(team(namespace, "never", retires=3))
    bad["Programmed"] = ("False", "Invalid")
    told(cluster, "RouteSpec", namespace, "never", **bad)
    cluster.spec(team(namespace, "lost").replace(f"{namespace}/edge", f"{namespace}/nowhere"))
    lost = ("False", "UnknownGateway")
    told(cluster, "RouteSpec", namespace, "lost", Compiled=lost, Programmed=lost)
    cluster.spec(team(namespace, "api"))
    found = told(cluster, "RouteSpec", namespace, "api", **good)
    assert "lastError" not in found["status"]


def test_programmed_means_that_the_connected_proxies_have_it(cluster: Kubernetes, plane: Plane) -> None:
    namespace = cluster.namespace()
    port = free_port()
    cluster.spec(gateway(namespace, listeners=[{"name": "http", "port": port, "protocol": "HTTP"}]))
    cluster.spec(team(namespace, "api"))
    told(cluster, "RouteSpec", namespace, "api", Programmed=("True", "NoProxies"))
    plane.envoy(role=namespace)
    until(lambda: answers(port, "x", host="api.test"), "a real Envoy answers")
    found = told(cluster, "GatewaySpec", namespace, "edge", Programmed=("True", "Programmed"))
    assert found["status"]["fleet"] == {"matched": 1, "synced": 1, "pending": 0, "nacked": 0}
    before = told(cluster, "RouteSpec", namespace, "api", Programmed=("True", "Programmed"))
    assert plane.stop() == 0  # the Envoy comes back to the next one, a while after that one has looked at everything
    plane.start().ready()
    until(lambda: plane.json("/v1/nodes")["nodes"], "the Envoy is back")
    cluster.spec(team(namespace, "later"))
    told(cluster, "RouteSpec", namespace, "later", Programmed=("True", "Programmed"))
    after = cluster.get("RouteSpec", "api", namespace)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    cluster.spec(team(namespace, "api", use=[]))
    told(cluster, "RouteSpec", namespace, "api", Programmed=("True", "Programmed"))


def test_the_older_object_keeps_a_path_and_the_newer_one_is_told(cluster: Kubernetes, plane: Plane) -> None:
    """Names decide nothing: the one that was created first has it, also when it comes last in the alphabet."""
    home, first, second = cluster.namespace("home"), cluster.namespace("zebra"), cluster.namespace("aardvark")
    delegates = [{"name": "teams", "namespaces": [first, second], "hosts": ["shared.test"]}]
    cluster.spec(gateway(home, delegates=delegates))
    for namespace in (first, second):
        text = json.loads(team(namespace, "shared"))
        text["spec"]["gateway"] = f"{home}/edge"
        cluster.spec(json.dumps(text))
        if namespace == first:
            age = cluster.get("RouteSpec", "shared", first)["metadata"]["creationTimestamp"]
            until(lambda age=age: _second() > age, "a second has passed: ages are in seconds")
    told(cluster, "RouteSpec", first, "shared", Compiled=("True", "Compiled"))
    told(cluster, "RouteSpec", second, "shared", Compiled=("False", "Conflict"))
    cluster.delete("RouteSpec", "shared", first)
    told(cluster, "RouteSpec", second, "shared", Compiled=("True", "Compiled"))


def _second() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_what_somebody_makes_of_a_status_is_put_right_and_what_is_theirs_stays(
    cluster: Kubernetes, plane: Plane
) -> None:
    namespace = cluster.namespace()
    cluster.spec(gateway(namespace))
    cluster.spec(team(namespace, "api"))
    good = {"Compiled": ("True", "Compiled"), "Programmed": ("True", "NoProxies")}
    path = f"/apis/gatewayspec.dev/v1alpha1/namespaces/{namespace}/routespecs/api/status"
    told(cluster, "RouteSpec", namespace, "api", **good)
    cluster.call("PATCH", path, {"status": None}, "application/merge-patch+json")
    found = told(cluster, "RouteSpec", namespace, "api", **good)
    audited = {"type": "Audited", "status": "True", "reason": "Ok", "message": "", "lastTransitionTime": _second()}
    theirs = [{**one, "status": "False"} for one in found["status"]["conditions"]]
    body = {"status": {"conditions": [audited, *theirs]}}
    cluster.call("PATCH", path, body, "application/merge-patch+json")
    found = told(cluster, "RouteSpec", namespace, "api", **good, Audited=("True", "Ok"))
    cluster.spec(team(namespace, "other"))
    told(cluster, "RouteSpec", namespace, "other", **good)
    after = cluster.get("RouteSpec", "api", namespace)
    assert after["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]


def test_a_status_of_an_older_version_is_refused(cluster: Kubernetes, plane: Plane) -> None:
    """What a process that stood still sends late: the writer relies on it."""
    namespace = cluster.namespace()
    cluster.spec(gateway(namespace))
    found = told(cluster, "GatewaySpec", namespace, "edge", Compiled=("True", "Compiled"))
    cluster.spec(gateway(namespace, routes=[]))
    told(cluster, "GatewaySpec", namespace, "edge", Compiled=("True", "Compiled"))
    body = {name: found[name] for name in ("apiVersion", "kind", "status")}
    body["metadata"] = {name: found["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    path = f"/apis/gatewayspec.dev/v1alpha1/namespaces/{namespace}/gatewayspecs/edge/status"
    manager = "?fieldManager=controlplane-status&force=true"
    with pytest.raises(ApiError, match="409"):
        cluster.call("PATCH", path + manager, body, "application/apply-patch+yaml")


def test_nothing_is_written_when_nothing_changed(cluster: Kubernetes, plane: Plane, tmp_path: Path) -> None:
    """Neither by an edit elsewhere, nor by a restart."""
    namespace = cluster.namespace()
    cluster.spec(gateway(namespace))
    cluster.spec(team(namespace, "still"))
    before = told(
        cluster, "RouteSpec", namespace, "still", Compiled=("True", "Compiled"), Programmed=("True", "NoProxies")
    )
    cluster.spec(team(namespace, "other"))
    told(cluster, "RouteSpec", namespace, "other", Compiled=("True", "Compiled"))
    assert plane.stop() == 0
    with replica(cluster, tmp_path / "again") as again:
        again.ready()
        cluster.spec(team(namespace, "third"))
        told(cluster, "RouteSpec", namespace, "third", Compiled=("True", "Compiled"))
        after = cluster.get("RouteSpec", "still", namespace)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_one_replica_writes_and_the_next_takes_over(cluster: Kubernetes, plane: Plane, tmp_path: Path) -> None:
    namespace = cluster.namespace()
    cluster.spec(gateway(namespace))
    told(cluster, "GatewaySpec", namespace, "edge", Compiled=("True", "Compiled"))
    holder = _holder(cluster)
    with replica(cluster, tmp_path / "second") as second:
        second.ready()
        assert _holder(cluster) == holder
        assert plane.stop() == 0
        cluster.spec(team(namespace, "later"))
        told(cluster, "RouteSpec", namespace, "later", Compiled=("True", "Compiled"))
        assert _holder(cluster) not in {"", holder}


def _holder(cluster: Kubernetes) -> str:
    lease: str = cluster.get("Lease", "controlplane-status", "controlplane")["spec"]["holderIdentity"]
    return lease


def test_without_the_right_to_write_everything_else_goes_on(cluster: Kubernetes, tmp_path: Path) -> None:
    namespace = cluster.namespace()
    cluster.service_account(namespace, "reader")
    for file in ("endpoints.yaml", "specs.yaml"):
        for thing in yaml.safe_load_all((MANIFESTS / "rbac" / file).read_text()):
            if thing["kind"] == "ClusterRoleBinding":
                thing["metadata"]["name"] += f"-{namespace}"
                thing["subjects"][0] |= {"name": "reader", "namespace": namespace}
                cluster.apply(thing)
    cluster.spec(gateway(namespace))
    kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", {"token": cluster.token(namespace, "reader")})
    config = tmp_path / "controlplane.yaml"
    clusters = [{"name": "test", "kubeconfig": str(kubeconfig), "specs": True}]
    config.write_text(json.dumps({"sources": {"kubernetes": clusters}}))
    with Plane(tmp_path, "--config", str(config)).start() as plane:
        plane.ready()

        def codes() -> list[str]:
            return [one["code"] for one in plane.json("/v1/problems")["problems"]]

        until(lambda: "GW0313" in codes(), "it is said that the status cannot be written")
        names = [one["name"] for one in plane.json("/v1/gateways")["gateways"]]
        assert f"{namespace}/edge" in names


def test_the_rights_of_a_namespace_are_enough_to_tell_its_specs(cluster: Kubernetes, tmp_path: Path) -> None:
    """With the Lease and no right in any other namespace."""
    namespace, account = cluster.namespace(), cluster.namespace("account")
    cluster.service_account(account, "controlplane")
    for file, inside in (("namespace.yaml", namespace), ("lease.yaml", account)):
        for thing in yaml.safe_load_all((MANIFESTS / "rbac" / file).read_text()):
            assert not thing["kind"].startswith("Cluster")
            thing["metadata"]["namespace"] = inside
            for subject in thing.get("subjects", ()):
                subject["namespace"] = account
            cluster.apply(thing)
    kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", {"token": cluster.token(account, "controlplane")})
    config = tmp_path / "controlplane.yaml"
    watched = {"name": "test", "kubeconfig": str(kubeconfig), "specs": True, "region": "here"}
    clusters = [watched | {"namespaces": [namespace], "leaseNamespace": account}]
    config.write_text(json.dumps({"sources": {"kubernetes": clusters}}))
    cluster.spec(gateway(namespace))
    with Plane(tmp_path, "--config", str(config)).start() as plane:
        plane.ready()
        told(cluster, "GatewaySpec", namespace, "edge", Compiled=("True", "Compiled"))


def test_who_ends_does_not_count_the_proxies_that_leave_it(cluster: Kubernetes, plane: Plane) -> None:
    """They go to another replica, which writes from then on."""
    namespace = cluster.namespace()
    cluster.spec(gateway(namespace))
    done = threading.Event()

    def matched() -> int:
        fleet = cluster.get("GatewaySpec", "edge", namespace).get("status", {}).get("fleet", {})
        return int(fleet.get("matched", 0))

    with ExitStack() as stack:
        stack.callback(done.set)
        for number in range(6):
            client = stack.enter_context(Client(plane, None, node=f"n{number}", labels={"role": namespace}, tls=False))

            def requests(client: Client = client) -> Iterator[bytes]:
                yield client.request(types.CLUSTER)
                done.wait()

            stack.callback(client.channel.stream_stream(AGGREGATED + "DeltaAggregatedResources")(requests()).cancel)
        until(lambda: matched() == 6, "all are counted", step=0.05)
        assert plane.stop() == 0
    assert matched() == 6
    assert _holder(cluster) == ""
