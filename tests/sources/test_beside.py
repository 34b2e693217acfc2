"""Questions that are asked beside the event loop: what they cost, and what one without an answer stops."""

from __future__ import annotations

import asyncio
import threading

import pytest

from controlplane.sources import beside
from controlplane.sources.beside import Beside
from tests.support.waiting import PATIENCE, until


def test_questions_that_follow_each_other_have_one_thread() -> None:
    async def scenario() -> None:
        one = Beside()
        assert len({await one.ask(threading.get_ident) for _ in range(10)}) == 1

    asyncio.run(scenario())


def test_a_thread_that_is_asked_nothing_ends_and_the_next_question_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "IDLE_SECONDS", 0.01)

    async def scenario() -> None:
        one = Beside()
        first = await one.ask(threading.current_thread)
        until(lambda: not first.is_alive(), "it ends")
        assert await one.ask(threading.current_thread) is not first

    asyncio.run(scenario())


def test_one_without_an_answer_is_a_failure_until_it_is_answered() -> None:
    async def scenario() -> None:
        one, answered = Beside(0.05), threading.Event()
        for _ in range(2):
            with pytest.raises(OSError, match="has not answered"):
                await one.ask(answered.wait)
        answered.set()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert await one.ask(int, "7") == 7
                    break
                except OSError:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())
