"""The state-of-the-world variant: a request is the whole subscription; a full-state response is the whole set.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#basic-protocol-overview
"""

from __future__ import annotations

from controlplane.snapshot.listing import Listing, followed
from controlplane.xds.observer import Variant
from controlplane.xds.progress import Progress
from controlplane.xds.session import Session
from controlplane.xds.types import WILDCARD
from controlplane.xds.wire import Draft, SotwRequest, sotw_request


class SotwSession(Session):
    """A stream of `DiscoveryRequest` and `DiscoveryResponse`."""

    variant = Variant.SOTW
    window = 1

    def receive(self, data: bytes, now: float) -> None:
        """Take in one request: its ACK or NACK, and the subscription as it is from now on."""
        request = sotw_request(data)
        progress, first = self._open(request, now)
        self._check_names(request.names)
        if not first and request.nonce:
            if request.nonce != progress.sent_nonce:
                # Stale: a newer response is on its way, and its ACK repeats the whole subscription.
                # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-updates
                return
            self._acknowledge(progress, request.nonce, request.error, now)
        self._subscribe(progress, request)
        self._subscribed(progress, now)

    @staticmethod
    def _subscribe(progress: Progress, request: SotwRequest) -> None:
        subscription = progress.subscription
        names = request.names
        if not names and not subscription.named_once:
            if progress.kind.full_state and not subscription.wildcard:
                subscription.wildcard = progress.whole = progress.finish = True  # the legacy wildcard
            return
        subscription.named_once = True
        wildcard = WILDCARD in names
        names -= {WILDCARD}
        if wildcard == subscription.wildcard and names == subscription.names.frozen():
            return
        if wildcard and not subscription.wildcard:
            progress.whole = progress.finish = True
        elif not wildcard:
            progress.whole = progress.finish = False
        subscription.wildcard = wildcard
        progress.ask(frozenset(name for name in names if name not in subscription.names))
        subscription.names.replace(names)
        sent = [one.name for one in progress.sent.resources] if progress.sent is not None else []
        noted = [*progress.changed, *progress.gone, *progress.asked, *sent]
        dropped = frozenset(name for name in noted if not subscription.covers(name))
        progress.forget(dropped)
        if progress.sent is not None:
            progress.sent = progress.sent.followed_by(Listing((), sorted(dropped)))

    def _compose(self, progress: Progress, listing: Listing, *, answer: bool) -> Draft | None:
        if not progress.kind.full_state:
            # Absence is said by the parent that no longer names it; an empty response would say nothing.
            # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#deleting-resources
            if not listing.resources and not (answer and progress.finish):
                return None
        else:
            listing = progress.sent = followed(progress.sent, listing)
        return Draft(self._encoder.sotw(progress.kind.url, listing), listing.version, len(listing.resources))
