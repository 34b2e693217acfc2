"""JWT requirements that proxies may still name: in the filter from before the first route names one until none does.

The filter is shared, and routes name its requirements: one that is taken away too early would leave routes that refuse
everything (ADR 7).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from controlplane.app.loop import CommitLoop
from controlplane.compile.compiler import Compiler
from controlplane.names import GatewayName

Requirement = tuple[GatewayName, str]


class Requirements:
    """Told by each commit what it published."""

    def __init__(self, compiler: Compiler, loop: CommitLoop) -> None:
        self._wanted = compiler.tables.requirements.rows
        self._loop = loop

    def gone(self, touched: Iterable[Requirement]) -> list[Requirement]:
        """Those of them that no spec wants any more."""
        return [key for key in touched if key not in self._wanted]

    def keep(self, touched: Iterable[Requirement]) -> None:
        """Routes on proxies name these from now on: they stay in the filter until no proxy names them."""
        for gateway, name in touched:
            if (gateway, name) in self._wanted:
                self._edit(gateway, name, keep=True)
        self._loop.flush(time.monotonic())

    def release(self, gone: Iterable[Requirement]) -> None:
        """Every proxy has routes without these."""
        for gateway, name in self.gone(gone):
            self._edit(gateway, name, keep=False)
        self._loop.flush(time.monotonic())

    def _edit(self, gateway: GatewayName, name: str, *, keep: bool) -> None:
        edit = partial(Compiler.keep_requirement, gateway=gateway, requirement=name, keep=keep)
        self._loop.edit(("requirement", gateway, name), edit)
