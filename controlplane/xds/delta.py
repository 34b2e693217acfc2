"""The incremental variant: a request changes the subscription, a response holds what changed.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing
from controlplane.xds import difference, virtual_hosts
from controlplane.xds.heartbeats import TIMED
from controlplane.xds.observer import Variant
from controlplane.xds.progress import UNKNOWN, Progress
from controlplane.xds.requests import DeltaRequest, acknowledgement, delta_request
from controlplane.xds.session import Session
from controlplane.xds.types import ROUTE_CONFIGURATION, VIRTUAL_HOST, WILDCARD
from controlplane.xds.wire import Draft


class DeltaSession(Session):
    """A stream of `DeltaDiscoveryRequest` and `DeltaDiscoveryResponse`."""

    variant = Variant.DELTA
    timed = TIMED
    window = 8

    def receive(self, data: bytes, now: float) -> None:
        """Take in one request: its ACK or NACK, then the names it subscribes, then those it unsubscribes."""
        if (ack := acknowledgement(data)) is not None and (acked := self._types.get(ack[0])) is not None:
            self._order.heard(now)
            self._tick += 1
            self.answered = self._acknowledge(acked, ack[1], None, now)
            return
        self.answered = False
        request = delta_request(data, self._limits)
        progress, first = self._open(request, now)
        if not first and request.nonce:
            # A stale nonce acknowledges nothing, but the subscription in the request counts all the same.
            known = self._acknowledge(progress, request.nonce, request.error, now)
            self.answered = known and not (request.subscribe or request.unsubscribe)
        self._subscribe(progress, request, now, first=first)
        if first:
            progress.initial = request.initial_versions
            if request.initial_versions:
                self._came_back(now)
            if self.view is not None:
                self._compare(progress, self.view, now)
        if request.unsubscribe:
            self._unsubscribe(progress, request, now)
        self._subscribed(progress, now)

    def _split(self, listing: Listing) -> Sequence[Listing]:
        return listing.split(self._limits.response_bytes)

    def _subscribe(self, progress: Progress, request: DeltaRequest, now: float, *, first: bool) -> None:
        subscription, names = progress.subscription, request.subscribe
        if not names:
            if progress.kind.full_state and not request.unsubscribe and self._legacy_wildcard(progress):
                subscription.wildcard = progress.whole = progress.finish = True
            elif first and progress.kind.url == VIRTUAL_HOST:
                progress.finish = True
                if self.view is not None:
                    virtual_hosts.introduce(progress, self._types.get(ROUTE_CONFIGURATION), self.view)
            return
        subscription.named_once = True
        if (
            first
            and progress.kind.full_state
            and request.initial_versions
            and self.node
            and not self.node.names_wildcard
        ):
            names |= {WILDCARD}
        if WILDCARD in names:
            # Also when it is subscribed already: the client may have dropped what it had.
            subscription.wildcard = progress.whole = progress.finish = True
            names -= {WILDCARD}
            self._note_under_way(progress, now)
        subscription.add(names, self.view)
        progress.ask(names)

    def _note_under_way(self, progress: Progress, now: float) -> None:
        """What is on its way to the client comes to be wanted when it arrives, there or not."""
        if self.view is not None:
            for name in {one.name for push in progress.in_flight for one in push.listing.resources}:
                if progress.subscription.covers(name):
                    difference.note(progress, self.view, name, UNKNOWN, self._wanted(now))
            progress.relax()

    def _unsubscribe(self, progress: Progress, request: DeltaRequest, now: float) -> None:
        subscription, names = progress.subscription, request.unsubscribe
        if WILDCARD in names:
            subscription.named_once = True  # said by name, so that "no names" does not bring it back
            subscription.wildcard = progress.whole = progress.finish = False
        if self.view is not None and (WILDCARD in names or self.view.aliases(progress.kind.url)):
            subscription.look(self.view)  # what was covered without its aliases may be reached by one of them
        if WILDCARD in names:
            progress.forget(progress.noted)
        names = frozenset(name for name in names if name in subscription.names)
        if not names:
            return
        reached = subscription.resolve(names, self.view) if self.view is not None else names
        subscription.remove(names)
        progress.forget(names | reached)
        # The client cannot know whether the wildcard, a collection or another name of it has what it dropped: say so.
        # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#unsubscribing-from-resources
        progress.ask(frozenset(name for name in reached if subscription.covers(name)))
        if subscription.wildcard and not subscription.enumerates:
            for name in reached:  # never listed, whether it exists or not
                if not subscription.covers(name):
                    difference.drop(progress, name, self._wanted(now))

    def _compose(self, progress: Progress, listing: Listing, *, answer: bool) -> Draft | None:
        assert self.view is not None
        url, version = progress.kind.url, self.view.version(progress.kind.url)
        # What was asked for and is not there; what is gone is removed.
        vacant = url == VIRTUAL_HOST and progress.asked.issuperset(listing.absent)
        timed = bool(listing.timed) and self._knows_ttl()
        return self._encoder.delta(url, listing, version, timed=timed, vacant=vacant)

    def _beat(self, progress: Progress, resources: Sequence[Resource]) -> Draft:
        return self._encoder.delta_heartbeat(progress.kind.url, resources, progress.sent_version)
