"""How long filter chains that are in no spec any more have routes: as long as proxies drain their connections.

Who refused the listener without such a chain goes on with the one that has it, and takes new connections there.
"""

from __future__ import annotations

from functools import partial

from controlplane.app.in_place import InPlace
from controlplane.app.loop import CommitLoop
from controlplane.compile.compiler import Compiler
from controlplane.names import ElementKey

DRAIN_SECONDS = 610.0
"""Envoy closes connections of an old filter chain after `--drain-time-s`, 600 unless told otherwise."""


class Draining:
    """Asked now and then; gives up what has been kept for long enough."""

    def __init__(self, compiler: Compiler, loop: CommitLoop, in_place: InPlace) -> None:
        self._kept = compiler.tables.kept_chains
        self._loop = loop
        self._in_place = in_place
        self._since: dict[tuple[ElementKey, str], float] = {}

    def tick(self, now: float) -> None:
        """Let go of the chains whose connections have ended."""
        look = bool(self._kept.rows) and self._in_place.look(now)
        named = self._in_place.named(group for _, group in self._kept.rows) if look else ()
        self._since = {key: now if key[1] in named else self._since.get(key, now) for key in self._kept.rows}
        for key in [key for key, since in self._since.items() if now - since >= DRAIN_SECONDS]:
            self._loop.edit(("chain", key), partial(Compiler.release_chain, key=key))
            self._loop.flush(now)
