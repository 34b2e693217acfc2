"""What the next process finds of a commit: an edit and what it leaves to proxies, or neither."""

from __future__ import annotations

from pathlib import Path

from controlplane.app.memory import Memory
from controlplane.names import ObjectRef
from controlplane.sources.base import SpecObject
from controlplane.state.content import Note

REF = ObjectRef("files", "GatewaySpec", "platform", "edge")
NOTE = Note("draining chain", "of the edge")


def test_an_edit_is_on_disk_once_it_is_committed_with_what_it_leaves_behind(tmp_path: Path) -> None:
    """A slow commit is under way while the disk is written for another one."""
    memory = Memory.open(tmp_path, None)
    memory.keep(SpecObject(REF, {}, "text", "edge.yaml", 1))
    memory.close()
    memory = Memory.open(tmp_path, None)
    assert not memory.texts
    memory.keep(SpecObject(REF, {}, "text", "edge.yaml", 1))
    memory.committed()
    memory.note(NOTE, b"left behind")
    memory.close()
    memory = Memory.open(tmp_path, None)
    memory.close()
    assert memory.texts == {REF: "text"}
    assert memory.notes == {NOTE: b"left behind"}
