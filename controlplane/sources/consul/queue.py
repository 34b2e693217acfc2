"""What is to be asked of Consul: each service once, changes that were noticed before those that are only possible."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Ask(IntEnum):
    """How much to ask; more includes less."""

    PROBE = 0
    """Only whether its index moved."""
    READ = 1


@dataclass(slots=True)
class Job:
    """`at` is when the oldest reason to ask so much was noticed; it is not due before `not_before` (time.monotonic)."""

    name: str
    ask: Ask
    at: float
    not_before: float = 0.0


class Queue:
    """Jobs by name. A name is with one worker at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._due: dict[Ask, dict[str, None]] = {Ask.READ: {}, Ask.PROBE: {}}  # in the order of taking
        self._later: list[tuple[float, str]] = []
        self._busy: set[str] = set()
        self._woken = asyncio.Event()

    def add(self, name: str, ask: Ask, at: float, not_before: float = 0.0) -> None:
        """Ask for this; it joins what is to be asked of the name already."""
        job = self._jobs.get(name)
        if job is None:
            job = self._jobs[name] = Job(name, ask, at, not_before)
        elif ask < job.ask:
            return
        elif ask > job.ask:
            job.ask, job.at, job.not_before = ask, at, not_before
        else:
            job.at, job.not_before = min(job.at, at), min(job.not_before, not_before)
        self._schedule(job)
        self._woken.set()

    def drop(self, name: str) -> None:
        """Nothing is to be asked of it any more."""
        self._jobs.pop(name, None)
        for due in self._due.values():
            due.pop(name, None)

    async def take(self) -> Job:
        """The next job; `done` must follow."""
        while True:
            self._ripen()
            for due in self._due.values():
                name = next((name for name in due if name not in self._busy), None)
                if name is not None:
                    del due[name]
                    self._busy.add(name)
                    return self._jobs.pop(name)
            self._woken.clear()
            try:
                # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the event.
                async with asyncio.timeout(self._until_later()):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def done(self, name: str) -> None:
        """The job of this name has ended."""
        self._busy.discard(name)
        self._woken.set()

    def _schedule(self, job: Job) -> None:
        later = job.not_before > self._clock()
        for ask, due in self._due.items():
            if later or ask is not job.ask:
                due.pop(job.name, None)
        if later:
            heapq.heappush(self._later, (job.not_before, job.name))
        else:
            self._due[job.ask][job.name] = None

    def _ripen(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            _, name = heapq.heappop(self._later)
            job = self._jobs.get(name)
            if job is not None and job.not_before <= now:
                self._schedule(job)

    def _until_later(self) -> float | None:
        return max(0.0, self._later[0][0] - self._clock()) if self._later else None
