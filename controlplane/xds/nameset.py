"""Sets of names that thousands of streams have in common.

A stream that subscribes to 5,000 names costs half a megabyte when it keeps them to itself. Proxies of one fleet
subscribe to the same ones: what they have in common is one immutable set for all, and a stream keeps only in what it
differs. Nothing here knows what a name stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from weakref import WeakValueDictionary

NOTHING: frozenset[str] = frozenset()

_OWN_NAMES = 32
"""Names in which a stream may differ whatever the size of its set; beyond that and a sixteenth it is shared anew."""
_OWN_SHARE = 16

_shared: WeakValueDictionary[int, frozenset[str]] = WeakValueDictionary()
"""By hash. Two different sets with the same hash are not shared, and nothing worse."""


def shared(names: Iterable[str]) -> frozenset[str]:
    """These names as a set that everybody with the same names has in common."""
    wanted = frozenset(names)  # the same object when it is one
    if len(wanted) < _OWN_NAMES:
        return wanted
    found = _shared.setdefault(hash(wanted), wanted)
    return found if found is wanted or found == wanted else wanted


class NameSet:
    """A mutable set: a shared one, and what was added to it and taken from it since."""

    __slots__ = ("_added", "_base", "_taken")

    def __init__(self) -> None:
        self._base = self._added = self._taken = NOTHING

    def __contains__(self, name: str) -> bool:
        return name in self._added or (name in self._base and name not in self._taken)

    def __iter__(self) -> Iterator[str]:
        if not self._taken:
            return chain(self._base, self._added)
        return chain((name for name in self._base if name not in self._taken), self._added)

    def __len__(self) -> int:
        return len(self._base) + len(self._added) - len(self._taken)

    def add(self, names: frozenset[str]) -> None:
        """Put these names in."""
        if not self:
            self.replace(names)
            return
        self._taken -= names
        self._added |= names - self._base
        self._settle()

    def remove(self, names: frozenset[str]) -> None:
        """Take these names out; those that are not in it are ignored."""
        self._added -= names
        self._taken |= names & self._base
        self._settle()

    def replace(self, names: frozenset[str]) -> None:
        """Hold these names and no others."""
        self._base, self._added, self._taken = shared(names), NOTHING, NOTHING

    def frozen(self) -> frozenset[str]:
        """The names as they are now."""
        return frozenset(self) if self._added or self._taken else self._base

    def _settle(self) -> None:
        if len(self._added) + len(self._taken) > _OWN_NAMES + len(self._base) // _OWN_SHARE:
            self.replace(frozenset(self))
