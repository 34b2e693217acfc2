"""The state-of-the-world variant: a request is the whole subscription; a full-state response is the whole set.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#basic-protocol-overview
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.endpoint.v3 import endpoint_pb2

from controlplane.resources import Resource, version_entry
from controlplane.snapshot.listing import Listing, followed
from controlplane.xds.heartbeats import WRAPPED
from controlplane.xds.observer import Variant
from controlplane.xds.progress import Progress
from controlplane.xds.requests import SotwRequest, sotw_request
from controlplane.xds.session import Session
from controlplane.xds.types import CLUSTER, LOAD_ASSIGNMENT, WILDCARD
from controlplane.xds.wire import Draft


class SotwSession(Session):
    """A stream of `DiscoveryRequest` and `DiscoveryResponse`."""

    variant = Variant.SOTW
    timed = WRAPPED
    window = 1

    def receive(self, data: bytes, now: float) -> None:
        """Take in one request: its ACK or NACK, and the subscription as it is from now on."""
        self.answered = False
        request = sotw_request(data, self._limits)
        progress, first = self._open(request, now)
        answers = False
        if not first and request.nonce:
            if request.nonce != progress.sent_nonce:
                # Stale: a newer response is on its way, and its ACK repeats the whole subscription.
                # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-updates
                self.answered = self._about_older(progress, request, now)
                self._let_go(progress, request)
                return
            answers = self._acknowledge(progress, request.nonce, request.error, now)
        if first:
            progress.acked_version = request.version  # what the client has from a stream before
            progress.follows = bool(request.version)
            progress.returning = bool(request.version) and progress.kind.full_state
            if request.version:
                self._came_back(now)
        asks = self._subscribe(progress, request)
        if first and progress.returning:
            self._come_back(progress, request.version, now)
        self.answered = answers and not asks
        self._subscribed(progress, now)

    def _come_back(self, progress: Progress, version: str, now: float) -> None:
        """The set that the client has is known: what differs is a change to it, made before it breaks.

        A whole set would take from it at once what its routes still lead to, and have it follow new ones too early.
        """
        url, subscription = progress.kind.url, progress.subscription
        had = self._encoder.sets.known(url, version)
        if had is None or self.view is None or not subscription.enumerates or subscription.names:
            return
        if self.view.listing(url).version == version:
            return  # it has it all
        progress.sent, progress.sent_version = had, version
        progress.returning = progress.finish = False
        progress.initial = [version_entry(one.name, one.version) for one in had.resources]
        self._compare(progress, self.view, now)

    def _about_older(self, progress: Progress, request: SotwRequest, now: float) -> bool:
        """Whether it is about a response that a newer one has followed, of which it may be the ACK or NACK all the same."""
        older = next((push for push in progress.in_flight if push.nonce == request.nonce), None)
        if older is None:
            return False
        if request.error is not None:
            counts = not progress.kind.full_state  # else the newer one repeats what is bad
        else:
            counts = request.version == older.version  # else it was refused, and repeats its nonce with other names
        if counts:
            self._acknowledge(progress, request.nonce, request.error, now)
        return True

    def _let_go(self, progress: Progress, request: SotwRequest) -> None:
        """A stale request is not answered. But what it leaves out the client has dropped, and is sent if it asks again."""
        subscription = progress.subscription
        if not subscription.named_once:
            return
        names, unlisted = subscription.names.frozen(), subscription.wildcard and WILDCARD not in request.names
        if unlisted:
            subscription.wildcard = progress.whole = progress.finish = False
        if unlisted or not names <= request.names:
            self._replace(progress, names & request.names)

    def _subscribe(self, progress: Progress, request: SotwRequest) -> bool:
        """Whether the subscription is another one than before."""
        subscription = progress.subscription
        names = request.names
        if not names and not subscription.named_once:
            if self._legacy_wildcard(progress):
                subscription.wildcard = progress.whole = progress.finish = True
                return True
            return False
        subscription.named_once = True
        wildcard = WILDCARD in names
        names -= {WILDCARD}
        if wildcard == subscription.wildcard and names == subscription.names.frozen():
            return False
        if wildcard and not subscription.wildcard:
            progress.whole = progress.finish = True
        elif not wildcard:
            progress.whole = progress.finish = False
        subscription.wildcard = wildcard
        progress.ask(frozenset(name for name in names if name not in subscription.names))
        self._replace(progress, names)
        return True

    def _replace(self, progress: Progress, names: frozenset[str]) -> None:
        """The client wants these names, and of the rest what the wildcard gives it."""
        subscription = progress.subscription
        subscription.replace(names, self.view)
        progress.forget(progress.noted)
        if progress.sent is not None:
            sent = (one.name for one in progress.sent.resources)
            progress.sent = progress.sent.followed_by(
                Listing((), sorted(n for n in sent if not subscription.covers(n)))
            )

    def _compose(self, progress: Progress, listing: Listing, *, answer: bool) -> Draft | None:
        if not progress.kind.full_state:
            listing = self._with_ended(progress, listing)
            # Absence is said by the parent that no longer names it; an empty response would say nothing.
            # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#deleting-resources
            if not listing.resources and not (answer and progress.finish):
                return None
        elif self._has_it_all(progress, listing):
            progress.sent, progress.sent_version, progress.returning = listing, listing.version, False
            self._encoder.sets.sent(progress.kind.url, listing, listing)
            self._has_taken(progress.kind.url, listing)
            return None
        else:
            change, listing = listing, followed(progress.sent or _going(progress), listing)
            progress.sent = listing
            if not progress.subscription.names:
                self._encoder.sets.sent(progress.kind.url, listing, change)
        return self._encoder.sotw(progress.kind.url, listing, timed=bool(listing.timed) and self._knows_ttl())

    def _with_ended(self, progress: Progress, listing: Listing) -> Listing:
        """Load assignments of clusters that are gone, for an Envoy that cannot hear that they are.

        While a cluster warms, Envoy asks for no clusters (it pauses them): one that comes back so, and waits for the load
        assignment of a cluster that was removed meanwhile, would wait for ever, and take no new cluster. It gets the last
        one, for its routes may still lead to others that are gone; without endpoints when nobody had any.
        """
        assert self.view is not None
        envoy = self.node is not None and self.node.user_agent == "envoy"
        if progress.kind.url != LOAD_ASSIGNMENT or self._only is not None or CLUSTER in self._types or not envoy:
            return listing
        if not listing.absent:
            return listing
        used = {self._warming(one).assignment for one in self.view.listing(CLUSTER).resources}
        lost = {one.name: one for one in self.view.lost(LOAD_ASSIGNMENT)}
        ended = [lost.get(name) or _nowhere(name) for name in listing.absent if name not in used]
        return Listing((*listing.resources, *ended)) if ended else listing

    @staticmethod
    def _has_it_all(progress: Progress, listing: Listing) -> bool:
        """Whether a client that comes back has just this full set: versions are hashes of all names and contents.

        Only for what it takes as a whole. Of a type asked for by name its version may be that of one of several
        responses, and it may wait for what it has (a cluster that warms anew).
        https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-type-instance-version
        """
        returning = progress.sent is None and progress.acked_version == listing.version
        return returning and not progress.subscription.names and not listing.timed

    def _beat(self, progress: Progress, resources: Sequence[Resource]) -> Draft:
        """Content and all: Envoy takes what has none for left out, which in a full set is deleted, and does not let its
        TTL begin anew (its incremental variant does).
        """
        whole = progress.sent if progress.kind.full_state else None
        listing = whole if whole is not None else Listing(resources)
        version = progress.acked_version if progress.refusal is not None else progress.sent_version
        return self._encoder.sotw(progress.kind.url, listing, version, timed=True)


def _going(progress: Progress) -> Listing | None:
    """Clusters that went since a whole set was refused: it may have brought them, and routes lead to them until their turn comes."""
    resources = progress.left.resources if progress.left is not None else ()
    going = [one for one in resources if one.name in progress.gone]
    return Listing(going) if going else None


def _nowhere(name: str) -> Resource:
    """A load assignment without endpoints."""
    body = endpoint_pb2.ClusterLoadAssignment(cluster_name=name).SerializeToString()
    return Resource(LOAD_ASSIGNMENT, name, body)
