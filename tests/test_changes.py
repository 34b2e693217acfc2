"""What is remembered of changes: what was edited, what came of it, and within which bounds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from controlplane.app.ages import Ages
from controlplane.app.changes import NAMED, REMEMBERED, Changes
from controlplane.app.problems import LOGGED_AT_ONCE, Problems
from controlplane.compile.xds_types import CLUSTER, LISTENER
from controlplane.errors import Diagnostic
from controlplane.names import FILES, ROUTE_KIND, ObjectRef, SecretRef
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.spec.codes import Code

START = datetime(2026, 1, 1, tzinfo=UTC)
API = ObjectRef(FILES, ROUTE_KIND, "checkout", "api")
ELSEWHERE = ObjectRef("kubernetes/aws-eu", ROUTE_KIND, "checkout", "api")
KEYS = SecretRef(FILES, "checkout", "keys")


class Rig:
    """A store, and what is remembered of its publications. Objects are there unless they are `gone`."""

    def __init__(self) -> None:
        self.store, self.register, self.now = Store(), Problems(), START
        self.gone: set[ObjectRef] = set()
        self.register.object_of = lambda ref: None if ref in self.gone else self._object(ref)
        self.ages = Ages(self.store, lambda: 0.0)
        self.changes = Changes(self.register, lambda: self.now)

    @staticmethod
    def _object(ref: ObjectRef) -> Any:
        return SimpleNamespace(ref=ref, text="", file="api.yaml", line=1)

    def commit(self, *edits: Hashable, publish: Mapping[Hashable, Mapping[tuple[str, str], bytes | None]] = {}) -> None:
        before = self.store.sequence
        changes = {
            part: [(url, name, None if body is None else Resource(url, name, body)) for (url, name), body in of.items()]
            for part, of in publish.items()
        }
        sequence = self.store.publish(changes)
        self.changes.committed(edits, self.ages.touched(changes, before), sequence, 1.0)

    def said(self, pattern: str = "*", last: int = 20) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.changes.explained(pattern, last)["changes"]
        return found


def test_an_edit_is_told_with_what_came_of_it() -> None:
    """Only what differs counts: a publication repeats what has moved in its file."""
    rig = Rig()
    gateway, view = ("platform/edge",), ("view", "platform/edge", "platform/shop")
    first = {(CLUSTER, "a"): b"1", (CLUSTER, "b"): b"1"}
    rig.commit(API, publish={gateway: first, view: {(LISTENER, "web"): b"1"}})
    rig.now += timedelta(seconds=5)
    rig.commit(KEYS, publish={gateway: {**first, (CLUSTER, "b"): b"2"}})
    newest, oldest = rig.said()
    assert (oldest["edited"], oldest["sequence"], oldest["ageSeconds"]) == (["RouteSpec checkout/api"], 1, 5.0)
    assert (oldest["resources"], oldest["gateways"]) == ({"cds": 2, "lds": 1}, ["platform/edge", "platform/shop"])
    assert (newest["edited"], newest["sequence"]) == (["secret checkout/keys"], 2)
    assert (newest["resources"], newest["gateways"]) == ({"cds": 1}, ["platform/edge"])


def test_an_edit_without_effect_is_told_too() -> None:
    """Somebody saved a comment, and asks why nothing happens; what the process does by itself and without effect is no news."""
    rig = Rig()
    same = {("platform/edge",): {(CLUSTER, "a"): b"1"}}
    rig.commit(API, publish=same)
    rig.commit(API, publish=same)
    rig.commit(("view", ("platform/edge",), "envoy"))
    assert [one["sequence"] for one in rig.said()] == [None, 1]
    rig.commit(("view", ("platform/edge",), "envoy"), publish={("view", "platform/edge"): {(LISTENER, "web"): b"1"}})
    assert (rig.said()[0]["sequence"], rig.said()[0]["edited"]) == (2, [])


def test_what_is_gone_is_told_as_removed() -> None:
    rig = Rig()
    rig.gone = {API}
    rig.commit(API, ELSEWHERE)
    (one,) = rig.said()
    assert (one["removed"], one["edited"]) == (["RouteSpec checkout/api"], [f"{ELSEWHERE.source}: {API}"])


def test_an_edit_that_is_refused_is_told_once() -> None:
    """It never becomes a commit: all that is heard of it is what is wrong with it."""
    rig = Rig()
    wrong = Diagnostic(Code.UNKNOWN_FIELD, "unknown field", path="spec", subject=API.subject)
    rig.register.say("files", [wrong])
    rig.register.say("files", [wrong])
    (one,) = rig.said("checkout/api")
    assert (one["problems"][0]["code"], one["sequence"], one["edited"]) == ("GW0101", None, [])
    assert rig.said("*api.yaml") == [one], "by its file"
    rig.register.say("files", [Diagnostic(Code.UNKNOWN_FIELD, str(number)) for number in range(LOGGED_AT_ONCE + 3)])
    assert (len(rig.said()[0]["problems"]), rig.said()[0]["more"]) == (LOGGED_AT_ONCE, 3)


def test_names_are_taken_with_source_and_kind_or_without() -> None:
    rig = Rig()
    rig.commit(API)
    rig.commit(ELSEWHERE)
    rig.commit(KEYS)
    counts = {
        pattern: len(rig.said(pattern))
        for pattern in ("*", "checkout/api", "RouteSpec *", "kubernetes/*", "secret *", "checkout/*", "other/*")
    }
    assert list(counts.values()) == [3, 2, 2, 1, 1, 3, 0]


def test_what_is_remembered_has_bounds() -> None:
    """A load of 20,000 documents is one change; who is not named in it may have been part of it."""
    rig = Rig()
    rig.commit(*(API._replace(name=str(number)) for number in range(NAMED + 7)))
    (one,) = rig.said("some/other")
    assert (len(one["edited"]), one["more"]) == (NAMED, 7)
    assert rig.changes.explained("*", 5)["rememberedSince"] == START.isoformat(timespec="milliseconds")
    for _ in range(REMEMBERED):
        rig.now += timedelta(seconds=1)
        rig.commit(API)
    answer = rig.changes.explained("*", 5)
    assert (len(answer["changes"]), answer["more"]) == (5, REMEMBERED - 5)
    assert answer["rememberedSince"] == answer["changes"][0]["at"].replace("00:16:40", "00:00:01")
