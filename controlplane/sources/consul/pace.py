"""How often anything may happen: a rate of requests, and waits between attempts. Clocks come from outside."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

SHORTEST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 5.0
"""Within ten seconds of its recovery a source is heard again (faults F35 to F41)."""


def retry_after(times: int) -> float:
    """The longest wait after so many earlier failures: doubled each time, up to a bound."""
    return min(SHORTEST_RETRY_SECONDS * 2.0 ** min(times, 16), LONGEST_RETRY_SECONDS)


class Bucket:
    """At most `rate` a second on average, and as many at once after a second of quiet."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = clock() - 1.0

    def wait(self, count: int = 1) -> float:
        """Take so many; the seconds to wait before using them."""
        now = self._clock()
        self._free_at = max(self._free_at, now - 1.0) + count / self._rate
        return max(0.0, self._free_at - now)

    async def take(self, count: int = 1) -> None:
        """Take so many, and wait for them."""
        if seconds := self.wait(count):
            await asyncio.sleep(seconds)


class Backoff:
    """The waits after failures in a row: doubled each time, and spread, so that many sources do not return at once."""

    def __init__(self, spread: Callable[[float, float], float] = random.uniform) -> None:
        self._spread = spread
        self._failures = 0

    def failed(self, after: float = 0.0) -> float:
        """Seconds to wait now, `after` at least."""
        longest = retry_after(self._failures)
        self._failures += 1
        return max(after, self._spread(longest / 2, longest))

    @property
    def failures(self) -> int:
        """How many failures there were in a row."""
        return self._failures

    def worked(self) -> None:
        """The next failure is the first one again."""
        self._failures = 0
