"""A reflector by itself: what a cluster says at once does not hold up what else the process does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import msgspec
import pytest

from controlplane.sources.kubernetes import reflector
from controlplane.sources.kubernetes.client import Client

OBJECTS = 50


def thing(number: int) -> dict[str, Any]:
    return {"metadata": {"name": f"n{number}", "namespace": "shop", "resourceVersion": str(number + 1)}}


class Cluster:
    """Lists all objects, then tells all of them again in one batch of a watch that stays."""

    async def get(self, *_: Any) -> bytes:
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": list(map(thing, range(OBJECTS)))}).encode()

    async def watch(self, *_: Any) -> AsyncGenerator[list[bytes], None]:
        yield []
        yield [json.dumps({"type": "MODIFIED", "object": thing(number)}).encode() for number in range(OBJECTS)]
        await asyncio.Event().wait()


class Counting:
    """A mirror that notes how many turns the event loop has made at every call."""

    def __init__(self) -> None:
        self.turns = 0
        self.listed: list[int] = []
        self.changes: list[int] = []
        self.flushes = 0
        self.done = asyncio.Event()

    def begin(self) -> None:
        return

    def item(self, _: msgspec.Raw) -> None:
        self.listed.append(self.turns)

    def end(self, version: int, *, rewound: bool) -> None:
        return

    def changed(self, _: msgspec.Raw) -> None:
        self.changes.append(self.turns)

    def deleted(self, _: msgspec.Raw) -> None:
        return

    def flush(self, _: float) -> None:
        self.flushes += 1
        if self.changes:
            self.done.set()


def test_others_have_their_turn_within_a_list_and_within_a_batch_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a batch is flushed once, at its end: how much is gone at once is judged by it."""
    monkeypatch.setattr(reflector, "SLICE_SECONDS", 0.0)

    async def scenario() -> Counting:
        mirror = Counting()

        async def others() -> None:
            while True:
                mirror.turns += 1
                await asyncio.sleep(0)

        one = reflector.Reflector(cast(Client, Cluster()), "/things", mirror, lambda: None, what="things")
        tasks = [asyncio.create_task(one.run()), asyncio.create_task(others())]
        async with asyncio.timeout(20):
            await mirror.done.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return mirror

    mirror = asyncio.run(scenario())
    assert len(set(mirror.listed)) == OBJECTS
    assert len(set(mirror.changes)) == OBJECTS
    assert mirror.flushes == 3, "after the list, when the watch began, and after the batch"
