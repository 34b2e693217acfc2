"""Whose first answer is made next: some at a time, the rest wait, and no identity takes the turns of the others.

A first answer may be large, and its peer slow, or in no hurry to read it. So an identity has at most a share of the
turns, and those that wait are served in a round: each identity once, then the next stream of each.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable

from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Ended, Status

_SHARES = 4
"""Identities that must hold up their answers together before another one waits for them."""


class Turn:
    """The right to be among those that begin; given back once, and at the latest after a bound."""

    __slots__ = ("_give_back", "_timer")

    def __init__(self, give_back: Callable[[], None], seconds: float) -> None:
        self._give_back: Callable[[], None] | None = give_back
        # A slow reader of a large first answer must not keep the others out.
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        """The first answer is out, or the stream has ended."""
        self._timer.cancel()
        if (give_back := self._give_back) is not None:
            self._give_back = None
            give_back()


class Turns:
    """Of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = limits.beginning_streams
        self._share = max(1, limits.beginning_streams // _SHARES)
        self._taken: Counter[Hashable] = Counter()
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        """Who waits, by identity; first the one whose turn is next."""
        self._waiting = 0

    async def take(self, who: Hashable) -> Turn:
        """Wait for a turn of this identity. Raises `Ended` when that takes too long."""
        if self._free and self._taken[who] < self._share:  # who waits is of those that have their share
            self._grant(who)
        else:
            await self._wait(who)
        return Turn(lambda: self._give_back(who), self._limits.beginning_seconds)

    async def _wait(self, who: Hashable) -> None:
        limits = self._limits
        if self._waiting >= limits.waiting_streams:
            raise Ended(Status.UNAVAILABLE, "too many streams wait for their first answer; try again in a few seconds")
        self._waiting += 1
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(who, deque()).append(granted)
        try:
            async with asyncio.timeout(limits.waiting_seconds):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():  # at the same moment
                self._give_back(who)
            if not isinstance(error, TimeoutError):
                raise
            reason = f"no first answer within {limits.waiting_seconds:g} s: too many streams begin at once; try again"
            raise Ended(Status.UNAVAILABLE, reason) from None
        finally:
            self._waiting -= 1

    def _grant(self, who: Hashable) -> None:
        self._free -= 1
        self._taken[who] += 1

    def _give_back(self, who: Hashable) -> None:
        self._free += 1
        self._taken[who] -= 1
        if not self._taken[who]:
            del self._taken[who]
        while self._free and self._next():
            pass

    def _next(self) -> bool:
        """Give a turn to the first identity in the round that has not its share yet; those that have are few."""
        who = next((each for each in self._queues if self._taken[each] < self._share), None)
        if who is None:
            return False
        queue = self._queues[who]
        granted = queue.popleft()
        waits = not granted.done()  # who did not wait that long is gone
        if not queue:
            del self._queues[who]
        elif waits:
            self._queues.move_to_end(who)
        if waits:
            self._grant(who)
            granted.set_result(None)
        return True
