"""Since when a resource is as it is: what publications touched, and nothing that they only repeat."""

from __future__ import annotations

import pytest

from controlplane.app.ages import Ages
from controlplane.compile.xds_types import CLUSTER, SCOPED_ROUTE
from controlplane.resources import Resource
from controlplane.snapshot.store import Store, View

EDGE, VIEW = ("platform/edge",), ("view", "platform/edge")


class Rig:
    def __init__(self) -> None:
        self.store, self.now = Store(), 1.0
        self.ages = Ages(self.store, lambda: self.now)

    def publish(self, part: tuple[str, ...], *contents: tuple[str, str, bytes | None]) -> None:
        before = self.store.sequence
        changes = {
            part: [(url, name, None if body is None else Resource(url, name, body)) for url, name, body in contents]
        }
        sequence = self.store.publish(changes)
        self.ages.published(self.ages.touched(changes, before), sequence)

    def since(self, name: str, url: str = SCOPED_ROUTE) -> tuple[int, float] | None:
        return self.ages.of((EDGE, VIEW), url, name)


def test_a_resource_is_as_old_as_its_content() -> None:
    """A publication repeats what has only moved in its file."""
    rig = Rig()
    rig.publish(EDGE, (SCOPED_ROUTE, "a", b"1"), (SCOPED_ROUTE, "b", b"1"), (CLUSTER, "a", b"1"))
    rig.now = 9.0
    rig.publish(EDGE, (SCOPED_ROUTE, "a", b"1"), (SCOPED_ROUTE, "b", b"2"))
    assert (rig.since("a"), rig.since("b"), rig.since("a", CLUSTER)) == ((1, 1.0), (2, 9.0), (1, 1.0))
    rig.publish(EDGE, (SCOPED_ROUTE, "b", None))
    assert rig.since("b") is None, "what is gone is forgotten"


def test_parts_are_told_apart() -> None:
    """Listeners of one name may differ from one set of gateways to the next; of a proxy's parts the first one counts."""
    rig = Rig()
    rig.publish(VIEW, (SCOPED_ROUTE, "a", b"1"))
    rig.publish(("view", "platform/other"), (SCOPED_ROUTE, "a", b"2"))
    assert rig.since("a") == (1, 1.0)
    rig.publish(EDGE, (SCOPED_ROUTE, "a", b"3"))
    assert rig.since("a") == (3, 1.0)


def test_an_age_is_told_with_its_publication() -> None:
    rig = Rig()
    rig.publish(EDGE, (CLUSTER, "a", b"1"))
    rig.now = 3.5
    assert rig.ages.plain(rig.ages.of((EDGE,), CLUSTER, "a")) == {"sequence": 1, "ageSeconds": 2.5}
    assert rig.ages.plain(rig.ages.of((EDGE,), CLUSTER, "b")) == {"sequence": None, "ageSeconds": None}


def test_a_change_does_not_list_all_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would cost what there is, with each change, on the event loop."""
    rig = Rig()
    rig.publish(EDGE, *((SCOPED_ROUTE, str(number), b"1") for number in range(3)))

    def names(_: View, type_url: str) -> frozenset[str]:
        raise AssertionError(f"all names of {type_url} are listed")

    monkeypatch.setattr(View, "names", names)
    rig.publish(EDGE, (SCOPED_ROUTE, "0", b"2"), (SCOPED_ROUTE, "1", None))
    assert (rig.since("0"), rig.since("1"), rig.since("2")) == ((2, 1.0), None, (1, 1.0))
