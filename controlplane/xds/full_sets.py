"""The full sets of the state of the world that were sent last, by their versions: what a client that comes back has.

Used by sotw.py, one for all streams of a server. A version is a hash of names and contents, so it says nothing of who was
sent the set; who comes back with one has it all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakValueDictionary

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing

REMEMBERED_BYTES = 32 << 20
"""Of what nobody else may hold any more: a reference to each resource of a set, and what came with it, for that is replaced
by as much in those that follow. Of 5,000 resources, of which one changes at a time, some 700 sets."""
_REFERENCE = 8
"""Bytes of one."""

Key = tuple[str, str]
"""Type URL and version."""


class FullSets:
    """Resources, and not listings: these hold all that followed them."""

    def __init__(self) -> None:
        self._sets: OrderedDict[Key, tuple[Sequence[Resource], int]] = OrderedDict()
        self._size = 0
        self._back: WeakValueDictionary[Key, Listing] = WeakValueDictionary()  # those with which clients just came back

    def sent(self, type_url: str, listing: Listing, change: Listing) -> None:
        """A client was sent this set, or has it: what came before, with this change."""
        if (key := (type_url, listing.version)) in self._sets:
            self._sets.move_to_end(key)
            return
        size = _REFERENCE * len(listing.resources) + change.size
        self._sets[key] = listing.resources, size
        self._size += size
        while self._size > REMEMBERED_BYTES and len(self._sets) > 1:
            self._size -= self._sets.popitem(last=False)[1][1]

    def known(self, type_url: str, version: str) -> Listing | None:
        """The set that has this version, if it was sent not long ago; the same for a fleet that comes back together."""
        if (remembered := self._sets.get(key := (type_url, version))) is None:
            return None
        if (listing := self._back.get(key)) is None:
            listing = self._back[key] = Listing(remembered[0], shared=True)
        return listing
