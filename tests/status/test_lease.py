"""Who writes, on a clock of its own: a lease that could not be renewed in time is told of, though it is ours again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from controlplane.status.lease import LASTS_SECONDS, Lease
from tests.support.waiting import PATIENCE


class SlowCluster:
    """Takes its time for everything, and has nothing but a lease."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.lease: dict[str, Any] = {"metadata": {}, "spec": {}}

    async def get(self, *_: Any) -> bytes:
        self.now += self.seconds
        return json.dumps(self.lease).encode()

    async def send(self, _: str, __: str, body: bytes, *___: Any) -> bytes:
        self.now += self.seconds
        self.lease = json.loads(body)
        return body


@pytest.mark.parametrize(("seconds", "told"), [(LASTS_SECONDS / 10, 1), (LASTS_SECONDS * 0.4, 4)])
def test_a_lease_that_lapses_while_it_is_renewed_is_told_of_each_time(
    seconds: float, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was due in that moment was not written: it is for who is told to look again."""
    monkeypatch.setattr("controlplane.status.lease.RENEW_SECONDS", 0.0)
    cluster, changes = SlowCluster(seconds), list[bool]()

    async def scenario() -> None:
        lease = Lease(
            cluster,  # type: ignore[arg-type]  # what it asks of a client
            "controlplane", "status", "me", lambda: changes.append(lease.holds), lambda _: None, lambda: cluster.now,
        )  # fmt: skip
        running = asyncio.create_task(lease.run())
        while cluster.now < 4 * 2 * seconds:  # noqa: ASYNC110  four tries
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert changes[:told] == [True] * told
    assert len(changes) == 1 or told > 1


def test_a_holder_is_given_its_whole_time_though_the_answer_took_long() -> None:
    """It renewed while we were asking: counted from the question, it would be one of two that write."""
    cluster = SlowCluster(7.0)
    other = {"holderIdentity": "other", "leaseDurationSeconds": LASTS_SECONDS, "renewTime": "renewed while asked"}
    cluster.lease = {"metadata": {}, "spec": other}

    async def holds_at(lease: Lease, asked: float) -> bool:
        cluster.now = asked
        await lease._try(asked)
        return lease.holds

    async def scenario() -> None:
        lease = Lease(
            cluster,  # type: ignore[arg-type]  # what it asks of a client
            "controlplane", "status", "me", lambda: None, lambda _: None, lambda: cluster.now,
        )  # fmt: skip
        assert not await holds_at(lease, 0.0)  # the other one has begun to renew at 6: until 21 it writes
        assert not await holds_at(lease, LASTS_SECONDS + 0.1)
        cluster.seconds = 0.1
        assert await holds_at(lease, LASTS_SECONDS + 7.1)
        cluster.now = 2 * LASTS_SECONDS + 7.1
        assert not lease.holds  # the time that is ours counts from the question

    asyncio.run(scenario())


class Kept(SlowCluster):
    """Of a cluster with a clock that waits drive on: what is slept has passed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(0.0)
        self.turns: list[float] = []
        """When somebody else began to write."""
        sleep = asyncio.sleep

        async def passes(seconds: float) -> None:
            self.now += seconds
            await sleep(0)

        monkeypatch.setattr("controlplane.status.lease.asyncio.sleep", passes)

    def wants(self, identity: str, failed: Callable[[str | None], None] = lambda _: None) -> Lease:
        return Lease(
            self,  # type: ignore[arg-type]  # what it asks of a client
            "controlplane", "status", identity, lambda: self.turns.append(self.now), failed, lambda: self.now,
        )  # fmt: skip


async def run_until(lease: Lease, done: Callable[[], object]) -> None:
    running = asyncio.create_task(lease.run())
    async with asyncio.timeout(PATIENCE):
        while not done():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def held_by(holder: str, lasts: int = LASTS_SECONDS) -> dict[str, Any]:
    return {"metadata": {}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": lasts, "renewTime": "then"}}


def test_who_waits_takes_over_in_the_moment_in_which_the_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the try after that, which would be 3 s later."""
    cluster = Kept(monkeypatch)
    cluster.lease = held_by("fleet/other", lasts=12)
    asyncio.run(run_until(cluster.wants("fleet/me"), lambda: cluster.turns))
    assert cluster.turns[0] == 12


@pytest.mark.parametrize(("holder", "told"), [("other/it/1", True), ("somebody", True), ("fleet/b/2", False)])
def test_a_holder_that_is_no_replica_of_this_fleet_is_told_of(
    holder: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes what it reads itself, and nobody what this fleet reads."""
    cluster, said = Kept(monkeypatch), list[str | None]()
    cluster.lease = held_by(holder, lasts=10_000)
    asyncio.run(run_until(cluster.wants("fleet/a/1", said.append), lambda: said))
    assert bool(said[0]) == told
    assert not told or holder in str(said[0])


def test_a_connection_that_died_in_silence_does_not_outlast_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.status.lease.ANSWER_SECONDS", 0.05)
    silent, said = asyncio.Event(), list[str | None]()

    class Silent(SlowCluster):
        """Answers nothing the first time."""

        async def get(self, *asked: Any) -> bytes:
            if not silent.is_set():
                silent.set()
                await asyncio.Event().wait()
            return await super().get(*asked)

    cluster = Silent(0.0)
    monkeypatch.setattr("controlplane.status.lease.RENEW_SECONDS", 0.0)
    lease = Lease(
        cluster,  # type: ignore[arg-type]  # what it asks of a client
        "controlplane", "status", "me", lambda: None, said.append, lambda: cluster.now,
    )  # fmt: skip
    asyncio.run(run_until(lease, lambda: lease.holds))
    assert "no answer" in str(said[0])
