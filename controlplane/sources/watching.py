"""Waking up when something under a folder changes, however the folder comes and goes.

The only module that knows `watchfiles`. A wake is a hint: whoever is woken looks for himself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import Change, awatch

LOOK_AGAIN_SECONDS = 1.0
"""How often the folder itself is looked at: it may have been replaced, which its watch does not notice."""
EVERYTHING_SECONDS = 10.0
"""How often everything is compared, for what no event tells: a lost event, a network file system, targets of symlinks."""


@dataclass(frozen=True, slots=True)
class Wake:
    """`paths` that changed, relative to the folder, with how; `everything` when all must be looked at.

    `at` is time.monotonic() when this was noticed.
    """

    at: float
    paths: dict[str, frozenset[Change]] = field(default_factory=dict)
    everything: bool = False


async def wakes(
    root: str, *, debounce_ms: int = 5, step_ms: int = 1, look_again: float = LOOK_AGAIN_SECONDS
) -> AsyncGenerator[Wake, None]:
    """Wakes for ever. The first one, and the first after the folder appeared or was replaced, is for everything.

    `step_ms` is the time without an event that ends a batch, and how often the watching thread wakes up.
    """
    missing = False
    while True:
        identity = _identity(root)
        if identity is None:
            if not missing:
                missing = True
                yield Wake(time.monotonic(), everything=True)
            await asyncio.sleep(look_again)
            continue
        missing = False
        with suppress(OSError, RuntimeError):  # the folder vanished, or the kernel has no watches left
            async with aclosing(_watched(root, identity, debounce_ms, step_ms, look_again)) as watched:
                async for wake in watched:
                    yield wake
        if _identity(root) == identity:
            await asyncio.sleep(look_again)  # it cannot be watched: look from time to time


async def _watched(
    root: str, identity: tuple[int, int], debounce_ms: int, step_ms: int, look_again: float
) -> AsyncGenerator[Wake, None]:
    """Wakes until the folder is another one."""
    events = awatch(
        root,
        watch_filter=None,
        debounce=debounce_ms,
        step=step_ms,
        rust_timeout=int(look_again * 1000),
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    upcoming = asyncio.ensure_future(anext(events))
    try:
        await asyncio.sleep(0)  # the watch is set up in the first step; what changed before is seen by looking
        looked = time.monotonic()
        yield Wake(looked, everything=True)
        while _identity(root) == identity:
            changes = await upcoming
            now = time.monotonic()
            upcoming = asyncio.ensure_future(anext(events))
            if changes:
                yield Wake(now, _relative(root, changes))
            elif now - looked >= EVERYTHING_SECONDS:
                looked = now
                yield Wake(now, everything=True)
    finally:
        upcoming.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration, OSError, RuntimeError):
            await upcoming


def _relative(root: str, changes: set[tuple[Change, str]]) -> dict[str, frozenset[Change]]:
    prefix = root.rstrip("/") + "/"  # events come with the path that was asked for
    paths: dict[str, frozenset[Change]] = {}
    for change, path in sorted(changes):
        name = path.removeprefix(prefix) if path.startswith(prefix) else ""
        paths[name] = paths.get(name, frozenset()) | {change}
    return paths


def _identity(root: str) -> tuple[int, int] | None:
    try:
        status = Path(root).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
