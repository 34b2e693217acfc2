"""The writer of statuses, without a cluster: whatever comes of one object, the others are written and it goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.names import ObjectRef
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.client import Client
from controlplane.sources.kubernetes.specs import Seen
from controlplane.status.standing import Proxies, Standing
from controlplane.status.writer import Writer

A, B = (ObjectRef("kubernetes/test", "RouteSpec", "shop", name) for name in "ab")


class Cluster:
    def seen(self, ref: ObjectRef) -> Seen:
        return Seen(ref.name, 1, msgspec.Raw(b"{}"))

    def refs(self) -> list[ObjectRef]:
        return [A, B]


@pytest.mark.parametrize("error", [AttributeError("'NoneType' object has no attribute 'getall'"), KeyError("spec")])
def test_an_error_that_nobody_thought_of_ends_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in an HTTP library, in what one cluster says, must not end what serves every proxy."""
    written: list[str] = []
    reasons: list[str | None] = []

    async def send(_: Client, method: str, path: str, *more: Any) -> bytes:
        if method == "PATCH" and path.endswith("/a/status") and not written:
            raise error
        written.append(path)
        return b"{}"

    async def get(*_: Any) -> bytes:
        if not asked:
            asked.append(None)
            raise error
        return b'{"metadata": {}, "spec": {}}'

    asked: list[None] = []
    monkeypatch.setattr(Client, "send", send)
    monkeypatch.setattr(Client, "get", get)
    monkeypatch.setattr("controlplane.status.lease.RENEW_SECONDS", 0.01)
    monkeypatch.setattr("controlplane.status.writer.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("controlplane.status.writer.GATHER_SECONDS", 0.01)

    async def scenario() -> None:
        writer = Writer(
            Access(tmp_path / "kubeconfig"),
            Cluster(),
            lambda *_: Standing(1, (), Proxies()),
            reasons.append,
            namespace="controlplane",
            identity="me",
        )
        running = asyncio.create_task(writer.run())
        async with asyncio.timeout(20):
            while writer.writes < 2:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.005)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert {path.split("/")[-2] for path in written if path.endswith("/status")} == {"a", "b"}
    assert any(reason and type(error).__name__ in reason for reason in reasons)
