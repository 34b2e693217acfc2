"""When what came may be committed: at once after quiet; in a storm when it pauses, at the latest after a while.

Both lanes keep it. Quiet is the time since the change before, not since the end of its commit: a change that comes well
apart from others waits for none of them. Pure: times are given, in seconds of one clock.
"""

from __future__ import annotations

import math


class Pace:
    """The pace of one lane: `quiet` makes a pause, and nothing waits longer than `longest`."""

    __slots__ = ("_began", "_latest", "_longest", "_quiet", "_storm", "_waits")

    def __init__(self, quiet: float, longest: float) -> None:
        """Nothing waits."""
        self._quiet = quiet
        self._longest = longest
        self._began = 0.0
        self._latest = -math.inf
        self._storm = False
        self._waits = False

    def came(self, now: float) -> None:
        """A batch of changes is there."""
        if not self._waits:
            self._waits, self._began, self._storm = True, now, now - self._latest < self._quiet
        self._latest = now

    def due(self) -> float:
        """When what waits is to be committed, as far as is known."""
        return min(self._latest + self._quiet, self._began + self._longest) if self._storm else self._began

    def taken(self) -> None:
        """What waits is committed now."""
        self._waits = False
