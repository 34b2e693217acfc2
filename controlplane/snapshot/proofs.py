"""What somebody took over, and is therefore good to show again when what came after it is refused.

One for each part of the store, which says what changes; sessions say, through views, what was taken over.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.resources import Resource

REMEMBERED_GOOD = 8192
"""Resources of a part whose last content that somebody took over is kept."""


class Proofs:
    """`good` is by type URL and name: what stood there before what is there now, and was taken over."""

    __slots__ = ("_unproven", "good")

    def __init__(self) -> None:
        self.good: dict[tuple[str, str], Resource] = {}
        # By type and name: what nobody has taken over yet, with what it replaced before anybody had (an ACK of that may
        # be under way).
        self._unproven: dict[str, dict[str, Resource | None]] = {}

    def waiting(self, type_url: str) -> bool:
        """Whether there is something of this type that nobody has taken over."""
        return bool(self._unproven.get(type_url))

    def holds(self, type_url: str, name: str) -> bool:
        """Whether somebody took over what is there now."""
        return name not in self._unproven.get(type_url, ())

    def changed(self, type_url: str, name: str, before: Resource | None, *, gone: bool) -> None:
        """Other content stands there now, or none; if nobody took over what was there, what was good before stays."""
        unproven = self._unproven.setdefault(type_url, {})
        was_proven = name not in unproven
        if before is not None and was_proven:
            self._keep(before)
        if gone:
            unproven.pop(name, None)
        else:
            unproven[name] = None if was_proven else before

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

    def _keep(self, resource: Resource) -> None:
        self.good.pop((resource.type_url, resource.name), None)
        self.good[resource.type_url, resource.name] = resource
        if len(self.good) > REMEMBERED_GOOD:
            del self.good[next(iter(self.good))]
