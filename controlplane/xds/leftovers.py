"""Memory that large messages and ended streams leave behind, given back when it is quiet again. Used by the server only.

First answers and the requests of those who come back are megabytes; a fleet that connects at once passes hundreds of
them, and handshakes and buffers leave pieces of all sizes. glibc keeps these, and would show them as used for ever; with
another C library there is nothing to do. grpc leaves a cycle behind as soon as a call begins, and so little else is garbage
here that the collector would look for it once in some minutes, and keep thousands.

glibc gives each thread a heap of its own, up to eight for each core, and a message is often freed by another thread than
the one that read it: each heap grows to what it held at most, at some time. Two hold 5 % less, and cost nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from functools import partial

LARGE_BYTES = 1 << 14
"""Of a message that counts; most have some hundred."""
WORTH_BYTES = 8 << 20
"""Passed since the last time, before it is worth looking through the heap again. (With four times the size of a message and
eight times this, 300 streams of 1,000 names that come back keep 100 kB each, and 36 so.)"""
QUIET_SECONDS = 1.0
"""Without a large message: while they pass, their memory is used again at once."""
ENDED_STREAMS = 200
"""After which what as many that began left behind is collected, and memory is given back. It is young, and only the young
is looked at: a millisecond or two."""

ENDED_WHILE_OLD = 10 * ENDED_STREAMS
"""After which everything is looked at, for what outlives such a look: without it memory grew in half an hour. What was loaded
before the start is frozen and not looked at: 10 ms for some hundred streams."""


_M_ARENA_MAX, _ARENAS = -8, 2
"""Of malloc.h, and how many heaps there are to be."""


def _tamed_heap() -> Callable[[], object] | None:
    """Have few heaps; what gives their memory back, or None where there is no glibc."""
    try:
        libc = ctypes.CDLL(None)
        trim = partial(libc.malloc_trim, 0)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
    except (OSError, AttributeError, TypeError):
        return None  # no glibc
    return trim


class Leftovers:
    """Of one server."""

    def __init__(self, trim: Callable[[], object] | None = None) -> None:
        self._trim = trim or _tamed_heap()
        self._passed = 0
        self._ended = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def due(self) -> bool:
        """Whether memory will be given back when it is quiet."""
        return self._timer is not None

    def passed(self, size: int) -> None:
        """A large message was read or written."""
        self._passed += size
        if self._passed >= WORTH_BYTES:
            self._trim_soon()

    def ended(self) -> None:
        """A stream has ended."""
        self._ended += 1
        if self._ended % ENDED_STREAMS == 0:
            gc.collect(2 if self._ended % ENDED_WHILE_OLD == 0 else 1)
            self._trim_soon()

    def close(self) -> None:
        """Nothing is given back any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _trim_soon(self) -> None:
        if self._trim is not None:
            self.close()
            self._timer = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._give_back, self._trim)

    def _give_back(self, trim: Callable[[], object]) -> None:
        self._passed, self._timer = 0, None
        asyncio.get_running_loop().run_in_executor(None, trim)  # 10 ms or more, without the interpreter's lock
