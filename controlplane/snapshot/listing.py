"""Some resources of one type, in order: what an answer holds. Immutable, so that all streams share one.

Views make those that many will ask for, sessions the others; encoders keep bytes by `key`. Nothing here knows how
anything is sent.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b

from controlplane.resources import VERSION_CHARACTERS, Resource

LARGE = 16
"""Resources of a listing from which on comparing two costs more than missing that they say the same."""
_REMEMBERED = 8
"""Successors of one listing that are remembered: streams that follow the same changes take the same steps."""


class Listing:
    """`resources` sorted by name, and `absent`, sorted: names that were asked for, or are gone.

    A large listing that is `shared` stands for itself; of two others, those are the same that say the same.
    """

    __slots__ = ("__weakref__", "_successors", "_version", "absent", "key", "resources")

    def __init__(self, resources: Sequence[Resource], absent: Sequence[str] = (), *, shared: bool = False) -> None:
        self.resources = resources
        self.absent = absent
        by_itself = shared and len(resources) + len(absent) >= LARGE
        said = () if by_itself else (tuple((one.name, one.version) for one in resources), tuple(absent))
        self.key: Hashable = said or self
        self._version = ""
        self._successors: dict[Hashable, Listing] = {}

    @classmethod
    def of(cls, resources: Iterable[Resource], absent: Iterable[str] = (), *, shared: bool = False) -> Listing:
        """The same, put in order."""
        return cls(sorted(resources, key=_name), sorted(absent), shared=shared)

    @property
    def version(self) -> str:
        """A hash of the names and versions of the resources: the `version_info` of a response that holds them."""
        if not self._version:
            digest = blake2b(digest_size=VERSION_CHARACTERS // 2)
            for one in self.resources:
                digest.update(f"{len(one.name)}:{one.name}{one.version}".encode())
            self._version = digest.hexdigest()
        return self._version

    @property
    def versions(self) -> dict[str, str]:
        """The version of each resource, by name."""
        return {one.name: one.version for one in self.resources}

    def followed_by(self, change: Listing) -> Listing:
        """The set after a change: its resources put in, its absent names taken out; the same for all who ask."""
        if (successor := self._successors.get(change.key)) is None:
            by_name = {one.name: one for one in self.resources}
            by_name.update((one.name, one) for one in change.resources)
            for name in change.absent:
                by_name.pop(name, None)
            successor = Listing.of(by_name.values(), shared=True)
            if len(self._successors) >= _REMEMBERED:
                self._successors.clear()
            self._successors[change.key] = successor
        return successor


def followed(before: Listing | None, change: Listing) -> Listing:
    """The set after a change of what was there before, which may be nothing."""
    if before is not None:
        return before.followed_by(change)
    return Listing(change.resources) if change.absent else change


def _name(resource: Resource) -> str:
    return resource.name
