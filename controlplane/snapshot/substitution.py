"""A view in which some resources are replaced by earlier ones, or left out: what is held back from those who refuse it.

Who is shown what is decided elsewhere; this module only looks. What many see through the same replacements is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from controlplane.resources import Resource, version_entry
from controlplane.snapshot.content import Touched
from controlplane.snapshot.listing import Listing
from controlplane.snapshot.store import View

Substitutes = Mapping[str, Resource | None]
"""By name: what is shown instead, or though there is nothing any more; None: nothing good is known, so nothing is shown, and who has something keeps it."""

NO_SUBSTITUTES: Substitutes = {}


class Substituted(View):
    """`inner` with what `substitutes` gives by type URL, the same objects while nothing moves: it is asked each time."""

    def __init__(self, inner: View, substitutes: Callable[[View], Mapping[str, Substitutes]]) -> None:
        self.parts = inner.parts
        self.inner = inner
        self._store = inner._store
        self._ask = substitutes

    def substitutes(self, type_url: str) -> Substitutes:
        """What is shown of a type instead of what is there."""
        return self._ask(self.inner).get(type_url, NO_SUBSTITUTES)

    def types(self) -> frozenset[str]:
        """The type URLs that have content."""
        return self.inner.types()

    def names(self, type_url: str) -> Collection[str]:
        """The names of a type, in no order. Valid until the next publication."""
        return self.versions(type_url).keys()

    def get(self, type_url: str, name: str) -> Resource | None:
        """The resource that is shown under this name."""
        if (substitutes := self.substitutes(type_url)) and name in substitutes:
            return substitutes[name]
        return self.inner.get(type_url, name)

    def aliases(self, type_url: str) -> bool:
        """Whether resources of this type have other names than their own."""
        return self.inner.aliases(type_url)

    def named(self, type_url: str, alias: str) -> str | None:
        """The name of the resource that has this alias."""
        return self.inner.named(type_url, alias)

    def timed(self, type_url: str) -> frozenset[str]:
        """The names of the resources that have a TTL."""
        return self.inner.timed(type_url)

    def versions(self, type_url: str) -> Mapping[str, str]:
        """The version of every resource that is shown, by name."""
        if not (substitutes := self.substitutes(type_url)):
            return self.inner.versions(type_url)
        versions = dict(self.inner.versions(type_url))
        for name, resource in substitutes.items():
            if resource is None:
                versions.pop(name, None)
            else:
                versions[name] = resource.version
        return versions

    def version_entries(self, type_url: str) -> Mapping[bytes, str]:
        """Every name that is shown, by the bytes of its entry in a map of versions."""
        if not self.substitutes(type_url):
            return self.inner.version_entries(type_url)
        return {version_entry(name, version): name for name, version in self.versions(type_url).items()}

    def listing(self, type_url: str) -> Listing:
        """Everything of a type that is shown."""
        listing = self.inner.listing(type_url)
        if substitutes := self.substitutes(type_url):
            return listing.followed_by(_change(substitutes))
        return listing

    def select(self, type_url: str, names: frozenset[str]) -> Listing:
        """The resources that are shown under these names, and which names have none."""
        listing = self.inner.select(type_url, names)
        substitutes = self.substitutes(type_url)
        replaced = {name: substitutes[name] for name in substitutes if name in names}
        if not replaced:
            return listing
        absent = {name for name in {*listing.absent, *replaced} if replaced.get(name) is None}
        return Listing(listing.followed_by(_change(replaced)).resources, sorted(absent))

    def touched_since(self, sequence: int) -> Touched | None:
        """What publications touched, with the version that the view without substitutes had."""
        return self.inner.touched_since(sequence)

    def version(self, type_url: str | None = None) -> str:
        """The version of the view without substitutes: what the client is meant to have."""
        return self.inner.version(type_url)

    def good(self, type_url: str, name: str) -> Resource | None:
        """What stood under this name before, and somebody took over."""
        return self.inner.good(type_url, name)

    def lost(self, type_url: str) -> list[Resource]:
        """What somebody took over, and stands under its name no more."""
        return self.inner.lost(type_url)

    def proven(self, resource: Resource) -> bool:
        """Whether this is there now and somebody took it over."""
        return self.inner.proven(resource)

    def unproven(self, type_url: str) -> bool:
        """Whether there is something of this type that nobody has taken over."""
        return self.inner.unproven(type_url)

    def prove(self, type_url: str, versions: Mapping[str, str]) -> None:
        """Somebody took these over."""
        self.inner.prove(type_url, versions)


def _change(substitutes: Substitutes) -> Listing:
    shown = [resource for resource in substitutes.values() if resource is not None]
    return Listing.of(shown, [name for name, resource in substitutes.items() if resource is None])
