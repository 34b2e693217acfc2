"""The incremental variant: a request changes the subscription, a response holds what changed.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
"""

from __future__ import annotations

from controlplane.resources import Resource
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
        for names in (request.subscribe, request.unsubscribe, request.initial_versions):
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
        for name in request.subscribe:
            subscription.named_once = True
            if name == WILDCARD:
                # Also when it is subscribed already: the client may have dropped what it had.
                subscription.wildcard = progress.whole = progress.finish = True
            else:
                subscription.names.add(name)
                progress.asked.add(name)

    @staticmethod
    def _unsubscribe(progress: Progress, request: DeltaRequest) -> None:
        subscription = progress.subscription
        for name in request.unsubscribe:
            if name == WILDCARD:
                subscription.wildcard = progress.whole = progress.finish = False
                for each in [*progress.changed, *progress.gone]:
                    if not subscription.covers(each):
                        progress.forget(each)
            elif name in subscription.names:
                subscription.names.remove(name)
                progress.forget(name)
                if subscription.wildcard:
                    # The client cannot know whether the wildcard has it: say so.
                    # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#unsubscribing-from-resources
                    progress.asked.add(name)

    def _compose(
        self, progress: Progress, resources: list[Resource], removed: list[str], *, answer: bool
    ) -> Draft | None:
        assert self.view is not None
        version = self.view.version(progress.kind.url)
        encode = self._encoder.delta(progress.kind.url, resources, removed)
        return Draft(encode, version, len(resources))
