"""A folder that two processes use, and a file that somebody takes away while it is in use: nothing is lost in silence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controlplane.state.content import StateChanges
from controlplane.state.store import State
from tests.state.kept import fill, objects, ref, secret, secret_ref, stored
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

# -- two processes ----------------------------------------------------------------------------------------------------


def test_the_second_reads_says_who_has_it_and_keeps_its_changes_for_later(tmp_path: Path) -> None:
    documents, secrets = fill(tmp_path)
    first = State.open(tmp_path)
    first.load()
    first.write(objects(first="1"))
    assert first.flush(PATIENCE)
    second = State.open(tmp_path, retry_after=0.01)
    loaded = second.load()
    assert loaded.objects == documents | {ref("first"): stored("1")}
    assert loaded.secrets == secrets
    (problem,) = loaded.problems
    assert f"another process writes it (pid {os.getpid()} on " in problem
    assert "give each a folder of its own (--state)" in problem
    second.write(objects(second="2", first="2"))
    assert not second.flush(PATIENCE)
    assert "another process writes it" in (second.status().degraded or "")
    assert second.status().pending == 2
    first.write(objects(first="3", later="3"))
    assert first.flush(PATIENCE)
    assert first.status().degraded is None
    first.close()
    with second._changed:
        assert second._changed.wait_for(lambda: not second._pending, PATIENCE), "it takes over by itself"
    assert second.flush(PATIENCE)
    assert second.status().degraded is None
    second.close()
    again = State.open(tmp_path)
    loaded = again.load()
    assert loaded.problems == []
    added = {ref("first"): stored("2"), ref("second"): stored("2"), ref("later"): stored("3")}
    assert loaded.objects == documents | added
    assert loaded.secrets == secrets
    again.close()


HOLDER = """
import sys
from pathlib import Path
from controlplane.state.store import State

state = State.open(Path(sys.argv[1]))
state.load()
print("open", flush=True)
sys.stdin.read()
"""


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        state = State.open(tmp_path)
        assert f"pid {holder.pid} on " in state.load().problems[0]
        state.close()
        holder.kill()
        holder.wait(PATIENCE)
    state = State.open(tmp_path)
    assert state.load().problems == []
    state.close()


def test_whose_lock_was_removed_gives_way_to_who_took_it(tmp_path: Path) -> None:
    """Of two that both believe that the folder is theirs, one must stop writing."""
    first = State.open(tmp_path)
    first.write(objects(a="1"))
    assert first.flush(PATIENCE)
    (tmp_path / "serving").unlink()
    second = State.open(tmp_path)
    assert second.load().problems == []
    first.write(objects(a="2"))
    assert not first.flush(PATIENCE)
    assert "another process" in (first.status().degraded or "")
    second.write(objects(b="2"))
    assert second.flush(PATIENCE)
    second.close()
    assert first.flush(PATIENCE)
    first.close()
    again = State.open(tmp_path)
    assert again.load().objects == {ref("a"): stored("2"), ref("b"): stored("2")}
    again.close()


# -- taken away while it is in use ------------------------------------------------------------------------------------


def _cut(folder: Path) -> None:
    os.truncate(folder / "state.sqlite", 5000)


def _emptied(folder: Path) -> None:
    (folder / "state.sqlite").write_bytes(b"")


def _removed(folder: Path) -> None:
    (folder / "state.sqlite").unlink()


def _without_log(folder: Path) -> None:
    (folder / "state.sqlite-wal").unlink()


def _replaced(folder: Path) -> None:
    fill(folder / "elsewhere", 3)
    (folder / "elsewhere" / "state.sqlite").rename(folder / "state.sqlite")


def _all_removed(folder: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (folder / f"state.sqlite{suffix}").unlink()


@pytest.mark.parametrize("mishap", [_cut, _emptied, _removed, _without_log, _replaced, _all_removed, shutil.rmtree])
def test_it_is_noticed_and_written_anew(tmp_path: Path, mishap: Callable[[Path], object]) -> None:
    folder = tmp_path / "state"
    documents, secrets = fill(folder)
    state = State.open(folder)
    state.load()
    state.write(StateChanges(objects(a="1", **{"route-7": None}).objects, served={"shop/edge": "v2"}))
    assert state.flush(PATIENCE)
    mishap(folder)
    with capture_logs() as said:
        state.write(StateChanges(seen={"files": 1234.5}))  # as every few seconds
        assert state.flush(PATIENCE)
    assert [entry["event"] for entry in said if entry["event"] != "state"] == ["state written anew"]
    status = state.status()
    assert (status.degraded, status.pending, status.mishaps) == (None, 0, 1)
    assert (status.last_mishap or "").startswith("state.sqlite")
    state.write(StateChanges(objects(b="2").objects, {secret_ref("new"): secret(9)}))
    assert state.flush(PATIENCE)
    assert state.status().mishaps == 1, "once"
    state.close()
    again = State.open(folder)
    loaded = again.load()
    assert loaded.problems == []
    del documents[ref("route-7")]
    assert loaded.objects == documents | {ref("a"): stored("1"), ref("b"): stored("2")}
    assert loaded.secrets == secrets | {secret_ref("new"): secret(9)}
    assert (loaded.served["shop/edge"].version, loaded.seen) == ("v2", {"files": 1234.5})
    again.close()


def test_what_was_put_in_its_place_is_kept_aside(tmp_path: Path) -> None:
    """Who restores a backup into a running process finds it again."""
    fill(tmp_path)
    state = State.open(tmp_path)
    state.load()
    _replaced(tmp_path)
    state.write(objects(a="1"))
    assert state.flush(PATIENCE)
    state.close()
    (tmp_path / "state.sqlite.replaced").rename(tmp_path / "state.sqlite")
    again = State.open(tmp_path)
    assert len(again.load().objects) == 3
    again.close()


def test_a_folder_that_cannot_be_made_again_is_tried_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "volume" / "state"
    documents, _ = fill(folder)
    state = State.open(folder, retry_after=0.01)
    state.load()
    (tmp_path / "volume").rename(tmp_path / "unmounted")
    (tmp_path / "volume").write_text("no folder")
    state.write(objects(a="1"))
    assert not state.flush(PATIENCE)
    assert state.status().degraded
    (tmp_path / "volume").unlink()
    with state._changed:
        assert state._changed.wait_for(lambda: not state._pending, PATIENCE), "it tries again by itself"
    state.close()
    again = State.open(folder)
    assert again.load().objects == documents | {ref("a"): stored("1")}
    again.close()


KILLED = """
import os, pathlib, sys
from controlplane.state import opening
from controlplane.state.content import StateChanges
from controlplane.state.store import State

state = State.open(pathlib.Path(sys.argv[1]))
state.load()
(pathlib.Path(sys.argv[1]) / "state.sqlite").unlink()
opening.put_aside = lambda *_: os.kill(os.getpid(), 9)
state.write(StateChanges(seen={"files": 1234.5}))
state.flush(90)
"""


def test_a_kill_while_it_is_written_anew_loses_nothing(tmp_path: Path) -> None:
    documents, secrets = fill(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, timeout=PATIENCE, check=False)
    assert killed.returncode == -signal.SIGKILL
    state = State.open(tmp_path)
    loaded = state.load()
    assert (loaded.objects, loaded.secrets) == (documents, secrets)
    state.close()


def test_its_own_writing_is_nobody_elses(tmp_path: Path) -> None:
    """Logs that grow, are folded into the file, and are cut."""
    state = State.open(tmp_path, linger=0)
    state.load()
    for number in range(40):
        state.write(StateChanges({ref(f"r{n}"): stored(f"{number}" * 20_000) for n in range(20)}))
        assert state.flush(PATIENCE)
    assert (tmp_path / "state.sqlite").stat().st_size > 400_000
    assert state.status().mishaps == 0
    state.close()
