"""What large messages leave behind is given back once they have passed, and nothing is done for small traffic."""

from __future__ import annotations

import asyncio
import gc
import weakref

from controlplane.xds.leftovers import ENDED_STREAMS, WORTH_BYTES, Leftovers
from tests.protocol.rig import PATIENCE, run


def test_memory_is_given_back_after_a_crowd() -> None:
    async def test() -> None:
        loop, trimmed = asyncio.get_running_loop(), asyncio.Event()
        leftovers = Leftovers(lambda: loop.call_soon_threadsafe(trimmed.set))
        for _ in range(8):
            leftovers.passed(WORTH_BYTES // 4)
        async with asyncio.timeout(PATIENCE):
            await trimmed.wait()
        assert not leftovers.due

    run(test)


def test_it_is_not_worth_the_work_after_a_few_and_not_done_by_a_server_that_stops() -> None:
    async def test() -> None:
        leftovers = Leftovers(lambda: None)
        leftovers.passed(WORTH_BYTES - 1)
        assert not leftovers.due
        leftovers.passed(1)
        assert leftovers.due
        leftovers.close()
        assert not leftovers.due

    run(test)


def test_what_ended_streams_leave_in_cycles_is_collected_and_given_back() -> None:
    class Call:
        """Refers to itself, as grpc's do."""

        def __init__(self) -> None:
            self.itself = self

    async def test() -> None:
        leftovers = Leftovers(lambda: None)
        calls = []
        for _ in range(ENDED_STREAMS):
            assert not leftovers.due
            calls.append(weakref.ref(Call()))
            assert calls[-1]() is not None
            leftovers.ended()
        assert [call for call in calls if call() is not None] == []
        assert leftovers.due
        leftovers.close()

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()
