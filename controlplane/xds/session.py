"""One stream as a pure state machine: requests and changes in, responses out. No grpc, no clock, no task.

The server calls `receive` for every request, `changed` when the store or the directory may have changed, and then
`poll` for what is to be written; `deadline` says when to poll again. Both variants share this module: which names a
stream lacks, and when they may go. What differs between them is in delta.py and sotw.py.

Make before break. What a client asks for is answered at once. What changed goes out type by type: additions and changes in
push order, each after the ACK of the types it depends on; removals when all additions are acknowledged, in the
order of `REMOVAL_ORDER`. The newest state wins: what waits is a set of names, never a queue of contents. Every wait
is bounded (`Timing`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing
from controlplane.snapshot.store import View
from controlplane.snapshot.substitution import Substituted
from controlplane.xds import difference, isolation, types
from controlplane.xds.blame import quotable
from controlplane.xds.bounds import Limits, Timing
from controlplane.xds.difference import Wanted
from controlplane.xds.holds import Holds
from controlplane.xds.isolation import took
from controlplane.xds.nameset import NOTHING
from controlplane.xds.nodes import Ended, Node, Status
from controlplane.xds.observer import Observer, Refusal, SilentObserver, TypeStatus, Variant
from controlplane.xds.order import Order
from controlplane.xds.progress import Progress, Push
from controlplane.xds.warming import Warming, warming
from controlplane.xds.wire import Draft, Encoder, Request


class Session(ABC):
    """What both variants share.

    `admit` gives the view of a node, or None while nothing is configured for it; `only` is the type of a per-type
    stream. Errors of the peer raise `Ended`; a refusal of `admit` passes through.
    """

    variant: Variant
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
        self._admit = admit
        self._encoder = encoder
        self._only = only
        self._stream = stream
        self._observer: Observer = observer or SilentObserver()
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._holds = holds or Holds()
        self._admitted: View | None = None  # what `view` shows, without what is held back
        self._warming = warming_of
        self._types: dict[str, Progress] = {}
        self._order = Order(self._types, self._timing, self.window, aggregated=only is None)
        self._cursor = 0
        self._tick = 0
        self._nonce = 0

    @property
    def deadline(self) -> float | None:
        """When to poll again though nothing happened; known after `poll`."""
        return self._order.deadline

    # -- what comes in -------------------------------------------------------------------------------------------

    @abstractmethod
    def receive(self, data: bytes, now: float) -> None:
        """One request, as it came from the wire."""

    def changed(self, now: float) -> None:
        """The store or the directory may have changed: ask again what this node sees, and note what it lacks."""
        if self.node is not None:
            self._look(self.node, now)

    def _look(self, node: Node, now: float) -> None:
        admitted = self._admit(node) or self._admitted  # one that is taken away fails static: its losses are published
        if admitted is None:
            return
        self._tick += 1
        if admitted is self._admitted and self.view is not None:
            self._catch_up(self.view, now)
            self._reconsider(self.view, now)
        else:
            self._switch(self._holds.show(admitted, node), now)
            self._admitted = admitted

    def _open(self, request: Request, now: float) -> tuple[Progress, bool]:
        """Check what every request must hold; the progress of its type, and whether this is its first request."""
        if request.node is not None and request.node.id and request.node != self.node:
            if self.node is not None and request.node.id != self.node.id:
                raise Ended(Status.INVALID_ARGUMENT, "the node id changed within the stream")
            if self.node is None:
                self._look(request.node, now)
                self._observer.connected(self._stream, request.node, self.variant)
                self.node = request.node
            else:
                self.node = request.node
                self._look(request.node, now)
        if self.node is None:
            raise Ended(Status.INVALID_ARGUMENT, "the first request of a stream must name the node (node.id)")
        type_url = request.type_url or self._only
        if not type_url:
            raise Ended(Status.INVALID_ARGUMENT, "a request on an aggregated stream must have a type_url")
        if self._only and type_url != self._only:
            raise Ended(Status.INVALID_ARGUMENT, f"this stream serves {self._only}")
        self._tick += 1
        if (progress := self._types.get(type_url)) is not None:
            return progress, False
        self._check_names((type_url,))
        if len(self._types) >= self._limits.types:
            raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.types} types on one stream")
        progress = self._types[type_url] = Progress(types.resource_type(type_url), now)
        if self.view is not None:
            progress.replaced = self.view.substitutes(type_url)
        self._order.sort()
        return progress, True

    def _check_names(self, names: Collection[str]) -> None:
        """What one list of a request may hold."""
        if len(names) > self._limits.names:
            raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.names} names in one request")
        if max(map(len, names), default=0) > self._limits.name_characters:
            reason = f"a name is longer than {self._limits.name_characters} characters"
            raise Ended(Status.INVALID_ARGUMENT, reason)

    def _subscribed(self, progress: Progress, now: float) -> None:
        """The subscription of a request has been taken in."""
        if len(progress.subscription.names) > self._limits.names:
            raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.names} names of one type")
        if progress.whole:
            progress.additions.want(self._tick, now + self._timing.answer)

    # -- what a stream lacks -------------------------------------------------------------------------------------

    def _catch_up(self, view: Substituted, now: float) -> None:
        sequence = view.sequence
        if sequence == self._cursor:
            return
        if (touched := view.touched_since(self._cursor)) is None:
            raise Ended(Status.UNAVAILABLE, "this stream fell too far behind; connect again to resume")
        self._cursor = sequence
        for type_url, names in touched.items():
            if (progress := self._types.get(type_url)) is not None:
                before = isolation.held(progress, names.items()) if progress.replaced else names.items()
                difference.touched(progress, view, before, self._wanted(now))

    def _switch(self, view: Substituted, now: float) -> None:
        """Another view: compare all that the client holds with all that it should."""
        if (old := self.view) is not None:
            self._catch_up(old, now)
        self.view = view
        self._cursor = view.sequence
        for progress in self._order.of_additions:
            if old is None:
                self._compare(progress, view, now)
            else:
                difference.switched(progress, old, view, self._wanted(now))
            progress.replaced = view.substitutes(progress.kind.url)

    def _reconsider(self, view: Substituted, now: float) -> None:
        for progress in self._order.of_additions:
            if isolation.reconsider(progress, view, self._wanted(now)):
                progress.spared_until = now + self._timing.refused

    def _wanted(self, now: float) -> Wanted:
        return Wanted(self._tick, now + 2 * self._timing.phase)

    def _compare(self, progress: Progress, view: Substituted, now: float) -> None:
        """The first answer of a type: everything, or what differs from the versions that the client resumes with."""
        if not progress.initial:
            progress.initial = None
            return
        if self.node is not None:
            self._holds.resumed(self.node, progress.kind.url, progress.initial)
        # The cluster of an expected load assignment was just sent, and waits for it, unchanged or not.
        unsure = self._order.expected if progress.kind.url == types.LOAD_ASSIGNMENT else ()
        difference.resumed(progress, view, unsure, Wanted(self._tick, now + self._timing.answer))
        if self._only is None:
            progress.grace = now + self._timing.grace

    # -- what goes out -------------------------------------------------------------------------------------------

    def poll(self, now: float) -> list[bytes]:
        """The responses that may go out now, at most two of a type. Recorded as sent: write them all, in order."""
        self._order.begin(self.view)
        if self.view is None:
            return []
        additions = [self._poll_additions(progress, self.view, now) for progress in self._order.of_additions]
        removals = [self._poll_removals(progress, now) for progress in self._order.of_removals if progress.gone]
        self._settle()
        return [response for response in (*additions, *removals) if response is not None]

    def _poll_additions(self, progress: Progress, view: View, now: float) -> bytes | None:
        url = progress.kind.url
        if progress.trials and not progress.in_flight and not progress.changed and self.view is not None:
            isolation.try_again(progress, self.view, progress.trials.pop(0), self._wanted(now))
        waits = bool(progress.changed or progress.whole)
        free = waits and not self._order.holds_additions(progress, now)
        due = progress.finish and not progress.changed and not progress.gone and not progress.whole
        if not (progress.asked or free or due):
            return None
        whole = free and progress.whole
        changed = frozenset(progress.changed) if free else NOTHING
        created = frozenset(name for name in changed if progress.changed[name] == "")
        listing = difference.due(progress, view, changed, whole=whole)
        answer = bool(progress.asked or whole or progress.finish)
        before = progress.sent
        draft = self._compose(progress, listing, answer=answer)
        progress.asked = NOTHING
        if not progress.whole or whole:
            progress.whole = progress.finish = False
        progress.sent_now(listing)
        if draft is None:
            progress.relax()
            return None
        bound = self._timing.answer if answer else self._timing.phase
        push = self._record(progress, draft, listing, before, now, bound)
        push.created = created
        if not progress.changed and not progress.whole:
            push.additions_tick = self._tick
            progress.additions.push(self._tick, push.limit, answer=answer and not changed)
        if url == types.CLUSTER and changed:
            self._warm(push, [one for one in listing.resources if one.name in changed], view, now)
        elif url == types.LOAD_ASSIGNMENT:
            self._order.assigned(push, listing.resources, now)
        return self._finish(progress, push, draft)

    def _poll_removals(self, progress: Progress, now: float) -> bytes | None:
        if self._order.holds_removals(progress, now) or self._spares(progress, now):
            return None
        listing = Listing((), sorted(progress.gone))
        before = progress.sent
        draft = self._compose(progress, listing, answer=progress.finish)
        progress.gone = {}
        progress.finish = False
        if draft is None:
            progress.relax()
            return None
        push = self._record(progress, draft, listing, before, now, self._timing.phase)
        push.removals_tick = self._tick
        progress.removals.push(self._tick, push.limit)
        return self._finish(progress, push, draft)

    def _spares(self, progress: Progress, now: float) -> bool:
        """Whether the client goes on with earlier content that may name what is gone: it stays, up to a bound."""
        for other in self._order.of_removals:
            if other is progress:
                break
            if now < other.spared_until and self.view is not None and self.view.substitutes(other.kind.url):
                self._order.wake(other.spared_until)
                return True
        return False

    def _warm(self, push: Push, clusters: list[Resource], view: View, now: float) -> None:
        """These clusters differ from what the client holds: their load assignments follow, unchanged ones too.

        A changed cluster warms anew, and is warm only after a *new* load assignment, which Envoy does not ask for.
        https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-warming
        """
        assignments = self._types.get(types.LOAD_ASSIGNMENT)
        for cluster in clusters:
            needs = self._warming(cluster)
            push.hold = max(push.hold, needs.hold)
            name = needs.assignment
            if name is None or self._only is not None or view.get(types.LOAD_ASSIGNMENT, name) is None:
                continue
            self._order.expect(name, now)
            if assignments is not None and assignments.subscription.covers(name):
                assignments.ask(frozenset((name,)))

    @abstractmethod
    def _compose(self, progress: Progress, listing: Listing, *, answer: bool) -> Draft | None:
        """The response that says this; None when this variant says it by silence."""

    def _record(
        self, progress: Progress, draft: Draft, listing: Listing, before: Listing | None, now: float, bound: float
    ) -> Push:
        """Note the response as sent before its bytes can be acknowledged."""
        self._nonce += 1
        names = [resource.name for resource in listing.resources[: self._limits.reported_names]]
        push = Push(
            nonce=f"{self._nonce:x}",
            version=draft.version,
            names=tuple([*names, *listing.absent][: self._limits.reported_names]),
            listing=listing,
            before=before,
            created=frozenset(),
            cursor=self._cursor,
            sent=now,
            limit=now + bound,
        )
        if not progress.in_flight:
            progress.since = now
        progress.in_flight.append(push)
        if len(progress.in_flight) > self._limits.remembered_pushes:
            progress.in_flight.pop(0)
        progress.sent_nonce, progress.sent_version = push.nonce, draft.version
        return push

    def _finish(self, progress: Progress, push: Push, draft: Draft) -> bytes:
        push.complete = not (progress.changed or progress.gone or progress.whole)
        data = draft.encode(push.nonce)
        self._observer.pushed(progress.kind.url, len(data), draft.resources)
        return data

    # -- what the client says of it ------------------------------------------------------------------------------

    def _acknowledge(self, progress: Progress, nonce: str, error: str | None, now: float) -> None:
        """An ACK or NACK of the response with that nonce, and thereby of those before it."""
        if all(push.nonce != nonce for push in progress.in_flight):
            return  # stale, or of another stream: it says nothing about what is under way
        while (push := progress.in_flight.pop(0)).nonce != nonce:
            self._order.acked(progress, push, now)  # passed over: the client is past it
        progress.since = now
        if error is not None:
            self._refused(progress, push, error, now)
        else:
            self._acked(progress, push, now)
        self._settle()

    def _acked(self, progress: Progress, push: Push, now: float) -> None:
        progress.refusal = None
        progress.refused_new = frozenset()
        progress.unnamed = 0
        progress.acked_nonce, progress.acked_version = push.nonce, push.version
        if push.complete:
            progress.settled = max(progress.settled, push.cursor)
        self._order.acked(progress, push, now)
        self._observer.acked(progress.kind.url, push.cursor)
        if push.listing.resources and self.node is not None and self.view is not None:
            if self.view.unproven(progress.kind.url):
                self.view.prove(progress.kind.url, push.listing.versions)
            self._holds.accepted(self.node, push.listing)

    def _refused(self, progress: Progress, push: Push, error: str, now: float) -> None:
        detail = quotable(error, progress.kind.url, self._limits.detail_characters)
        progress.refusal = Refusal(push.nonce, push.version, push.names, detail, now)
        progress.refused_new |= push.created
        self._order.refused(progress, push)
        assert self.node is not None
        self._observer.nacked(self.node, progress.kind.url, progress.refusal)
        if self.view is None:
            return
        progress.spared_until = push.sent + self._timing.refused
        trials, wanted = self._limits.trials, self._wanted(now)
        refusal = progress.refusal
        for resource in isolation.isolate(progress, push, self.view, self.node, self._holds, refusal, trials, wanted):
            self._observer.held(self.node, resource, self.view.get(resource.type_url, resource.name), detail)

    def _settle(self) -> None:
        if not self._types:
            return
        settled = self._cursor
        for progress in self._order.of_additions:
            progress.settled = self._cursor if progress.idle else progress.settled
            settled = min(settled, progress.settled)
        if settled > self.settled:
            self.settled = settled
            self._observer.settled(self._stream, settled)

    # -- what others ask -----------------------------------------------------------------------------------------

    def took(self, resource: Resource) -> bool:
        """Whether the client has taken over exactly this content."""
        progress = self._types.get(resource.type_url)
        return progress is not None and self.view is not None and took(progress, self.view, self._cursor, resource)

    # -- what people see -----------------------------------------------------------------------------------------

    def status(self) -> tuple[TypeStatus, ...]:
        """Where the stream stands, type by type in push order."""
        return tuple(progress.status() for progress in self._order.of_additions)
