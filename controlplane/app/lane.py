"""The endpoint lane in the running process: what a source says of a service is on its way to proxies at once.

It shares the event loop with the commit loop and never waits for it: its commits are small, and end before anything
else runs. The first change after quiet goes out at once, a storm is gathered (`pace`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

import structlog

from controlplane.app.pace import Pace
from controlplane.compile.endpoints import ABSENT, Endpoints, Keeping, Touched
from controlplane.model.endpoint import Locality, Service
from controlplane.names import Family, ServiceRef

log = structlog.get_logger(__name__)

PLACES = 32
"""Of those that are told apart, that one node may be the first to name: a fleet may share an identity, and whoever has
stolen one must not take all of them."""


class Timer(Protocol):
    """Something that was put off."""

    def cancel(self) -> None:
        """It is not to be done any more."""


def _later(delay: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(delay, callback)


class EndpointLane:
    """Writes services into the endpoint graph, commits, and hands on what changed."""

    def __init__(
        self,
        endpoints: Endpoints,
        publish: Callable[[Touched, float], None],
        *,
        quiet: float,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], Timer] = _later,
    ) -> None:
        """`publish(touched, event_time)` is called after every commit that changed something."""
        self.endpoints = endpoints
        self._publish = publish
        self._named: Counter[str] = Counter()  # by node: the places that it was the first to name
        self._pace = Pace(quiet, longest)
        self._clock = clock
        self._later = later
        self._oldest: float | None = None  # event time of what waits
        self._timer: Timer | None = None

    def put(self, ref: ServiceRef, service: Service | None) -> None:
        """The service as it is now; None when it does not exist. Goes out with the next `flush`."""
        self.endpoints.put(ref, ABSENT if service is None else service)

    def lost(self, stale: Collection[Keeping], event_time: float) -> None:
        """The services that have been lost for longer than some backends keep their endpoints."""
        self.endpoints.lost(stale)
        self.flush(event_time)

    def near(self, gateways: Iterable[str], place: Locality, family: Family, node: str) -> list[tuple[str, ...]]:
        """The parts for a node in a place; what is in those of a new place follows at once, in a turn of its own.

        None where there are too many places, or too many that this node was the first to name: it gets what all do.
        """
        found = self.endpoints.near(gateways, place, family)
        if not found or self.endpoints.has_class(place):
            return found
        if self._named[node] >= PLACES or not self.endpoints.has_room():
            return []
        self._named[node] += 1
        self.endpoints.add_class(place)
        if self._named[node] == PLACES or not self.endpoints.has_room():
            log.warning("no more places are told apart", node=node, of_this_node=self._named[node])
        self._later(0.0, self._commit)
        return found

    def flush(self, event_time: float) -> None:
        """A consistent batch ends here; `event_time` is when the cause of the oldest change was noticed."""
        self._pace.came(self._clock())
        self._oldest = event_time if self._oldest is None else min(self._oldest, event_time)
        if self._timer is None:
            self._go()

    def _go(self) -> None:
        """Commit when it is time, else come back then."""
        self._timer = None
        if (left := self._pace.due() - self._clock()) <= 0:
            self._commit()
        else:
            self._timer = self._later(left, self._go)

    def _commit(self) -> None:
        event_time, self._oldest = self._oldest, None
        self._pace.taken()
        touched = self.endpoints.commit()
        self._publish(touched, self._clock() if event_time is None else event_time)
