"""A view in which some resources are replaced by earlier ones, or left out: what is held back from those who refuse it.

Who is shown what is decided elsewhere; this module only looks. What many see through the same replacements is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing
from controlplane.snapshot.store import Touched, View

Substitutes = Mapping[str, Resource | None]
"""By name: what is shown instead; None: as if there were none."""


class Substituted(View):
    """`inner` with what `substitutes` gives for a type URL. Asked anew every time, for both change."""

    def __init__(self, inner: View, substitutes: Callable[[View, str], Substitutes]) -> None:
        self.parts = inner.parts
        self.inner = inner
        self._substitutes = substitutes

    def substitutes(self, type_url: str) -> Substitutes:
        """What is shown of a type instead of what is there."""
        return self._substitutes(self.inner, type_url)

    @property
    def sequence(self) -> int:
        """The sequence number of the last publication into the store."""
        return self.inner.sequence

    def types(self) -> frozenset[str]:
        """The type URLs that have content."""
        return self.inner.types()

    def names(self, type_url: str) -> Collection[str]:
        """The names of a type, in no order. Valid until the next publication."""
        return self.versions(type_url).keys()

    def get(self, type_url: str, name: str) -> Resource | None:
        """The resource that is shown under this name."""
        if (substitutes := self._substitutes(self.inner, type_url)) and name in substitutes:
            return substitutes[name]
        return self.inner.get(type_url, name)

    def versions(self, type_url: str) -> Mapping[str, str]:
        """The version of every resource that is shown, by name."""
        if not (substitutes := self._substitutes(self.inner, type_url)):
            return self.inner.versions(type_url)
        versions = dict(self.inner.versions(type_url))
        for name, resource in substitutes.items():
            if resource is None:
                versions.pop(name, None)
            else:
                versions[name] = resource.version
        return versions

    def listing(self, type_url: str) -> Listing:
        """Everything of a type that is shown."""
        listing = self.inner.listing(type_url)
        if substitutes := self._substitutes(self.inner, type_url):
            return listing.followed_by(_change(substitutes))
        return listing

    def select(self, type_url: str, names: frozenset[str]) -> Listing:
        """The resources that are shown under these names, and which names have none."""
        listing = self.inner.select(type_url, names)
        substitutes = self._substitutes(self.inner, type_url)
        replaced = {name: substitutes[name] for name in substitutes if name in names}
        if not replaced:
            return listing
        absent = {name for name, resource in replaced.items() if resource is None}.union(listing.absent)
        absent -= {name for name, resource in replaced.items() if resource is not None}
        return Listing(listing.followed_by(_change(replaced)).resources, sorted(absent))

    def touched_since(self, sequence: int) -> Touched | None:
        """What publications touched, with the version that the view without substitutes had."""
        return self.inner.touched_since(sequence)

    def version(self, type_url: str | None = None) -> str:
        """The version of the view without substitutes: what the client is meant to have."""
        return self.inner.version(type_url)

    def previous(self, type_url: str, name: str) -> Resource | None:
        """What stood under this name before."""
        return self.inner.previous(type_url, name)

    def spoil(self, resource: Resource) -> None:
        """This content was refused."""
        self.inner.spoil(resource)


def _change(substitutes: Substitutes) -> Listing:
    shown = [resource for resource in substitutes.values() if resource is not None]
    return Listing.of(shown, [name for name, resource in substitutes.items() if resource is None])
