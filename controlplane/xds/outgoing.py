"""What a stream is sent, and when: one half of the session, which knows what was asked for and what has changed.

Make before break. What a client asks for is answered at once, but for the certificate of a filter chain whose scopes are
on their way. What changed goes out type by type: additions and changes in push order, each after the ACK of the types it
depends on; what is late (`Resource.late`) after the ACK of all routes; removals when all of that is acknowledged, in the
order of `REMOVAL_ORDER`. The newest state wins: what waits is a set of names, never a queue of contents. Every wait is
bounded (`Timing`). Heartbeats of resources with a TTL wait for nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from math import inf
from sys import maxsize

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing
from controlplane.snapshot.store import View
from controlplane.snapshot.substitution import Substituted
from controlplane.xds import difference, isolation, types, virtual_hosts
from controlplane.xds.bounds import Limits, Timing
from controlplane.xds.difference import Wanted
from controlplane.xds.heartbeats import Heartbeats, lives
from controlplane.xds.holds import Holds
from controlplane.xds.nameset import NOTHING
from controlplane.xds.nodes import Node
from controlplane.xds.observer import Observer, Refusal, SilentObserver, Variant
from controlplane.xds.order import Order
from controlplane.xds.progress import Progress, Push
from controlplane.xds.resending import altered
from controlplane.xds.warming import Warming, warming
from controlplane.xds.wire import Draft, Encoder


class Outgoing(ABC):
    """The state of a stream, and the responses that follow from it."""

    variant: Variant
    timed: frozenset[str]
    """Client features with which a client knows TTLs."""
    window: int
    """Responses of one type that may lack their ACK before the next change of it waits."""

    def __init__(
        self,
        admit: Callable[[Node], View | None],
        encoder: Encoder,
        *,
        only: str | None = None,
        stream: int = 0,
        observer: Observer | None = None,
        timing: Timing | None = None,
        limits: Limits | None = None,
        holds: Holds | None = None,
        warming_of: Callable[[Resource], Warming] = warming,
    ) -> None:
        self.node: Node | None = None
        self.view: Substituted | None = None
        self.settled = 0
        """The sequence number of the store up to which all that concerns this stream is acknowledged."""
        self.answered = False
        """Whether the last request said how a response was taken that was open, and asked for nothing."""
        self._admit = admit
        self._encoder = encoder
        self._only = only
        self._stream = stream
        self._observer: Observer = observer or SilentObserver()
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._portion = self._limits.response_changes if self.variant is Variant.DELTA else maxsize
        self._holds = holds or Holds()
        self._admitted: View | None = None  # what `view` shows, without what is held back
        self._warming = warming_of
        self._types: dict[str, Progress] = {}
        self._order = Order(self._types, self._timing, self.window, aggregated=only is None)
        self._cursor = 0
        self._tick = 0
        self._number = 0
        self._deadline: float | None = None

    @property
    def deadline(self) -> float | None:
        """When to poll again though nothing happened; known after `poll`."""
        return self._deadline

    def poll(self, now: float) -> list[bytes]:
        """The responses that may go out now, in order. Recorded as sent: write them all."""
        if self._deadline is not None and now - self._deadline > self._timing.overslept:
            self._order.postpone(now - self._deadline + self._timing.overslept)
        self._order.begin(self.view)
        if self.view is None:
            return []
        responses: list[bytes] = []
        if (still := self._order.still_until(now)) is not None:
            self._order.wake(still)
        else:
            responses += self._poll_changes(self.view, now)
        self._deadline = self._order.deadline
        for progress in self._order.of_additions:
            if progress.beats is not None:
                responses += self._poll_heartbeats(progress, progress.beats, now)
        self._settle()
        return responses

    def _poll_changes(self, view: Substituted, now: float) -> list[bytes]:
        responses: list[bytes] = []
        late = []
        for progress in self._order.of_additions:
            if progress.changed or progress.asked or progress.whole or progress.finish or progress.trials:
                responses += self._poll_additions(progress, view, now)
                if progress.postponed:
                    late.append(progress)
        for progress in late:
            responses += self._poll_late(progress, view, now)
        for progress in self._order.of_removals:
            if progress.refusal is not None and self._silently_gone(progress, progress.refusal, view):
                self._pardon(progress)
            if progress.gone:
                responses += self._poll_removals(progress, now)
        return responses

    def _poll_additions(self, progress: Progress, view: Substituted, now: float) -> list[bytes]:
        url = progress.kind.url
        if progress.static:
            progress.additions.cap = inf  # it waits for what is to come, and for nobody
            return []
        if progress.trials and not progress.in_flight and not progress.waiting():
            isolation.next_trial(progress, view, self._wanted(now))
        if url == types.SECRET and progress.asked and self._order.holds_secrets(now):
            return []
        free = progress.timely and not self._order.holds_additions(progress, now)
        if free or progress.whole:
            progress.additions.first = None
        if progress.whole and not free and progress.kind.full_state:
            return []  # names that were asked for beside are in it, and a first answer is whole
        due = progress.finish and not progress.changed and not progress.gone and not progress.whole
        changed, upto = (progress.waiting(self._portion), None) if free else self._first_changed(progress, now)
        if not (progress.asked or free or due or changed):
            return []
        responses = self._send(progress, view, now, changed, whole=free and progress.whole, upto=upto)
        if (len(changed) == self._portion or upto is not None) and progress.timely:
            self._order.wake(now)  # others first, then the next portion
        return responses

    def _first_changed(self, progress: Progress, now: float) -> tuple[frozenset[str], int | None]:
        """Of what must wait, what was held first and need not any more; its tick, when that is all of it."""
        if not progress.timely or progress.whole:
            return NOTHING, None
        first = progress.additions.overtaken(progress.waiting)
        if first is None or self._order.holds_additions(progress, now, first.tick):
            return NOTHING, None
        first.names &= progress.waiting()
        if len(first.names) > self._portion:
            some = frozenset(islice(first.names, self._portion))
            first.names -= some
            return some, None
        progress.additions.first = None
        return frozenset(first.names), first.tick

    def _poll_late(self, progress: Progress, view: Substituted, now: float) -> list[bytes]:
        if progress.static or self._order.holds_late(progress, now):
            return []
        return self._send(progress, view, now, progress.postponed, late=True)

    def _send(
        self, progress: Progress, view: Substituted, now: float, changed: frozenset[str],
        *, whole: bool = False, late: bool = False, upto: int | None = None,
    ) -> list[bytes]:  # fmt: skip
        """What is asked for, these changes (`upto`: all that waited at this tick), and everything if it is the turn of that."""
        url = progress.kind.url
        held = {name: progress.changed[name] for name in changed}
        listing = difference.due(progress, view, changed, whole=whole)
        if progress.again:
            listing = altered(url, listing, progress.again)
        if not (listing.resources or listing.absent or whole or progress.finish):
            progress.asked = NOTHING  # all of it is gone, which is told when its turn comes
            return []
        answers = bool(progress.asked or whole or progress.finish)
        # A first answer of a full-state type is whole: Envoy has fetched all there is when it comes.
        parts = (listing,) if whole and progress.kind.full_state else self._split(listing)
        before = progress.sent
        drafts = [self._compose(progress, part, answer=answers) for part in parts]
        progress.asked = NOTHING
        if not progress.whole or whole:
            progress.whole = progress.finish = False
        progress.sent_now(listing)
        bound = self._timing.answer if answers and not changed and not self._order.back else self._timing.phase
        responses = []
        for draft, part in zip(drafts, parts, strict=True):
            if draft is None:
                progress.relax()
                return []
            push = self._record(progress, draft, part, before, now, bound)
            push.held = (
                held if part is listing else {one.name: held[one.name] for one in part.resources if one.name in held}
            )
            if part is parts[-1]:
                self._all_sent(progress, push, listing, changed, view, now, answers=answers, late=late, upto=upto)
            if url == types.LOAD_ASSIGNMENT:
                self._order.assigned(push, part.resources, now)
            responses.append(self._finish(progress, push, draft, last=part is parts[-1]))
        return responses

    def _all_sent(
        self, progress: Progress, push: Push, listing: Listing, changed: frozenset[str], view: View, now: float,
        *, answers: bool, late: bool, upto: int | None,
    ) -> None:  # fmt: skip
        """This push is the last of what could go: what waits for this type waits for its ACK."""
        url = progress.kind.url
        if not late and not progress.timely:
            push.additions_tick = self._tick
            progress.additions.push(self._tick, push.limit, answer=answers and not changed)
        elif upto is not None:
            push.additions_tick = upto
            progress.additions.push_part(upto, push.limit, self._wanted(now).cap)
        if progress.late is not None and progress.late.wanted > progress.late.pushed and not progress.postponed:
            push.late_tick = self._tick
            progress.late.push(self._tick, push.limit)
        if url == types.CLUSTER:
            unsure = answers and self._order.back  # of what the client has
            self._warm(push, [one for one in listing.resources if unsure or one.name in changed], view, now)
        elif url == types.ROUTE_CONFIGURATION and (hosts := self._types.get(types.VIRTUAL_HOST)) is not None:
            virtual_hosts.sent(hosts, progress, view, {one.name for one in listing.resources})
        if progress.beats is not None or listing.timed:
            progress.beats = lives(progress.beats, listing, now, known=self._knows_ttl())

    def _poll_removals(self, progress: Progress, now: float) -> list[bytes]:
        names, upto = self._may_go(progress, now)
        if not names:
            return []
        listing = Listing((), sorted(names))
        before = progress.sent
        draft = self._compose(progress, listing, answer=progress.finish)
        if progress.beats is not None:
            progress.beats.end(listing.absent)
        progress.gone = {name: held for name, held in progress.gone.items() if name not in names}
        progress.finish = False
        if draft is None:
            progress.relax()
            return []
        push = self._record(progress, draft, listing, before, now, self._timing.phase)
        push.removals_tick = upto if progress.gone else self._tick
        if progress.gone:
            progress.removals.push_part(upto, push.limit, self._wanted(now).cap)
            self._order.wake(now)
        else:
            progress.removals.push(self._tick, push.limit)
        return [self._finish(progress, push, draft)]

    def _silently_gone(self, progress: Progress, refusal: Refusal, view: Substituted) -> bool:
        """Whether what it refused is not there any more, or not wanted, and this variant says so by silence."""
        kind, covers = progress.kind, progress.subscription.covers
        if self.variant is not Variant.SOTW or kind.full_state or not progress.accepting:
            return False
        return not any(covers(name) and view.get(kind.url, name) is not None for name in refusal.names)

    def _pardon(self, progress: Progress) -> None:
        """It has no reason to complain any more, and nothing will be sent that it could acknowledge."""
        progress.refusal, progress.refused_new = None, NOTHING
        self._order.mended(progress)

    def _has_taken(self, type_url: str, listing: Listing) -> None:
        """The client has taken this over: it is good to show when what comes after it is refused."""
        if listing.resources and self.node is not None and self.view is not None:
            if self.view.unproven(type_url):
                self.view.prove(type_url, listing.versions)
            self._holds.accepted(self.node, listing)

    def _may_go(self, progress: Progress, now: float) -> tuple[frozenset[str], int]:
        """What may be removed, with its tick: all that is gone, or what was held first and need not wait any more."""
        if self._order.spares(progress, now) or self._lets_go(progress, now):
            return NOTHING, 0
        if not self._order.holds_removals(progress, now):
            progress.removals.first = None
            return frozenset(progress.gone), self._tick
        first = progress.removals.overtaken(progress.gone.keys)
        if first is None or self._order.holds_removals(progress, now, first.tick):
            return NOTHING, 0
        progress.removals.first = None
        return frozenset(first.names & progress.gone.keys()), first.tick

    def _lets_go(self, progress: Progress, now: float) -> bool:
        """Whether the client will give up by itself what is gone: it is not told before, up to the bound."""
        bound = progress.removals.cap
        if progress.kind.url != types.CLUSTER or now >= bound or self.node is None or not self.node.lets_go:
            return False
        for one in progress.sent.resources if progress.sent is not None else ():
            if one.name in progress.gone and not self._is_supplied(one):
                return False  # it waits for endpoints that do not come, and gRPC for Java with it for all others
        self._order.wake(bound)
        return True

    def _is_supplied(self, cluster: Resource) -> bool:
        """Whether the client has the endpoints of this cluster, or gets them."""
        if (name := self._warming(cluster).assignment) is None:
            return True
        there = self.view is not None and self.view.get(types.LOAD_ASSIGNMENT, name) is not None
        assignments = self._types.get(types.LOAD_ASSIGNMENT)
        return there or (assignments is not None and name in assignments.gone)

    def _poll_heartbeats(self, progress: Progress, beats: Heartbeats, now: float) -> list[bytes]:
        """Let what has a TTL live on, content and version being what the client was sent."""
        responses = []
        if due := beats.beat(now):
            draft = self._beat(progress, due)
            push = self._record(progress, draft, Listing(()), progress.sent, now, 0.0)
            push.heartbeat = True
            responses.append(self._finish(progress, push, draft))
        self._deadline = min(beats.deadline, inf if self._deadline is None else self._deadline)
        return responses

    def _knows_ttl(self) -> bool:
        return self.node is not None and not self.timed.isdisjoint(self.node.features)

    def _warm(self, push: Push, clusters: Sequence[Resource], view: View, now: float) -> None:
        """These clusters differ from what the client holds: their load assignments follow, unchanged ones too.

        A changed cluster warms anew, and is warm only after a *new* load assignment, which Envoy does not ask for.
        https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-warming
        """
        needs = [self._warming(cluster) for cluster in clusters]
        push.hold = max([push.hold, *(each.hold for each in needs)])
        if self._only is None:
            names = {each.assignment for each in needs if each.assignment is not None}
            names = {name for name in names if view.get(types.LOAD_ASSIGNMENT, name) is not None}
            self._order.expect(names, push, now)
            if (assignments := self._types.get(types.LOAD_ASSIGNMENT)) is not None:
                assignments.ask(frozenset(filter(assignments.subscription.covers, names)))

    def _may_refuse_large(self) -> bool:
        """Whether this client is one that takes 4 MiB and no more, unless it was told otherwise."""
        return self.variant is Variant.SOTW or self.node is None or self.node.user_agent != "envoy"

    def _split(self, listing: Listing) -> Sequence[Listing]:
        """What must not go out in one response, because it is too large."""
        return (listing,)

    @abstractmethod
    def _beat(self, progress: Progress, resources: Sequence[Resource]) -> Draft:
        """The response that lets the TTLs of these resources begin anew."""

    @abstractmethod
    def _compose(self, progress: Progress, listing: Listing, *, answer: bool) -> Draft | None:
        """The response that says this; None when this variant says it by silence."""

    def _record(
        self, progress: Progress, draft: Draft, listing: Listing, before: Listing | None, now: float, bound: float
    ) -> Push:
        """Note the response as sent before its bytes can be acknowledged."""
        self._number += 1
        push = Push(
            number=self._number,
            version=draft.version,
            listing=listing,
            before=before,
            held={},
            cursor=self._cursor,
            sent=now,
            limit=now + bound,
        )
        if bound >= self._timing.phase:
            self._order.told(push.number, now)
        if not progress.in_flight:
            progress.since = now
        progress.in_flight.append(push)
        if len(progress.in_flight) > self._limits.remembered_pushes:
            progress.in_flight.pop(0)
        progress.sent_nonce, progress.sent_version = push.nonce, draft.version
        return push

    def _finish(self, progress: Progress, push: Push, draft: Draft, *, last: bool = True) -> bytes:
        push.complete = last and not (progress.changed or progress.gone or progress.whole)
        data = draft.encode(push.nonce)
        self._observer.pushed(progress.kind.url, len(data), draft.resources)
        if len(data) > self._limits.response_bytes and not progress.large and self._may_refuse_large():
            progress.large = True
            assert self.node is not None
            self._observer.large(self.node, progress.kind.url, len(data))
        return data

    def _wanted(self, now: float) -> Wanted:
        return Wanted(self._tick, now + self._bound)

    @property
    def _bound(self) -> float:
        """Seconds that what is wanted waits at most."""
        return 2 * self._timing.phase

    def _settle(self) -> None:
        settled = self._cursor
        for progress in self._order.of_additions:
            if progress.idle:
                progress.settled = self._cursor
            elif progress.settled < settled:
                settled = progress.settled
        if settled > self.settled and self._types:
            self.settled = settled
            self._observer.settled(self._stream, settled)
