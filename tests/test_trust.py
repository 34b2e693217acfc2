"""Who is let in now: what changes on disk while the process runs, and what goes wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.app import trust as module
from controlplane.app.trust import Trust
from controlplane.errors import Diagnostic
from controlplane.pki import denial
from controlplane.pki.authority import Authority, ServerMaterial
from controlplane.pki.denial import DenyList

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Failing:
    """Keys that fail in a way that nobody foresaw."""

    problem = ""

    def __init__(self, keys: Authority) -> None:
        self.keys = keys
        self.broken = False

    def server_credentials_material(self) -> ServerMaterial:
        if self.broken:
            raise RuntimeError("unforeseen")
        return self.keys.server_credentials_material()

    def trusts(self, certificate: bytes, chain: bytes = b"") -> bool:
        return self.keys.trusts(certificate, chain)


class Rig:
    """A state folder with an authority, and who is let in by it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder
        self.authority = Authority.open(folder, now=lambda: NOW)
        self.keys = Failing(self.authority)
        self.trust = Trust(self.keys, DenyList.open(folder), self.authority.trust_domain, lambda: NOW)

    def deny(self, node: str) -> None:
        denial.add(self.state, [denial.entry(denial.Kind.NODE, node)], NOW)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    return Rig(tmp_path / "state")


async def watched(rig: Rig, reviews: list[str], looks: int) -> list[list[str]]:
    """What so many looks say; each takes the next of `reviews`: what a review is to fail with."""
    said: list[list[str]] = []
    done = asyncio.Event()

    def changed() -> None:
        if failure := reviews.pop(0):
            raise RuntimeError(failure)

    def say(problems: Sequence[Diagnostic]) -> None:
        said.append([one.message for one in problems])
        if len(said) == looks:
            done.set()

    task = asyncio.create_task(rig.trust.watch(changed, say))
    async with asyncio.timeout(10):
        waiting = asyncio.create_task(done.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task.exception()
    task.cancel()
    return said[:looks]


def test_no_failure_of_a_look_ends_the_watch_and_the_deny_list_is_obeyed(rig: Rig) -> None:
    rig.keys.broken = True
    rig.deny("edge-1")
    reviews = [""]
    said = asyncio.run(watched(rig, reviews, 3))
    assert not reviews
    assert all("unforeseen" in line for (line,) in said)
    rig.keys.broken = False
    assert asyncio.run(watched(rig, [], 1)) == [[]]


def test_a_review_that_fails_is_tried_again(rig: Rig) -> None:
    rig.deny("edge-1")
    reviews = ["unforeseen", ""]
    first, second = asyncio.run(watched(rig, reviews, 2))
    assert not reviews
    assert "unforeseen" in first[0]
    assert not second
