"""Whatever happens to the state folder, the process starts, serves what is intact, and says what is not."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controlplane.state import database, ledger, opening, owner
from controlplane.state.content import Note, StateChanges
from controlplane.state.store import State
from tests.state.kept import fill, objects, ref, secret, secret_ref, stored
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


def execute(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "state.sqlite")) as connection, connection:
        connection.execute(statement, values)


# -- kill -9 ----------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.state.content import StateChanges, StoredObject
from controlplane.state.store import State

state = State.open(Path(sys.argv[1]), linger=0)
state.load()
for number in range(10**9):
    text = f"{number}\\n" * 200
    objects = {ObjectRef("files", "RouteSpec", "shop", f"r{n}"): StoredObject(text, "f", number) for n in range(20)}
    secrets = {SecretRef("files", "shop", f"s{n}"): Secret.of({"k": text.encode()}) for n in range(20)}
    state.write(StateChanges(objects, secrets))
    assert state.flush(90)
    print(number, flush=True)
"""


@pytest.mark.parametrize("killed_after", [1, 4, 9])
def test_a_kill_loses_moments_and_never_half_a_transaction(tmp_path: Path, killed_after: int) -> None:
    arguments = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        confirmed = -1
        for line in process.stdout:
            confirmed = int(line)
            if confirmed >= killed_after:
                break
        process.send_signal(signal.SIGKILL)  # it is in the middle of the next ones
        process.wait(PATIENCE)
    state = State.open(tmp_path)
    loaded = state.load()
    assert loaded.problems == []
    (number,) = {found.line for found in loaded.objects.values()}
    assert number >= confirmed, "what was confirmed is there"
    assert {found.text for found in loaded.objects.values()} == {f"{number}\n" * 200}
    assert {found.get("k") for found in loaded.secrets.values()} == {f"{number}\n".encode() * 200}
    assert len(loaded.objects) == len(loaded.secrets) == 20
    state.close()


# -- damaged files ----------------------------------------------------------------------------------------------------


def works(state: State) -> None:
    state.write(objects(new="works"))
    assert state.flush(PATIENCE)
    assert state.status().degraded is None


def test_garbage_is_put_aside_and_started_clean(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "state.sqlite").write_bytes(os.urandom(8192))
    state = State.open(tmp_path)
    loaded = state.load()
    assert loaded.objects == {}
    assert len(loaded.problems) == 1
    assert "kept as state.sqlite.damaged, started clean" in loaded.problems[0]
    works(state)
    state.close()
    assert (tmp_path / "state.sqlite.damaged").stat().st_size == 8192
    again = State.open(tmp_path)
    assert again.load().objects == {ref("new"): stored("works")}
    again.close()


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_gives_what_is_left(tmp_path: Path, part: float) -> None:
    documents, secrets = fill(tmp_path)
    file = tmp_path / "state.sqlite"
    os.truncate(file, int(file.stat().st_size * part))
    state = State.open(tmp_path)
    loaded = state.load()
    assert loaded.problems
    assert loaded.objects.items() <= documents.items()
    assert loaded.secrets.items() <= secrets.items()
    works(state)
    state.close()
    again = State.open(tmp_path)
    assert again.load().problems == []
    again.close()


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").touch()
    state = State.open(tmp_path)
    assert state.load().problems == []
    works(state)
    state.close()


def test_one_damaged_row_is_dropped_by_name_and_the_rest_stays(tmp_path: Path) -> None:
    documents, secrets = fill(tmp_path)
    execute(tmp_path, "UPDATE object SET text = ? WHERE name = ?", b"forged", b"route-7")
    execute(tmp_path, "UPDATE secret SET sealed = ? WHERE name = ?", b"forged", b"tls-3")
    state = State.open(tmp_path)
    loaded = state.load()
    assert loaded.objects == {name: value for name, value in documents.items() if name.name != "route-7"}
    assert loaded.secrets == {name: value for name, value in secrets.items() if name.name != "tls-3"}
    assert loaded.problems[:2] == [
        "object files/RouteSpec/shop/route-7 is dropped: its checksum does not hold",
        "secret files/shop/tls-3 is dropped: its checksum does not hold",
    ]
    assert "rebuilt of 79 intact rows" in loaded.problems[2]
    assert not loaded.whole
    works(state)
    state.close()
    again = State.open(tmp_path)
    loaded = again.load()
    assert (loaded.problems, loaded.whole) == ([], True)
    again.close()


KILLED_IN_REBUILD = """
import os, pathlib, sys
from controlplane.state import database, ledger, opening, owner
from controlplane.state.store import State

real, left = pathlib.Path.rename, [int(sys.argv[2])]

def rename(file, target):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    return real(file, target)

pathlib.Path.rename = rename
State.open(pathlib.Path(sys.argv[1])).load()
"""


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_kill_while_it_is_rebuilt_loses_nothing_intact(tmp_path: Path, renamed: int) -> None:
    """Before the damaged file was put aside, and after it."""
    documents, secrets = fill(tmp_path)
    execute(tmp_path, "UPDATE object SET text = ? WHERE name = ?", b"forged", b"route-7")
    arguments = [sys.executable, "-c", KILLED_IN_REBUILD, str(tmp_path), str(renamed)]
    killed = subprocess.run(arguments, cwd=ROOT, timeout=PATIENCE, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "state.sqlite").exists() == (renamed == 0)
    state = State.open(tmp_path)
    loaded = state.load()
    assert loaded.objects == {name: value for name, value in documents.items() if name.name != "route-7"}
    assert loaded.secrets == secrets
    assert any("the process ended while it was rebuilt" in problem for problem in loaded.problems) == (renamed == 1)
    works(state)
    state.close()
    assert not (tmp_path / "state.sqlite.new").exists()


def test_what_an_unfinished_rebuild_left_is_never_taken_for_the_state(tmp_path: Path) -> None:
    fill(tmp_path)
    shutil.copyfile(tmp_path / "state.sqlite", tmp_path / "state.sqlite.new")
    State.open(tmp_path).close()
    (tmp_path / "state.sqlite").unlink()
    state = State.open(tmp_path)
    assert state.load().objects == {}, "whoever removes it starts clean"
    state.close()


def test_rows_cannot_be_swapped(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    execute(tmp_path, "UPDATE object SET name = ? WHERE name = ?", b"route-9", b"route-1")
    state = State.open(tmp_path)
    assert list(state.load().objects) == [ref("route-0")]
    state.close()


def test_flipped_bits_never_give_a_wrong_document(tmp_path: Path) -> None:
    """Each flip: the process starts, every document it loads is one that was kept, and it can write again."""
    pristine, work = tmp_path / "pristine", tmp_path / "work"
    documents, secrets = fill(pristine, 12)
    good, key = (pristine / "state.sqlite").read_bytes(), (pristine / "key").read_bytes()
    chosen = random.Random(7)
    positions = [*range(0, 112, 3), *(chosen.randrange(len(good)) for _ in range(80))]
    work.mkdir()
    for position in positions:
        for file in work.iterdir():
            file.unlink()
        damaged = bytearray(good)
        damaged[position] ^= 1 << chosen.randrange(8)
        (work / "state.sqlite").write_bytes(damaged)
        (work / "key").write_bytes(key)
        state = State.open(work)
        loaded = state.load()
        assert loaded.objects.items() <= documents.items(), position
        assert loaded.secrets.items() <= secrets.items(), position
        if len(loaded.objects) < len(documents) or len(loaded.secrets) < len(secrets):
            assert loaded.problems, position
        state.write(objects(new="x"))
        assert state.flush(PATIENCE) or state.status().degraded
        state.close()


def test_damage_while_it_runs_is_mended(tmp_path: Path) -> None:
    documents, _ = fill(tmp_path, 200)
    state = State.open(tmp_path)  # not loaded: no page is in its cache
    with (tmp_path / "state.sqlite").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(40 * 4096))
    changed = {name: stored(value.text + "more") for name, value in documents.items()}
    with capture_logs() as said:
        state.write(StateChanges(changed))
        assert state.flush(PATIENCE)
        state.close()
    assert [entry["event"] for entry in said] == ["state written anew"]
    assert (tmp_path / "state.sqlite.damaged").exists()
    again = State.open(tmp_path)
    loaded = again.load()
    assert loaded.problems == []
    assert loaded.objects == changed
    again.close()


def test_what_damage_took_while_it_runs_is_kept_again(tmp_path: Path) -> None:
    documents, secrets = fill(tmp_path, 200)
    State.open(tmp_path).close()
    state = State.open(tmp_path)
    state.load()
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as other:  # what is in the cache of pages counts no more
        other.execute("CREATE TABLE other (x)")
    with (tmp_path / "state.sqlite").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(40 * 4096))
    state.write(StateChanges({ref("route-1"): stored("new")}))
    assert state.flush(PATIENCE)
    status = state.status()
    assert (status.degraded, status.mishaps) == (None, 1)
    state.close()
    again = State.open(tmp_path)
    loaded = again.load()
    assert loaded.problems == []
    assert loaded.objects == documents | {ref("route-1"): stored("new")}
    assert loaded.secrets == secrets
    again.close()


# -- other versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "age"), [(owner.SCHEMA + 1, "newer"), (99, "newer")])
def test_a_newer_schema_is_left_alone(tmp_path: Path, version: int, age: str) -> None:
    fill(tmp_path)
    execute(tmp_path, f"PRAGMA user_version = {version}")
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != "serving"}
    state = State.open(tmp_path)
    loaded = state.load()
    assert loaded.objects == {}
    assert len(loaded.problems) == 1
    assert f"written by a {age} version of this program (schema {version}, this one knows 1)" in loaded.problems[0]
    state.write(objects(a="1"))
    assert state.flush(PATIENCE)
    assert state.status().degraded == loaded.problems[0]
    assert state.status().pending == 0
    state.close()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != "serving"} == before


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        connection.execute("PRAGMA application_id = 12345")
        connection.execute("CREATE TABLE theirs (x)")
    before = (tmp_path / "state.sqlite").read_bytes()
    state = State.open(tmp_path)
    assert "another program" in state.load().problems[0]
    state.close()
    assert (tmp_path / "state.sqlite").read_bytes() == before


# -- another fleet ----------------------------------------------------------------------------------------------------


def fleet(folder: Path, name: str) -> tuple[set[str], list[str]]:
    """A start and an end of this fleet: the objects it found, and what it said."""
    state = State.open(folder, fleet=name)
    loaded = state.load()
    works(state)
    state.close()
    return {found.name for found in loaded.objects}, loaded.problems


def test_what_another_fleet_kept_is_named_put_aside_and_not_read(tmp_path: Path) -> None:
    documents, _ = fill(tmp_path)  # as an older version, which names nobody
    names = {found.name for found in documents}
    assert fleet(tmp_path, "staging") == (names, [])
    assert fleet(tmp_path, "staging") == (names | {"new"}, [])
    found, (problem,) = fleet(tmp_path, "prod")
    assert found == set()
    assert "the state of the fleet staging, and this one is prod (identity.cluster); not read" in problem
    assert "kept as state.sqlite.other-fleet, started clean" in problem
    assert fleet(tmp_path, "prod") == ({"new"}, [])
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"state.sqlite{suffix}").unlink(missing_ok=True)
    (tmp_path / "state.sqlite.other-fleet").rename(tmp_path / "state.sqlite")
    assert fleet(tmp_path, "staging") == (names | {"new"}, [])


def test_a_rebuilt_file_is_still_of_its_fleet(tmp_path: Path) -> None:
    fleet(tmp_path, "staging")
    execute(tmp_path, "UPDATE object SET text = ?", b"forged")
    fleet(tmp_path, "staging")
    assert fleet(tmp_path, "prod")[0] == set()


def test_a_damaged_name_of_the_fleet_costs_nothing(tmp_path: Path) -> None:
    fleet(tmp_path, "staging")
    execute(tmp_path, "UPDATE fleet SET name = ?", b"stbging")
    assert fleet(tmp_path, "staging") == ({"new"}, [])


def test_what_another_fleet_kept_is_not_read_from_a_locked_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.0)
    fleet(tmp_path, "staging")
    with closing(sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        state = State.open(tmp_path, fleet="prod")
        loaded = state.load()
        assert loaded.objects == {}
        assert "the state of the fleet staging" in loaded.problems[0]
        state.close()


# -- places that cannot be written ------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_memory_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = State.open(tmp_path / "file" / "state")
    assert "cannot be opened" in state.load().problems[0]
    state.write(objects(a="1"))
    assert state.flush(PATIENCE)
    assert "cannot be opened" in (state.status().degraded or "")
    state.close()


READER = """
import json, os, sys
from pathlib import Path
from controlplane.state.content import StateChanges, StoredObject
from controlplane.names import ObjectRef
from controlplane.state.store import State

if os.geteuid() == 0:  # may write anywhere, whatever the mode
    os.seteuid(65534)
state = State.open(Path(sys.argv[1]))
loaded = state.load()
state.write(StateChanges({ObjectRef("files", "RouteSpec", "shop", "new"): StoredObject("x", "f", 1)}))
state.flush(90)
degraded = state.status().degraded
state.close()
print(json.dumps([len(loaded.objects), len(loaded.secrets), loaded.problems, degraded]))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "state"
        (Path(folder) / "state").chmod(0o755)


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
def test_a_read_only_folder_is_read(open_folder: Path, clean: bool) -> None:
    folder = open_folder
    fill(folder)
    if not clean:
        arguments = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout
            process.stdout.readline()
            process.kill()
            process.wait(PATIENCE)
        assert (folder / "state.sqlite-wal").stat().st_size
        (folder / "state.sqlite-shm").unlink()
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    arguments = [sys.executable, "-c", READER, str(folder)]
    found = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)
    assert found.returncode == 0, found.stderr
    documents, secrets, problems, degraded = json.loads(found.stdout.splitlines()[-1])
    assert (documents, secrets) == ((40, 40) if clean else (60, 60))
    (problem,) = problems
    assert f"cannot be written now ({folder} is read-only): what it holds is used" in problem
    assert degraded == f"not written: {folder} is read-only"


# -- not to be written at the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
def test_a_file_locked_at_the_start_is_read_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.0)
    documents, secrets = fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        if not clean:
            other.execute("DELETE FROM object WHERE name = ?", (b"route-7",))  # in the log alone
            del documents[ref("route-7")]
        other.execute("BEGIN IMMEDIATE")
        state = State.open(tmp_path, retry_after=3600)
        loaded = state.load()
        assert loaded.objects == documents
        assert loaded.secrets == secrets
        (problem,) = loaded.problems
        assert "cannot be written now (database is locked): what it holds is used" in problem
        state.write(objects(new="1"))
        assert not state.flush(PATIENCE)
        assert state.status().degraded == "not written: database is locked"
        assert state.status().pending == 1
        other.execute("DELETE FROM object WHERE name = ?", (b"route-1",))
        other.execute("COMMIT")
    with capture_logs() as said:
        state.write(StateChanges({ref("route-1"): documents[ref("route-1")]}))
        assert state.flush(PATIENCE)
    assert [entry["event"] for entry in said] == ["state written again"]
    assert state.status().degraded is None
    state.close()
    again = State.open(tmp_path)
    assert again.load().objects == documents | {ref("new"): stored("1")}, "what the other one removed is here again"
    again.close()


def test_it_tries_again_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.0)
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        state = State.open(tmp_path, retry_after=0.01)
        state.load()
    with state._changed:
        assert state._changed.wait_for(lambda: state.status().degraded is None, PATIENCE)
    works(state)
    state.close()


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("code", ["SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"])
def test_a_full_disk_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kept: bool) -> None:
    """What was kept is read, and kept again as soon as there is room, also if there was nothing."""
    documents, secrets = fill(tmp_path) if kept else ({}, {})
    failure = sqlite3.OperationalError("database or disk is full")
    failure.sqlite_errorcode = getattr(sqlite3, code)
    real = opening._prepare

    def full(*_: object) -> None:
        raise failure

    monkeypatch.setattr(opening, "_prepare", full)
    state = State.open(tmp_path, retry_after=3600)
    loaded = state.load()
    assert (loaded.objects, loaded.secrets) == (documents, secrets)
    assert "cannot be written now (database or disk is full)" in loaded.problems[0]
    state.write(objects(new="1"))
    assert not state.flush(PATIENCE)
    assert state.status().degraded == "not written: database or disk is full"
    monkeypatch.setattr(opening, "_prepare", real)
    assert state.flush(PATIENCE)
    assert state.status().degraded is None
    state.close()
    again = State.open(tmp_path)
    assert again.load().objects == documents | {ref("new"): stored("1")}
    again.close()


# -- no room ----------------------------------------------------------------------------------------------------------


def test_without_room_what_fits_is_kept_and_the_rest_is_said_once(tmp_path: Path) -> None:
    state = State.open(tmp_path, max_bytes=200_000, retry_after=3600)
    state.load()
    with capture_logs() as said:
        state.write(StateChanges({ref(f"r{n}"): stored("x" * 10_000) for n in range(100)}))
        assert not state.flush(PATIENCE)
    status = state.status()
    assert status.degraded == "not written: database or disk is full"
    assert 0 < status.rows < 30
    assert status.pending == 100 - status.rows
    assert (tmp_path / "state.sqlite").stat().st_size <= 200_000
    with capture_logs() as again_said:
        for _ in range(3):
            state.write(StateChanges({ref("r99"): stored("y" * 10_000)}))
            assert not state.flush(PATIENCE)
    assert [entry["event"] for entry in said + again_said] == ["state not written"]

    state.write(StateChanges({ref(f"r{n}"): None for n in range(90)}))
    assert state.flush(PATIENCE), "removals make room for what waits"
    assert state.status().degraded is None
    assert state.status().rows == 10
    state.close()
    again = State.open(tmp_path, max_bytes=200_000)
    loaded = again.load()
    assert loaded.problems == []
    assert loaded.objects[ref("r99")].text.startswith("y")
    assert len(loaded.objects) == 10
    again.close()


def test_without_room_what_was_before_an_edit_comes_first(tmp_path: Path) -> None:
    """Better the edit is not kept than what proxies have in the place of what they refuse of it."""
    state = State.open(tmp_path, max_bytes=200_000, retry_after=3600)
    documents = {ref(f"r{n}"): stored("x" * 10_000) for n in range(100)}
    state.write(StateChanges(documents, history={Note("former document", "r99"): b"y" * 10_000}))
    assert not state.flush(PATIENCE)
    state.close()
    again = State.open(tmp_path)
    loaded = again.load()
    assert loaded.history
    assert 0 < len(loaded.objects) < 30
    again.close()


def test_one_giant_does_not_keep_out_the_others(tmp_path: Path) -> None:
    state = State.open(tmp_path, max_bytes=200_000, retry_after=3600)
    state.write(StateChanges({ref("giant"): stored("x" * 1_000_000), ref("small"): stored("x")}))
    assert not state.flush(PATIENCE)
    assert state.status().pending == 1
    state.write(StateChanges({ref("giant"): None}))
    assert state.flush(PATIENCE)
    state.close()
    again = State.open(tmp_path)
    assert set(again.load().objects) == {ref("small")}
    again.close()


class Disk:
    """A database on a disk that fails when told to, or takes its time."""

    def __init__(self, real: database.Database) -> None:
        self.real, self.failure = real, ""
        self.writable, self.refused = True, ""
        self.begun, self.turning = threading.Event(), threading.Event()
        self.turning.set()

    def apply(self, rows: object) -> None:
        self.begun.set()
        self.turning.wait(PATIENCE)
        if self.failure:
            raise sqlite3.OperationalError(self.failure)
        self.real.apply(rows)  # type: ignore[arg-type]  what State passes

    def lost(self) -> None:
        """Nobody takes it away."""

    def close(self) -> None:
        self.real.close()


def test_a_disk_that_fails_and_comes_back(tmp_path: Path) -> None:
    state = State.open(tmp_path, linger=0, retry_after=0.01)
    assert state._ledger._database is not None
    disk = Disk(state._ledger._database)
    state._ledger._database = disk  # type: ignore[assignment]  stands in for it
    disk.failure = "disk I/O error"
    state.write(StateChanges(objects(a="1").objects, {secret_ref("s"): secret()}))
    assert not state.flush(PATIENCE)
    assert state.status().degraded == "not written: disk I/O error"
    state.write(objects(a="2", b="2"))
    disk.failure = ""
    with state._changed:
        assert state._changed.wait_for(lambda: not state._pending, PATIENCE), "it tries again by itself"
    assert state.flush(PATIENCE)
    assert state.status().degraded is None
    state.close()
    again = State.open(tmp_path)
    loaded = again.load()
    assert loaded.objects == {ref("a"): stored("2"), ref("b"): stored("2")}
    assert loaded.secrets == {secret_ref("s"): secret()}
    again.close()


def test_what_is_being_written_is_not_kept_yet(tmp_path: Path) -> None:
    """Whoever waits until nothing is pending may end the process then."""
    state = State.open(tmp_path, linger=0)
    assert state._ledger._database is not None
    disk = Disk(state._ledger._database)
    state._ledger._database = disk  # type: ignore[assignment]  stands in for it
    disk.turning.clear()
    state.write(objects(a="1"))
    assert disk.begun.wait(PATIENCE)
    assert state.status().pending == 1
    state.write(objects(a="2", b="2"))
    assert state.status().pending == 2
    disk.turning.set()
    assert state.flush(PATIENCE)
    assert state.status().pending == 0
    state.close()


def test_the_end_does_not_wait_for_a_disk_that_fails(tmp_path: Path) -> None:
    state = State.open(tmp_path, max_bytes=100_000, retry_after=3600)
    state.write(StateChanges({ref("giant"): stored("x" * 1_000_000)}))
    state.close(PATIENCE)
    assert not state._thread.is_alive()


def test_without_a_key_secrets_are_not_written_and_the_rest_is(tmp_path: Path) -> None:
    tmp_path.joinpath("key").mkdir()
    state = State.open(tmp_path)
    assert "secrets are not kept" in state.load().problems[0]
    state.write(StateChanges(objects(a="1").objects, {secret_ref("s"): secret()}))
    assert state.flush(PATIENCE)
    assert "secrets are not kept" in (state.status().degraded or "")
    assert state.status().rows == 1
    state.close()


def test_a_folder_that_was_full_at_the_start_keeps_secrets_too_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the file there is none for a new key either."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(opening, "_open_writable", full)
        patched.setattr(ledger, "own_key", full)
        state = State.open(tmp_path, retry_after=3600)
        state.load()
        state.write(StateChanges(objects(a="1").objects, {secret_ref("s"): secret()}))
        assert not state.flush(PATIENCE)
        assert "secrets are not kept" in (state.status().degraded or "")
    assert state.flush(PATIENCE)
    assert state.status().degraded is None
    state.close()
    again = State.open(tmp_path)
    assert again.load().secrets == {secret_ref("s"): secret()}
    again.close()


def test_what_is_not_written_at_the_end_is_said(tmp_path: Path) -> None:
    state = State.open(tmp_path, max_bytes=100_000, retry_after=3600)
    state.write(StateChanges({ref("giant"): stored("x" * 1_000_000)}))
    with capture_logs() as said:
        state.close(PATIENCE)
    assert said[-1]["event"] == "state not written before exit"
    assert said[-1]["pending"] == 1
