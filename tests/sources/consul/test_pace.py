"""How often anything happens: rates, waits after failures, and the order of what is to be asked."""

import asyncio

import pytest

from controlplane.sources.consul.pace import LONGEST_RETRY_SECONDS, Backoff, Bucket
from controlplane.sources.consul.queue import Ask, Queue
from tests.support.waiting import PATIENCE


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_after_a_second_of_quiet_as_many_as_a_second_has_then_the_rate() -> None:
    clock = Clock()
    bucket = Bucket(10, clock)
    assert [bucket.wait() for _ in range(10)] == [0.0] * 10
    assert [round(bucket.wait(), 3) for _ in range(3)] == [0.1, 0.2, 0.3]
    clock.now += 60
    assert sum(bucket.wait() == 0.0 for _ in range(30)) == 10
    clock.now += 60
    assert sum(bucket.wait(2) == 0.0 for _ in range(30)) == 5


def test_waits_grow_are_spread_and_bounded() -> None:
    backoff = Backoff(spread=lambda low, high: high)
    assert [backoff.failed() for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.failed(after=30.0) == 30.0
    for _ in range(3000):  # hours
        assert backoff.failed() == LONGEST_RETRY_SECONDS
    backoff.worked()
    assert backoff.failed() == 0.1
    assert {Backoff().failed() for _ in range(20)} != {0.1}
    assert all(0.05 <= Backoff().failed() <= LONGEST_RETRY_SECONDS for _ in range(20))


async def taken(queue: Queue) -> tuple[str, Ask]:
    job = await asyncio.wait_for(queue.take(), PATIENCE)
    return job.name, job.ask


async def order() -> None:
    clock = Clock()
    queue = Queue(clock)
    for name in ("a", "b", "c"):
        queue.add(name, Ask.PROBE, clock())
    queue.add("d", Ask.READ, clock())
    queue.add("b", Ask.READ, clock())  # more than was asked
    queue.add("b", Ask.PROBE, clock())  # less: nothing new
    assert [await taken(queue) for _ in range(4)] == [
        ("d", Ask.READ),
        ("b", Ask.READ),
        ("a", Ask.PROBE),
        ("c", Ask.PROBE),
    ]
    queue.add("a", Ask.READ, clock())  # asked again while it is being read
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 0.01)
    queue.done("a")
    assert await taken(queue) == ("a", Ask.READ)


def test_what_changed_comes_before_what_may_have_and_a_name_is_with_one_worker() -> None:
    asyncio.run(order())


async def later() -> None:
    queue = Queue()
    loop = asyncio.get_running_loop()
    queue.add("a", Ask.PROBE, 1.0)
    queue.add("a", Ask.READ, 2.0, loop.time() + 0.05)  # a paced read takes the probe with it
    began = loop.time()
    job = await asyncio.wait_for(queue.take(), PATIENCE)
    assert loop.time() - began >= 0.04
    assert (job.ask, job.at) == (Ask.READ, 2.0)
    queue.done("a")
    queue.add("a", Ask.READ, 3.0, loop.time() + 60)
    queue.add("a", Ask.READ, 4.0, loop.time())  # sooner
    assert (await asyncio.wait_for(queue.take(), PATIENCE)).at == 3.0
    queue.add("b", Ask.READ, 1.0)
    queue.drop("b")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 0.01)


def test_reads_that_are_not_due_wait() -> None:
    asyncio.run(later())


@pytest.mark.parametrize("turns", range(6))
def test_whoever_waits_for_a_job_can_be_ended_when_one_is_due(turns: int) -> None:
    async def scenario() -> None:
        queue = Queue()
        queue.add("later", Ask.READ, 0.0, not_before=1e12)
        worker = asyncio.create_task(queue.take())
        for _ in range(5):
            await asyncio.sleep(0)
        queue.done("other")
        for _ in range(turns):
            await asyncio.sleep(0)
        worker.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert worker.cancelled()

    asyncio.run(scenario())
