"""One stream as a pure state machine: requests and changes in, responses out. No grpc, no clock, no task.

The server calls `receive` for every request, `changed` when the store or the directory may have changed, and then
`poll` for what is to be written; `deadline` says when to poll again. Both variants share this module: what a stream
wants, what it lacks, and what the client says of what it got. What differs between them is in delta.py and sotw.py;
which responses follow from it, and when, in outgoing.py.
"""

from __future__ import annotations

from abc import abstractmethod

from controlplane.resources import Resource
from controlplane.snapshot.substitution import Substituted
from controlplane.xds import checks, difference, isolation, types, virtual_hosts
from controlplane.xds.blame import quotable
from controlplane.xds.inventory import InventoryItem, awaits, inventory
from controlplane.xds.isolation import took
from controlplane.xds.nodes import Ended, Node, Status
from controlplane.xds.observer import Refusal, TypeStatus, Variant
from controlplane.xds.outgoing import Outgoing
from controlplane.xds.progress import Progress, Push
from controlplane.xds.request_names import check_names
from controlplane.xds.requests import Request
from controlplane.xds.returning import Returned


class Session(Outgoing):
    """What both variants share.

    `admit` gives the view of a node, or None while nothing is configured for it; `only` is the type of a per-type
    stream. Errors of the peer raise `Ended`; a refusal of `admit` passes through.
    """

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
            if self.node is not None and (agent := request.node.user_agent) and self.node.user_agent not in ("", agent):
                raise Ended(Status.INVALID_ARGUMENT, "the user agent of the node changed within the stream")
            if self.node is None:
                self._look(request.node, now)
                self._observer.connected(self._stream, request.node, self.variant, shown=self.view is not None)
                self.node = request.node
            else:
                self.node = request.node
                self._look(request.node, now)
        type_url = checks.type_of(request, self.node, self._only)
        self._order.heard(now)
        self._tick += 1
        if self.view is not None:
            self._catch_up(self.view, now)  # else what is asked for would be compared with what is known of earlier
            self._tick += 1
        if (progress := self._types.get(type_url)) is not None:
            return progress, False
        check_names(frozenset((type_url,)), self._limits)
        if len(self._types) >= self._limits.types:
            raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.types} types on one stream")
        progress = self._types[type_url] = Progress(types.resource_type(type_url), now)
        if self.view is not None:
            progress.replaced = self.view.substitutes(type_url)
        self._order.sort()
        return progress, True

    def _came_back(self, now: float) -> None:
        """The client has what it took over on an earlier stream: routes that are in use, which are changed with care."""
        if self._order.back:
            return
        self._order.came_back()
        if self.view is not None and (clusters := self._types.get(types.CLUSTER)) is not None:
            for push in clusters.in_flight:
                self._warm(push, push.listing.resources, self.view, now)

    def _legacy_wildcard(self, progress: Progress) -> bool:
        """Whether a request without names is now taken for one that names the wildcard: no name was ever given."""
        subscription = progress.subscription
        if not progress.kind.full_state or subscription.wildcard or subscription.named_once:
            return False
        return self.node is not None and self.node.empty_is_everything

    def _subscribed(self, progress: Progress, now: float) -> None:
        """The subscription of a request has been taken in."""
        if sum(len(each.subscription.names) for each in self._types.values()) > self._limits.names:
            raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.names} names on one stream")
        if sum(each.subscription.collections for each in self._types.values()) > self._limits.collections:
            raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.collections} collections on one stream")
        if sum(len(each.initial) for each in self._types.values()) > self._limits.names:  # that wait for a view
            raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {self._limits.names} versions on one stream")
        if progress.whole:
            progress.additions.want(self._tick, now + (self._bound if self._order.back else self._timing.answer))
        if progress.refusal is not None or progress.complaints:
            self._gave_up(progress)

    def _gave_up(self, progress: Progress) -> None:
        """What it refused and does not want any more is no complaint."""
        covers = progress.subscription.covers
        progress.complaints = {name: one for name, one in progress.complaints.items() if covers(name)}
        refused = progress.refusal.names if progress.refusal is not None else ()
        if refused and not progress.in_flight and not any(map(covers, refused)):
            self._pardon(progress)
            self._settle()

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
                progress.stuck = False
                before = [*isolation.held(progress, names.items())] if progress.replaced else names.items()
                difference.touched(progress, view, before, self._wanted(now))
                if progress.replaced:
                    isolation.precede(progress, progress.replaced.keys() & names.keys(), self._wanted(now))
                if progress.refusal is not None and self._order.outlived(progress):
                    self._pardon(progress)  # what there is now is what it had before what it refused

    def _switch(self, view: Substituted, now: float) -> None:
        """Another view: compare all that the client holds with all that it should."""
        if (old := self.view) is not None:
            self._catch_up(old, now)
            self._reconsider(old, now)
        self.view = view
        self._cursor = view.sequence
        for progress in self._order.of_additions:
            complained = bool(progress.complaints)
            if old is None:
                progress.subscription.look(view)
                if progress.finish and progress.kind.url == types.VIRTUAL_HOST:
                    virtual_hosts.introduce(progress, self._types.get(types.ROUTE_CONFIGURATION), view)
                self._compare(progress, view, now)
            else:
                progress.stuck = False
                difference.switched(progress, old, view, self._wanted(now))
            progress.show(view.substitutes(progress.kind.url))
            if complained and progress.content:
                self._pardon(progress)  # what it refused is none of what it sees

    def _reconsider(self, view: Substituted, now: float) -> None:
        for progress in self._order.of_additions:
            if not (progress.replaced or view.substitutes(progress.kind.url)):
                continue  # nothing of it was held back, nor is, as of nearly all
            complained = bool(progress.complaints)
            if isolation.reconsider(progress, view, self._wanted(now)):
                progress.spared_until = now + self._timing.refused
            if complained and progress.content:
                self._pardon(progress)  # what it refused was taken back
            self._settle()

    def _compare(self, progress: Progress, view: Substituted, now: float) -> None:
        """The first answer of a type: everything, or what differs from the versions that the client resumes with."""
        entries, progress.initial = progress.initial, ()
        if not entries:
            return
        progress.follows = True
        had = Returned(entries, view, progress.kind.url)
        if self.node is not None:
            self._holds.resumed(self.node, progress.kind.url, had)
        # The cluster of an expected load assignment was just sent, and waits for it, unchanged or not.
        unsure = self._order.expected if progress.kind.url == types.LOAD_ASSIGNMENT else ()
        difference.resumed(progress, view, had, unsure, self._wanted(now))
        if self._only is None:
            progress.grace, progress.keeps = now + self._timing.grace, now + self._timing.keeps
        if view.substitutes(progress.kind.url):
            progress.spared_until = now + self._timing.refused  # what it has instead may name what is gone

    # -- what the client says of it ------------------------------------------------------------------------------

    def _acknowledge(self, progress: Progress, nonce: str, error: str | None, now: float) -> bool:
        """An ACK or NACK of the response with that nonce, and thereby of those before it; whether there is such a one."""
        if nonce not in [push.nonce for push in progress.in_flight]:
            return False  # stale, or of another stream: it says nothing about what is under way
        over = []
        while (push := progress.in_flight.pop(0)).nonce != nonce:
            self._order.acked(progress, push, now)  # passed over: the client is past it
            over.append(push)
        if over and progress.kind.full_state and self.variant is Variant.SOTW:
            push.after(over)
        progress.since = now
        if push.heartbeat and error is None:
            # It says nothing about contents, nor that what was refused is well now.
            progress.acked_nonce, progress.acked_version = push.nonce, push.version
            return True
        if error is not None:
            self._refused(progress, push, error, now)
        else:
            self._acked(progress, push, now)
        self._settle()
        return True

    def _acked(self, progress: Progress, push: Push, now: float) -> None:
        progress.refusal = None
        progress.refused_new = frozenset()
        progress.unnamed = 0
        progress.returning = progress.stuck = False
        progress.left = None
        for one in push.listing.resources if progress.again else ():
            progress.again.pop(one.name, None)
        progress.acked_nonce, progress.acked_version = push.nonce, push.version
        if push.complete:
            progress.settled = max(progress.settled, push.cursor)
        self._order.acked(progress, push, now)
        self._observer.acked(progress.kind.url, push.cursor)
        self._has_taken(progress.kind.url, push.listing)

    def _refused(self, progress: Progress, push: Push, error: str, now: float) -> None:
        detail = quotable(error, progress.kind.url, self._limits.detail_characters)
        names = tuple(one.name for one in push.listing.resources) or tuple(push.listing.absent)
        progress.refusal = Refusal(push.nonce, push.version, names[: self._limits.reported_names], detail, now)
        progress.refused_new |= {name for name, held in push.held.items() if not held}
        if progress.beats is not None:
            progress.beats.refused([one.name for one in push.listing.resources])
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
        self._reconsider(self.view, now)  # what is good to show may need what is gone, of other types too

    # -- what others ask -----------------------------------------------------------------------------------------

    def took(self, resource: Resource) -> bool:
        """Whether the client has taken over exactly this content."""
        progress = self._types.get(resource.type_url)
        return progress is not None and self.view is not None and took(progress, self.view, self._cursor, resource)

    # -- what people see -----------------------------------------------------------------------------------------

    def inventory(self, type_url: str) -> list[InventoryItem]:
        """What the client has of a type, name by name."""
        progress = self._types.get(type_url)
        return list(inventory(progress, self.view)) if progress is not None and self.view is not None else []

    def awaits(self, type_url: str, names: frozenset[str], sequence: int) -> bool:
        """Whether the client has not acknowledged what was published under these names up to this sequence number."""
        progress = self._types.get(type_url)
        return progress is None or self._cursor < sequence or awaits(progress, names)

    def status(self) -> tuple[TypeStatus, ...]:
        """Where the stream stands, type by type in push order."""
        every = self._order.of_additions
        unanswered = min((progress.in_flight[0].sent for progress in every if progress.in_flight), default=None)
        return tuple(
            progress.status(self._bound, unanswered, returned=self._returned_whole(progress)) for progress in every
        )

    def _returned_whole(self, progress: Progress) -> bool:
        """Whether nothing was sent because the client came back with all there is of what it asks for."""
        if progress.sent_version or not progress.idle or self.view is None:
            return False
        url, asked = progress.kind.url, progress.subscription
        return any(self.view.get(url, name) for name in (self.view.names(url) if asked.wildcard else asked.names))
