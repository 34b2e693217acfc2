"""Waking up when something under a folder changes, however the folder comes and goes.

A wake is a hint: whoever is woken looks for himself. Linux is asked directly (`inotify`); elsewhere `watchfiles` is.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import Change, awatch

from controlplane.sources.beside import ANSWER_SECONDS, Beside

LOOK_AGAIN_SECONDS = 1.0
"""How often the folder itself is looked at: it may have been replaced, which its watch does not notice."""
EVERYTHING_SECONDS = 10.0
"""How often everything is compared, for what no event tells: a lost event, a network file system, targets of symlinks."""

_TURNS = 4
"""Turns of the event loop in which what the kernel has told already becomes a wake: it counts before what time says."""

Paths = dict[str, frozenset[Change]]
Changes = Callable[[str, float], AsyncGenerator[Paths, None]]
"""How paths under a folder changed, given the folder and how long to wait. The first item says: the watch is set up."""


@dataclass(frozen=True, slots=True)
class Wake:
    """`paths` that changed, relative to the folder, with how; `everything` when all must be looked at.

    `at` is time.monotonic() when this was noticed; `failure` says that the folder does not answer, so that nobody may look.
    """

    at: float
    paths: Paths = field(default_factory=dict)
    everything: bool = False
    failure: OSError | None = None


async def polled(root: str, longest: float) -> AsyncGenerator[Paths, None]:
    """Changes by watchfiles, on every system that it knows.

    Its thread looks for events each 3 ms, and takes a batch for complete when one such time brings no more.
    """
    prefix = root.rstrip("/") + "/"  # events come with the path that was asked for
    events = awatch(
        root,
        watch_filter=None,
        debounce=10,
        step=3,
        rust_timeout=int(longest * 1000),
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    upcoming = asyncio.ensure_future(anext(events))
    try:
        await asyncio.sleep(0)  # the watch is set up in the first step
        yield {}
        while True:
            changes = await upcoming
            upcoming = asyncio.ensure_future(anext(events))
            paths: Paths = {}
            for change, path in sorted(changes):
                name = path.removeprefix(prefix) if path.startswith(prefix) else ""
                paths[name] = paths.get(name, frozenset()) | {change}
            yield paths
    finally:
        upcoming.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration, OSError, RuntimeError):
            await upcoming


if sys.platform == "linux":
    from controlplane.sources.inotify import changes as noticed
else:
    noticed = polled


async def wakes(
    root: str,
    *,
    look_again: float = LOOK_AGAIN_SECONDS,
    changes: Changes = noticed,
    answer_seconds: float = ANSWER_SECONDS,
) -> AsyncGenerator[Wake, None]:
    """Wakes for ever. The first one, and the first after the folder appeared or was replaced, is for everything."""
    missing = False
    beside = Beside(answer_seconds)
    while True:
        try:
            identity = await beside.ask(folder_identity, root)
        except OSError as error:
            missing = False
            yield Wake(time.monotonic(), failure=error)
            await asyncio.sleep(look_again)
            continue
        if identity is None:
            if not missing:
                missing = True
                yield Wake(time.monotonic(), everything=True)
            await asyncio.sleep(look_again)
            continue
        missing = False
        with suppress(OSError, RuntimeError):  # the folder vanished, or the kernel has no watches left
            async with aclosing(_watched(root, identity, look_again, changes, beside)) as watched:
                async for wake in watched:
                    yield wake
        with suppress(OSError):
            if await beside.ask(folder_identity, root) == identity:
                await asyncio.sleep(look_again)  # it cannot be watched: look from time to time


async def wakes_and_dues(
    root: str, *, look_again: float, until_due: Callable[[], float | None], answer_seconds: float = ANSWER_SECONDS
) -> AsyncGenerator[Wake, None]:
    """Wakes for ever, and one without paths when something that was put off is due.

    `until_due` is asked before each: seconds, None when nothing was put off.
    """
    async with aclosing(wakes(root, look_again=look_again, answer_seconds=answer_seconds)) as stream:
        upcoming = asyncio.ensure_future(anext(stream))
        try:
            while True:
                await asyncio.wait({upcoming}, timeout=until_due())
                for _ in range(_TURNS):
                    if not upcoming.done():
                        await asyncio.sleep(0)
                wake = Wake(time.monotonic())
                if upcoming.done():
                    wake = upcoming.result()
                    upcoming = asyncio.ensure_future(anext(stream))
                yield wake
        finally:
            upcoming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await upcoming


async def _watched(
    root: str, identity: tuple[int, int], look_again: float, changes: Changes, beside: Beside
) -> AsyncGenerator[Wake, None]:
    """Wakes until the folder is another one."""
    async with aclosing(changes(root, look_again)) as stream:
        # What changed before the watch was set up is seen by looking; so is everything, where nothing can be watched.
        failure: OSError | RuntimeError | None = None
        try:
            await anext(stream)
        except (OSError, RuntimeError) as error:
            failure = error
        looked = asked = time.monotonic()
        yield Wake(looked, everything=True)
        if failure is not None:
            raise failure
        async for paths in stream:
            now = time.monotonic()
            if paths:
                yield Wake(now, paths)
            elif now - looked >= EVERYTHING_SECONDS:
                looked = now
                yield Wake(now, everything=True)
            if not paths or now - asked >= look_again:  # not for each change: a thread would take its time from it
                asked = now
                if await beside.ask(folder_identity, root) != identity:
                    return


def folder_identity(root: str) -> tuple[int, int] | None:
    """Which folder has this path now; None when there is none."""
    try:
        status = Path(root).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


VOID = "it is empty, and not the folder in which something was before (is nothing mounted there?)"
"""Why a folder is a failure of its source that holds nothing and stands where another one held something."""
