"""The incremental variant: a request changes the subscription, a response holds what changed.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.snapshot.listing import Listing
from controlplane.xds.observer import Variant
from controlplane.xds.progress import Progress
from controlplane.xds.session import Session
from controlplane.xds.types import WILDCARD
from controlplane.xds.wire import DeltaRequest, Draft, delta_request


class DeltaSession(Session):
    """A stream of `DeltaDiscoveryRequest` and `DeltaDiscoveryResponse`."""

    variant = Variant.DELTA
    window = 8

    def receive(self, data: bytes, now: float) -> None:
        """Take in one request: its ACK or NACK, then the names it subscribes, then those it unsubscribes."""
        request = delta_request(data)
        progress, first = self._open(request, now)
        for names in (request.subscribe, request.unsubscribe):
            self._check_names(names)
        if not first and request.nonce:
            # A stale nonce acknowledges nothing, but the subscription in the request counts all the same.
            self._acknowledge(progress, request.nonce, request.error, now)
        self._subscribe(progress, request, first=first)
        if first:
            progress.initial = request.initial_versions
            if self.view is not None:
                self._compare(progress, self.view, now)
        self._unsubscribe(progress, request)
        self._subscribed(progress, now)

    @staticmethod
    def _subscribe(progress: Progress, request: DeltaRequest, *, first: bool) -> None:
        subscription = progress.subscription
        if first and progress.kind.full_state and not request.subscribe and not request.unsubscribe:
            subscription.wildcard = progress.whole = progress.finish = True  # the legacy wildcard: no name ever given
        names = request.subscribe
        if not names:
            return
        subscription.named_once = True
        if WILDCARD in names:
            # Also when it is subscribed already: the client may have dropped what it had.
            subscription.wildcard = progress.whole = progress.finish = True
            names -= {WILDCARD}
        subscription.names.add(names)
        progress.ask(names)

    @staticmethod
    def _unsubscribe(progress: Progress, request: DeltaRequest) -> None:
        subscription, names = progress.subscription, request.unsubscribe
        if WILDCARD in names:
            subscription.wildcard = progress.whole = progress.finish = False
            progress.forget(frozenset(name for name in _noted(progress) if not subscription.covers(name)))
        names = frozenset(name for name in names if name in subscription.names)
        if not names:
            return
        subscription.names.remove(names)
        progress.forget(names)
        if subscription.wildcard:
            # The client cannot know whether the wildcard has them: say so.
            # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#unsubscribing-from-resources
            progress.ask(names)

    def _compose(self, progress: Progress, listing: Listing, *, answer: bool) -> Draft | None:
        assert self.view is not None
        version = self.view.version(progress.kind.url)
        return Draft(self._encoder.delta(progress.kind.url, listing), version, len(listing.resources))


def _noted(progress: Progress) -> Iterable[str]:
    return (*progress.changed, *progress.gone)
