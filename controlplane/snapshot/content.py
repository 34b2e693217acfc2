"""One part of what is served: its resources, what is known of them, and which names the last publications touched.

Used by the store alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from controlplane.resources import FINGERPRINT_BYTES, Resource
from controlplane.snapshot.proofs import Proofs
from controlplane.xdstp import other_names

Touched = Mapping[str, Mapping[str, str]]
"""By type URL and name: the version before ("" when there was none)."""

REMEMBERED_NAMES = 65_536
"""Names a part remembers as changed. A session further behind compares everything: a 20,000 name reload fits thrice."""

REMEMBERED_PUBLICATIONS = 4096
"""Of a part: each takes most of a kilobyte, however few names it touched. At 20 changes a second these are 3 minutes."""

FINGERPRINTS = 1 << 8 * FINGERPRINT_BYTES
"""Sums of fingerprints are taken modulo this."""


class Content:
    """One part: its resources by type URL and name, sums of their fingerprints, and the ring of changes.

    `versions` is by type URL and name too; `editions` counts the publications that touched a type.
    """

    __slots__ = (
        "__weakref__", "aliases", "by_type", "editions", "forgotten", "proofs", "remembered", "ring", "sums", "timed",
        "versions",
    )  # fmt: skip

    def __init__(self) -> None:
        self.by_type: dict[str, dict[str, Resource]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.editions: dict[str, int] = {}
        self.proofs = Proofs()
        self.aliases: dict[str, dict[str, set[str]]] = {}  # by type URL and alias: the names that have it
        self.timed: dict[str, set[str]] = {}  # by type URL: the names whose resource has a TTL
        self.sums: dict[str, int] = {}
        self.ring: deque[tuple[int, dict[str, dict[str, str]]]] = deque()
        self.remembered = 0
        self.forgotten = 0  # changes up to this sequence number are not in the ring any more

    def apply(self, changes: Mapping[str, Mapping[str, Resource | None]]) -> dict[str, dict[str, str]]:
        """Take the changes over, by type URL and name; what was touched, with the version before."""
        touched = {type_url: self._apply(type_url, of_type) for type_url, of_type in changes.items()}
        return {type_url: names for type_url, names in touched.items() if names}

    def _apply(self, type_url: str, newest: Mapping[str, Resource | None]) -> dict[str, str]:
        """The changes of one type. Nothing else runs meanwhile, so 20,000 are gone through a few times, in bulk."""
        content = self.by_type.setdefault(type_url, {})
        versions = self.versions.setdefault(type_url, {})
        there = {name: one for name, one in newest.items() if one is not None}
        gone = [name for name, one in newest.items() if one is None and name in content]
        others = [one for name, one in there.items() if versions.get(name) != one.version]
        before = {one.name: content.get(one.name) for one in others} | {name: content[name] for name in gone}
        content.update(there)  # also when the version is equal: its origin may have moved
        versions.update((one.name, one.version) for one in others)
        for name in gone:
            del content[name], versions[name]
        if not before:
            return {}
        for one in others:
            if not one.is_plain:
                self._mark(one)
        replaced = [one for one in before.values() if one is not None]
        for one in replaced:
            if not one.is_plain:
                self._unmark(one, there.get(one.name))
        added = sum(one.fingerprint for one in others) - sum(one.fingerprint for one in replaced)
        self.sums[type_url] = (self.sums.get(type_url, 0) + added) % FINGERPRINTS
        self.editions[type_url] = self.editions.get(type_url, 0) + 1
        self.proofs.changed(type_url, before, gone)
        return {name: one.version if one is not None else "" for name, one in before.items()}

    def _mark(self, resource: Resource) -> None:
        """Note what else than its name this resource is found by."""
        for alias in other_names(resource):
            self.aliases.setdefault(resource.type_url, {}).setdefault(alias, set()).add(resource.name)
        if resource.ttl is not None:
            self.timed.setdefault(resource.type_url, set()).add(resource.name)

    def _unmark(self, before: Resource, resource: Resource | None) -> None:
        """Forget of the resource before what the one that follows it, if any, does not say too."""
        if names := set(other_names(before)).difference(other_names(resource) if resource is not None else ()):
            aliases = self.aliases[before.type_url]
            for alias in names:
                aliases[alias].discard(before.name)
                if not aliases[alias]:
                    del aliases[alias]
        if before.ttl is not None and (resource is None or resource.ttl is None):
            self.timed[before.type_url].discard(before.name)

    def lost(self, type_url: str) -> dict[str, Resource]:
        """By name: what somebody took over, and is there no more, the latest last."""
        there, good = self.by_type.get(type_url, {}), self.proofs.good
        return {name: one for (url, name), one in good.items() if url == type_url and name not in there}

    def remember(self, sequence: int, touched: dict[str, dict[str, str]]) -> None:
        """The publication of this number touched these."""
        self.ring.append((sequence, touched))
        self.remembered += sum(map(len, touched.values()))
        while len(self.ring) > 1 and (self.remembered > REMEMBERED_NAMES or len(self.ring) > REMEMBERED_PUBLICATIONS):
            self.forgotten, forgotten = self.ring.popleft()
            self.remembered -= sum(map(len, forgotten.values()))

    def since(self, sequence: int) -> Touched | None:
        """What was touched in publications after `sequence`, with the version then; None when that is forgotten."""
        if sequence < self.forgotten:
            return None
        newest_first = []
        for number, touched in reversed(self.ring):
            if number <= sequence:
                break
            newest_first.append(touched)
        if len(newest_first) == 1:
            return newest_first[0]
        merged: dict[str, dict[str, str]] = {}
        for touched in newest_first:
            for type_url, names in touched.items():
                merged.setdefault(type_url, {}).update(names)  # the oldest is written last and stays
        return merged
