"""Of which object a status speaks: of its own cluster's, though another cluster has one of the same name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from controlplane.app.problems import Problems
from controlplane.app.reports import Reports
from controlplane.errors import Diagnostic
from controlplane.names import ObjectRef
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


class Rig:
    """Two clusters and their statuses; as much of the process as that needs."""

    def __init__(self) -> None:
        self.specs: dict[ObjectRef, SpecObject] = {}
        self.register = Problems(object_of=self.specs.get)
        idle: Any = SimpleNamespace(waits=lambda _: False, view=None, nodes=lambda: ())
        self.reports = Reports(self.register, idle, idle, idle)
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
        standing = self.reports.standing(ref, 1)
        assert standing is not None
        return status(standing, {}, "now")


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
    assert [str(one.place) for one in rig.register.all()] == ["kubernetes/us: RouteSpec shop/api"]
    rig.write(US, GOOD)
    assert (rig.touched, rig.register.all()) == ([US, US], [])


def test_who_takes_the_place_of_another_is_told() -> None:
    """Only the other one was edited."""
    rig = Rig()
    rig.write(EU, GOOD)
    rig.write(US, GOOD)
    said = Diagnostic("GW0226", "is in kubernetes/eu too", subject=US.subject)
    rig.register.say(("twins", US), [said])
    assert rig.status(US)["conditions"][0]["reason"] == "Conflict"
    assert rig.status(EU)["conditions"][0]["reason"] == "Compiled"
    del rig.specs[EU]
    rig.touched.clear()
    with patch.object(rig.reports, "fleet_moved"):
        rig.reports.committed([EU], 7)
    assert sorted(rig.touched) == [EU, US]


@pytest.mark.parametrize("ref", [EU, EU._replace(source="files"), EU._replace(source="consul/dc", kind="GatewaySpec")])
def test_a_subject_names_one_object(ref: ObjectRef) -> None:
    assert ObjectRef.of_subject(ref.subject) == ref


@pytest.mark.parametrize("subject", ["", "kubernetes/eu", "shop/tls", "kubernetes/eu: shop/web", "specs/a.yaml"])
def test_other_subjects_name_no_object(subject: str) -> None:
    assert ObjectRef.of_subject(subject) is None
