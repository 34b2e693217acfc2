"""The bytes of responses, which are never built as messages: they are the joined ready bytes of their resources between
a head and a tail, so that what many streams get is made once. The field numbers are those of
https://github.com/envoyproxy/envoy/blob/main/api/envoy/service/discovery/v3/discovery.proto
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from controlplane.resources import Resource, delimited, vacancy
from controlplane.snapshot.listing import Listing
from controlplane.xds.full_sets import FullSets
from controlplane.xds.types import VIRTUAL_HOST


@dataclass(frozen=True, slots=True)
class Draft:
    """A response that lacks its nonce, which is the last field (5) in both variants; `resources` is how many it holds.

    The same for all streams that are told the same.
    """

    body: bytes
    version: str
    resources: int

    def encode(self, nonce: str) -> bytes:
        """The response."""
        return self.body + _nonce(nonce)


@lru_cache(maxsize=4096)
def _nonce(nonce: str) -> bytes:
    """The field, which streams that began together have in common."""
    return delimited(5, nonce.encode())


class Encoder:
    """Makes responses. One for all streams of a server: it holds what they share.

    `identifier` names this replica in `control_plane.identifier`. Drafts are kept by what they say (type, names,
    versions), so sharing them can never give one node the bytes of another.
    """

    CACHED_BYTES = 64 << 20
    """Bounds what is kept; the first answer for 20,000 scopes is about 30 MB and is asked for by every proxy."""
    CACHED_DRAFTS = 512
    """Bounds the small ones, of which a change makes one that is asked for in the next moments or never again."""
    ENTRY_BYTES = 1024
    """About what a small body costs beside its bytes."""

    def __init__(self, identifier: str = "") -> None:
        self._control_plane = delimited(1, identifier.encode()) if identifier else b""
        self._drafts: OrderedDict[tuple[object, ...], Draft] = OrderedDict()
        self._size = 0
        self.sets = FullSets()

    def delta(
        self, type_url: str, listing: Listing, version: str = "", *, timed: bool = False, vacant: bool = False
    ) -> Draft:
        """A `DeltaDiscoveryResponse`: system_version_info = 1, resources = 2, type_url = 4, control_plane = 7, and
        removed_resources = 6.

        `timed`: TTLs are told; `vacant`: what is absent is answered by an entry without content, for a client that
        waits with a request in its hand. https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/vhds
        """
        timed = timed and bool(listing.timed)
        key = ("delta", type_url, listing.key, version, timed, vacant)
        if (draft := self._known(key)) is not None:
            return draft
        parts = [
            delimited(1, version.encode()),
            *self._head(type_url, 7),
            *_entries(type_url, listing, timed=timed),
            *(vacancy(name) if vacant else delimited(6, name.encode()) for name in listing.absent),
        ]
        return self._keep(key, Draft(b"".join(parts), version, len(listing.resources)))

    def sotw(self, type_url: str, listing: Listing, version: str = "", *, timed: bool = False) -> Draft:
        """A `DiscoveryResponse`: version_info = 1, resources = 2, type_url = 4, control_plane = 6.

        `version`: if it is not that of the listing; `timed`: resources with a TTL are wrapped, to tell it.
        """
        timed = timed and bool(listing.timed)
        version = version or listing.version
        key = ("sotw", type_url, listing.key, version, timed)
        if (draft := self._known(key)) is not None:
            return draft
        parts = [
            delimited(1, version.encode()),
            *self._head(type_url, 6),
            *(one.sotw(wrapped=timed and one.ttl is not None) for one in listing.resources),
        ]
        return self._keep(key, Draft(b"".join(parts), version, len(listing.resources)))

    def delta_heartbeat(self, type_url: str, resources: Iterable[Resource], version: str) -> Draft:
        """A `DeltaDiscoveryResponse` that lets the TTLs of these resources begin anew; it is said to hold none."""
        parts = [*self._head(type_url, 7), *(one.heartbeat() for one in resources)]
        return Draft(b"".join(parts), version, 0)

    def _head(self, type_url: str, control_plane: int) -> list[bytes]:
        head = [delimited(4, type_url.encode())]
        return [*head, delimited(control_plane, self._control_plane)] if self._control_plane else head

    def _known(self, key: tuple[object, ...]) -> Draft | None:
        if (draft := self._drafts.get(key)) is not None:
            self._drafts.move_to_end(key)
        return draft

    def _keep(self, key: tuple[object, ...], draft: Draft) -> Draft:
        if len(draft.body) <= self.CACHED_BYTES:
            self._drafts[key] = draft
            self._size += len(draft.body) + self.ENTRY_BYTES
            while self._size > self.CACHED_BYTES or len(self._drafts) > self.CACHED_DRAFTS:
                self._size -= len(self._drafts.popitem(last=False)[1].body) + self.ENTRY_BYTES
        return draft


def _entries(type_url: str, listing: Listing, *, timed: bool) -> Iterable[bytes]:
    """The resources for a delta response. A virtual host is known by what was asked for, which is among its aliases."""
    if type_url == VIRTUAL_HOST:
        return (one.delta(timed=timed, also=(one.name,)) for one in listing.resources)
    if timed:
        return (one.delta(timed=True) for one in listing.resources)
    return (one.encoded for one in listing.resources)
