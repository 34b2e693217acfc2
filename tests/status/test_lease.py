"""Who writes, on a clock of its own: a lease that could not be renewed in time is told of, though it is ours again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from controlplane.status.lease import LASTS_SECONDS, Lease


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
        await lease._try()
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
