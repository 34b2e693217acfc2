"""The process as a whole: what goes wrong in it ends it, and is never waited for without a word."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.app import process
from controlplane.app.look import Running
from controlplane.app.source_status import Hearing, at_start
from controlplane.config import Configuration


def configuration(folder: Path) -> Configuration:
    (folder / "specs").mkdir()
    written: dict[str, Any] = {
        "sources": {"files": [{"path": str(folder / "specs")}]},
        "state": {"path": str(folder / "state")},
        "xds": {"listen": "127.0.0.1:0", "insecure": True},
        "admin": {"listen": "127.0.0.1:0"},
    }
    return Configuration.model_validate(written)


def test_a_start_that_goes_wrong_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would never become ready, and nobody would know why: whoever restarts it cannot see that it hangs."""

    async def wrong(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(process, "first_commit", wrong)

    async def run() -> None:
        await process.ControlPlane(configuration(tmp_path)).run()

    with pytest.raises(RuntimeError, match="unforeseen"):
        asyncio.run(asyncio.wait_for(run(), 60))


def test_ready_says_of_which_source_it_serves_what_was_before() -> None:
    """One that hangs has not failed; what is served of it is as old."""
    sources = at_start(["files", "kubernetes/eu", "secrets"], {}, 100.0, 100.0)
    fleet = SimpleNamespace(ready=False, draining=False)
    parts: dict[str, Any] = {part.name: None for part in fields(Running) if part.init}
    parts |= {"intake": SimpleNamespace(sources=sources), "fleet": fleet, "clock": lambda: 0.0}
    running = Running(**parts)
    sources["files"].has_synced(100.0)
    sources["secrets"].has_failed("no such folder", 100.0)
    waits = "kubernetes/eu (it has not answered yet), secrets (no such folder)"
    assert running.ready() == (False, f"not ready: waiting for {waits}")
    fleet.ready = True
    assert running.ready() == (True, f"ready; serving the last known good state of: {waits}")
    sources["kubernetes/eu"].has_synced(100.0)
    sources["secrets"].has_synced(100.0)
    assert running.ready() == (True, "ready")


def test_nothing_is_given_up_before_sources_had_the_time_to_speak() -> None:
    """At the start, and after this process stood still: they may be back, and what they said waits to be read."""
    hearing = Hearing(100.0)
    assert [at for at in range(101, 120) if hearing.look(float(at))] == [115, 116, 117, 118, 119]
    assert not hearing.look(200.0)
    assert [at for at in range(201, 220) if hearing.look(float(at))] == [215, 216, 217, 218, 219]


def test_ages_are_looked_at_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that was lost for longer than its endpoints are kept, all of it while this process was not there."""
    looks, judged = iter([False, False, True]), asyncio.Event()
    left: list[bool] = []

    class Looked(Hearing):
        def look(self, now: float) -> bool:
            left.append(next(looks, True))
            return left[-1]

    def stale(*_: object) -> frozenset[Any]:
        judged.set()
        return frozenset()

    monkeypatch.setattr(process, "Hearing", Looked)
    monkeypatch.setattr(process, "stale", stale)
    monkeypatch.setattr(process, "AGE_SECONDS", 0.0)

    async def run() -> None:
        ages = asyncio.create_task(process.ControlPlane(configuration(tmp_path))._watch_ages())
        await asyncio.wait_for(judged.wait(), 60)
        ages.cancel()

    asyncio.run(run())
    assert left[:3] == [False, False, True]
