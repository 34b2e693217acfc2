"""The process as a whole: what goes wrong in it ends it, and is never waited for without a word."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from controlplane.app import process
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
