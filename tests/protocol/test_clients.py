"""Clients of any kind against a reference that fits on one page: what they end up with, and what they must never get.

A client subscribes and unsubscribes as it likes, acknowledges late or under stale nonces, goes away and comes
back with what it has; contents change, views change. The reference knows what the client asked for and what
there is. Time stands still, so that no bound lets anything through, except at the end.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from tests.protocol.dialogue import CDS, EDS, LDS, SDS, SRDS, Change, Delta, Dialogue, Sotw, eds_cluster, removed

TYPES = [CDS, EDS, SDS, LDS, SRDS]
FULL = {CDS, LDS, SRDS}
NAMES = ["a", "b", "c"]
PARTS = [("one",), ("two",), ("one", "two")]

types = st.sampled_from(TYPES)
names = st.lists(st.sampled_from([*NAMES, "*"]), max_size=3, unique=True)
worlds = st.dictionaries(st.tuples(types, st.sampled_from(NAMES)), st.integers(1, 3), max_size=8)


def change(part: str, url: str, name: str, content: int) -> Change:
    """A resource whose body names it, as all bodies here do."""
    if url == CDS:
        return eds_cluster(name, f"{part}{content}")
    return url, name, Resource(url, name, f"{name} {part}{content}".encode())


def name_of(url: str, body: bytes) -> str:
    return str(cluster_pb2.Cluster.FromString(body).name) if url == CDS else body.decode().split()[0]


class Client(RuleBasedStateMachine):
    """What both variants share. By type: `held` is what the client has applied, `wanted` what it has asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.content: dict[str, dict[tuple[str, str], int]] = {"one": {}, "two": {}}
        self.parts = PARTS[0]
        self.held: dict[str, dict[str, bytes]] = {url: {} for url in TYPES}
        self.client: Any = None
        self.begin()

    # -- the reference -----------------------------------------------------------------------------------------------

    def there(self, url: str) -> dict[str, bytes]:
        """What there is for this client: of the first part that has a name."""
        found: dict[str, bytes] = {}
        for part in self.parts:
            for (type_url, name), content in self.content[part].items():
                if type_url == url and name not in found:
                    resource = change(part, url, name, content)[2]
                    assert resource is not None
                    found[name] = resource.body
        return found

    def covers(self, url: str, name: str) -> bool:
        wanted = self.wanted.get(url, set())
        return name in wanted or ("*" in wanted and url != SDS)

    def expected(self, url: str) -> dict[str, bytes]:
        return {name: body for name, body in self.there(url).items() if self.covers(url, name)}

    # -- what happens ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new stream: nothing of what was asked for on another counts."""
        self.wanted: dict[str, set[str]] = {}
        self.named: set[str] = set()
        self.replies: deque[Any] = deque()
        self.nonces: dict[str, list[str]] = {}
        self.replied: set[str] = set()

    @initialize(world=worlds)
    def first(self, world: dict[tuple[str, str], int]) -> None:
        self.publish("one", world)
        self.connect()

    @rule(part=st.sampled_from(["one", "two"]), world=worlds)
    def publish(self, part: str, world: dict[tuple[str, str], int]) -> None:
        before, self.content[part] = self.content[part], world
        changes = [change(part, url, name, content) for (url, name), content in world.items()]
        changes += [removed(url, name) for url, name in before if (url, name) not in world]
        self.store.publish({part: changes})
        if self.client is not None:
            self.client.changed()

    @precondition(lambda self: self.client)
    @rule(parts=st.sampled_from(PARTS))
    def see(self, parts: tuple[str, ...]) -> None:
        """The node is given another view."""
        self.client.parts = self.parts = parts
        self.client.changed()

    @precondition(lambda self: self.client and self.client.inbox)
    @rule(count=st.integers(1, 3))
    def apply(self, count: int) -> None:
        for _ in range(min(count, len(self.client.inbox))):
            message = self.client.inbox.popleft()
            self.nonces.setdefault(message.type_url, []).append(message.nonce)
            self.apply_one(message)
            self.replies.append(message)

    @precondition(lambda self: self.replies)
    @rule(count=st.integers(1, 3))
    def acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self.replies))):
            message = self.replies.popleft()
            self.replied.add(message.nonce)
            self.reply(message)

    @precondition(lambda self: self.client and any(self.nonces.values()))
    @rule(data=st.data())
    def repeat_a_stale_nonce(self, data: Any) -> None:
        """Nothing comes of it, whatever it says of the response."""
        url = data.draw(st.sampled_from(sorted(self.nonces)))
        stale = sorted(self.replied & set(self.nonces[url][:-1]))
        if stale:
            waiting = len(self.client.inbox)
            self.client.send(url, self.repeated(url), nonce=data.draw(st.sampled_from(stale)), error="late")
            assert len(self.client.inbox) == waiting

    @precondition(lambda self: self.client)
    @rule()
    def look_again(self) -> None:
        """Nothing comes of a publication that changes nothing."""
        waiting = len(self.client.inbox)
        for part, world in self.content.items():
            self.store.publish({part: [change(part, url, name, content) for (url, name), content in world.items()]})
        self.client.changed()
        assert len(self.client.inbox) == waiting

    def arrived(self, message: Any) -> None:
        """As soon as it is sent: it says what is there now, of what is wanted now, and everything once."""
        url, there = message.type_url, self.there(message.type_url)
        bodies = self.bodies(message)
        sent = [name_of(url, body) for body in bodies]
        assert len(sent) == len(set(sent)), "the same name twice in one response"
        for name, body in zip(sent, bodies, strict=True):
            assert self.covers(url, name), f"{name} was not asked for"
            if url not in FULL or self.client.kind is Delta.kind:
                assert body == there.get(name), f"{name} is not what there is"

    def settle(self) -> None:
        for _ in range(300):
            if self.client.inbox:
                self.apply(1)
            elif self.replies:
                self.acknowledge(1)
            else:
                return
        raise AssertionError("it never comes to rest")

    def teardown(self) -> None:
        if self.client is None:
            return
        self.settle()
        self.client.advance(1)  # the grace of a resume, and the wait for assignments that nobody asks for
        self.settle()
        for url in self.wanted:
            assert self.visible(url) == self.expected(url)
        assert not self.client.session._types or self.client.session.settled == self.store.sequence
        self.client.advance(1000)
        self.look_again()
        self.client.expect_nothing()

    def dialogue(self, kind: type[Dialogue]) -> Any:
        client = kind(store=self.store)
        client.parts = self.parts
        arrived = client._arrived

        def watched(data: bytes) -> None:
            arrived(data)
            self.arrived(client.inbox[-1])

        client._link._arrived = watched  # type: ignore[attr-defined]
        return client

    def connect(self) -> None:
        raise NotImplementedError

    def apply_one(self, message: Any) -> None:
        raise NotImplementedError

    def reply(self, message: Any) -> None:
        raise NotImplementedError

    def repeated(self, url: str) -> list[str]:
        """The names in a request that asks for nothing new."""
        return []

    def bodies(self, message: Any) -> list[bytes]:
        raise NotImplementedError

    def visible(self, url: str) -> dict[str, bytes]:
        """What it holds of what it wants: the rest it has dropped, or is about to."""
        return {name: body for name, body in self.held[url].items() if self.covers(url, name)}


class DeltaClient(Client):
    """By increments."""

    def connect(self) -> None:
        self.client = self.dialogue(Delta)

    @precondition(lambda self: self.client)
    @rule(url=types, subscribe=names, unsubscribe=names, resume=st.booleans())
    def ask(self, url: str, subscribe: list[str], unsubscribe: list[str], resume: bool) -> None:
        """Change a subscription; on the first request of a type the client may tell what it holds."""
        first = url not in self.wanted
        wanted = self.wanted.setdefault(url, set())
        if not subscribe and not unsubscribe and url in FULL and url not in self.named:
            wanted.add("*")
        if subscribe or "*" in unsubscribe:
            self.named.add(url)
        wanted |= set(subscribe)
        wanted -= set(unsubscribe)
        if first and not resume:
            self.held[url] = {}
        initial = {name: Resource(url, name, body).version for name, body in self.held[url].items()} if first else None
        self.held[url] = self.visible(url)  # what it does not ask for it drops at once, whatever it told
        self.client.send(url, subscribe, unsubscribe, initial=initial)

    @precondition(lambda self: self.client)
    @rule()
    def reconnect(self) -> None:
        self.begin()
        self.connect()

    def apply_one(self, message: Any) -> None:
        held = self.held[message.type_url]
        for each in message.resources:
            assert each.name == name_of(message.type_url, each.resource.value)
            held[each.name] = each.resource.value
        for name in message.removed_resources:
            held.pop(name, None)

    def reply(self, message: Any) -> None:
        self.client.ack(message)

    def bodies(self, message: Any) -> list[bytes]:
        return [each.resource.value for each in message.resources]


class SotwClient(Client):
    """By the state of the world."""

    def connect(self) -> None:
        self.client = self.dialogue(Sotw)
        self.held = {url: {} for url in TYPES}

    @precondition(lambda self: self.client)
    @rule(url=types, wanted=names)
    def ask(self, url: str, wanted: list[str]) -> None:
        """Change a subscription. A client does so under the last nonce that it saw; when a newer one is on its way to
        it, the request counts for nothing, and its ACK repeats the subscription."""
        self.intended = {**getattr(self, "intended", {}), url: wanted}
        self.tell(url, self.nonces.get(url, [""])[-1])

    def tell(self, url: str, nonce: str, version: str = "") -> None:
        wanted = self.intended.get(url, [])
        first = url not in self.wanted
        if first or not nonce or nonce == self.client.status(url).sent_nonce:
            if wanted:
                self.named.add(url)
            legacy = not wanted and url in FULL and url not in self.named
            self.wanted[url] = {"*"} if legacy else set(wanted)
        self.client.send(url, wanted, nonce=nonce, version=version)

    @precondition(lambda self: self.client)
    @rule()
    def reconnect(self) -> None:
        self.begin()
        self.intended: dict[str, list[str]] = {}
        self.connect()

    def apply_one(self, message: Any) -> None:
        url = message.type_url
        received = {name_of(url, each.value): each.value for each in message.resources}
        self.held[url] = received if url in FULL else self.held[url] | received

    def reply(self, message: Any) -> None:
        self.tell(message.type_url, message.nonce, message.version_info)

    def repeated(self, url: str) -> list[str]:
        """All that it wants: what a request leaves out is dropped, whatever its nonce."""
        return self.intended.get(url, [])

    def bodies(self, message: Any) -> list[bytes]:
        return [each.value for each in message.resources]

    def visible(self, url: str) -> dict[str, bytes]:
        """Of types that are no full sets, absence is told by the parents alone: what is gone may be held still."""
        held = super().visible(url)
        return held if url in FULL else {name: body for name, body in held.items() if name in self.there(url)}


TestDelta = DeltaClient.TestCase
TestDelta.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
TestSotw = SotwClient.TestCase
TestSotw.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [DeltaClient, SotwClient])
def test_clients_of_any_kind_for_long(kind: type[Client]) -> None:
    run_state_machine_as_test(kind, settings=settings(max_examples=2_000, stateful_step_count=40, deadline=None))
