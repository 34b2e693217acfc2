"""The content that is served, in parts, with a sequence number and a memory of the last changes.

The application publishes what a commit changed; xDS sessions look through a `View` (the union of some parts) and ask
what changed since the sequence number they have seen, so that a session that is k changes behind reads k changes. A
part is opaque here: a gateway, or a set of gateways. Nothing in this module knows what a resource means, what a node
is or how anything is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from weakref import WeakValueDictionary

from controlplane.resources import FINGERPRINT_BYTES, VERSION_CHARACTERS, Resource, version_entry
from controlplane.snapshot.content import FINGERPRINTS, Content, Touched
from controlplane.snapshot.listing import LARGE, Listing

Part = Hashable
"""What content is published under; the store compares parts and nothing else."""

Change = tuple[str, str, Resource | None]
"""Type URL, resource name, and the new resource or None when it is gone."""

REMEMBERED_SELECTIONS = 16
"""Large sets of names of one type whose resources a view remembers: proxies of one kind ask for the same."""
REMEMBERED_SMALL_SELECTIONS = 1024
"""The same for small ones: what many streams are told of one change."""


class _Shared:
    """What those who look through a view have in common, of one type, while its content stays the same."""

    __slots__ = ("edition", "entries", "listing", "selections", "small_selections", "version", "versions")

    def __init__(self, edition: tuple[int, ...]) -> None:
        self.edition = edition
        self.listing: Listing | None = None
        self.versions: dict[str, str] | None = None
        self.entries: dict[bytes, str] | None = None
        self.version = ""
        self.selections: dict[frozenset[str], Listing] = {}
        self.small_selections: dict[frozenset[str], Listing] = {}


class View:
    """The union of some parts as it is now. Names are disjoint, or identical in several parts: the first one wins."""

    def __init__(self, store: Store, parts: tuple[Part, ...], contents: tuple[Content, ...]) -> None:
        self.parts = parts
        self._store = store
        self._contents = contents
        self._cached_at = -1
        self._since: dict[int, Touched | None] = {}
        self._names: dict[str, Collection[str]] = {}
        self._shared: dict[str, _Shared] = {}
        self._looked_up: dict[str, _Shared] = {}  # those of them that are known to be as the store is now

    @property
    def sequence(self) -> int:
        """The sequence number of the last publication into the store."""
        return self._store.sequence

    def types(self) -> frozenset[str]:
        """The type URLs that have content."""
        return frozenset(url for content in self._contents for url, names in content.by_type.items() if names)

    def names(self, type_url: str) -> Collection[str]:
        """The names of a type, in no order. Valid until the next publication."""
        if len(self._contents) == 1:
            return self._contents[0].by_type.get(type_url, {}).keys()
        self._refresh()
        if (names := self._names.get(type_url)) is None:
            union = chain.from_iterable(content.by_type.get(type_url, ()) for content in self._contents)
            names = self._names[type_url] = dict.fromkeys(union).keys()
        return names

    def get(self, type_url: str, name: str) -> Resource | None:
        """The resource of that name, of the first part that has it."""
        for content in self._contents:
            if (resource := content.by_type.get(type_url, {}).get(name)) is not None:
                return resource
        return None

    def good(self, type_url: str, name: str) -> Resource | None:
        """What stood under this name before, and somebody took over; None when there is no such content."""
        for content in self._contents:
            if name in content.by_type.get(type_url, ()):
                return content.proofs.good.get((type_url, name))
        return None

    def lost(self, type_url: str) -> list[Resource]:
        """What somebody took over, and stands under its name no more: the latest last, some thousand at most."""
        found: dict[str, Resource] = {}
        for content in self._contents:
            found |= content.lost(type_url)
        return [one for name, one in found.items() if self.get(type_url, name) is None]

    def proven(self, resource: Resource) -> bool:
        """Whether this is there now and somebody took it over."""
        url, name = resource.type_url, resource.name
        return any(
            content.versions.get(url, {}).get(name) == resource.version and content.proofs.holds(url, name)
            for content in self._contents
        )

    def unproven(self, type_url: str) -> bool:
        """Whether there is something of this type that nobody has taken over."""
        return any(content.proofs.waiting(type_url) for content in self._contents)

    def prove(self, type_url: str, versions: Mapping[str, str]) -> None:
        """Somebody took these names in these versions over: they count as good when they change."""
        for content in self._contents:
            content.proofs.took(type_url, versions, content.versions.get(type_url, {}))

    def aliases(self, type_url: str) -> bool:
        """Whether resources of this type have other names than their own."""
        return any(content.aliases.get(type_url) for content in self._contents)

    def named(self, type_url: str, alias: str) -> str | None:
        """The name of the resource that has this alias: the first name, of the first part that has one."""
        for content in self._contents:
            if names := content.aliases.get(type_url, {}).get(alias):
                return min(names)
        return None

    def timed(self, type_url: str) -> frozenset[str]:
        """The names of the resources that have a TTL."""
        return frozenset().union(*(content.timed.get(type_url, ()) for content in self._contents))

    def versions(self, type_url: str) -> Mapping[str, str]:
        """The version of every resource of a type, by name. Valid until the next publication."""
        if len(self._contents) == 1:
            return self._contents[0].versions.get(type_url, {})
        shared = self._shared_of(type_url)
        if shared.versions is None:
            shared.versions = {}
            for content in reversed(self._contents):  # of the first part that has a name, which is written last
                shared.versions.update(content.versions.get(type_url, {}))
        return shared.versions

    def version_entries(self, type_url: str) -> Mapping[bytes, str]:
        """Every name, by the bytes of its entry in a map of versions; made when a client comes back after a change."""
        shared = self._shared_of(type_url)
        if shared.entries is None:
            versions = self.versions(type_url)
            shared.entries = {version_entry(name, version): name for name, version in versions.items()}
        return shared.entries

    def listing(self, type_url: str) -> Listing:
        """Everything of a type; the same object for everybody until it changes."""
        shared = self._shared_of(type_url)
        if shared.listing is None:
            found = (self.get(type_url, name) for name in self.names(type_url))
            shared.listing = Listing.of((one for one in found if one is not None), shared=True)
        return shared.listing

    def select(self, type_url: str, names: frozenset[str]) -> Listing:
        """The resources of these names, and which names have none; one object for everybody who asks for the same."""
        shared, large = self._shared_of(type_url), len(names) >= LARGE
        selections = shared.selections if large else shared.small_selections
        if (selection := selections.get(names)) is None:
            found = [resource for name in names if (resource := self.get(type_url, name)) is not None]
            absent = names.difference(one.name for one in found) if len(found) < len(names) else ()
            if len(selections) >= (REMEMBERED_SELECTIONS if large else REMEMBERED_SMALL_SELECTIONS):
                selections.clear()
            selection = selections[names] = Listing.of(found, absent, shared=large)
        return selection

    def _shared_of(self, type_url: str) -> _Shared:
        self._refresh()
        if (shared := self._looked_up.get(type_url)) is None:
            edition = tuple(content.editions.get(type_url, 0) for content in self._contents)
            shared = self._shared.get(type_url)
            if shared is None or shared.edition != edition:
                shared = self._shared[type_url] = _Shared(edition)
            self._looked_up[type_url] = shared
        return shared

    def touched_since(self, sequence: int) -> Touched | None:
        """By type and name, the version that this view had at `sequence`, for all that publications touched after it.

        None: longer ago than is remembered. The answer is shared by everybody who asks with the same number.
        """
        self._refresh()
        if sequence in self._since:
            return self._since[sequence]
        answer = self._since[sequence] = self._touched_since(sequence)
        return answer

    def version(self, type_url: str | None = None) -> str:
        """A content hash over everything in the view, or over one type; kept up to date at the cost of a change."""
        if type_url is None:
            return _hash(sum(sum(content.sums.values()) for content in self._contents))
        shared = self._shared_of(type_url)
        if not shared.version:
            shared.version = _hash(sum(content.sums.get(type_url, 0) for content in self._contents))
        return shared.version

    def _refresh(self) -> None:
        if self._cached_at != self._store.sequence:
            self._cached_at = self._store.sequence
            self._since = {}
            self._names = {}
            self._looked_up = {}

    def _touched_since(self, sequence: int) -> Touched | None:
        if len(self._contents) == 1:
            return self._contents[0].since(sequence)
        found = [content.since(sequence) for content in self._contents]
        if len(by_part := [touched for touched in found if touched is not None]) < len(found):
            return None
        merged: dict[str, Mapping[str, str]] = {}
        for type_url in {url for touched in by_part for url in touched}:
            pairs = zip(self._contents, by_part, strict=True)
            alone = [
                one.get(type_url, {}) for content, one in pairs if type_url in one or content.by_type.get(type_url)
            ]
            if len(alone) == 1:
                merged[type_url] = alone[0]
            else:
                names = {name for names in alone for name in names}
                merged[type_url] = {name: self._version_then(by_part, type_url, name) for name in names}
        return merged

    def _version_then(self, by_part: Sequence[Touched], type_url: str, name: str) -> str:
        """The version that the view had before what is in `by_part`: of the first part that had the name."""
        for content, touched in zip(self._contents, by_part, strict=True):
            before = touched.get(type_url, {}).get(name)
            if before is None:  # untouched here: it was what it is
                resource = content.by_type.get(type_url, {}).get(name)
                before = resource.version if resource is not None else ""
            if before:
                return before
        return ""


def _by_type(changes: Iterable[Change]) -> dict[str, dict[str, Resource | None]]:
    """The changes by type URL and name. The last one of a name counts."""
    found: dict[str, dict[str, Resource | None]] = {}
    for type_url, name, resource in changes:
        if resource is not None and (resource.name != name or resource.type_url != type_url):
            raise ValueError(f"{resource.type_url} {resource.name!r} published as {type_url} {name!r}")
        found.setdefault(type_url, {})[name] = resource
    return found


def _hash(total: int) -> str:
    return f"{total % FINGERPRINTS:0{2 * FINGERPRINT_BYTES}x}"[:VERSION_CHARACTERS]


class Store:
    """All parts. Written by one publisher, read by every session, all on one thread."""

    def __init__(self) -> None:
        self.sequence = 0
        """The number of the last publication; 0 before the first."""
        self._parts: dict[Part, Content] = {}
        self._unpublished: WeakValueDictionary[Part, Content] = WeakValueDictionary()  # of parts that views look for
        self._views: WeakValueDictionary[tuple[Part, ...], View] = WeakValueDictionary()

    def publish(self, changes: Mapping[Part, Iterable[Change]]) -> int:
        """Take over the changes of several parts as one publication; its sequence number.

        A publication that changes nothing gets no number: the last one is returned. Raises ValueError, with nothing
        taken over, when a resource does not stand under its own type URL and name.
        """
        checked = {part: _by_type(of_part) for part, of_part in changes.items()}
        touched = {part: self._parts.setdefault(part, self._content(part)).apply(one) for part, one in checked.items()}
        if not any(touched.values()):
            return self.sequence
        self.sequence += 1
        for part, of_part in touched.items():
            if of_part:
                self._parts[part].remember(self.sequence, of_part)
        return self.sequence

    def has(self, resource: Resource) -> bool:
        """Whether some part holds exactly this content now."""
        url, name = resource.type_url, resource.name
        return any(part.versions.get(url, {}).get(name) == resource.version for part in self._parts.values())

    def doubted(self, part: Part, type_url: str, name: str) -> str | None:
        """The version under this name of a part, if nobody has taken that over, and somebody what stood there before."""
        if (content := self._parts.get(part)) is None or content.proofs.holds(type_url, name):
            return None
        version, good = content.versions.get(type_url, {}).get(name), content.proofs.good.get((type_url, name))
        return version if good is not None and good.version != version else None

    def restore(self, part: Part, resource: Resource) -> None:
        """This was taken over in a part before this process began; what is there now came after it."""
        content, url = self._parts.get(part), resource.type_url
        if content is not None and content.versions.get(url, {}).get(resource.name) != resource.version:
            content.proofs.restore(resource)

    def view(self, parts: Sequence[Part]) -> View:
        """The union of these parts, in their order; the same object for the same parts while somebody holds it."""
        if (view := self._views.get(key := tuple(parts))) is None:
            view = self._views[key] = View(self, key, tuple(map(self._content, key)))
        return view

    def _content(self, part: Part) -> Content:
        if (content := self._parts.get(part) or self._unpublished.get(part)) is None:
            content = self._unpublished[part] = Content()
        return content
