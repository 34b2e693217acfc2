"""Resources with a TTL on one stream: when the client must hear of them again, lest it drops them.

The session tells what it sent and asks what is due; time comes in as an argument.
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ttl
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing

BEATS = 3
"""Heartbeats within a TTL: two of them may be late before anything expires."""
SHORTEST_SECONDS = 0.05
"""Between two heartbeats of one resource, however short its TTL is."""

WRAPPED = frozenset({"xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw"})
"""Client features with which a state-of-the-world client takes wrapped resources: what Envoy says, and what the
protocol document says it would say."""
TIMED = WRAPPED | {"xds.config.supports-resource-ttl"}
"""Client features with which an incremental client knows TTLs. Envoy, which does in both variants, has one feature."""


@dataclass(slots=True)
class _Life:
    """A resource that the client was sent, what it had of it before, and when it must hear of it again."""

    due: float
    resource: Resource
    before: Resource | None


class Heartbeats:
    """The resources with a TTL that a client has, by name."""

    __slots__ = ("_lives",)

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}

    def __bool__(self) -> bool:
        return bool(self._lives)

    @property
    def names(self) -> Collection[str]:
        """The names of the resources that need heartbeats."""
        return self._lives.keys()

    @property
    def deadline(self) -> float:
        """When the first is due."""
        return min((life.due for life in self._lives.values()), default=inf)

    def sent(self, listing: Listing, now: float) -> None:
        """The client was sent this: what has a TTL lives from now on, what has none needs nothing any more."""
        self.end(listing.absent)
        for one in listing.resources if self._lives else listing.timed:
            before = self._lives.pop(one.name, None)
            if one.ttl is not None:
                self._lives[one.name] = _Life(_due(one, now), one, before.resource if before is not None else None)

    def refused(self, names: Collection[str]) -> None:
        """The client goes on with what it had under these names, if anything."""
        for name in names:
            if (life := self._lives.pop(name, None)) is not None and life.before is not None:
                self._lives[name] = _Life(life.due, life.before, None)

    def end(self, names: Collection[str]) -> None:
        """The client has these no more, or does not want them."""
        for name in names if self._lives else ():
            self._lives.pop(name, None)

    def beat(self, now: float) -> list[Resource]:
        """What is due, sorted by name; it lives from now on."""
        due = [life for _, life in sorted(self._lives.items()) if life.due <= now]
        for life in due:
            life.due = _due(life.resource, now)
        return [life.resource for life in due]


def _due(resource: Resource, now: float) -> float:
    assert resource.ttl is not None
    return now + max(resource.ttl.total_seconds() / BEATS, SHORTEST_SECONDS)


def lives(beats: Heartbeats | None, listing: Listing, now: float, *, known: bool) -> Heartbeats | None:
    """The heartbeats after this was sent to a client, which may know of TTLs or not."""
    if beats is None and known and listing.timed:
        beats = Heartbeats()
    if beats is not None:
        beats.sent(listing, now)
    return beats
