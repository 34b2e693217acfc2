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
FRAMING = 160
"""Bytes of a resource in a response beside its body and its names: type URL, version, lengths."""
_REMEMBERED = 8
"""Successors of one listing that are remembered: streams that follow the same changes take the same steps."""


class Listing:
    """`resources` sorted by name, and `absent`, sorted: names that were asked for, or are gone.

    A large listing that is `shared` stands for itself; of two others, those are the same that say the same.
    """

    __slots__ = ("__weakref__", "_size", "_successors", "_timed", "_version", "absent", "key", "resources")

    def __init__(self, resources: Sequence[Resource], absent: Sequence[str] = (), *, shared: bool = False) -> None:
        self.resources = resources
        self.absent = absent
        by_itself = shared and len(resources) + len(absent) >= LARGE
        # A token, and not itself: what holds itself stays until the collector comes.
        self.key: Hashable = object() if by_itself else (tuple(map(_said, resources)), tuple(absent))
        self._version = ""
        self._size = -1
        self._timed: tuple[Resource, ...] | None = None
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

    @property
    def timed(self) -> tuple[Resource, ...]:
        """The resources that have a TTL."""
        if self._timed is None:
            self._timed = tuple(one for one in self.resources if one.ttl is not None)
        return self._timed

    @property
    def size(self) -> int:
        """About as many bytes as a response that holds it has, rather more than less."""
        if self._size < 0:
            self._size = sum(map(_size, self.resources)) + sum(len(name) + FRAMING for name in self.absent)
        return self._size

    def split(self, limit: int) -> Sequence[Listing]:
        """The same in parts of at most that size, where no resource is larger; what is absent comes last."""
        resources = self.resources
        small = len(resources) == 1 and not self.absent and resources[0].size < limit // 2
        if small or self.size <= limit:
            return (self,)
        parts: list[list[Resource]] = [[]]
        room = limit
        for one in self.resources:
            size = _size(one)
            if size > room and parts[-1]:
                parts.append([])
                room = limit
            parts[-1].append(one)
            room -= size
        absent: list[list[str]] = [[]]
        for name in self.absent:
            if len(name) + FRAMING > room and (parts[-1] or absent[-1]):
                absent.append([])
                room = limit
            absent[-1].append(name)
            room -= len(name) + FRAMING
        last = [Listing(parts[-1], absent[0])] if parts[-1] or absent[0] else []
        return [*(Listing(part) for part in parts[:-1]), *last, *(Listing((), names) for names in absent[1:])]

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


def _said(resource: Resource) -> tuple[str, str, bytes]:
    return resource.name, resource.version, resource.encoded


def _name(resource: Resource) -> str:
    return resource.name


def _size(resource: Resource) -> int:
    return resource.size + 2 * len(resource.name) + sum(map(len, resource.aliases)) + FRAMING
