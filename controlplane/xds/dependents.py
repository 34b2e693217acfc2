"""Which resources name another one, told from their bytes: what names something that is held back is held with it, and
what good content names stays there with it.

Used by holds.py, and only while something is held back. A name in a protobuf message is
its length and its text; a text that happens to hold both by chance is held back for nothing, and nothing worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from controlplane.resources import Resource, varint
from controlplane.snapshot.store import View
from controlplane.xds import types

_NAMED_BY: Mapping[str, tuple[str, ...]] = {
    types.CLUSTER: (types.LISTENER, types.EXTENSION, *types.ROUTES),
    types.LOAD_ASSIGNMENT: (types.CLUSTER,),
    types.SECRET: (types.CLUSTER, types.LISTENER, types.EXTENSION),
    types.EXTENSION: (types.LISTENER,),
    types.ROUTE_CONFIGURATION: (types.LISTENER, types.SCOPED_ROUTES),
}
"""The types whose resources may name one of the key's type."""

_NEEDED = 512
"""Lost resources of a type that are looked for: the latest."""

_REMEMBERED = 256
"""Names of one view whose dependents are remembered."""


@dataclass(slots=True)
class _Found:
    sequence: int
    names: dict[str, set[str]]


class Dependents:
    """Remembers, by view, who names what; a publication costs a look at what it touched."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[View, dict[tuple[str, str], _Found]] = WeakKeyDictionary()

    def of(self, view: View, type_url: str, name: str) -> Mapping[str, set[str]]:
        """By type, the names of the resources of this view that name this one."""
        of_view = self._found.setdefault(view, {})
        found = of_view.get((type_url, name))
        if found is not None and found.sequence == view.sequence:
            return found.names
        needle = _needle(name)
        touched = view.touched_since(found.sequence) if found is not None else None
        if found is None or touched is None:
            if len(of_view) >= _REMEMBERED:
                of_view.clear()
            names = {
                url: {one for one in view.names(url) if _names(view.get(url, one), needle)}
                for url in _NAMED_BY.get(type_url, ())
            }
            found = of_view[type_url, name] = _Found(view.sequence, names)
            return names
        for url, names_of_type in found.names.items():
            for one in touched.get(url, ()):
                (names_of_type.add if _names(view.get(url, one), needle) else names_of_type.discard)(one)
        found.sequence = view.sequence
        return found.names


def needs(resource: Resource, view: View) -> Iterator[Resource]:
    """What this one names and the view has lost."""
    body = resource.body
    for url, named_by in _NAMED_BY.items():
        if resource.type_url in named_by:
            yield from (one for one in view.lost(url)[-_NEEDED:] if _needle(one.name) in body)


def _needle(name: str) -> bytes:
    text = name.encode()
    return varint(len(text)) + text


def _names(resource: Resource | None, needle: bytes) -> bool:
    return resource is not None and needle in resource.body
