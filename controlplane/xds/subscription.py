"""What one stream wants of one type: everything, some names, or both.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return

A name may be that of a resource, one of its aliases, or that of a collection. What reaches a resource by another name
than its own is noted here; a stream that uses neither aliases nor collections pays nothing for them.
"""

from __future__ import annotations

from collections.abc import Collection

from controlplane.snapshot.store import View
from controlplane.xds.nameset import NOTHING, NameSet
from controlplane.xds.types import ResourceType
from controlplane.xdstp import collection_of, collections, other_names


class Subscription:
    """The wildcard, the explicit names, or their union. Names are opaque and compared byte for byte."""

    __slots__ = ("_aliases", "_collections", "_kind", "_loose", "_targets", "named_once", "names", "wildcard")

    def __init__(self, kind: ResourceType) -> None:
        self._kind = kind
        self._collections = NOTHING
        self._targets: dict[str, str] = {}  # from an alias that is subscribed to the name of the resource that has it
        self._aliases: dict[str, set[str]] = {}  # the other way round
        self._loose = False  # whether a resource may be covered that is not named
        self.wildcard = False
        self.names = NameSet()
        self.named_once = False
        """Whether a name (or `*`) was ever given: from then on "no names" means nothing, not everything."""

    @property
    def enumerates(self) -> bool:
        """Whether the wildcard brings in names that were not asked for."""
        return self.wildcard and self._kind.enumerable

    @property
    def everything(self) -> bool:
        """Whether it is all there is, and neither aliases nor collections play a part."""
        return self.enumerates and not self._loose

    @property
    def collections(self) -> int:
        """How many collections it holds."""
        return len(self._collections)

    def covers(self, name: str) -> bool:
        """Whether the stream wants to hear of the resource of this name."""
        return self.enumerates or name in self.names or (self._loose and self._covers_loosely(name))

    def plainly(self, name: str) -> bool:
        """Whether it does so by the wildcard or by this very name, and neither aliases nor collections play a part."""
        return not self._loose and (self.enumerates or name in self.names)

    def add(self, names: frozenset[str], view: View | None) -> None:
        """Want these too."""
        self.names.add(names)
        self._settle(names, view)

    def remove(self, names: frozenset[str]) -> None:
        """Want these no more."""
        self.names.remove(names)
        if self._loose:
            self._collections -= names
            for alias in names & self._targets.keys():
                self._unlink(alias)
            self._loose = bool(self._collections or self._targets)

    def replace(self, names: frozenset[str], view: View | None) -> None:
        """Want these and no others."""
        self.names.replace(names)
        self._collections = NOTHING
        self._targets, self._aliases, self._loose = {}, {}, False
        self._settle(names, view)

    def look(self, view: View) -> None:
        """Another view: aliases may belong to other resources, or to none."""
        self._targets, self._aliases, self._loose = {}, {}, bool(self._collections)
        self._settle(self.names.frozen(), view)

    def resolve(self, names: frozenset[str], view: View) -> frozenset[str]:
        """The names of the resources that these stand for; those that stand for nothing stay as they are."""
        if not self._loose:
            return names
        collected = names & self._collections
        found = {self._targets.get(name, name) for name in names - collected}
        if collected:
            vacant = set(collected)
            for name in view.names(self._kind.url):  # once, however many collections there are
                if (collection := collection_of(name)) in collected:
                    found.add(name)
                    vacant.discard(collection)
            found |= vacant
        return frozenset(found)

    def relink(self, names: Collection[str], view: View) -> None:
        """What stands under these names has changed, all at once: an alias may have moved from one of them to another."""
        moving: set[str] = set()
        for name in names if self._targets else ():
            moving.update((name, *self._aliases.get(name, ())))
        moving &= self._targets.keys()
        for name in names if view.aliases(self._kind.url) else ():
            if (resource := view.get(self._kind.url, name)) is not None:
                moving.update(alias for alias in other_names(resource) if alias in self.names)
        for alias in moving:
            target = self._targets.get(alias)
            if target is None or target in names or alias in names:  # else another one has it, of which nothing is said
                self._link(alias, view)

    def _settle(self, names: frozenset[str], view: View | None) -> None:
        if self._kind.enumerable and (added := collections(names)):
            self._collections |= added
            self._loose = True
        if view is not None and view.aliases(self._kind.url):
            for name in names:
                self._link(name, view)

    def _link(self, alias: str, view: View) -> None:
        url = self._kind.url
        self._unlink(alias)
        if view.get(url, alias) is None and (name := view.named(url, alias)) is not None:
            self._targets[alias] = name
            self._aliases.setdefault(name, set()).add(alias)
            self._loose = True

    def _unlink(self, alias: str) -> None:
        if (name := self._targets.pop(alias, None)) is None:
            return
        self._aliases[name].discard(alias)
        if not self._aliases[name]:
            del self._aliases[name]

    def _covers_loosely(self, name: str) -> bool:
        return name in self._aliases or (bool(self._collections) and collection_of(name) in self._collections)
