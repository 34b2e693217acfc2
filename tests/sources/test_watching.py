"""Wakes on real folders, by either way of hearing of changes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from controlplane.sources.watching import Changes, Wake, noticed, polled, wakes
from tests.sources.rig import replace_file
from tests.support.waiting import PATIENCE

WAYS = [polled] if noticed is polled else [noticed, polled]
BOTH = pytest.mark.parametrize("changes", WAYS)


class Woken:
    """Everything that woke somebody since the last time he looked."""

    def __init__(self, stream: AsyncGenerator[Wake, None]) -> None:
        self._stream = stream

    async def until(self, holds: Callable[[Wake], bool]) -> Wake:
        async with asyncio.timeout(PATIENCE):
            while not holds(wake := await anext(self._stream)):
                pass
        return wake

    async def path(self, path: str) -> Wake:
        return await self.until(lambda wake: path in wake.paths)


def run(root: Path, changes: Changes, act: Callable[[Woken], Awaitable[None]]) -> None:
    async def main() -> None:
        async with aclosing(wakes(str(root), look_again=0.05, changes=changes)) as stream:
            woken = Woken(stream)
            assert (await anext(stream)).everything
            await act(woken)

    asyncio.run(main())


@BOTH
def test_a_file_that_is_replaced(tmp_path: Path, changes: Changes) -> None:
    async def act(woken: Woken) -> None:
        replace_file(tmp_path / "a.yaml", "one")
        await woken.path("a.yaml")
        replace_file(tmp_path / "a.yaml", "two")
        await woken.path("a.yaml")

    run(tmp_path, changes, act)


@BOTH
def test_a_file_that_is_written_in_place_and_removed(tmp_path: Path, changes: Changes) -> None:
    async def act(woken: Woken) -> None:
        (tmp_path / "a.yaml").write_text("one")
        await woken.path("a.yaml")
        (tmp_path / "a.yaml").unlink()
        await woken.path("a.yaml")

    run(tmp_path, changes, act)


@BOTH
def test_a_file_that_is_written_and_not_closed(tmp_path: Path, changes: Changes) -> None:
    async def act(woken: Woken) -> None:
        with (tmp_path / "a.yaml").open("w") as file:
            file.write("one")
            file.flush()
            await woken.path("a.yaml")

    run(tmp_path, changes, act)


@BOTH
def test_a_folder_that_comes_is_watched(tmp_path: Path, changes: Changes) -> None:
    """Files that were in it when it came are found by looking: the folder itself wakes."""

    async def act(woken: Woken) -> None:
        (tmp_path / "team" / "deep").mkdir(parents=True)
        await woken.path("team")
        while not (tmp_path / "team/deep/a.yaml").exists():
            replace_file(tmp_path / "team/deep/a.yaml", "one")
        await woken.until(lambda wake: bool(wake.paths.keys() & {"team/deep", "team/deep/a.yaml"}))

    run(tmp_path, changes, act)


@BOTH
def test_a_folder_that_is_renamed_is_watched_by_its_new_name(tmp_path: Path, changes: Changes) -> None:
    (tmp_path / "old").mkdir()

    async def act(woken: Woken) -> None:
        (tmp_path / "old").rename(tmp_path / "new")
        await woken.path("new")
        replace_file(tmp_path / "new/a.yaml", "one")
        await woken.path("new/a.yaml")

    run(tmp_path, changes, act)


@BOTH
def test_a_folder_behind_a_symlink(tmp_path: Path, changes: Changes) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    elsewhere.mkdir()
    root.mkdir()
    (root / "link").symlink_to(elsewhere)

    async def act(woken: Woken) -> None:
        replace_file(elsewhere / "a.yaml", "one")
        await woken.path("link/a.yaml")

    run(root, changes, act)


@BOTH
def test_a_generation_that_is_swapped(tmp_path: Path, changes: Changes) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..data").symlink_to("..1")

    async def act(woken: Woken) -> None:
        (tmp_path / "..2").mkdir()
        (tmp_path / "..data.new").symlink_to("..2")
        (tmp_path / "..data.new").rename(tmp_path / "..data")
        shutil.rmtree(tmp_path / "..1")
        await woken.path("..data")

    run(tmp_path, changes, act)


@BOTH
def test_the_watched_folder_is_replaced(tmp_path: Path, changes: Changes) -> None:
    root = tmp_path / "root"
    root.mkdir()

    async def act(woken: Woken) -> None:
        root.rename(tmp_path / "away")
        root.mkdir()
        await woken.until(lambda wake: wake.everything)
        replace_file(root / "a.yaml", "one")
        await woken.until(lambda wake: "a.yaml" in wake.paths or wake.everything)

    run(root, changes, act)


def test_circles_of_symlinks_end(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")

    async def act(woken: Woken) -> None:
        replace_file(tmp_path / "deep/a.yaml", "one")
        await woken.path("deep/a.yaml")

    run(tmp_path, noticed, act)
