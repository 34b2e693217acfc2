"""JWT requirements that proxies may still name: in the filter from before the first route names one until none does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from controlplane.app.in_place import InPlace
from controlplane.app.leaving import Leaving
from controlplane.app.loop import CommitLoop
from controlplane.compile.compiler import Compiler
from controlplane.names import GatewayName

Requirement = tuple[GatewayName, str]


class Requirements(Leaving[Requirement]):
    """Told by each commit what it published."""

    def __init__(
        self, compiler: Compiler, loop: CommitLoop, in_place: InPlace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(compiler.tables.requirements.rows, Compiler.release_requirement, loop, in_place, clock)
        self._compiler = compiler

    def keep(self, touched: Iterable[Requirement]) -> None:
        """Routes on proxies name these from now on: they stay in the filter until no proxy names them.

        At once: edits that came during the commit are before any that would be made now, and may take a provider away.
        """
        for key in touched:
            if key in self._wanted:
                self._loop.forget(("leaves", key))
                self._compiler.keep_requirement(key)
