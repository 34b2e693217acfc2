"""A RouteSpec of which nothing is served says so: `kubectl wait --for=condition=Programmed` must not go on for it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.app.loop import CommitLoop
from controlplane.app.offered import offers
from controlplane.app.problems import Problems
from controlplane.app.reports import Reports
from controlplane.compile.compiler import Compiler
from controlplane.names import ObjectRef
from controlplane.snapshot.store import Store
from controlplane.sources.base import SpecObject
from controlplane.spec.gateway import KINDS
from controlplane.spec.rows import rows
from controlplane.status.standing import status

SOURCE = "kubernetes/eu"
TEAM = {"name": "team", "namespaces": ["team"], "hosts": ["a.test"], "pathPrefixes": ["/pay"]}
OTHER = {**TEAM, "name": "other", "namespaces": ["other"]}


def gateway(*delegates: dict[str, Any], hosts: str = "") -> dict[str, Any]:
    listener: dict[str, Any] = {"name": "http", "port": 8080, "protocol": "HTTP"}
    if hosts:
        tls = [{"hosts": [hosts], "certificate": {"secretRef": "tls"}}]
        listener = {"name": "https", "port": 8443, "protocol": "HTTPS", "tls": tls}
    selector = {"matchLabels": {"role": "edge"}}
    spec = {"fleet": {"selector": selector}, "delegates": list(delegates), "listeners": [listener]}
    return {"kind": "GatewaySpec", "metadata": {"name": "edge", "namespace": "platform"}, "spec": spec}


def route(name: str = "a", path: str = "/pay", host: str = "a.test", **match: Any) -> dict[str, Any]:
    said = {"name": name, "hosts": [host], "match": [{"path": {"prefix": path}, **match}], "public": True}
    return {**said, "respond": {"status": 200, "body": "x"}}


def team(*routes: dict[str, Any], namespace: str = "team") -> dict[str, Any]:
    metadata = {"name": "api", "namespace": namespace}
    return {
        "kind": "RouteSpec",
        "metadata": metadata,
        "spec": {
            "gateway": "platform/edge",
            "routes": list(routes),
        },
    }


class Rig:
    """What a status is told from, but for proxies: one is connected, and has everything up to a publication."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self.specs: dict[ObjectRef, SpecObject] = {}
        self.compiler, self.store = Compiler(), Store()
        self.register = Problems(object_of=self.specs.get)
        self.loop = CommitLoop(self.compiler, lambda *_: None, quiet=0, longest=0)
        self.settled = 1_000
        server: Any = SimpleNamespace(nodes=lambda: [self.stream()])
        self.reports = Reports(self.register, self.loop, self.store, server)
        self.touched: list[ObjectRef] = []
        self.reports.fleet_moved = lambda: None  # type: ignore[method-assign]
        self.reports.writers[SOURCE] = SimpleNamespace(touch=self.touched.extend)  # type: ignore[assignment]
        self.put(*documents)

    def stream(self) -> Any:
        node = SimpleNamespace(id="envoy-1", user_agent="envoy")
        return SimpleNamespace(node=node, parts=(("platform/edge",),), settled=self.settled, types=())

    def put(self, *documents: dict[str, Any]) -> None:
        """Compile and publish these, the older ones first."""
        refs = []
        for age, said in enumerate(documents):
            ref = ObjectRef(SOURCE, said["kind"], said["metadata"]["namespace"], said["metadata"]["name"])
            document = {"apiVersion": "gatewayspec.dev/v1alpha1", **said}
            split = rows(ref, KINDS[ref.kind].model_validate(document), f"{age:03}")
            self.specs[ref] = SpecObject(ref, split, "", "", 0)
            self.compiler.put(ref, split)
            refs.append(ref)
        commit = self.compiler.commit_now()
        self.store.publish(commit.publication)
        self.register.say_all(commit.issues)
        self.reports.committed(refs, self.store.sequence)

    def told(self, namespace: str = "team") -> tuple[tuple[str, str], str]:
        """What `Programmed` says, and the message of `Compiled`."""
        self.reports._counted_at = time.monotonic() - 1
        standing = self.reports.standing(ObjectRef(SOURCE, "RouteSpec", namespace, "api"), 1)
        assert standing is not None
        compiled, programmed = status(standing, {}, "now")["conditions"]
        return (programmed["status"], programmed["reason"]), compiled["message"]


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ([gateway(), team(route())], "NotGranted"),
        ([gateway(TEAM), team(route(host="b.test"))], "NotGranted"),
        ([gateway(TEAM), team(route(path="/admin"))], "NotGranted"),
        ([gateway(TEAM, OTHER), team(route(), namespace="other"), team(route())], "Conflict"),
        ([gateway(TEAM, OTHER), team(route(), namespace="other"), team(route(path="/pay/x"), route("b"))], "Conflict"),
    ],
)
def test_routes_that_are_all_refused_are_not_programmed(documents: list[dict[str, Any]], reason: str) -> None:
    condition, message = Rig(*documents).told()
    assert condition == ("False", reason)
    assert message.endswith("; nothing of it is served")


def test_an_equal_route_of_the_same_namespace_is_not_programmed() -> None:
    younger = team(route("b"), namespace="platform")
    younger["metadata"]["name"] = "younger"
    rig = Rig(gateway(), team(route(), namespace="platform"), younger)
    standing = rig.reports.standing(ObjectRef(SOURCE, "RouteSpec", "platform", "younger"), 1)
    assert standing is not None
    assert not standing.is_served
    assert rig.told("platform")[0] == ("True", "Programmed")


@pytest.mark.parametrize(
    ("documents", "rest"),
    [
        # One of two routes, of two matches, of two hosts; and one that answers 503.
        ([gateway(TEAM), team(route(), route("b", "/admin"))], "; everything else of it is served"),
        ([gateway(TEAM), team({**route(), "match": [{"path": {"prefix": one}} for one in ("/pay", "/x")]})], " is served"),
        ([gateway(TEAM), team({**route(), "hosts": ["a.test", "b.test"]})], "; everything else of it is served"),
        ([gateway(TEAM), team({**route(), "use": ["gone"]})], " is served"),
        ([gateway(TEAM), team({**route("ab"), "hosts": ["b.test"]}, route("abc"))], "; everything else of it is served"),
        # Nothing is wrong with it.
        ([gateway(TEAM), team(route())], "compiled"),
    ],
)  # fmt: skip
def test_what_is_served_in_part_is_programmed(documents: list[dict[str, Any]], rest: str) -> None:
    condition, message = Rig(*documents).told()
    assert condition == ("True", "Programmed")
    assert message.endswith(rest)


def test_a_document_without_routes_lacks_none() -> None:
    rig = Rig(gateway())
    empty = SpecObject(ObjectRef(SOURCE, "RouteSpec", "team", "api"), {}, "", "", 0)
    assert offers(rig.compiler.tables, rig.store, empty)


def test_a_crowded_host_is_served_from_its_fallback() -> None:
    many = [{**route(f"r{n:03}"), "match": [{"path": {"template": f"/{{x}}/{n}"}}]} for n in range(70)]
    spec = team(route(), {**route("z"), "use": ["gone"]}, *many, namespace="platform")
    assert Rig(gateway(), spec).told("platform")[0] == ("True", "Programmed")


def test_routes_that_no_listener_accepts_are_not_programmed() -> None:
    """It is a warning of each route: nothing is disabled, and nothing is served."""
    condition, message = Rig(gateway(TEAM, hosts="b.test"), team(route())).told()
    assert condition == ("False", "NoListener")
    assert message.startswith("compiled, with 1 warnings")


def test_a_gateway_serves_the_routes_of_others() -> None:
    spec = gateway(TEAM)
    spec["spec"]["routes"] = [{**route("own"), "use": ["gone"]}]
    rig = Rig(spec, team(route()))
    standing = rig.reports.standing(ObjectRef(SOURCE, "GatewaySpec", "platform", "edge"), 1)
    assert standing is not None
    assert standing.is_served


def test_what_is_granted_later_is_programmed_when_proxies_have_it() -> None:
    """The publication that they need is not that of its own edit."""
    rig = Rig(gateway(), team(route()))
    assert rig.told()[0] == ("False", "NotGranted")
    rig.settled = rig.store.sequence
    rig.put(gateway(TEAM))
    assert rig.told()[0] == ("False", "Pending")
    rig.settled = rig.store.sequence
    assert rig.told()[0] == ("True", "Programmed")
    rig.put(gateway())
    assert rig.told()[0] == ("False", "NotGranted")


def test_what_a_commit_may_decide_is_said_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In between, what is compiled has places that are not published yet."""
    rig = Rig(gateway(), team(route()))
    ref = ObjectRef(SOURCE, "RouteSpec", "team", "api")
    monkeypatch.setattr(rig.loop, "_sweeping", True)
    assert rig.reports.standing(ref, 1) is None
    monkeypatch.setattr(rig.loop, "_sweeping", False)
    rig.touched.clear()
    rig.reports.committed([], rig.store.sequence)
    assert rig.touched == [ref]
