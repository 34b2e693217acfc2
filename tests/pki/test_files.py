"""Whose the files are: those of the user that runs the server, whoever writes them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.pki import denial, files
from controlplane.pki.authority import Authority

SERVER = 1234

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def denied() -> list[denial.Entry]:
    return [denial.entry(denial.Kind.NODE, "edge-1")]


def owners(state: Path) -> set[int]:
    return {path.stat().st_uid for path in state.rglob("*")}


def of_the_server(state: Path) -> None:
    for path in (state, *state.rglob("*")):
        os.chown(path, SERVER, SERVER)


@as_root
def test_what_root_writes_is_the_servers(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    of_the_server(tmp_path)
    authority.rotate()  # makes the folder of the server's certificate too
    denial.add(tmp_path, denied(), datetime(2030, 1, 1, tzinfo=UTC))
    assert owners(tmp_path) == {SERVER}
    (tmp_path / "ca" / "ca.key").touch()
    os.chown(tmp_path / "ca" / "ca.key", 0, 0)
    authority.rotate()
    denial.lift(tmp_path, denied())
    assert owners(tmp_path) == {SERVER}


@as_root
def test_an_authority_that_root_makes_is_of_the_owner_of_the_state_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, SERVER, SERVER)
    Authority.open(tmp_path)
    assert owners(tmp_path) == {SERVER}


@as_root
def test_in_a_folder_of_root_it_is_whose_the_authority_or_the_file_was(tmp_path: Path) -> None:
    Authority.open(tmp_path)
    of_the_server(tmp_path)
    os.chown(tmp_path, 0, 0)  # a volume
    denial.add(tmp_path, denied(), datetime(2030, 1, 1, tzinfo=UTC))
    assert owners(tmp_path) == {SERVER}
    (tmp_path / "volume").mkdir()
    alone = tmp_path / "volume" / "folder" / "denied"
    files.replace(alone, b"")
    assert alone.stat().st_uid == 0
    os.chown(alone, SERVER, SERVER)
    files.replace(alone, b"again")
    assert alone.stat().st_uid == SERVER


def test_who_is_neither_root_nor_the_server_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.open(tmp_path)
    authority.server_certificate([])
    if os.geteuid() == 0:
        of_the_server(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = (tmp_path / "ca").stat().st_uid + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(PermissionError, match="could not read it; run this as that user or as root"):
        authority.rotate()
    with pytest.raises(PermissionError, match="could not read it"):
        denial.add(tmp_path, denied(), datetime(2030, 1, 1, tzinfo=UTC))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@as_root
def test_a_server_that_is_not_the_owner_of_its_folder_writes_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that somebody made for it, open to all."""
    os.chown(tmp_path, 1000, 1000)
    (tmp_path / "state.sqlite").touch()
    os.chown(tmp_path / "state.sqlite", SERVER, SERVER)
    monkeypatch.setattr(os, "geteuid", lambda: SERVER)
    denial.add(tmp_path, denied(), datetime(2030, 1, 1, tzinfo=UTC))
    assert [one.name for one in denial.listed(tmp_path)] == ["edge-1"]
