"""JWT requirements that proxies may still name: in the filter from before the first route names one until none does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

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

    def keep(self, touched: Iterable[Requirement]) -> None:
        """Routes on proxies name these from now on: they stay in the filter until no proxy names them."""
        for key in touched:
            if key in self._wanted:
                self._loop.edit(("leaves", key), partial(Compiler.keep_requirement, key=key))
        self._loop.flush(self._clock())
