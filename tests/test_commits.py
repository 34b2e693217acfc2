"""The commit loop: who waits for what was flushed waits for no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any, cast

from controlplane.app.loop import CommitLoop
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
                loop.edit(number, lambda _, number=number: done.append(number))
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
