"""Random changes against a client that behaves like Envoy: it converges, and never uses what it does not have.

The client applies responses in order, asks for the load assignment of each cluster it has, and acknowledges late. Time
stands still except to end a resume, so no bound ever lets anything through: every order seen is one that was earned.
Clusters are led to by routes, and routes by a table, which is late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from envoy.config.cluster.v3 import cluster_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.xds import difference
from controlplane.xds.bounds import Timing
from tests.protocol.dialogue import (
    CDS,
    ECDS,
    EDS,
    LDS,
    PART,
    SRDS,
    Change,
    Delta,
    Sotw,
    eds_cluster,
    removed,
    resource,
)

CLUSTERS = [f"c{i}" for i in range(5)]
ROUTES = [f"r{i}" for i in range(5)]

worlds = st.dictionaries(st.sampled_from(ROUTES), st.sampled_from(CLUSTERS), max_size=5)
versions = st.dictionaries(st.sampled_from(CLUSTERS), st.integers(1, 3), max_size=5)


class EnvoyLike(RuleBasedStateMachine):
    """What both variants share. `held` is by type and name: the content that the client has applied."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.world: dict[tuple[str, str], Resource] = {}
        self.held: dict[str, dict[str, bytes]] = {}
        self.client: Any = None
        self.requests: deque[Any] = deque()
        self.asked: set[str] = set()
        self.started = False
        self.routed = False  # first answers come as they are asked for: from then on the table leads to what is there

    @initialize(routes=worlds, contents=versions)
    def begin(self, routes: dict[str, str], contents: dict[str, int]) -> None:
        self.publish(routes, contents)
        self.connect()

    @rule(routes=worlds, contents=versions)
    def publish(self, routes: dict[str, str], contents: dict[str, int]) -> None:
        """A new world: routes to clusters, and clusters that are used, or of which something is said."""
        world: dict[tuple[str, str], Resource] = {}
        for name in {*routes.values(), *contents}:
            content = contents.get(name, 1)
            for change in (eds_cluster(name, str(content % 2)), resource(EDS, name, f"{name} {content}")):
                world[change[:2]] = change[2]  # type: ignore[assignment]
        for name, target in routes.items():
            world[SRDS, name] = Resource(SRDS, name, f"{name} {target}".encode())
        world[ECDS, "table"] = Resource(ECDS, "table", " ".join(["table", *sorted(routes)]).encode(), late=True)
        world[LDS, "l"] = Resource(LDS, "l", str(sum(contents.values()) % 2).encode())
        changes: list[Change] = [(url, name, found) for (url, name), found in world.items()]
        changes += [removed(url, name) for url, name in self.world if (url, name) not in world]
        self.world = world
        self.store.publish({PART: changes})
        if self.client is not None:
            self.client.changed()

    @precondition(lambda self: self.client and self.client.inbox)
    @rule(count=st.integers(1, 3))
    def apply(self, count: int) -> None:
        for _ in range(min(count, len(self.client.inbox))):
            self.apply_one(self.client.inbox.popleft())

    @precondition(lambda self: self.requests)
    @rule(count=st.integers(1, 3))
    def answer(self, count: int) -> None:
        for _ in range(min(count, len(self.requests))):
            self.requests.popleft()()

    @invariant()
    def nothing_dangles(self) -> None:
        clusters, assignments = self.held.get(CDS, {}), self.held.get(EDS, {})
        for body in self.held.get(SRDS, {}).values():
            name, target = body.decode().split()
            assert target in clusters, f"{name} leads to {target}, which is not there"
            assert target in assignments, f"{name} leads to {target}, which has no endpoints"
        if ECDS in self.held and SRDS in self.held:
            _, *known = self.held[ECDS]["table"].decode().split()
            dangling = set(known) - self.held[SRDS].keys()
            assert not dangling or not self.routed, f"the table leads to {dangling}, which are not there"
            self.routed |= not dangling

    def settle(self) -> None:
        for _ in range(200):
            while self.client.inbox:
                self.apply_one(self.client.inbox.popleft())
                self.nothing_dangles()
            if not self.requests:
                break
            self.requests.popleft()()
        else:
            raise AssertionError("it never comes to rest")

    def teardown(self) -> None:
        if self.client is None:
            return
        self.settle()
        self.client.advance(Timing().keeps)
        self.settle()
        expected: dict[str, dict[str, bytes]] = {CDS: {}, EDS: {}, LDS: {}, ECDS: {}, SRDS: {}}
        for (url, name), found in self.world.items():
            expected[url][name] = found.body
        assert {url: self.held.get(url, {}) for url in expected} == expected
        assert self.client.session.settled == self.store.sequence
        self.client.changed()
        self.client.expect_nothing()

    def start(self) -> None:
        """As Envoy does: listeners and routes are asked for when all clusters have their endpoints."""
        if not self.started and self.held.get(CDS, {}).keys() == self.held.get(EDS, {}).keys():
            self.started = True
            self.routed = False
            for url in (LDS, ECDS, SRDS):
                self.held.pop(url, None)
                names = ["table"] if url == ECDS else []
                self.requests.append(lambda url=url, names=names: self.client.send(url, names))

    def connect(self) -> None:
        raise NotImplementedError

    def apply_one(self, message: Any) -> None:
        raise NotImplementedError


class DeltaEnvoy(EnvoyLike):
    """By increments, with reconnects that resume."""

    bounds: Mapping[str, Any] = {}

    def connect(self) -> None:
        self.client = Delta(store=self.store, **self.bounds)
        self.started = SRDS in self.held and bool(self.held[CDS])  # with nothing, it begins as if for the first time
        for url in (CDS, EDS, LDS, ECDS, SRDS) if self.started else (CDS, EDS):
            held = self.held.get(url, {})
            initial = {name: Resource(url, name, body).version for name, body in held.items()}
            names = sorted(self.asked) if url == EDS else ["table"] if url == ECDS else []
            if url == EDS and not names:
                continue
            self.requests.append(
                lambda url=url, names=names, initial=initial: self.client.send(url, names, initial=initial)
            )

    @precondition(lambda self: self.client)
    @rule()
    def reconnect(self) -> None:
        self.requests.clear()
        self.connect()

    def apply_one(self, message: Any) -> None:
        held = self.held.setdefault(message.type_url, {})
        for each in message.resources:
            held[each.name] = each.resource.value
        for name in message.removed_resources:
            held.pop(name, None)
        self.requests.append(lambda: self.client.ack(message))
        if message.type_url == CDS:
            new, old = held.keys() - self.asked, self.asked - held.keys()
            self.asked = set(held)
            for name in old:
                self.held.get(EDS, {}).pop(name, None)
            if new or old:
                self.requests.append(lambda: self.client.send(EDS, sorted(new), sorted(old)))
        self.start()


class DeltaInPortions(DeltaEnvoy):
    """With two changes a response, and what is touched gone through in bulk."""

    bounds: Mapping[str, Any] = {"response_changes": 2}

    def __init__(self) -> None:
        super().__init__()
        self.patch = patch.object(difference, "MANY", 2)
        self.patch.start()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.patch.stop()


class SotwEnvoy(EnvoyLike):
    """By the state of the world. Bodies name the resource: a client reads the name out of the message."""

    def connect(self) -> None:
        self.nonces: dict[str, str] = {}
        self.client = Sotw(store=self.store)
        self.requests.append(lambda: self.client.send(CDS))

    def apply_one(self, message: Any) -> None:
        url = message.type_url
        bodies = {each.value for each in message.resources}
        if url == EDS:
            for body in bodies:
                name = body.decode().split()[0]
                if name in self.asked:
                    self.held.setdefault(EDS, {})[name] = body
        else:
            self.held[url] = {self.name_of(url, body): body for body in bodies}
        self.nonces[url] = message.nonce
        names = {EDS: sorted(self.asked), ECDS: ["table"]}.get(url, [])
        self.requests.append(lambda: self.client.ack(message, names))
        if url == CDS and self.asked != set(self.held[CDS]):
            self.asked = set(self.held[CDS])
            for name in self.held.get(EDS, {}).keys() - self.asked:
                del self.held[EDS][name]
            # Envoy repeats the nonce it saw last; a request under an older one is stale, and its ACK repeats the names.
            self.requests.append(self.ask)
        self.start()

    def ask(self) -> None:
        self.client.send(EDS, sorted(self.asked), nonce=self.nonces.get(EDS, ""))

    @staticmethod
    def name_of(url: str, body: bytes) -> str:
        match url:
            case "type.googleapis.com/envoy.config.cluster.v3.Cluster":
                return str(cluster_pb2.Cluster.FromString(body).name)
            case "type.googleapis.com/envoy.config.listener.v3.Listener":
                return "l"
            case _:
                return body.decode().split()[0]


TestDelta = DeltaEnvoy.TestCase
TestDelta.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestPortions = DeltaInPortions.TestCase
TestPortions.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestSotw = SotwEnvoy.TestCase
TestSotw.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
