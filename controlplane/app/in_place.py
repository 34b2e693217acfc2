"""What proxies are shown in the place of what they refused (ADR 16), for those who let go of what no spec says any more.

Good content of before names what is no resource of its own, so that `xds/` cannot keep that there with it: a JWT
requirement or a rate limit of a shared filter, the routes of a filter chain.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from controlplane.app.fleet import SETTLE_BOUND
from controlplane.compile.compiler import Compiler
from controlplane.names import parts_of
from controlplane.snapshot.store import Store
from controlplane.xds.bounds import Timing
from controlplane.xds.dependents import names_in
from controlplane.xds.holds import Holds

LINGER_SECONDS = Timing().refused + SETTLE_BOUND
"""After a hold: who refused keeps for the one what is gone with the refused edit, and may take the other to have what follows."""


class InPlace:
    """Asked now and then, and whenever something would be let go of."""

    def __init__(self, compiler: Compiler, store: Store, holds: Holds) -> None:
        self._compiler = compiler
        self._store = store
        self._holds = holds
        self._edition = holds.edition
        self._last = -inf

    def look(self, now: float) -> bool:
        """Whether something is shown in the place of something else, or was until a short time ago."""
        held = any(self._store.has(one) for one in self._holds.resources())
        if held or self._holds.edition != self._edition:
            self._edition, self._last = self._holds.edition, now
        return now - self._last < LINGER_SECONDS

    def named(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that are in what is shown so, to whomever."""
        among = frozenset(names)
        views = [self._store.view(parts_of(*view)) for view in self._compiler.views()] if among else []
        shown = {(one.type_url, one.name, one.version): one for view in views for one in self._holds.in_place(view)}
        return frozenset(name for one in shown.values() for name in names_in(one, among))
