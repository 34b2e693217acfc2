"""When proxies get their first answer: every source has answered, or the deadline has passed and there is something to serve."""

from __future__ import annotations

import asyncio
import time

import structlog

from controlplane.app.intake import Intake
from controlplane.app.loop import CommitLoop
from controlplane.model.conduct import Startup

log = structlog.get_logger(__name__)


async def first_commit(intake: Intake, loop: CommitLoop, startup: Startup) -> None:
    """Wait until everything is compiled that this process can know at its start."""
    answered = asyncio.Event()
    intake.changed = answered.set
    deadline = time.monotonic() + startup.deadline.total_seconds()
    while missing := intake.missing():
        answered.clear()
        left = deadline - time.monotonic()
        if left <= 0 and startup.on_deadline == "serve-last-known-good" and intake.has_objects:
            unknown = [name for name in missing if intake.sources[name].is_unknown]
            log.warning("startup deadline passed; serving the last known good state", of=missing, not_all_of=unknown)
            break
        try:
            # Not everything that a source catches up with is said: that one thing cannot be read is no news.
            await asyncio.wait_for(answered.wait(), min(left, 1.0) if left > 0 else 1.0)
        except TimeoutError:
            continue
    intake.release(time.monotonic())
    while not _can_serve(intake):
        answered.clear()
        await answered.wait()
        loop.flush(time.monotonic())
    await loop.settled()


def _can_serve(intake: Intake) -> bool:
    """An unreadable folder of specs and nothing remembered is no configuration."""
    return bool(intake.objects) or all(status.synced for status in intake.sources.values())
