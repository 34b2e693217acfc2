"""Asking a file system that may never answer, as one of a server on the network does whose server is gone.

The event loop must not stand still for it, nor the end of the process: questions have a thread that nobody waits for. It is
kept for a while, since most come every second or two, and a new thread costs more than what is asked.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import ParamSpec, TypeVar

ANSWER_SECONDS = 10.0
"""How long an answer may take. A busy disk takes a second now and then."""
IDLE_SECONDS = 5.0
"""After which a thread ends that is asked nothing more."""
LOOKS = 6
"""How much longer it may take to look at all that is in a folder."""

P = ParamSpec("P")
T = TypeVar("T")


class Beside:
    """Questions about one folder, one at a time."""

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        """An answer must come within so many seconds."""
        self._seconds = seconds
        self._open: asyncio.Future[None] | None = None  # of a question without an answer
        self._until = 0.0  # when it is to be answered
        self._lock = Lock()
        self._questions: SimpleQueue[Callable[[], None]] | None = None  # of the thread that waits for more

    async def ask(self, question: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """What the function returns or raises. Raises OSError as well when it takes too long, or an earlier one still does."""
        if self._open is not None:
            await self._wait(self._open)
        loop = asyncio.get_running_loop()
        answer: list[T] = []
        failure: list[Exception] = []
        done = self._open = loop.create_future()
        self._until = loop.time() + self._seconds

        def ended() -> None:
            if not done.done():
                done.set_result(None)

        def look() -> None:
            try:
                answer.append(question(*args, **more))
            except Exception as error:  # noqa: BLE001  it is for the one who asks
                failure.append(error)
            try:
                loop.call_soon_threadsafe(ended)
            except RuntimeError:  # the loop has ended meanwhile
                return

        self._have_done(look)
        await self._wait(done)
        if failure:
            raise failure[0]
        return answer[0]

    def _have_done(self, look: Callable[[], None]) -> None:
        with self._lock:
            if self._questions is None:
                self._questions = SimpleQueue()
                Thread(target=self._work, args=(self._questions,), name="beside", daemon=True).start()
            self._questions.put(look)

    def _work(self, questions: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            try:
                look = questions.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if questions.empty():
                        self._questions = None
                        return
                continue
            look()
            del look  # it holds the answer

    async def _wait(self, answer: asyncio.Future[None]) -> None:
        left = self._until - asyncio.get_running_loop().time()
        await asyncio.wait({answer}, timeout=max(0.0, left))
        if not answer.done():
            raise OSError(errno.ETIMEDOUT, f"the file system has not answered for {self._seconds:g} s")
        self._open = None
