"""Who may open a stream now: bounds for one identity, for all, and for how many begin at once.

When a replica goes away, its whole fleet comes to the next one in the same second. First answers are the dear ones:
some are made at a time, the rest wait their turn, and what would wait too long is told to come back
(https://github.com/grpc/grpc/blob/master/doc/statuscodes.md: UNAVAILABLE may be tried again). The server asks; nothing
here knows grpc or a session.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable

from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Ended, Node, Peer, Status


def identity(node: Node, peer: Peer) -> Hashable:
    """Whose streams are counted together: those of one certificate's names, else of one node id."""
    return peer.uris or node.id


class Rate:
    """A token bucket: so many at once, so many a second after that."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._clock = clock
        self._tokens = self._burst
        self._at = clock()

    def take(self) -> bool:
        """Whether one more may begin."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


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


class Admission:
    """Of one server. Every refusal is an `Ended` with a reason that says what to do."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._rate = Rate(limits.openings_burst, limits.openings_per_second, clock)
        self._beginning = asyncio.Semaphore(limits.beginning_streams)
        self._waiting = 0
        self._streams: Counter[Hashable] = Counter()
        self.open = 0
        """Streams that were let in and have not left."""

    def enter(self) -> None:
        """A stream was opened. Raises `Ended` when the server has enough to do."""
        if self.open >= self._limits.streams:
            reason = f"this replica serves {self._limits.streams} streams and takes no more"
            raise Ended(Status.RESOURCE_EXHAUSTED, reason)
        if not self._rate.take():
            raise Ended(Status.UNAVAILABLE, "too many streams are opened at once; try again in a few seconds")
        self.open += 1

    async def turn(self) -> Turn:
        """Wait for a turn to begin, with a first request in hand. Raises `Ended` when that takes too long."""
        limits = self._limits
        if self._waiting >= limits.waiting_streams:
            raise Ended(Status.UNAVAILABLE, "too many streams wait for their first answer; try again in a few seconds")
        self._waiting += 1
        try:
            async with asyncio.timeout(limits.waiting_seconds):
                await self._beginning.acquire()
        except TimeoutError:
            reason = f"no first answer within {limits.waiting_seconds:g} s: too many streams begin at once; try again"
            raise Ended(Status.UNAVAILABLE, reason) from None
        finally:
            self._waiting -= 1
        return Turn(self._beginning.release, limits.beginning_seconds)

    def leave(self) -> None:
        """A stream that entered has ended."""
        self.open -= 1

    def introduce(self, who: Hashable) -> None:
        """A stream has said whose it is. Raises `Ended` when that one has too many."""
        if self._streams[who] >= self._limits.identity_streams:
            reason = f"more than {self._limits.identity_streams} streams of one identity; close some first"
            raise Ended(Status.RESOURCE_EXHAUSTED, reason)
        self._streams[who] += 1

    def forget(self, who: Hashable) -> None:
        """A stream that was introduced has ended."""
        self._streams[who] -= 1
        if not self._streams[who]:
            del self._streams[who]
