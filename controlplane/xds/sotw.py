"""The state-of-the-world variant: a request is the whole subscription; a full-state response is the whole set.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#basic-protocol-overview
"""

from __future__ import annotations

from controlplane.resources import Resource
from controlplane.xds.observer import Variant
from controlplane.xds.progress import Progress
from controlplane.xds.session import Session
from controlplane.xds.types import WILDCARD
from controlplane.xds.wire import Draft, SotwRequest, set_version, sotw_request


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
        names = set(request.names)
        if not names and not subscription.named_once:
            if progress.kind.full_state and not subscription.wildcard:
                subscription.wildcard = progress.whole = progress.finish = True  # the legacy wildcard
            return
        subscription.named_once = True
        wildcard = WILDCARD in names
        names.discard(WILDCARD)
        if wildcard and not subscription.wildcard:
            progress.whole = progress.finish = True
        elif not wildcard:
            progress.whole = progress.finish = False
        subscription.wildcard = wildcard
        progress.asked.update(names - subscription.names)
        subscription.names = names
        for name in [*progress.changed, *progress.gone, *progress.asked, *progress.sent]:
            if not subscription.covers(name):
                progress.forget(name)

    def _compose(
        self, progress: Progress, resources: list[Resource], removed: list[str], *, answer: bool
    ) -> Draft | None:
        if not progress.kind.full_state:
            # Absence is said by the parent that no longer names it; an empty response would say nothing.
            # https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#deleting-resources
            if not resources and not (answer and progress.finish):
                return None
        else:
            for name in removed:
                progress.sent.pop(name, None)
            progress.sent.update((resource.name, resource) for resource in resources)
            resources = [progress.sent[name] for name in sorted(progress.sent)]
        version = set_version(resources)
        return Draft(self._encoder.sotw(progress.kind.url, resources, version), version, len(resources))
