"""Constant load: every request must be answered as expected, whatever is changed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.client import Connection, Response
from tests.support.waiting import PATIENCE

PAUSE = 0.002
"""Between two requests of one connection; the machine has other things to do as well."""


class Load:
    """Threads that ask on connections of their own, kept alive, until the end of the block.

    `ask` sends one request on a connection and raises AssertionError when the answer is wrong.
    """

    def __init__(self, connect: Callable[[], Connection], *asks: Callable[[Connection], None]) -> None:
        self.failures: list[str] = []
        self.answers = 0
        self._connect = connect
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(ask,), name="load") for ask in asks]

    def _run(self, ask: Callable[[Connection], None]) -> None:
        connection = self._connect()
        try:
            while not self._stop.wait(PAUSE):
                try:
                    ask(connection)
                    self.answers += 1
                except (AssertionError, OSError, ValueError) as error:
                    self.failures.append(f"after {self.answers} answers: {error!r}")
                    connection.close()
                    connection = self._connect()
        finally:
            connection.close()

    def during(self, answers: int) -> None:
        """Wait for so many more answers."""
        wanted, deadline = self.answers + answers, time.monotonic() + PATIENCE
        while self.answers < wanted and not self.failures:
            assert time.monotonic() < deadline, "the load is stuck"
            time.sleep(PAUSE)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.during(20)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.during(50)
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            assert not self.failures, f"{len(self.failures)} failed requests: {self.failures[:5]}"


def answers(
    path: str, host: str, status: int = 200, check: Callable[[Response], bool] | None = None
) -> Callable[[Connection], None]:
    """A request that must have this status, and pass the check."""

    def ask(connection: Connection) -> None:
        answer = connection.request(path, host)
        assert answer.status == status, f"{path} of {host}: {answer.status} {answer.body[:100]!r}"
        assert check is None or check(answer), f"{path} of {host}: {answer.headers} {answer.body[:100]!r}"

    return ask
