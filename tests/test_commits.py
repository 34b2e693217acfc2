"""The commit loop: who waits for it, and what it leaves to Python's collector."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any, cast

import pytest

from controlplane.app import garbage
from controlplane.app.loop import SLICE_SECONDS, CommitLoop
from controlplane.compile.compiler import Compiler


class Slow:
    """A compiler whose commits take longer than edits take to come."""

    def commit(self) -> Generator[None, None, Any]:
        until = time.monotonic() + 0.03
        while time.monotonic() < until:
            time.sleep(0.005)
            yield


def test_settled_does_not_wait_for_edits_that_come_later() -> None:
    """A process whose specs are edited all the time becomes ready."""

    async def run() -> None:
        done = list[int]()
        loop = CommitLoop(cast(Compiler, Slow()), lambda *_: None, quiet=0.005, longest=0.02)

        async def edits() -> None:
            for number in range(1_000_000):
                loop.edit(number, lambda _: None)
                loop.flush(time.monotonic())
                await asyncio.sleep(0.005)

        tasks = [asyncio.create_task(loop.run()), asyncio.create_task(edits())]
        await asyncio.sleep(0.05)
        loop.edit("mine", lambda _: done.append(-1))
        loop.flush(time.monotonic())
        async with asyncio.timeout(20):
            await loop.settled()
        assert -1 in done

        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


@pytest.mark.parametrize(("seconds", "frozen"), [(garbage.LONG_SECONDS + 0.05, True), (0.0, False)])
def test_the_collector_does_not_look_at_what_a_long_sweep_makes(seconds: float, frozen: bool) -> None:
    """It would hold up endpoints for as long as it takes to look at 20,000 new rows."""
    made = list[object]()

    class Makes:
        def commit(self) -> Generator[None, None, Any]:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                made.append([[] for _ in range(100)])
                time.sleep(SLICE_SECONDS)
                yield

    async def run() -> None:
        loop = CommitLoop(cast(Compiler, Makes()), lambda *_: None, quiet=0.005, longest=0.02)
        task = asyncio.create_task(loop.run())
        loop.edit("mine", lambda _: None)
        loop.flush(time.monotonic())
        await loop.settled()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    gc.unfreeze()
    try:
        asyncio.run(run())
        assert (gc.get_freeze_count() > 0) == frozen
    finally:
        gc.unfreeze()
