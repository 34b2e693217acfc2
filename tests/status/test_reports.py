"""Of which object a status speaks: of its own cluster's, though another cluster has one of the same name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from controlplane.app.problems import Problems
from controlplane.app.reports import Reports
from controlplane.compile.compiler import Compiler
from controlplane.errors import Diagnostic
from controlplane.names import GatewayName, ObjectRef
from controlplane.sources.base import SpecObject
from controlplane.sources.kubernetes.specs import Documents
from controlplane.status.standing import status

EU, US = (ObjectRef(f"kubernetes/{cluster}", "RouteSpec", "shop", "api") for cluster in ("eu", "us"))
GOOD = {
    "gateway": "platform/edge",
    "routes": [
        {"name": "r", "hosts": ["a.test"], "match": [{"path": {"prefix": "/"}}], "public": True, "redirect": {"host": "b.test"}}
    ],
}  # fmt: skip


class Still(Reports):
    """Time does not pass in it: what comes a moment later is called by tests."""

    moves = 0

    def fleet_moved(self) -> None:
        self.moves += 1

    def later(self) -> None:
        """The moment has passed."""
        self._moved()


class Rig:
    """Two clusters and their statuses; as much of the process as that needs."""

    def __init__(self) -> None:
        self.specs: dict[ObjectRef, SpecObject] = {}
        self.register = Problems(object_of=self.specs.get)
        self.streams: list[Any] = []
        """Of proxies that are connected."""
        version = SimpleNamespace(version=lambda: "v")
        idle: Any = SimpleNamespace(
            waits=lambda _: False,
            sweeps=False,
            compiler=Compiler(),
            view=lambda _: version,
            nodes=lambda: self.streams,
        )
        self.reports = Still(self.register, idle, idle, idle)
        self.touched: list[ObjectRef] = []
        sink: Any = SimpleNamespace(
            put=lambda spec: self.specs.update({spec.ref: spec}),
            problems=lambda source, subject, said: self.register.say((source, subject), said),
        )
        self.documents = {ref: Documents(ref.source, ref.kind, None, {}, sink) for ref in (EU, US)}
        for ref in (EU, US):
            self.reports.writers[ref.source] = Writer(self.touched)

    def write(self, ref: ObjectRef, spec: Any) -> None:
        metadata = {"name": ref.name, "namespace": ref.namespace, "uid": "u", "resourceVersion": "1", "generation": 1}
        said = {"metadata": metadata | {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec}
        self.documents[ref].changed(msgspec.Raw(json.dumps(said).encode()))

    def status(self, ref: ObjectRef) -> dict[str, Any]:
        self.reports._counted_at = float("-inf")
        standing = self.reports.standing(ref, 1)
        assert standing is not None
        return status(standing, {}, "now")

    def gateway(self) -> ObjectRef:
        """The gateway of the routes, published as number 5."""
        ref = ObjectRef(EU.source, "GatewaySpec", "platform", "edge")
        self.specs[ref] = SpecObject(ref, {}, "", "", 0)
        self.reports.committed([ref], 5)
        return ref

    def connect(self, node: str, settled: int) -> None:
        """A stream of an Envoy that has everything up to this publication."""
        said = SimpleNamespace(id=node, user_agent="envoy")
        parts = (("platform/edge",), ("view", "platform/edge"))
        self.streams.append(SimpleNamespace(node=said, parts=parts, settled=settled, types=()))


class Writer:
    """Notes what it is told."""

    def __init__(self, touched: list[ObjectRef]) -> None:
        self._touched = touched

    def touch(self, refs: Iterable[ObjectRef]) -> None:
        self._touched += refs

    async def run(self) -> None:
        """Nothing is written."""


def test_an_error_of_one_cluster_is_no_error_of_the_other() -> None:
    """The owner of a good object would look for an error that it does not have."""
    rig = Rig()
    rig.write(EU, GOOD)
    rig.write(US, {**GOOD, "routes": "nonsense"})
    assert rig.touched == [US]
    assert rig.status(EU)["conditions"][0]["reason"] == "Compiled"
    assert rig.status(US)["conditions"][0]["reason"] == "Invalid"
    assert [str(one.place) for one in asyncio.run(rig.register.all())] == ["kubernetes/us: RouteSpec shop/api"]
    rig.write(US, GOOD)
    assert (rig.touched, asyncio.run(rig.register.all())) == ([US, US], {})


def test_what_was_never_valid_is_not_in_force() -> None:
    rig = Rig()
    rig.write(EU, {**GOOD, "routes": "nonsense"})
    assert programmed(rig.status(EU)) == "Invalid"
    rig.write(EU, GOOD)
    rig.write(EU, {**GOOD, "routes": "nonsense"})
    assert programmed(rig.status(EU)) == "LastGood"


def test_who_takes_the_place_of_another_is_told() -> None:
    """Only the other one was edited."""
    rig = Rig()
    rig.write(EU, GOOD)
    rig.write(US, GOOD)
    said = Diagnostic("GW0226", "is in kubernetes/eu too", subject=US.subject)
    rig.register.say(("namesakes", US), [said])
    assert rig.status(US)["conditions"][0]["reason"] == "Conflict"
    assert rig.status(EU)["conditions"][0]["reason"] == "Compiled"
    del rig.specs[EU]
    rig.touched.clear()
    rig.reports.committed([EU], 7)
    assert sorted(rig.touched) == [EU, US]


@pytest.mark.parametrize("ref", [EU, EU._replace(source="files"), EU._replace(source="consul/dc", kind="GatewaySpec")])
def test_a_subject_names_one_object(ref: ObjectRef) -> None:
    assert ObjectRef.of_subject(ref.subject) == ref


@pytest.mark.parametrize("subject", ["", "kubernetes/eu", "shop/tls", "kubernetes/eu: shop/web", "specs/a.yaml"])
def test_other_subjects_name_no_object(subject: str) -> None:
    assert ObjectRef.of_subject(subject) is None


def programmed(status: dict[str, Any]) -> str:
    reason: str = status["conditions"][1]["reason"]
    return reason


def test_routes_without_a_proxy_are_told_of_the_first_one_and_of_no_other() -> None:
    """They were written before it: nobody would tell them again."""
    rig = Rig()
    rig.write(EU, GOOD)
    rig.reports.committed([EU], 5)
    assert programmed(rig.status(EU)) == "NoProxies"
    rig.touched.clear()
    rig.reports.later()
    assert rig.touched == []
    rig.connect("a", 5)
    rig.reports.later()
    assert rig.touched == [EU]
    assert programmed(rig.status(EU)) == "Programmed"
    rig.connect("b", 5)
    rig.reports.later()
    assert rig.touched == [EU]


def test_a_proxy_that_comes_while_it_is_said_that_there_is_none_is_looked_for_again() -> None:
    rig = Rig()
    rig.write(EU, GOOD)
    moves = rig.reports.moves
    rig.status(EU)
    assert rig.reports.moves == moves + 1


def test_a_route_that_goes_is_told_of_no_proxy() -> None:
    rig = Rig()
    rig.write(EU, GOOD)
    rig.reports.committed([EU], 5)
    rig.status(EU)
    del rig.specs[EU]
    rig.reports.committed([EU], 6)
    rig.connect("a", 6)
    rig.touched.clear()
    rig.reports.later()
    assert rig.touched == []


def test_a_proxy_with_a_stream_for_each_type_is_one_proxy() -> None:
    rig = Rig()
    gateway = rig.gateway()
    for settled in (5, 5, 4):
        rig.connect("a", settled)
    rig.connect("b", 5)
    assert rig.status(gateway)["fleet"] == {"matched": 2, "synced": 1, "pending": 1, "nacked": 0}


def test_a_gateway_counts_who_has_what_its_routes_and_endpoints_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the version that follows from them, too."""
    now = [100.0]
    monkeypatch.setattr("controlplane.app.reports.time", SimpleNamespace(monotonic=lambda: now[0]))
    rig = Rig()
    gateway = rig.gateway()
    rig.connect("frozen", 5)
    for sequence in range(6, 16):  # something changes all the time, and is always on its way
        moves = rig.reports.moves
        rig.reports.published([("platform/edge",), ("platform/other",)], sequence)
        assert rig.reports.moves == moves + 1
        now[0] += 0.1
    assert len(rig.reports._changes[GatewayName("platform/edge")]) < 5
    assert programmed(rig.status(gateway)) == "Pending"
    rig.streams.clear()
    rig.connect("quick", 14)
    assert programmed(rig.status(gateway)) == "Programmed"
    now[0] += 0.2
    assert programmed(rig.status(gateway)) == "Pending"
    rig.reports.published([("platform/other",)], 16)
    assert rig.reports.moves == moves + 1
