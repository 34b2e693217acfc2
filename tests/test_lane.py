"""The endpoint lane gathers storms and nothing else, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controlplane.app.lane import PLACES, EndpointLane
from controlplane.app.pace import Pace
from controlplane.compile.compiler import Compiler
from controlplane.compile.endpoints import MAX_CLASSES, Endpoints, EndpointTables, Touched
from controlplane.model.endpoint import Locality
from controlplane.names import Family
from tests.compile.worlds import SHOP, with_backends


class _Clock:
    """A clock that goes when it is told to, and what was put off."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def later(self, delay: float, callback: Callable[[], None]) -> _Clock:
        self.waiting.append((self.now + delay, callback))
        return self

    def cancel(self) -> None:
        """Nobody cancels here."""

    def go(self, seconds: float) -> None:
        end = self.now + seconds
        while self.waiting and min(self.waiting, key=lambda one: one[0])[0] <= end + 1e-9:
            self.waiting.sort(key=lambda one: one[0])
            self.now, callback = self.waiting.pop(0)
            callback()
        self.now = end


def _lane() -> tuple[EndpointLane, _Clock, list[float]]:
    clock, published = _Clock(), list[float]()

    def publish(_: Touched, event_time: float) -> None:
        published.append(event_time)

    endpoints = Endpoints(EndpointTables(None))
    lane = EndpointLane(endpoints, publish, quiet=0.005, longest=0.1, clock=lambda: clock.now, later=clock.later)
    return lane, clock, published


def test_the_first_change_after_quiet_goes_at_once() -> None:
    lane, clock, published = _lane()
    lane.flush(99.0)
    assert published == [99.0]
    clock.go(1)
    lane.flush(100.5)
    assert published == [99.0, 100.5]


def test_a_storm_is_gathered_until_it_pauses() -> None:
    lane, clock, published = _lane()
    for _ in range(5):
        lane.flush(clock.now)
        clock.go(0.002)
    assert published == [100.0]
    clock.go(0.01)
    assert published == [100.0, 100.002], "the oldest of them counts"
    clock.go(1)
    assert len(published) == 2


def test_what_comes_well_apart_does_not_wait_for_the_commit_before() -> None:
    pace = Pace(quiet=0.005, longest=0.1)
    for came in (1.0, 1.006, 1.012):  # each while the one before is being committed, or just after
        pace.came(came)
        assert pace.due() == came
        pace.taken()
    pace.came(1.014)
    assert pace.due() == pytest.approx(1.019), "two milliseconds apart is a storm"


def test_a_storm_without_a_pause_goes_out_all_the_same() -> None:
    lane, clock, published = _lane()
    for _ in range(250):
        lane.flush(clock.now)
        clock.go(0.002)
    assert 5 <= len(published) <= 7


def test_no_node_takes_all_the_places_that_are_told_apart() -> None:
    lane, clock, published = _lane()
    compiler = Compiler(endpoints=lane.endpoints)
    member = {"kubernetes": {"cluster": "eu", "service": "shop/a", "port": "http"}}
    compiler.put(SHOP, with_backends([{"name": "a", "members": [member], "failover": {"within": ["zone"]}}]))
    compiler.commit_now()

    def near(node: str, place: str) -> bool:
        return bool(lane.near(["platform/shop"], Locality("eu", place), Family.ENVOY, node))

    assert [near("bad", f"made-up-{number}") for number in range(PLACES + 2)] == [True] * PLACES + [False] * 2
    assert near("bad", "made-up-0"), "what is known stays"
    assert near("good", "a")
    assert near("bad", "a"), "another has named it"
    clock.go(0)
    assert published
    bad = [near(f"bad-{number}", f"more-{number}") for number in range(MAX_CLASSES)]
    assert bad == [True] * (MAX_CLASSES - PLACES - 1) + [False] * (PLACES + 1)
    assert near("good", "a")
