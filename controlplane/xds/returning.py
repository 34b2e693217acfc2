"""What a client that comes back says it has, compared with what there is, at the cost of what differs.

It names thousands of versions, nearly all of which are those of now. So the entries of its map are looked up in the bytes
that they came in, and only those that nobody knows are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import filterfalse

from controlplane.snapshot.store import View
from controlplane.xds.nameset import NOTHING
from controlplane.xds.requests import initial_versions


class Returned(Mapping[str, str]):
    """The versions that it has, by name. Valid until the next publication.

    `other` is what it has and the view has not, `missing` the names of the view that it does not have in this version.
    """

    __slots__ = ("_versions", "missing", "other")

    def __init__(self, entries: Sequence[bytes], view: View, type_url: str) -> None:
        known = view.version_entries(type_url)
        missing = set(known)
        missing.difference_update(entries)  # the one pass over all of them
        alike = len(entries) == len(known) - len(missing)  # each is known, and stands once
        self.other = {} if alike else initial_versions(filterfalse(known.__contains__, entries))
        self.missing = frozenset(map(known.__getitem__, missing)) if missing else NOTHING
        self._versions = view.versions(type_url)

    def __getitem__(self, name: str) -> str:
        """The version; KeyError when it has none of this name."""
        if name in self.other:
            return self.other[name]
        if name in self.missing:
            raise KeyError(name)
        return self._versions[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.other
        yield from (name for name in self._versions if name not in self.missing and name not in self.other)

    def __len__(self) -> int:
        others = sum(name in self.missing or name not in self._versions for name in self.other)
        return len(self._versions) - len(self.missing) + others
