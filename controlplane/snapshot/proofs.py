"""What somebody took over, and is therefore good to show again when what came after it is refused.

One for each part of the store, which says what changes; sessions say, through views, what was taken over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from controlplane.resources import Resource

REMEMBERED_GOOD = 8192
"""Resources of a part whose last content that somebody took over is kept."""


class Proofs:
    """`good` is by type URL and name: what stood there before what is there now, and was taken over."""

    __slots__ = ("_unproven", "good")

    def __init__(self) -> None:
        self.good: OrderedDict[tuple[str, str], Resource] = OrderedDict()
        # By type and name: what nobody has taken over yet, with what it replaced before anybody had (an ACK of that may
        # be under way).
        self._unproven: dict[str, dict[str, Resource | None]] = {}

    def waiting(self, type_url: str) -> bool:
        """Whether there is something of this type that nobody has taken over."""
        return bool(self._unproven.get(type_url))

    def holds(self, type_url: str, name: str) -> bool:
        """Whether somebody took over what is there now."""
        return name not in self._unproven.get(type_url, ())

    def changed(self, type_url: str, before: Mapping[str, Resource | None], gone: Iterable[str]) -> None:
        """Other content stands under these names now, or none: what was there, and was taken over, is good to show."""
        unproven = self._unproven.setdefault(type_url, {})
        # Of what nobody took over since it was there, what was good before stays.
        again = {name: before[name] for name in before.keys() & unproven.keys()}
        proven = [one for name, one in before.items() if one is not None and name not in again]
        for one in proven[-REMEMBERED_GOOD:]:  # those before would only push each other out
            self._keep(one)
        unproven.update(dict.fromkeys(before))
        unproven.update(again)
        for name in gone:
            del unproven[name]

    def took(self, type_url: str, versions: Mapping[str, str], current: Mapping[str, str]) -> None:
        """Somebody took these versions over; `current` are those that are there now."""
        if not (unproven := self._unproven.get(type_url)):
            return
        for name in versions if len(versions) < len(unproven) else list(unproven):
            if name not in unproven or (version := versions.get(name)) is None:
                continue
            if current.get(name) == version:
                del unproven[name]
            elif (replaced := unproven[name]) is not None and replaced.version == version:
                self._keep(replaced)
                unproven[name] = None
        if not unproven:
            del self._unproven[type_url]  # one that was large costs as much to look through when it is empty

    def restore(self, resource: Resource) -> None:
        """This was taken over before this process began, unless more is known of its name already."""
        if (resource.type_url, resource.name) not in self.good:
            self._keep(resource)

    def _keep(self, resource: Resource) -> None:
        key = resource.type_url, resource.name
        self.good[key] = resource
        self.good.move_to_end(key)
        if len(self.good) > REMEMBERED_GOOD:
            self.good.popitem(last=False)  # of a plain dict, the first one takes the longer to find the more have gone
