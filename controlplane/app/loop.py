"""The commit loop: edits are gathered, one commit is swept at a time, and what it changed is handed on.

The first edit after quiet goes at once, a storm is gathered (`pace`). A long sweep shares the event loop with everything
else: streams are served while it runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Generator, Hashable, Iterable
from contextlib import suppress

import structlog

from controlplane.app import garbage
from controlplane.app.pace import Pace
from controlplane.compile.compiler import Commit, Compiler

log = structlog.get_logger(__name__)

Edit = Callable[[Compiler], Iterable[None] | None]
"""Changes the compiler; a large one in steps."""

SLICE_SECONDS = 0.004
"""How long compiling may hold the event loop at a time."""


TURNS = 4
"""Turns of the event loop between two slices: what a source reads takes some until it is on its way to proxies."""


async def _give_way() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


class CommitLoop:
    """Owns the compiler. Edits of the same key replace each other until they are committed: the newest counts."""

    def __init__(
        self, compiler: Compiler, on_commit: Callable[[Commit, float, float], None], *, quiet: float, longest: float
    ) -> None:
        """`on_commit(commit, event_time, build_seconds)` is called after every commit, with what it changed."""
        self.compiler = compiler
        self._on_commit = on_commit
        self._pace = Pace(quiet, longest)
        self._edits: dict[Hashable, Edit] = {}
        self.taken: Collection[Hashable] = ()
        """The keys of the edits of the commit that is under way, or was handed on last."""
        self._sweeping = False
        self._oldest: float | None = None
        self._woken = asyncio.Event()
        self._released = asyncio.Event()
        self._held_until = 0.0
        self._flushed = self._committed = 0  # flushes, and how many of them are committed
        self._progress = asyncio.Event()

    def edit(self, key: Hashable, edit: Edit) -> None:
        """Do this in the next commit, instead of an earlier edit with the same key."""
        self._edits.pop(key, None)
        self._edits[key] = edit

    def forget(self, key: Hashable) -> None:
        """Do not do this after all."""
        self._edits.pop(key, None)

    def waits(self, key: Hashable) -> bool:
        """Whether an edit with this key is not committed yet."""
        return key in self._edits or (self._sweeping and key in self.taken)

    @property
    def sweeps(self) -> bool:
        """Whether a commit is under way: what is compiled and what is published may differ."""
        return self._sweeping

    def flush(self, event_time: float) -> None:
        """A consistent batch of edits ends here; `event_time` is when the cause of the oldest was noticed."""
        if not self._edits:
            return
        self._oldest = event_time if self._oldest is None else min(self._oldest, event_time)
        self._pace.came(time.monotonic())
        self._flushed += 1
        self._woken.set()

    def hold(self, until: float) -> None:
        """Commit nothing before `release`, or before this time (time.monotonic)."""
        self._held_until = until

    def release(self) -> None:
        """Commit again."""
        self._held_until = 0.0
        self._released.set()

    async def settled(self) -> None:
        """Wait until everything flushed so far is committed."""
        flushed = self._flushed
        while self._committed < flushed:
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._woken.wait()
            await self._gather()
            await self._unheld()
            self._woken.clear()
            self._pace.taken()
            edits, self._edits, flushed = self._edits, {}, self._flushed
            event_time, self._oldest = self._oldest or time.monotonic(), None
            began = time.monotonic()
            self.taken, self._sweeping = edits.keys(), True
            commit = await self._commit(edits)
            self._sweeping = False
            self._on_commit(commit, event_time, time.monotonic() - began)
            self._committed = flushed
            self._progress.set()

    async def _gather(self) -> None:
        """Nothing after quiet; in a storm, until it pauses."""
        while (left := self._pace.due() - time.monotonic()) > 0:  # noqa: ASYNC110 - it is time that is waited for
            await asyncio.sleep(left)

    async def _unheld(self) -> None:
        while (left := self._held_until - time.monotonic()) > 0:
            self._released.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), left)

    async def _commit(self, edits: dict[Hashable, Edit]) -> Commit:
        steps = self._steps(edits)
        now = time.monotonic()
        sweep, until = garbage.Sweep(now), now + SLICE_SECONDS
        while True:
            try:
                next(steps)
            except StopIteration as done:
                commit: Commit = done.value
                return commit
            if (now := time.monotonic()) > until:
                sweep.between_slices(now)
                await _give_way()
                until = time.monotonic() + SLICE_SECONDS

    def _steps(self, edits: dict[Hashable, Edit]) -> Generator[None, None, Commit]:
        for edit in edits.values():
            yield from edit(self.compiler) or (None,)
        return (yield from self.compiler.commit())
