"""Random lives of random fleets, in real times on a clock that is set by hand: see proxies.py for what a proxy is.

What holds for each of them, at any time: a route that was once of use is of use. At the end, with nothing bad left: all
have all there is, and soon. Who is blamed is to blame.
"""

from __future__ import annotations

from random import Random

import pytest

from controlplane.resources import Resource
from tests.protocol.dialogue import CDS, EDS, LDS, SRDS
from tests.protocol.proxies import (
    PARTS,
    TYPES,
    Fleet,
    Manner,
    Proxy,
    Replica,
    World,
    assignment,
    cluster,
    listener,
    route,
    said,
)

VERSIONS = ("1.39.0", "1.40.0")
SOON = 4.0
"""Seconds that an edit takes at most with quick proxies, when nothing is refused: three round trips, and names resolve."""
BOUND = 12.0
"""The same where something is refused: what depends on that waits for the bound."""
LAGS = (0.0, 0.0, 0.01, 0.3)
"""Seconds after which a replica hears of an edit."""
VIEWS = (PARTS[:1], PARTS[1:], PARTS)


class Life:
    """One fleet, one run."""

    def __init__(
        self,
        seed: int,
        *,
        bad: bool,
        stills: bool = False,
        restarts: bool = False,
        moves: bool = False,
        replicas: bool = False,
    ) -> None:
        self.chance = Random(seed)
        self.bad, self.stills, self.restarts, self.moves = bad, stills, restarts, moves
        self.targets = [f"cluster-{number}" for number in range(self.chance.randint(2, 5))]
        self.routes = [f"route-{number}" for number in range(self.chance.randint(1, 5))]
        self.contents: dict[tuple[str, str], str] = {}
        self.leads: dict[str, str] = {}
        self.of_use: set[str] = set()
        self.fleet = Fleet(self.chance, look=self.look, joined=self.joined)
        if replicas:
            self.fleet.replicas.append(Replica(self.fleet))
        self.edits = 0
        self.edit()
        for number in range(self.chance.randint(1, 4)):
            self.fleet.join(f"node-{number}", self.manner())

    def manner(self) -> Manner:
        chance = self.chance
        return Manner(
            sotw=chance.random() < 0.4,
            version=chance.choice(VERSIONS),
            names=chance.random() < 0.6,
            latency=chance.choice([0.001, 0.02, 0.1, 0.3]),
            asks_first=chance.random() < 0.3,
            star=chance.random() < 0.7,
        )

    def look(self, proxy: Proxy) -> None:
        failing = proxy.failing()
        assert not failing or proxy.name not in self.of_use, f"{self.fleet.now:.2f}: {proxy.name} has {failing}"
        if not failing and proxy.held.get(SRDS):
            self.of_use.add(proxy.name)

    def joined(self, proxy: Proxy) -> None:
        """The first answer by the state of the world is a whole set, without what is gone, where nobody knows what it had."""
        if proxy.manner.sotw and (self.restarts or len(self.fleet.replicas) > 1):
            self.of_use.discard(proxy.name)

    # -- the world ---------------------------------------------------------------------------------------------------

    def content(self, url: str) -> str:
        self.edits += 1
        if self.bad and url != EDS and self.chance.random() < 0.25:
            return self.chance.choice(["bad", "bad", *(f"bad-{version}" for version in VERSIONS)])
        return f"v{self.edits % 7}"

    def edit(self, *, mend: bool = False) -> None:
        """Some routes lead elsewhere, some contents change; clusters are there when routes lead to them, or by chance."""
        chance = self.chance
        for name in self.routes:
            if name not in self.leads or chance.random() < 0.4:
                self.leads[name] = chance.choice(self.targets)
                if chance.random() < 0.15 and len(self.leads) > 1:
                    del self.leads[name]
        there = set(self.leads.values()) | {name for name in self.targets if chance.random() < 0.2}
        keys = [(LDS, "listener"), *((SRDS, name) for name in self.leads)]
        keys += [(url, name) for url in (CDS, EDS) for name in there]
        for key in sorted(keys):
            content = self.contents.get(key, "")
            if not content or chance.random() < 0.2 or (mend and content.startswith("bad")):
                while (content := self.content(key[0])) and mend and content.startswith("bad"):
                    pass
                self.contents[key] = content
        self.contents = {key: self.contents[key] for key in keys}
        lags = [chance.choice(LAGS) for _ in self.fleet.replicas] if len(self.fleet.replicas) > 1 else []
        self.fleet.publish({key: (self.resource(*key), self.parts(*key)) for key in keys}, lags)

    def parts(self, url: str, name: str) -> frozenset[str]:
        """A route is in one part, and a cluster in those whose routes lead to it."""
        if not self.moves or url == LDS:
            return frozenset(PARTS)
        leads = self.leads if url != SRDS else {name: name}
        return frozenset(PARTS[self.routes.index(one) % 2] for one, to in leads.items() if to == name)

    def resource(self, url: str, name: str) -> Resource:
        content = self.contents[url, name]
        match url:
            case _ if url == CDS:
                return cluster(name, content)
            case _ if url == EDS:
                return assignment(name, content)
            case _ if url == LDS:
                return listener(name, content)
        return route(name, self.leads[name], content)

    # -- what happens --------------------------------------------------------------------------------------------------

    def live(self, steps: int) -> None:
        chance, fleet = self.chance, self.fleet
        for _ in range(steps):
            fleet.run(chance.choice([0.0, 0.0, 0.005, 0.05, 0.3, 1.0, 7.0]))
            match chance.random():
                case lot if lot < 0.7:
                    self.edit(mend=chance.random() < 0.2)
                case lot if lot < 0.78:
                    gone = chance.choice(fleet.proxies)
                    gone.disconnect()
                    if len(fleet.replicas) > 1:
                        gone.replica = chance.choice(fleet.replicas)
                    for proxy in fleet.proxies:
                        if proxy.session is None and not proxy.unread:
                            proxy.connect()
                case lot if lot < 0.84 and len(fleet.proxies) < 6:
                    fleet.join(f"node-{len(fleet.proxies)}", self.manner())
                case lot if lot >= 0.92 and self.moves:
                    chance.choice(fleet.proxies).move(chance.choice(VIEWS))
                case lot if lot < 0.92 and self.stills:
                    if chance.random() < 0.3:
                        fleet.stop(chance.choice([0.5, 3.0, 20.0]))
                    else:
                        chance.choice(fleet.proxies).stand_still(chance.choice([2.0, 6.0, 30.0, 45.0]))
                case _ if self.restarts and chance.random() < 0.5:
                    fleet.restart()
            self.blames()

    def blames(self) -> None:
        for held in [one for replica in self.fleet.replicas for one in replica.holds.held()]:
            content = said(held.resource.type_url, held.resource.body)[1]
            assert content.startswith("bad"), f"{held.resource.name} {content} is blamed"

    def mended(self) -> None:
        """Nothing bad is left: all get all there is."""
        fleet = self.fleet
        fleet.run(50.0 if self.stills else 5.0)
        self.edit(mend=True)
        fleet.run(BOUND if self.bad else SOON)
        for proxy in fleet.proxies:
            for url in TYPES:
                expected = fleet.expected(proxy, url)
                held = proxy.held.get(url, {})
                kept = {name: held.get(name) for name in expected}
                assert kept == expected, f"{proxy.name} {proxy.manner} {url}: {held} for {expected}"
                if not self.bad:
                    assert held == expected, f"{proxy.name} {proxy.manner} {url}: {held} for {expected}"
        fleet.run(400.0)
        for proxy in fleet.proxies:
            for url in TYPES:
                expected = fleet.expected(proxy, url)
                assert proxy.held.get(url, {}) == expected, f"{proxy.name} {proxy.manner} {url}"
            assert proxy.session is not None
            assert proxy.session.settled == proxy.replica.store.sequence, f"{proxy.name} {proxy.session.status()}"
            before = proxy.received
            proxy.replica.look_again()
            fleet.run(1.0)
            assert proxy.received == before


def live(seed: int, steps: int = 15, **how: bool) -> None:
    one = Life(seed, **how)
    one.live(steps)
    one.mended()


@pytest.mark.parametrize("seed", [*range(40), 205, 297, 347])
def test_edits_reach_all_and_no_route_leads_to_nothing(seed: int) -> None:
    live(seed, bad=False)


@pytest.mark.parametrize("seed", [*range(30), 33, 199, 235])
def test_who_stands_still_fails_no_request_when_it_goes_on(seed: int) -> None:
    live(seed, bad=False, stills=True)


@pytest.mark.parametrize("seed", [*range(40), 60, 79, 102, 217, 414, 503, 636, 768, 1130, 1348, 1687, 2235])
def test_what_is_refused_is_found_and_mended(seed: int) -> None:
    live(seed, bad=True)


@pytest.mark.parametrize("seed", [*range(12), 27, 65, 75, 171, 191])
def test_who_comes_back_after_a_restart_has_no_route_that_leads_to_nothing(seed: int) -> None:
    live(seed, bad=False, restarts=True)


@pytest.mark.parametrize("seed", [40, 110, 180, 199])
def test_a_restart_while_something_is_refused_fails_no_request(seed: int) -> None:
    live(seed, bad=True, stills=True, restarts=True)


@pytest.mark.parametrize("seed", range(12))
def test_who_moves_between_gateways_has_no_route_that_leads_to_nothing(seed: int) -> None:
    live(seed, bad=False, moves=True)


@pytest.mark.parametrize("seed", range(12))
def test_who_moves_between_replicas_of_different_progress_has_no_route_that_leads_to_nothing(seed: int) -> None:
    live(seed, bad=False, replicas=True)


def test_who_comes_back_by_the_state_of_the_world_is_sent_what_changed_before_what_is_gone() -> None:
    """Its version tells which set it has: clusters stay until the routes that lead to them are others."""
    failed: list[str] = []
    fleet = Fleet(Random(1), look=lambda proxy: failed.extend(proxy.failing()))
    fleet.publish(_leading_to("a"))
    proxy = fleet.join("node", Manner(sotw=True))
    fleet.run(1.0)
    assert proxy.failing() == []
    failed.clear()
    proxy.disconnect()
    fleet.publish(_leading_to("b"))
    proxy.connect()
    fleet.run(2.0)
    assert failed == []
    assert proxy.held[CDS].keys() == proxy.held[EDS].keys() == {"b"}


def _leading_to(name: str) -> World:
    there = [cluster(name, "v1"), assignment(name, "v1"), listener("l", "v1"), route("r", name, "v1")]
    return {(one.type_url, one.name): (one, frozenset(PARTS)) for one in there}
