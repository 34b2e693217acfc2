"""What is shown instead of what is held back: the last good content of it, and nothing that would lead to nothing.

Used by holds.py, which says what is held back from whom. What names something that is not shown is held back too; what
good content names of what is gone is shown with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controlplane.resources import Resource
from controlplane.snapshot.store import View
from controlplane.snapshot.substitution import NO_SUBSTITUTES, Substitutes
from controlplane.xds import types
from controlplane.xds.dependents import OFFER, Dependents, Lost, names_any
from controlplane.xds.warming import warming

Key = tuple[str, str, str]
"""Type URL, name and version of a resource."""


class Instead:
    """Of one view, for all who are spared the same: first `hold` what is held back, then `complete` it."""

    def __init__(self, view: View, spared: Collection[Key], dependents: Dependents) -> None:
        self.found: dict[str, dict[str, Resource | None]] = {}
        """By type URL and name; None where nothing is shown. A name that was left out stays so: this ends."""
        self._view = view
        self._spared = spared
        self._dependents = dependents
        self._lost = Lost(view)
        self._unsearched: list[Resource] = []
        self._absent: dict[str, set[str]] = {}  # by type: names left out, which were not looked for yet
        self._left_out: dict[str, frozenset[str]] = {}  # those that were

    def hold(self, current: Resource) -> None:
        """What was good is shown in its place, if that is known."""
        url, name = current.type_url, current.name
        if name in self.found.get(url, NO_SUBSTITUTES):
            return
        good = self._view.good(url, name)
        if good is None or good.version == current.version or self._is_spared(good):
            self._leave_out(url, name)
        else:
            self._show(good)
            if lacking := current.offers - good.offers:
                self._absent.setdefault(OFFER, set()).update(lacking)

    def complete(self) -> Mapping[str, Substitutes]:
        """What is shown, with all that it leads to."""
        self._leave_out_what_is_lost()
        while self._unsearched or self._absent:
            while self._unsearched:
                one = self._unsearched.pop()
                if self.found[one.type_url][one.name] is one and not self._supply(one):
                    self._leave_out(one.type_url, one.name)
            self._hold_what_leads_there()
        return self.found

    def _leave_out_what_is_lost(self) -> None:
        """What was refused, is there no more, and nobody knows anything good of, is nowhere: what names it leads to nothing,
        though others took that over before this was refused.
        """
        for url, name, _ in self._spared:
            if self._view.get(url, name) is None and name not in self._lost.names(url):
                self._left_out[url] = self._left_out.get(url, frozenset()) | {name}

    def _supply(self, good: Resource) -> bool:
        """Whether it leads to what is there. It may name what went in the same edit: a route its cluster, and that its
        load assignment.
        """
        for one in self._lost.needed_by(good):
            if one.name not in self.found.get(one.type_url, NO_SUBSTITUTES):
                if self._is_spared(one):
                    return False
                self._show(one)
        if names_any(good, self._left_out):
            return False
        needs = warming(good).assignment if good.type_url == types.CLUSTER else None
        return needs is None or self._shown(types.LOAD_ASSIGNMENT, needs) is not None  # else nobody knows its endpoints

    def _hold_what_leads_there(self) -> None:
        """What would name something that is not shown is held too, and then what names that."""
        absent = {url: frozenset(names) for url, names in self._absent.items()}
        self._absent = {}
        for url, names in absent.items():
            self._left_out[url] = self._left_out.get(url, frozenset()) | names
            for key in self._dependents.of(self._view, url, names):
                if (current := self._view.get(*key)) is not None:
                    self.hold(current)
        # What is shown in place of others too: it may be good to those who have what it names.
        shown = [one for of_type in self.found.values() for one in of_type.values() if one is not None]
        for one in shown if absent else ():
            if names_any(one, absent):
                self._leave_out(one.type_url, one.name)

    def _show(self, one: Resource) -> None:
        self.found.setdefault(one.type_url, {})[one.name] = one
        self._unsearched.append(one)

    def _leave_out(self, url: str, name: str) -> None:
        self.found.setdefault(url, {})[name] = None
        self._absent.setdefault(url, set()).add(name)

    def _shown(self, url: str, name: str) -> Resource | None:
        of_type = self.found.get(url, NO_SUBSTITUTES)
        return of_type[name] if name in of_type else self._view.get(url, name)

    def _is_spared(self, one: Resource) -> bool:
        return (one.type_url, one.name, one.version) in self._spared
