"""Which resources name another one, told from their bytes: what names something that is held back is held with it, and
what good content names stays there with it.

Used by holds.py, and only while something is held back. A name in a protobuf message is
its length and its text; a text that happens to hold both by chance is held back for nothing, and nothing worse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from weakref import WeakKeyDictionary

from controlplane.resources import Resource, varint
from controlplane.snapshot.store import View
from controlplane.xds import types

OFFER = "offer"
"""What stands for a type: what is in resources that routes name (`Resource.offers`)."""

_NAMED_BY: Mapping[str, tuple[str, ...]] = {
    OFFER: types.ROUTES,
    types.CLUSTER: (types.LISTENER, types.EXTENSION, *types.ROUTES),
    types.LOAD_ASSIGNMENT: (types.CLUSTER,),
    types.SECRET: (types.CLUSTER, types.LISTENER, types.EXTENSION),
    types.EXTENSION: (types.LISTENER,),
    types.ROUTE_CONFIGURATION: (types.LISTENER, types.SCOPED_ROUTES),
}
"""The types whose resources may name one of the key's type."""

_NEEDED = 512
"""Lost resources of a type that are looked for: the latest."""

_REMEMBERED = 1024
"""Names of one type that are looked for in what is published; when there are more, all begins anew."""


class _Watch:
    """Names of one type that are looked for in a view, and the resources that name them."""

    __slots__ = ("_names", "_sequence", "named")

    def __init__(self, view: View, type_url: str) -> None:
        self._names: frozenset[str] = frozenset()
        self._sequence = view.sequence
        self.named: dict[str, dict[str, frozenset[str]]] = {url: {} for url in _NAMED_BY[type_url]}
        """By type and name of a resource: those of the names that it names."""

    def follow(self, view: View) -> bool:
        """Look at what was published since; False when that is forgotten."""
        if (touched := view.touched_since(self._sequence)) is None:
            return False
        self._sequence = view.sequence
        for url, of_type in self.named.items():
            for name in touched.get(url, ()):
                of_type.pop(name, None)
            self._look(view, url, touched.get(url, ()), self._names)
        return True

    def add(self, view: View, names: frozenset[str]) -> bool:
        """Look for these too, in one pass over all that there is; False when they are too many."""
        new = names - self._names
        if new and len(self._names) + len(new) > _REMEMBERED and self._names:
            return False
        self._names |= new
        for url in self.named if new else ():
            self._look(view, url, view.names(url), new)
        return True

    def _look(self, view: View, url: str, resources: Collection[str], names: frozenset[str]) -> None:
        of_type = self.named[url]
        for one in resources:
            if (resource := view.get(url, one)) is not None and (found := names_in(resource, names)):
                of_type[one] = of_type.get(one, frozenset()) | found


class Dependents:
    """Remembers, by view, who names what; a publication costs a look at what it touched."""

    def __init__(self) -> None:
        self._watches: WeakKeyDictionary[View, dict[str, _Watch]] = WeakKeyDictionary()

    def of(self, view: View, type_url: str, names: frozenset[str]) -> Iterator[tuple[str, str]]:
        """Type and name of the resources of this view that name any of these."""
        if type_url not in _NAMED_BY:
            return
        of_view = self._watches.setdefault(view, {})
        watch = of_view.get(type_url)
        if watch is None or not watch.follow(view) or not watch.add(view, names):
            watch = of_view[type_url] = _Watch(view, type_url)
            watch.add(view, names)
        for url, of_type in watch.named.items():
            yield from ((url, one) for one in sorted(of_type) if not of_type[one].isdisjoint(names))


def names_any(resource: Resource, names: Mapping[str, frozenset[str]]) -> bool:
    """Whether this one names any of these, which are by type."""
    return any(resource.type_url in _NAMED_BY.get(url, ()) and names_in(resource, names[url]) for url in names)


class Lost:
    """What a view has lost, for as long as nothing is published."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._of_type: dict[str, tuple[frozenset[str], dict[str, Resource]]] = {}

    def names(self, url: str) -> frozenset[str]:
        """Of a type: the latest, which are looked for."""
        return self._latest(url)[0]

    def needed_by(self, resource: Resource) -> Iterator[Resource]:
        """What this one names of it."""
        for url, named_by in _NAMED_BY.items():
            if resource.type_url in named_by:
                names, lost = self._latest(url)
                yield from (lost[name] for name in sorted(names_in(resource, names)))

    def _latest(self, url: str) -> tuple[frozenset[str], dict[str, Resource]]:
        if url not in self._of_type:
            lost = {one.name: one for one in self._view.lost(url)[-_NEEDED:]}
            self._of_type[url] = frozenset(lost), lost
        return self._of_type[url]


def names_in(resource: Resource, names: frozenset[str]) -> frozenset[str]:
    """Those of the names that this one names."""
    if not names:
        return names
    finder, by_needle = _finder(names)
    body, at, found = resource.body, 0, set()
    while (match := finder.search(body, at)) is not None:
        found.add(by_needle[match[0]])
        at = match.start() + 1  # one may stand within another
    return frozenset(found)


@lru_cache(maxsize=32)
def _finder(names: frozenset[str]) -> tuple[re.Pattern[bytes], Mapping[bytes, str]]:
    """What finds them, and by what is found the name."""
    by_needle = {_needle(name): name for name in names}
    return re.compile(b"|".join(map(re.escape, sorted(by_needle)))), by_needle


def _needle(name: str) -> bytes:
    text = name.encode()
    return varint(len(text)) + text
