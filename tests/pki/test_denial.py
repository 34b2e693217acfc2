"""The deny list: what people write in it, what is in force while it is damaged, and whom it denies."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.errors import ConfigurationError
from controlplane.pki.denial import FILE, DenyList, Kind, add, entry, lift, listed, parse
from controlplane.pki.identity import Identity

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def who(node: str = "edge-1", serial: str = "3fa1") -> Identity:
    return Identity(node, "edge", {}, NOW, serial)


def test_a_list_names_nodes_and_serials() -> None:
    text = "# who\n\nnode edge-1   stolen, twice\nserial 3F:A1\nserial 0x003fa2"
    found = parse(text, Path("denied"))
    assert [(one.kind, one.name, one.remark) for one in found] == [
        (Kind.NODE, "edge-1", "stolen, twice"),
        (Kind.SERIAL, "3fa1", ""),
        (Kind.SERIAL, "3fa2", ""),
    ]


@pytest.mark.parametrize("line", ["node", "edge-1", "nodes edge-1", "serial xyz", "node a/b", "serial 0", "node ."])
def test_a_line_that_is_no_entry_is_named(line: str) -> None:
    with pytest.raises(ConfigurationError, match="denied:2: "):
        parse(f"node edge-1\n{line}\n", Path("denied"))


def test_denying_and_lifting_leave_the_rest_of_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("# ours\nnode edge-0  old\n")
    wanted = [entry(Kind.NODE, "edge-1", "stolen\nnode edge-9"), entry(Kind.SERIAL, "AB")]
    assert len(add(tmp_path, wanted, NOW)) == 2
    assert add(tmp_path, wanted, NOW) == []
    assert (tmp_path / FILE).read_text() == (
        "# ours\nnode edge-0  old\nnode edge-1    stolen node edge-9 2030-01-01T00:00:00Z\n"
        "serial ab    2030-01-01T00:00:00Z\n"
    )
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [one.name for one in lift(tmp_path, wanted)] == ["edge-1", "ab"]
    assert (tmp_path / FILE).read_text() == "# ours\nnode edge-0  old\n"
    assert [one.name for one in listed(tmp_path)] == ["edge-0"]


def test_a_running_process_sees_every_change(tmp_path: Path) -> None:
    denied = DenyList.open(tmp_path)
    assert not denied.denies(who())
    assert not denied.look()
    add(tmp_path, [entry(Kind.NODE, "edge-1")], NOW)
    assert denied.look()
    assert denied.denies(who())
    assert not denied.denies(who("edge-2"))
    assert not denied.look()
    add(tmp_path, [entry(Kind.SERIAL, "3fa1")], NOW)
    assert denied.look()
    assert denied.denies(who("edge-2"))
    lift(tmp_path, [entry(Kind.NODE, "edge-1"), entry(Kind.SERIAL, "3fa1")])
    assert denied.look()
    assert not denied.denies(who())


def test_while_a_list_is_damaged_or_gone_nobody_is_let_in_again(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text("node edge-1\n")
    denied = DenyList.open(tmp_path)
    file.write_text("nod edge-1\nnode edge-2\n")
    assert denied.look()
    assert denied.denies(who())
    assert denied.denies(who("edge-2"))
    assert denied.problem.startswith(f"{file}:1: ")
    assert not denied.look()
    assert denied.problem
    file.write_text("node edge-2\n")
    assert denied.look()
    assert not denied.problem
    assert not denied.denies(who())
    file.unlink()
    assert not denied.look()
    assert denied.denies(who("edge-2"))
    assert "gone" in denied.problem


def test_another_list_must_be_there_and_readable(tmp_path: Path) -> None:
    other = tmp_path / "shared"
    with pytest.raises(ConfigurationError, match="no such deny list"):
        DenyList.open(tmp_path, other)
    other.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="shared"):
        DenyList.open(tmp_path, other)
    other.write_text("node edge-3\n")
    assert DenyList.open(tmp_path, other).denies(who("edge-3"))
    os.truncate(other, (8 << 20) + 1)
    with pytest.raises(ConfigurationError, match="8 MiB"):
        DenyList.open(tmp_path, other)
