"""For how long others wait for what a stream is to be sent of a type: two lanes of each, additions with changes, and removals.

Kept by progress.py, asked by order.py. Time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf


@dataclass(slots=True)
class First:
    """Names that were wanted at a tick, and not again since: the newest content is sent, which may need what came with it."""

    tick: int
    names: set[str]


class Lane:
    """Additions and changes, or removals, of one type: the ticks at which they were wanted, pushed and acked.

    A tick counts what came in on the stream: requests and changes.
    """

    __slots__ = (
        "acked", "answer", "cap", "first", "limit", "pushed", "removal_limit", "since", "until", "wanted", "warming",
    )  # fmt: skip

    def __init__(self) -> None:
        self.wanted = 0
        self.pushed = 0
        self.acked = 0
        self.first: First | None = None  # what was held first: what came later must not keep it waiting
        self.since = self.until = 0  # something that was wanted then was wanted again before it was sent, the last time
        self.answer = False  # what was pushed last is an answer to a first request, which the client had nothing for
        self.cap = inf  # what waits in this lane goes out then, whatever blocks it
        self.limit = inf  # from then on nobody's additions wait for the ACK of what was pushed
        self.removal_limit = inf  # likewise for removals
        self.warming = -inf  # until then what was acknowledged may not be of use yet

    def want(self, tick: int, cap: float) -> None:
        """Something in this lane is to be sent. The cap of what waited already stands."""
        self.wanted = tick
        self.cap = min(self.cap, cap)

    def push(self, tick: int, limit: float, *, answer: bool = False) -> None:
        """All that waited has been sent."""
        self.wanted = self.pushed = tick
        self.answer = answer
        self.cap = inf
        self.limit = self.removal_limit = limit

    def push_part(self, tick: int, limit: float, cap: float) -> None:
        """What waited at this tick has been sent; the rest, which came later, waits until `cap` at most."""
        self.pushed = tick
        self.answer = False
        self.cap = cap
        self.limit = self.removal_limit = limit

    def overtaken(self, waiting: Callable[[], Iterable[str]]) -> First | None:
        """What was held first, when more came since; `waiting` says all that waits now.

        Else a proxy whose ACKs take longer than it is from one change to the next would wait for the bound each time.
        """
        if self.first is None:
            self.first = First(self.wanted, set(waiting()))
        return self.first if self.first.tick != self.wanted else None

    def postpone(self, seconds: float) -> None:
        """All that ends, ends later."""
        self.cap += seconds
        self.limit += seconds
        self.removal_limit += seconds

    def again(self, name: str, tick: int) -> None:
        """This is wanted again, in a newer form: what was wanted with it is not all there before that is."""
        if self.first is not None and name in self.first.names:
            self.first.names.discard(name)
            self._waits_on(self.first.tick, tick)

    def follow(self, other: Lane, tick: int) -> None:
        """What waited in another lane waits in this one now: so does what was held for it there."""
        since = other.acked + 1
        self._waits_on(since if other.acked >= other.until else min(other.since, since), tick)

    def precede(self, tick: int) -> None:
        """What is wanted at this tick goes before all that was wanted until then."""
        self.since, self.until = 0, tick

    def _waits_on(self, since: int, tick: int) -> None:
        self.since = since if self.acked >= self.until else min(self.since, since)
        self.until = tick

    def nothing(self) -> None:
        """What was wanted and not pushed is not wanted any more."""
        self.wanted = self.pushed
        self.cap = inf

    @property
    def answering(self) -> bool:
        """Whether all that is under way is the answer to a first request."""
        return self.answer and self.wanted == self.pushed

    def blocks(self, before: int, now: float) -> float | None:
        """Until when it holds up additions that were wanted at tick `before`; None when it does not."""
        return self._blocks(before, now, self.limit)

    def blocks_removal(self, before: int, now: float) -> float | None:
        """Until when it holds up removals that were wanted at tick `before`; None when it does not."""
        return self._blocks(before, now, self.removal_limit)

    def _blocks(self, before: int, now: float, limit: float) -> float | None:
        if self.since <= before < self.until:
            before = self.until
        if self.acked >= before:
            return self.warming if now < self.warming else None
        if self.wanted > self.pushed:
            return inf
        return limit if self.pushed > self.acked and now < limit else None
