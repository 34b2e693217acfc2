"""What a second process reads for a command while it loads itself: it changes nothing but the time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from controlplane.cli.ahead import ahead_of
from controlplane.cli.documents import read
from controlplane.sources import ahead
from controlplane.spec.yaml import Loaded
from tests.cli.conftest import GATEWAY, Run
from tests.support.waiting import PATIENCE

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "WORTH_BYTES", 1)
    monkeypatch.setattr(ahead, "_processors", lambda: 2)


def test_files_and_folders_are_read_before_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(text: str) -> Loaded:
        raise AssertionError(f"read here: {text}")

    monkeypatch.setattr(ahead, "load", here)
    for name in ("one.yaml", "specs/two.yaml", "specs/below/three.yml"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(GATEWAY.replace("name: edge", f"name: {file.stem}"))
    paths = [str(tmp_path / "one.yaml"), f"{tmp_path}/specs/"]
    with ahead_of(paths) as early:
        assert early._process is not None
        early._process.wait(PATIENCE)
        found = read(paths, early.load)
    assert [one.ref.name for one in found.objects] == ["one", "three", "two"]
    assert found.diagnostics == []


@pytest.mark.parametrize("command", ["validate", "compile"])
def test_a_command_says_the_same(command: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many documents, most of them broken, among files that cannot be read."""
    specs = tmp_path / "specs"
    for kind in ("bad", "route"):
        shutil.copytree(GOLDEN / kind, specs / kind, ignore=shutil.ignore_patterns("*.out.yaml"))
    (specs / "nowhere.yaml").symlink_to("gone")
    (specs / "binary.yml").write_bytes(b"\xff\xfe")
    said = run(command, "specs", "missing", "specs/bad", "-o", "json", stdin=GATEWAY)
    monkeypatch.setattr(ahead, "_processors", lambda: 1)
    alone = run(command, "specs", "missing", "specs/bad", "-o", "json", stdin=GATEWAY)
    assert (said.returncode, said.stdout) == (alone.returncode, alone.stdout)
    assert said.returncode != 0
    if command == "compile":
        assert said.stderr == alone.stderr
