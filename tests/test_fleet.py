"""Which nodes a publication waits for, and what a node without gateways sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from controlplane.app import fleet as module
from controlplane.app.fleet import Fleet, Labels
from controlplane.names import Family, GatewayName, parts_of
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.telemetry.metrics import Metrics
from controlplane.xds import types
from controlplane.xds.nodes import Node, Peer
from controlplane.xds.observer import Variant

EDGE = GatewayName("shop/edge")
ROLE: dict[GatewayName, Labels] = {EDGE: (("role", "edge"),)}


class Rig:
    """A fleet, its store, and streams that connect as sessions do: the directory is asked first."""

    def __init__(self) -> None:
        self.store = Store()
        self.fleet = Fleet(self.store, Metrics(), trust=None, demand=lambda *_: None)
        self.arrived: list[int] = []
        self.select(ROLE)
        self.publish()

    def select(self, selectors: dict[GatewayName, Labels]) -> None:
        self.fleet.select(selectors, {((gateway,), Family.ENVOY) for gateway in selectors})

    def publish(self) -> int:
        """Something changes; `arrived` has its number when everybody has it."""
        number = self.store.sequence + 1
        resource = Resource(types.CLUSTER, "c", str(number).encode())
        assert self.store.publish({parts_of((EDGE,))[0]: [(types.CLUSTER, "c", resource)]}) == number
        self.fleet.published(number, 0.0, lambda: self.arrived.append(number))
        return number

    def connect(self, stream: int, role: str = "edge") -> Node:
        node = Node(f"n-{role}", labels={"role": role})
        shown = self.fleet.admit(node, Peer()) is not None
        self.fleet.connected(stream, node, Variant.DELTA, shown=shown)
        return node


def run(check: Callable[[Rig], None]) -> None:
    async def body() -> None:
        check(Rig())

    asyncio.run(body())


def sees(rig: Rig, node: Node) -> tuple[Any, ...] | None:
    view = rig.fleet.admit(node, Peer())
    return None if view is None else view.parts


def test_a_node_that_never_saw_a_gateway_waits_whatever_changes() -> None:
    """The empty view would take away from it what it has from another replica, or from before."""

    def check(rig: Rig) -> None:
        node = rig.connect(1, "other")
        rig.publish()
        assert rig.fleet.admit(node, Peer()) is None
        rig.connect(2, "other")
        assert rig.fleet.admit(node, Peer()) is None

    run(check)


def test_a_node_whose_gateways_are_all_gone_sees_nothing_as_long_as_it_is_connected() -> None:
    def check(rig: Rig) -> None:
        node = rig.connect(1)
        assert sees(rig, node)
        rig.select({})
        assert sees(rig, node) == ()
        rig.fleet.disconnected(1, node, None)
        assert rig.fleet.admit(node, Peer()) is None

    run(check)


NORTH, SOUTH, EAST = map(GatewayName, ("shop/north", "shop/south", "shop/east"))
EDGES: dict[GatewayName, Labels] = dict.fromkeys((NORTH, SOUTH), (("role", "edge"),))
EDGES[EAST] = (("role", "edge"), ("zone", "east"))


@pytest.mark.parametrize(
    "said", [{}, {"role": "edge", "zone": "east"}, {"role": "edge", "zone": "west"}, {"role": "edge"}]
)
def test_what_is_proven_selects_and_what_a_node_says_narrows_it(said: dict[str, str]) -> None:
    def check(rig: Rig) -> None:
        rig.select(EDGES)
        all_of_them = said.get("zone", "" if said else "east") == "east"
        expected = (EAST, NORTH, SOUTH) if all_of_them else (NORTH, SOUTH)
        assert rig.fleet.gateways({"role": "edge", "zone": "east"}, said) == expected
        assert rig.fleet.gateways({"role": "core"}, said) == ()

    run(check)


def test_what_a_node_has_narrowed_is_wanted_when_gateways_change() -> None:
    """Its view must be there in the publication that takes away the one before, or it loses its listeners."""

    def check(rig: Rig) -> None:
        rig.select(EDGES)
        rig.fleet.gateways({"role": "edge", "zone": "east"}, {"role": "edge"})
        more = {**EDGES, EDGE: ROLE[EDGE]}
        assert rig.fleet.wanted(more) == {((EDGE, NORTH, SOUTH), Family.ENVOY)}

    run(check)


def test_what_nodes_see_is_wanted_though_gateways_change_again_before_anybody_has_looked() -> None:
    def check(rig: Rig) -> None:
        rig.select({**EDGES, EDGE: ROLE[EDGE]})
        rig.connect(1)
        rig.select(EDGES)
        less = {SOUTH: EDGES[SOUTH], NORTH: EDGES[NORTH]}
        assert rig.fleet.wanted(less) == {((NORTH, SOUTH), Family.ENVOY)}
        rig.select(less)
        rig.select(EDGES)
        assert rig.fleet.wanted(EDGES) == set(), "nobody has these labels any more"

    run(check)


def test_why_a_node_had_to_go_is_remembered_until_it_is_back() -> None:
    """`gone` alone sent people to the log of the replica that it was connected to."""

    def check(rig: Rig) -> None:
        node = rig.connect(1)
        rig.fleet.disconnected(1, node, "the client certificate is revoked")
        ((gone, _, reason),) = rig.fleet.gone.all()
        assert (gone, reason) == (node, "the client certificate is revoked")
        rig.connect(2)
        assert not [*rig.fleet.gone.all()]
        rig.fleet.disconnected(2, node, None)
        assert [reason for *_, reason in rig.fleet.gone.all()] == [None]

    run(check)


def test_a_node_that_is_denied_between_its_view_and_its_stream_leaves_nothing() -> None:
    def check(rig: Rig) -> None:
        node = Node("n-edge", labels={"role": "edge"})
        assert rig.fleet.admit(node, Peer())
        rig.connect(1, "other")
        rig.select({})
        rig.connect(2)
        assert rig.fleet.admit(node, Peer()) is None

    run(check)


def test_a_publication_has_arrived_when_all_who_see_something_have_it() -> None:
    def check(rig: Rig) -> None:
        rig.arrived.clear()
        gone = rig.connect(1)
        rig.connect(2)
        rig.connect(3, "other")  # has no view, and acknowledges nothing
        first, second = rig.publish(), rig.publish()
        rig.connect(4)  # begins with what there is
        rig.fleet.settled(1, second)
        rig.fleet.settled(2, first)
        assert rig.arrived == [first]
        rig.fleet.settled(4, second)
        assert rig.arrived == [first]
        third = rig.publish()
        rig.fleet.settled(2, third)
        rig.fleet.settled(4, third)
        assert rig.arrived == [first, second]
        rig.fleet.disconnected(1, gone, None)
        assert rig.arrived == [first, second, third]

    run(check)


def test_a_node_that_comes_to_have_a_gateway_is_waited_for_from_then_on() -> None:
    def check(rig: Rig) -> None:
        node = rig.connect(1, "other")
        assert rig.publish() in rig.arrived
        rig.select({**ROLE, GatewayName("shop/other"): (("role", "other"),)})
        assert sees(rig, node)
        rig.arrived.clear()
        number = rig.publish()
        assert rig.arrived == []
        rig.fleet.settled(1, number)
        assert rig.arrived == [number]

    run(check)


def test_an_acknowledgement_does_not_cost_what_others_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def by_sequence(underway: Any) -> int:
        nonlocal looked
        looked += 1
        return int(underway.sequence)

    def check(rig: Rig) -> None:
        rig.connect(1)  # never acknowledges
        rig.connect(2)
        for _ in range(1000):
            number = rig.publish()
            rig.fleet.settled(2, number)
        assert looked < 1000 * 30

    monkeypatch.setattr(module, "_by_sequence", by_sequence)
    run(check)
