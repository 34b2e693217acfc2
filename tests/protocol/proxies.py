"""Fleets that live through anything, on a clock that is set by hand: what proxies do, and what they must never see.

A proxy here is written after Envoy, and knows nothing of the control plane but its messages: it applies what it is sent in
its order, asks for the endpoints of its clusters, refuses what it does not like, stands still, comes back. It routes all
the time: a route of its to a cluster without endpoints is a request that fails. All times are the real ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from random import Random
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.xds.bounds import Timing
from controlplane.xds.delta import DeltaSession
from controlplane.xds.holds import Family, Holds, family
from controlplane.xds.session import Session
from controlplane.xds.sotw import SotwSession
from controlplane.xds.wire import Encoder
from tests.protocol.dialogue import CDS, EDS, LDS, PART, SRDS, Change, eds_cluster, removed

TYPES = (CDS, EDS, LDS, SRDS)
LOST_AFTER = 37.0
"""Seconds after which the stream of who answers no ping is over."""

PARTS = (PART, "other")
World = dict[tuple[str, str], tuple[Resource, frozenset[str]]]
"""By type and name: what there is, and the parts that it is in."""


def route(name: str, target: str, content: str) -> Resource:
    """A scope that leads to a cluster, as a message would say it: a length and a text."""
    return Resource(SRDS, name, f"{name} {chr(len(target))}{target} {content}".encode())


def assignment(name: str, content: str) -> Resource:
    return Resource(EDS, name, f"{name} {chr(len(name))}{name} {content}".encode())


def listener(name: str, content: str) -> Resource:
    return Resource(LDS, name, f"{name} {content}".encode())


def cluster(name: str, content: str) -> Resource:
    found = eds_cluster(name, content)[2]
    assert found is not None
    return found


def said(url: str, body: bytes) -> tuple[str, str]:
    """Name and content."""
    if url == CDS:
        message = cluster_pb2.Cluster.FromString(body)
        return str(message.name), str(message.alt_stat_name)
    words = body.decode().split()
    return words[0], words[-1]


def target_of(body: bytes) -> str:
    """The cluster that a route leads to."""
    return body.decode().split(" ")[1][1:]


@dataclass
class Manner:
    """How a proxy is."""

    sotw: bool = False
    version: str = "1.40.0"
    names: bool = True
    """Whether it says what it refuses."""
    latency: float = 0.01
    asks_first: bool = False
    """Whether it asks for endpoints before it acknowledges their clusters."""
    star: bool = True
    """Whether it says that it wants everything, and does not leave it to a request without names."""

    def dislikes(self, content: str) -> bool:
        """Whether it refuses this: what is bad for all, or for its version."""
        return content in ("bad", f"bad-{self.version}")


class Proxy:
    """One of a fleet."""

    def __init__(self, fleet: Fleet, name: str, manner: Manner) -> None:
        self.fleet, self.name, self.manner = fleet, name, manner
        self.replica = fleet.replicas[0]
        self.parts = PARTS[:1]
        self.held: dict[str, dict[str, bytes]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.vacant: set[str] = set()  # clusters that are ready although there are no endpoints, which it was told
        self.accepted: dict[str, str] = {}
        self.life = 0
        self.session: Session | None = None
        self.outdated = False
        self.stands_still_until = 0.0
        self.refusals: dict[tuple[str, str, str], int] = {}
        self.received = 0
        self.unread: list[Callable[[], None]] = []

    # -- the wire ----------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """A new stream, if it has none: everything that it holds is told. Who stands still begins it when it goes on."""
        if self.session is not None:
            return
        self.life += 1
        if self.fleet.now < self.stands_still_until:
            return
        fleet, replica = self.fleet, self.replica
        fleet.joined(self)
        kind = SotwSession if self.manner.sotw else DeltaSession
        self.session = kind(
            lambda _: replica.store.view(self.parts),
            replica.encoder,
            timing=fleet.timing,
            holds=replica.holds,
            stream=self.life,
        )
        self.down = self.up = fleet.now
        self.asked: dict[str, set[str]] = {}
        self.nonces: dict[str, str] = {}
        self.introduced = False
        self.ask(CDS)
        if self.held.get(CDS):
            self.ask(EDS)
        if SRDS in self.held:
            self.ask(LDS)
            self.ask(SRDS)

    def disconnect(self) -> None:
        """The stream is over, without a word."""
        self.life += 1
        self.session = None

    def _say(self, message: Any) -> None:
        if not self.introduced:
            self.introduced = True
            node = base_pb2.Node(id=self.name, user_agent_name="envoy", user_agent_version=self.manner.version)
            message.node.CopyFrom(node)
        life, data = self.life, message.SerializeToString()
        self.up = max(self.up, self.fleet.now + self.fleet.chance.uniform(0.2, 1) * self.manner.latency)
        self.fleet.at(self.up, lambda: self._heard(life, data), server=True)

    def _heard(self, life: int, data: bytes) -> None:
        if life == self.life and self.session is not None:
            self.session.receive(data, self.fleet.now)
            self.poll()

    def poll(self) -> None:
        """What the server does after every request and change."""
        if self.session is None:
            return
        fleet, life = self.fleet, self.life
        if self.outdated:
            self.outdated = False
            self.session.changed(fleet.now)
        for data in self.session.poll(fleet.now):
            self.down = max(self.down, fleet.now + fleet.chance.uniform(0.2, 1) * self.manner.latency)
            fleet.at(self.down, lambda data=data: self._read(life, data))
        if (deadline := self.session.deadline) is not None:
            fleet.at(max(deadline, fleet.now), lambda: self._due(life), server=True)

    def _due(self, life: int) -> None:
        if life == self.life and self.session is not None:
            deadline = self.session.deadline
            if deadline is not None and deadline <= self.fleet.now:
                self.poll()

    def stand_still(self, seconds: float) -> None:
        """Read nothing and say nothing for some time; the stream ends if that is too long."""
        fleet, life = self.fleet, self.life
        self.stands_still_until = fleet.now + seconds
        fleet.at(self.stands_still_until, self._go_on)
        if seconds > LOST_AFTER:
            fleet.at(fleet.now + LOST_AFTER, lambda: self._lose(life), server=True)

    def move(self, parts: tuple[str, ...]) -> None:
        """It sees these from now on."""
        self.parts, self.outdated = parts, True
        self.fleet.at(self.fleet.now, self.poll, server=True)

    def _lose(self, life: int) -> None:
        if life == self.life:
            self.session = None

    def _go_on(self) -> None:
        if self.fleet.now < self.stands_still_until:
            return
        unread, self.unread = self.unread, []
        for read in unread:
            read()
        if self.session is None and self.life:
            self.connect()

    def _read(self, life: int, data: bytes) -> None:
        if life != self.life:
            return
        if self.fleet.now < self.stands_still_until:
            self.unread.append(lambda: self._read(life, data))
            return
        self.received += 1
        kind = discovery_pb2.DiscoveryResponse if self.manner.sotw else discovery_pb2.DeltaDiscoveryResponse
        self.apply(kind.FromString(data))
        self.fleet.look(self)

    # -- what it does with it ------------------------------------------------------------------------------------------

    def apply(self, message: Any) -> None:
        """Take a response over, or refuse it: of clusters and listeners what is good is taken over all the same."""
        url = message.type_url
        received = {said(url, one.value)[0]: one.value for one in self._anys(message)}
        bad = sorted(name for name, body in received.items() if self.manner.dislikes(said(url, body)[1]))
        for name in bad:
            key = url, name, said(url, received[name])[1]
            self.refusals[key] = self.refusals.get(key, 0) + 1
        self.nonces[url] = message.nonce
        held = self.held.setdefault(url, {})
        begins = url == CDS and bad == [] and SRDS not in self.asked
        if not bad or url in (CDS, LDS):
            self._take(url, message, {name: body for name, body in received.items() if name not in bad}, set(bad))
            if self.manner.sotw and not bad:
                self.accepted[url] = message.version_info
        answers = [lambda: self.answer(url, message, bad)]
        if url == CDS and (names := set(held)) != self.asked.get(EDS, set()):
            answers.append(lambda: self.ask(EDS) if EDS not in self.asked else self.ask_otherwise(names))
        if self.manner.asks_first:
            answers.reverse()
        for answer in answers:
            answer()
        warm = self.held.get(CDS, {}).keys() <= self.held.get(EDS, {}).keys() | self.vacant
        if (begins or url in (CDS, EDS)) and warm and CDS in self.held and SRDS not in self.asked:
            self.ask(LDS)
            self.ask(SRDS)

    def _anys(self, message: Any) -> list[Any]:
        return [one if self.manner.sotw else one.resource for one in message.resources]

    def _take(self, url: str, message: Any, good: dict[str, bytes], bad: set[str]) -> None:
        held, versions = self.held[url], self.versions.setdefault(url, {})
        if self.manner.sotw:
            gone = set() if url == EDS else held.keys() - good.keys() - bad
        else:
            gone = set(message.removed_resources)
            versions.update((one.name, one.version) for one in message.resources if one.name in good)
        if url == EDS and self.manner.sotw:
            good = {name: body for name, body in good.items() if name in self.asked.get(EDS, ())}
        held.update(good)
        for name in gone:
            held.pop(name, None)
            versions.pop(name, None)
        if url == EDS:
            self.vacant |= gone
        if url == CDS:
            self.vacant &= held.keys()
            for name in self.held.get(EDS, {}).keys() - held.keys():
                del self.held[EDS][name]
                self.versions.get(EDS, {}).pop(name, None)

    def answer(self, url: str, message: Any, bad: Iterable[str]) -> None:
        """Its ACK or NACK."""
        detail = None
        if bad:
            detail = "Error adding/updating x(s) " + ", ".join(f"{name}: no" for name in bad)
            detail = detail if self.manner.names else "cannot be"
        if self.manner.sotw:
            self._request_sotw(url, self.accepted.get(url, ""), message.nonce, detail)
            return
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=url, response_nonce=message.nonce)
        if detail is not None:
            request.error_detail.message = detail
        self._say(request)

    def ask(self, url: str) -> None:
        """The first request of a type."""
        self.asked[url] = set(self.held.get(CDS, {})) if url == EDS else set()
        if url == EDS and not self.asked[url]:
            del self.asked[url]
            return
        if self.manner.sotw:
            self._request_sotw(url, self.accepted.get(url, ""), "", None)
            return
        names = sorted(self.asked[url]) or (["*"] if self.manner.star else [])
        self._say(
            discovery_pb2.DeltaDiscoveryRequest(
                type_url=url, resource_names_subscribe=names, initial_resource_versions=self.versions.get(url, {})
            )
        )

    def ask_otherwise(self, names: set[str]) -> None:
        """Its clusters are others now."""
        before, self.asked[EDS] = self.asked[EDS], names
        if self.manner.sotw:
            self._request_sotw(EDS, self.accepted.get(EDS, ""), self.nonces.get(EDS, ""), None)
            return
        self._say(
            discovery_pb2.DeltaDiscoveryRequest(
                type_url=EDS,
                resource_names_subscribe=sorted(names - before),
                resource_names_unsubscribe=sorted(before - names),
            )
        )

    def _request_sotw(self, url: str, version: str, nonce: str, detail: str | None) -> None:
        names = sorted(self.asked.get(url, ()))
        if url != EDS and self.manner.star:
            names = ["*"]
        request = discovery_pb2.DiscoveryRequest(
            type_url=url, resource_names=names, version_info=version, response_nonce=nonce
        )
        if detail is not None:
            request.error_detail.message = detail
        self._say(request)

    def failing(self) -> list[str]:
        """Routes of its that lead to no endpoints."""
        clusters, assignments = self.held.get(CDS, {}), self.held.get(EDS, {})
        targets = {name: target_of(body) for name, body in self.held.get(SRDS, {}).items()}
        return [f"{name} to {to}" for name, to in targets.items() if to not in clusters or to not in assignments]


class Replica:
    """One control plane, which knows nothing at first but what there is."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.store = Store()
        self.encoder = Encoder("replica")
        self.holds = Holds(self.look_again, self._takers)
        self._due = False
        self.publish(fleet.world)

    @property
    def _proxies(self) -> list[Proxy]:
        return [proxy for proxy in self._fleet.proxies if proxy.replica is self]

    def publish(self, world: World) -> None:
        """There is this now, and nothing else."""
        self.store.publish({part: list(self._changes(part, world)) for part in PARTS})
        self.look_again()

    def _changes(self, part: str, world: World) -> Iterator[Change]:
        view = self.store.view((part,))
        for url in TYPES:
            there = {name: one for (of, name), (one, parts) in world.items() if of == url and part in parts}
            yield from ((url, name, one) for name, one in there.items())
            yield from (removed(url, name) for name in [*view.names(url)] if name not in there)

    def look_again(self) -> None:
        """Nothing is sent to anybody before the server has looked."""
        for proxy in self._proxies:
            proxy.outdated = True
        if not self._due:
            self._due = True
            self._fleet.at(self._fleet.now, self._look, server=True)

    def _look(self) -> None:
        self._due = False
        for proxy in self._proxies:
            proxy.poll()

    def _takers(self, resource: Resource) -> set[Family]:
        sessions = [proxy.session for proxy in self._proxies if proxy.session is not None]
        return {family(one.node) for one in sessions if one.node is not None and one.took(resource)}


@dataclass
class Fleet:
    """Control planes, their proxies, and time. `look` is called when a proxy has applied something."""

    chance: Random
    timing: Timing = field(default_factory=Timing)
    look: Callable[[Proxy], None] = lambda _: None
    joined: Callable[[Proxy], None] = lambda _: None
    now: float = 0.0

    def __post_init__(self) -> None:
        self.world: World = {}
        self.proxies: list[Proxy] = []
        self._events: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._order = count()
        self._stopped_until = 0.0
        self.replicas = [Replica(self)]

    def restart(self) -> None:
        """Each control plane ends, another one begins, and all come back to it in some time."""
        for proxy in self.proxies:
            proxy.disconnect()
        former, self.replicas = self.replicas, [Replica(self) for _ in self.replicas]
        for proxy in self.proxies:
            proxy.replica = self.replicas[former.index(proxy.replica)]
            proxy.life += 1
            self.at(
                self.now + self.chance.choice([0.0, 0.1, 1.0, 3.0]), proxy._go_on if proxy.unread else proxy.connect
            )

    def stop(self, seconds: float) -> None:
        """The control planes stand still."""
        self._stopped_until = max(self._stopped_until, self.now + seconds)

    def publish(self, world: World, lags: Sequence[float] = ()) -> None:
        """There is this now, and nothing else; each replica hears of it some seconds later."""
        self.world = world
        for replica, lag in zip_longest(self.replicas, lags, fillvalue=0.0):
            if lag or self.now < self._stopped_until:
                self.at(self.now + lag, lambda replica=replica: self._publish(replica, world), server=True)
            else:
                self._publish(replica, world)

    def _publish(self, replica: Replica, world: World) -> None:
        if replica in self.replicas:
            replica.publish(world)

    def join(self, name: str, manner: Manner) -> Proxy:
        proxy = Proxy(self, name, manner)
        self.proxies.append(proxy)
        proxy.connect()
        return proxy

    def expected(self, proxy: Proxy, url: str) -> dict[str, bytes]:
        """What this one should have of a type."""
        return {
            name: one.body
            for (of, name), (one, parts) in self.world.items()
            if of == url and not parts.isdisjoint(proxy.parts)
        }

    def at(self, when: float, what: Callable[[], None], *, server: bool = False) -> None:
        """Do this then; what the server does waits while it stands still."""
        heapq.heappush(self._events, (when, next(self._order), server, what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end, steps = self.now + seconds, 0
        while self._events and self._events[0][0] <= end:
            when, order, server, what = heapq.heappop(self._events)
            if server and when < self._stopped_until:
                heapq.heappush(self._events, (self._stopped_until, order, server, what))
                continue
            self.now = max(self.now, when)
            steps += 1
            assert steps < 20_000, "it never comes to rest"
            what()
        self.now = end
