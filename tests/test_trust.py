"""Who is let in now: what changes on disk while the process runs, and what goes wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane.app import trust as module
from controlplane.app.trust import SLICE, Trust
from controlplane.errors import Diagnostic
from controlplane.pki import denial
from controlplane.pki.authority import Authority, ServerMaterial
from controlplane.pki.configured import ConfiguredKeys
from controlplane.pki.denial import DenyList
from controlplane.xds.nodes import Denied, Node, Peer
from tests.protocol.keys import Authority as ConfiguredAuthority

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Failing:
    """Keys that fail in a way that nobody foresaw."""

    problem = ""

    def __init__(self, keys: Authority) -> None:
        self.keys = keys
        self.broken = False
        self.verified = 0

    def server_credentials_material(self) -> ServerMaterial:
        if self.broken:
            raise RuntimeError("unforeseen")
        return self.keys.server_credentials_material()

    def trusts(self, certificate: bytes, chain: bytes = b"") -> bool:
        self.verified += 1
        if self.broken:
            raise RuntimeError("unforeseen")
        return self.keys.trusts(certificate, chain)


class Rig:
    """A state folder with an authority, and who is let in by it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder
        self.authority = Authority.open(folder, now=lambda: NOW)
        self.keys = Failing(self.authority)
        self.trust = Trust(self.keys, DenyList.open(folder), self.authority.trust_domain, lambda: NOW)

    def fleet(self, *nodes: str) -> dict[str, Peer]:
        """Nodes that are let in."""
        found = {one: Peer(certificate=self.authority.issue_node(one, "edge", {}).certificate) for one in nodes}
        for one in nodes:
            assert self.lets_in(found, one)
        return found

    def lets_in(self, peers: Mapping[str, Peer], node: str) -> bool:
        try:
            return self.trust.identity(Node(node), peers[node]).id == node
        except Denied:
            return False

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


def test_a_rotation_verifies_nobody_again(rig: Rig) -> None:
    peers = rig.fleet("a", "b")
    rig.authority.rotate()
    assert rig.trust.look()
    before = rig.keys.verified
    assert rig.lets_in(peers, "a")
    assert rig.lets_in(peers, "b")
    assert rig.keys.verified == before


def test_a_distrust_is_found_out_in_slices_and_before_the_review(rig: Rig) -> None:
    old = [f"old-{number}" for number in range(3 * SLICE)]
    peers = rig.fleet(*old)
    fingerprint = rig.authority.rotate()
    peers |= rig.fleet("new")
    rig.authority.distrust(fingerprint)
    seen: list[int] = []

    async def body() -> None:
        assert rig.trust.look()
        start = rig.keys.verified
        verifying = asyncio.create_task(rig.trust.verify())
        while not verifying.done():
            await asyncio.sleep(0)
            seen.append(rig.keys.verified - start)

    asyncio.run(body())
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= SLICE
    assert seen[-1] == len(peers)
    before = rig.keys.verified
    assert rig.lets_in(peers, "new")
    assert not any(rig.lets_in(peers, one) for one in old)
    assert rig.keys.verified == before


def test_who_comes_before_it_is_verified_again_is_verified_then(rig: Rig) -> None:
    peers = rig.fleet("old")
    fingerprint = rig.authority.rotate()
    peers |= rig.fleet("new")
    rig.authority.distrust(fingerprint)
    rig.trust.look()
    assert not rig.lets_in(peers, "old")
    assert rig.lets_in(peers, "new")
    asyncio.run(rig.trust.verify())
    assert not rig.lets_in(peers, "old")
    assert rig.lets_in(peers, "new")


def test_who_cannot_be_verified_is_not_let_in(rig: Rig) -> None:
    peers = rig.fleet("a")
    fingerprint = rig.authority.rotate()
    rig.authority.distrust(fingerprint)
    rig.trust.look()
    rig.keys.broken = True
    assert not rig.lets_in(peers, "a")
    assert "unforeseen" in rig.trust.problems[0].message


def test_the_time_of_our_own_certificates_is_seen(tmp_path: Path) -> None:
    """Those that are configured are not renewed here; when they end, every proxy is locked out at its next connection."""
    authority = ConfiguredAuthority()
    pair = authority.issue(lifetime=timedelta(hours=1))
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    now = datetime.now(UTC)
    keys = ConfiguredKeys(*map(tmp_path.joinpath, files), lambda: now)
    trust = Trust(keys, DenyList.open(tmp_path), "example.test", lambda: now)
    assert 3500 < trust.server_seconds_left <= 3600
    assert 86000 < trust.authority_seconds_left <= 86400
    assert trust.problems == []
    now += timedelta(hours=2)
    trust.look()
    (problem,) = trust.problems
    assert "certificate of the xDS server is not within its time" in problem.message
    now += timedelta(days=1)
    assert len(trust.problems) == 2
    renewed = authority.issue(lifetime=timedelta(days=3))
    (tmp_path / "tls.crt").write_bytes(renewed.certificate)
    (tmp_path / "tls.key").write_bytes(renewed.key)
    trust.look()
    assert len(trust.problems) == 1
    assert trust.server_seconds_left > 0
