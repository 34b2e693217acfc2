"""Good content that is shown in the place of refused content goes on to work, whatever it names that is in no spec any more."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest
from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.app.ages import Ages
from controlplane.app.doubts import Doubts
from controlplane.app.draining import DRAIN_SECONDS, Draining
from controlplane.app.fleet import SETTLE_BOUND
from controlplane.app.in_place import LINGER_SECONDS, InPlace
from controlplane.app.leaving import Leaving
from controlplane.app.requirements import Requirements
from controlplane.compile.compiler import Commit, Compiler
from controlplane.filters import chain
from controlplane.names import GatewayName, ObjectRef, parts_of
from controlplane.sources.base import SpecObject
from controlplane.sources.belief import restored
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import rows
from controlplane.state.content import Note
from tests.compile import worlds
from tests.protocol.dialogue import CDS, ECDS, LDS, SDS, SRDS, Delta
from tests.protocol.fleet import Fleet
from tests.support.tokens import key_set, rsa_key

VIEW = (GatewayName("platform/edge"),)
REFUSED = "refused"
"""What stands in a resource that the proxy refuses."""
HOUR = 3600.0

SPEC = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
    - {name: https, port: 8443, protocol: HTTPS, tls: [{hosts: [tls.test], certificate: {secretRef: @secret@}}]}
  identity:
    jwt: [@providers@]
  policies:
    - {name: few, rateLimit: {local: [{requests: 1, per: minute}]}}
    - {name: many, rateLimit: {local: [{requests: 9, per: minute}]}}
  routes:
    - {name: guarded, hosts: [a.test], match: [{path: {prefix: /guarded}}], auth: {anyOf: [{jwt: @provider@}]}, respond: {status: 200, body: "@body@"}}
    - {name: limited, hosts: [a.test, b.test], match: [{path: {prefix: /limited}}], public: true, use: [@policy@], respond: {status: 200, body: "@body@"}}
    - {name: tls, hosts: [tls.test], match: [{path: {prefix: /tls}}], public: true, respond: {status: 200}}
"""
PROVIDER = "{name: @name@, issuer: 'https://@name@.test/', audiences: [shop], jwks: {inline: '@keys@'}}"
KEYS = key_set(rsa_key())
SECRETS = worlds.SECRETS[:2]


def text(
    *, provider: str = "corp", policy: str = "few", secret: str = SECRETS[0], body: str = "good", alone: bool = False
) -> str:
    """`alone`: no other provider is declared."""
    names = (provider,) if alone else ("corp", "partner")
    providers = ", ".join(PROVIDER.replace("@name@", name).replace("@keys@", KEYS) for name in names)
    found = SPEC.replace("@providers@", providers)
    for name, value in {"provider": provider, "policy": policy, "secret": secret, "body": body}.items():
        found = found.replace(f"@{name}@", value)
    return found


class World:
    """A compiler, what it published, and a proxy that refuses some of it; time passes when told to."""

    def __init__(self, before: World | None = None) -> None:
        """`before`: the process that was killed, and whose proxies are gone too."""
        self.now = 0.0
        self.compiler = Compiler()
        self.fleet = Fleet()
        self.edits: dict[Hashable, Callable[[Compiler], None]] = {}
        in_place = InPlace(self.compiler, self.fleet.store, self.fleet.holds)
        loop: Any = self
        self.requirements = Requirements(self.compiler, loop, in_place, lambda: self.now)
        limits = self.compiler.tables.limits.rows
        self.limits = Leaving(limits, Compiler.release_limit, loop, in_place, lambda: self.now)
        self.draining = Draining(self.compiler, loop, in_place, self._note)
        self.arrivals: list[tuple[float, Callable[[], None]]] = []
        self.refuses: Callable[[str, bytes], bool] = lambda _, body: REFUSED.encode() in body
        self.has: dict[tuple[str, str], bytes] = {}
        self.notes: dict[Note, bytes] = {}
        self.texts: dict[ObjectRef, str] = {}
        if before is not None:
            before.doubts.look()  # the disk is written
            self.notes, self.texts = dict(before.notes), before.texts
        self.doubts = Doubts(self.fleet.store, self._note, self.texts, lambda: self.now)
        self.doubts.refused = self.fleet.holds.among
        for each in (self.doubts.restore, partial(self.draining.restore, now=self.now)):
            each(dict(self.notes))
        for name in SECRETS:
            self.compiler.put_secret(*worlds.secret(name))
        if before is None:
            self.save(text())
        else:
            self._start()
        self.client: Delta = self.join()

    def join(self, node: str = "node-1") -> Delta:
        client: Delta = self.fleet.join(node=node)
        client.parts = parts_of(VIEW)
        self.has = {}
        self.client = client
        names = {url: self._names(url) for url in (ECDS, SDS)}
        for url in (CDS, LDS, ECDS, SDS, SRDS):
            client.send(url, names.get(url, ()))
        self.rest()
        return client

    def _start(self) -> None:
        """With what was in force, and what that was before as far as it is known."""
        ((ref, said),) = self.texts.items()
        former = [restored(ref, text).rows for text in self.doubts.former.values()]  # type: ignore[union-attr]
        now = restored(ref, said)
        assert now is not None
        list(self.compiler.succeeding(ref, former, now.rows) if former else self.compiler.putting(ref, now.rows))
        self._committed(self.compiler.commit_now())

    def _note(self, note: Note, content: bytes | None) -> None:
        if content is None:
            self.notes.pop(note, None)
        else:
            self.notes[note] = content

    def _names(self, url: str) -> list[str]:
        return sorted(one.name for one in self.compiler.resources(VIEW) if one.type_url == url)

    # -- the loop, as far as it is needed ------------------------------------------------------------------------------

    def edit(self, key: Hashable, edit: Callable[[Compiler], None]) -> None:
        self.edits[key] = edit

    def forget(self, key: Hashable) -> None:
        self.edits.pop(key, None)

    def flush(self, _: float) -> None:
        edits, self.edits = self.edits, {}
        for edit in edits.values():
            edit(self.compiler)
        if edits:
            self._committed(self.compiler.commit_now())

    def _committed(self, commit: Commit) -> None:
        before = self.fleet.store.sequence
        for part, changes in commit.publication.items():
            self.fleet.store.publish({part: changes})
        self.draining.look(self.now)
        self.doubts.committed(
            Ages(self.fleet.store, lambda: self.now).touched(commit.publication, before), commit.former
        )
        self.fleet.changed()
        for each, touched in ((self.requirements, commit.requirements), (self.limits, commit.limits)):
            if (arrived := each.leaving(touched)) is not None:
                self.arrivals.append((self.now + SETTLE_BOUND, arrived))
        self.requirements.keep(commit.requirements)

    # -- what happens --------------------------------------------------------------------------------------------------

    def save(self, said: str) -> None:
        (parsed,) = parse_text(said, "spec.yaml", "files")
        assert parsed.ref is not None
        assert parsed.document is not None
        declared = rows(parsed.ref, parsed.document)
        self.doubts.taken(SpecObject(parsed.ref, declared, said, "spec.yaml", 1))
        self.texts = {parsed.ref: said}
        self.compiler.put(parsed.ref, declared)
        self._committed(self.compiler.commit_now())
        if self.fleet.clients:
            self.rest()

    def passes(self, seconds: float) -> None:
        """As long, second by second, as the process looks."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1.0
            due = [arrived for at, arrived in self.arrivals if at <= self.now]
            self.arrivals = [(at, arrived) for at, arrived in self.arrivals if at > self.now]
            for arrived in due:
                arrived()
            for each in (self.requirements, self.limits, self.draining):
                each.tick(self.now)
            self.rest()

    def rest(self) -> None:
        """The proxy reads what it is sent, and asks for what its listeners name."""
        for _ in range(200):
            self.fleet.settle()
            self.client.advance(1.0)
            if not self.client.inbox:
                return
            while self.client.inbox:
                self._read(self.client.inbox.popleft())
        pytest.fail("it never comes to rest")

    def _read(self, message: Any) -> None:
        bad = [one.name for one in message.resources if self.refuses(message.type_url, one.resource.value)]
        if bad:
            self.client.nack(message, f"{bad[0]}: no")
            return
        for one in message.resources:
            self.has[message.type_url, one.name] = one.resource.value
        for name in message.removed_resources:
            self.has.pop((message.type_url, name), None)
        self.client.ack(message)
        if message.type_url == LDS:
            for url in (ECDS, SDS):
                self.client.send(url, self._names(url))

    # -- what the proxy has --------------------------------------------------------------------------------------------

    def scopes(self, part: bytes) -> list[bytes]:
        return [body for (url, _), body in self.has.items() if url == SRDS and part in body]

    def said(self) -> list[list[str]]:
        """What its scopes say, apart from whether they were sent again."""
        words = ("good", "better", REFUSED, CORP, PARTNER, FEW, MANY)
        bodies = {name: body for (url, name), body in self.has.items() if url == SRDS}
        return [[name, *(word for word in words if word.encode() in bodies[name])] for name in sorted(bodies)]

    def config(self, name: str) -> bytes:
        return self.has[ECDS, name]

    def requirement_names(self) -> set[str]:
        """Those that its JWT filter knows."""
        message = config_pb2.JwtAuthentication()
        assert _extension(self.config(chain.JWT)).Unpack(message)
        return set(message.requirement_map)

    def limit_names(self) -> set[str]:
        """The limits that its shared filter knows."""
        message = local_rate_limit_pb2.LocalRateLimit()
        assert _extension(self.config(chain.ROUTE_LIMITS)).Unpack(message)
        return {entry.value for one in message.descriptors for entry in one.entries if entry.key == "limit"}


def _extension(body: bytes) -> Any:
    return extension_pb2.TypedExtensionConfig.FromString(body).typed_config


CORP, PARTNER = "platform/edge|any:corp", "platform/edge|any:partner"
FEW, MANY = (f"gatewayspec/platform/edge/limited/{policy}/0" for policy in ("few", "many"))


@pytest.mark.parametrize("alone", [False, True], ids=["declared", "gone"])
def test_a_requirement_stays_as_long_as_a_route_that_names_it_is_shown_in_the_place_of_a_refused_one(
    alone: bool,
) -> None:
    """Envoy refuses every request to a route whose requirement its filter does not know."""
    world = World()
    world.save(text(provider="partner", body=REFUSED, alone=alone))
    for seconds in (SETTLE_BOUND + 2, HOUR):
        world.passes(seconds)
        assert [CORP.encode() in body for body in world.scopes(b"/guarded")] == [True]
        assert CORP in world.requirement_names()

    world.join("node-2")  # of the same family: it is shown the same
    assert [CORP.encode() in body for body in world.scopes(b"/guarded")] == [True]
    assert CORP in world.requirement_names()

    world.save(text(provider="partner", body="put right", alone=alone))
    assert [PARTNER.encode() in body for body in world.scopes(b"/guarded")] == [True]
    world.passes(LINGER_SECONDS + 2)
    assert world.requirement_names() == {PARTNER}


def test_a_requirement_leaves_after_the_bound_when_nothing_is_refused() -> None:
    world = World()
    world.save(text(provider="partner"))
    assert world.requirement_names() == {CORP, PARTNER}
    world.passes(SETTLE_BOUND + 2)
    assert world.requirement_names() == {PARTNER}


def test_a_requirement_stays_though_its_provider_goes_before_the_next_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two saves in a row: the second one waits already when the first is committed."""
    world = World()
    monkeypatch.setattr(world, "flush", lambda _: None)
    world.save(text(provider="partner", alone=True))
    world.save(text(alone=True))
    assert world.requirement_names() == {CORP, PARTNER}


def test_a_limit_stays_as_long_as_a_route_that_names_it_is_shown_in_the_place_of_a_refused_one() -> None:
    """Envoy limits nothing on a route whose limit its filter does not know."""
    world = World()
    assert world.limit_names() == {FEW}
    world.save(text(policy="many", body=REFUSED))
    for seconds in (1, SETTLE_BOUND + 2, HOUR):
        world.passes(seconds)
        assert {FEW.encode() in body for body in world.scopes(b"/limited")} == {True}
        assert FEW in world.limit_names()
    world.save(text(policy="many"))
    world.passes(LINGER_SECONDS + 2)
    assert world.limit_names() == {MANY}


def test_a_limit_stays_until_no_proxy_has_a_route_that_names_it() -> None:
    """The filter goes out before the routes: they would be without a limit until they come."""
    world = World()
    world.client.ack = lambda _: None  # type: ignore[method-assign]  # the filter is all that is on its way
    world.save(text(policy="many"))
    assert {FEW.encode() in body for body in world.scopes(b"/limited")} == {True}
    assert world.limit_names() == {FEW, MANY}


def test_a_limit_that_no_route_names_leaves_when_every_proxy_has_had_the_time() -> None:
    world = World()
    world.save(text(policy="many"))
    world.passes(SETTLE_BOUND + 2)
    assert world.limit_names() == {MANY}
    assert not world.compiler.tables.kept_limits.rows


def test_what_routes_named_again_meanwhile_stays_as_long_as_if_they_had_named_it_all_the_time() -> None:
    """An edit that is taken back and made again: the first time that it was made says nothing of the second."""
    world = World()
    for save in (text(provider="partner", policy="many"), text(), text(provider="partner", policy="many")):
        world.passes(0.4 * SETTLE_BOUND)
        world.save(save)
    world.passes(0.4 * SETTLE_BOUND)
    assert world.requirement_names() == {CORP, PARTNER}
    assert world.limit_names() == {FEW, MANY}
    world.passes(0.7 * SETTLE_BOUND)
    assert world.requirement_names() == {PARTNER}
    assert world.limit_names() == {MANY}


def test_a_filter_chain_has_routes_as_long_as_its_listener_is_shown_in_the_place_of_a_refused_one() -> None:
    """Its former certificate has all connections then, new ones as well."""
    world = World()
    former = world.scopes(b"/tls")
    world.refuses = lambda url, body: url == LDS and SECRETS[1].encode() in body
    world.save(text(secret=SECRETS[1]))
    listener = next(body for (url, name), body in world.has.items() if url == LDS and "8443" in name)
    assert SECRETS[0].encode() in listener
    world.passes(2 * DRAIN_SECONDS)
    assert set(former) <= set(world.scopes(b"/tls"))


def test_a_route_whose_requirement_is_in_a_refused_filter_is_shown_as_it_was() -> None:
    """Another team's provider may be what the filter is refused for; Envoy would refuse every request to the route."""
    world = World()
    world.refuses = lambda url, body: url == ECDS and PARTNER.encode() in body
    world.save(text(provider="partner"))
    for node in ("node-1", "node-2"):
        world.passes(HOUR)
        assert [CORP.encode() in body for body in world.scopes(b"/guarded")] == [True]
        assert world.requirement_names() == {CORP}
        if node == "node-1":
            world.join("node-2")
    world.refuses = lambda *_: False
    world.save(text(provider="partner").replace("https://partner", "https://other"))
    assert [PARTNER.encode() in body for body in world.scopes(b"/guarded")] == [True]
    assert PARTNER in world.requirement_names()


def test_a_route_whose_limit_is_in_a_refused_filter_is_shown_as_it_was() -> None:
    """Envoy would not limit it at all."""
    world = World()
    world.refuses = lambda url, body: url == ECDS and MANY.encode() in body
    world.save(text(policy="many"))
    world.passes(HOUR)
    assert {FEW.encode() in body for body in world.scopes(b"/limited")} == {True}
    assert world.limit_names() == {FEW}


EDITS = st.fixed_dictionaries(
    {
        "provider": st.sampled_from(["corp", "partner"]),
        "policy": st.sampled_from(["few", "many"]),
        "body": st.sampled_from(["good", "better", REFUSED, f"also {REFUSED}"]),
        "secret": st.sampled_from(SECRETS),
        "alone": st.booleans(),
    }
)


@settings(deadline=None, max_examples=30)
@given(st.lists(EDITS | st.none(), min_size=2, max_size=8))
def test_a_new_proxy_gets_the_same_whether_or_not_the_process_was_killed(steps: list[dict[str, Any] | None]) -> None:
    """None: a kill, after which no proxy of before is there. What the new one has works: what its routes name is there."""
    lived, killed = World(), World()
    for step in [*steps, None]:
        if step is None:
            killed = World(killed)
        else:
            lived.save(text(**step))
            killed.save(text(**step))
    lived.join("another")
    assert killed.said() == lived.said() != []
    for requirement in (CORP, PARTNER):
        if killed.scopes(requirement.encode()):
            assert requirement in killed.requirement_names()
    for limit in (FEW, MANY):
        if killed.scopes(limit.encode()):
            assert limit in killed.limit_names()
