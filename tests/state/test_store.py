"""The state store: what goes in comes back after a restart, once written nothing is written again, secrets are sealed."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.errors import ConfigurationError
from controlplane.model.endpoint import Endpoint, Health, Service, ServicePort
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.state import store
from controlplane.state.content import Note, StateChanges, StoredObject
from controlplane.state.ledger import Ledger
from controlplane.state.rows import Change, Ref
from controlplane.state.store import State
from tests.state.kept import CANARY, fill, objects, ref, secret, secret_ref, stored
from tests.support.waiting import PATIENCE


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def test_everything_comes_back(tmp_path: Path) -> None:
    documents, secrets = fill(tmp_path)
    state = State.open(tmp_path)
    loaded = state.load()
    assert (loaded.objects, loaded.secrets, loaded.problems) == (documents, secrets, [])
    assert loaded.served["shop/edge"].version == "v1"
    assert state.status().degraded is None
    assert state.status().rows == len(documents) + len(secrets) + 1
    state.close()


def test_a_new_folder_is_empty_and_its_owners_alone(tmp_path: Path) -> None:
    state = State.open(tmp_path / "deep" / "state")
    assert state.load().problems == []
    state.write(objects(a="1"))
    assert state.flush(PATIENCE)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "deep" / "state").iterdir()}
    state.close()
    assert modes.keys() >= {"key", "state.sqlite", "state.sqlite-wal"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "deep" / "state").stat().st_mode) == 0o700


def test_the_last_of_several_changes_is_kept(tmp_path: Path) -> None:
    state = State.open(tmp_path, linger=60)
    state.write(objects(a="1", b="1"))
    state.write(objects(a="2", b=None))
    assert state.status().pending == 2
    state.close()
    again = State.open(tmp_path)
    assert again.load().objects == {ref("a"): stored("2")}
    again.close()


def test_what_is_removed_stays_away(tmp_path: Path) -> None:
    documents, secrets = fill(tmp_path)
    state = State.open(tmp_path)
    state.load()
    state.write(StateChanges(dict.fromkeys(documents), dict.fromkeys(secrets), {"shop/edge": None}))
    assert state.flush(PATIENCE)
    assert state.status().rows == 0
    state.close()
    again = State.open(tmp_path)
    loaded = again.load()
    assert not loaded.objects
    assert not loaded.secrets
    assert not loaded.served
    again.close()


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    """After a restart every source says everything again."""
    documents, secrets = fill(tmp_path)
    state = State.open(tmp_path)
    state.load()
    state.write(StateChanges(documents, secrets, {"shop/edge": "v1"}))
    assert state.flush(PATIENCE)
    assert state.status().last_write is None
    first = next(iter(documents))
    state.write(StateChanges({first: stored("new")}))
    assert state.flush(PATIENCE)
    assert state.status().last_write is not None
    state.close()


def test_where_a_document_stood_is_kept_too(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.write(StateChanges({ref("a"): StoredObject("x", "old.yaml", 1)}))
    assert state.flush(PATIENCE)
    moved = StoredObject("x", "new\udcff.yaml", 7)
    state.write(StateChanges({ref("a"): moved}))
    state.close()
    again = State.open(tmp_path)
    assert again.load().objects == {ref("a"): moved}
    again.close()


def test_provenance_is_in_the_row(tmp_path: Path) -> None:
    state = State.open(tmp_path, clock=lambda: 1234.5)
    state.write(StateChanges(objects(a="1").objects, served={"shop/edge": "v7"}))
    state.close()
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        found = connection.execute("SELECT file, line, accepted_at, content_schema, length(digest) FROM object")
        assert found.fetchall() == [(b"/specs/shop.yaml", 1, 1234.5, 1, 16)]
    again = State.open(tmp_path)
    assert again.load().served["shop/edge"].at == datetime.fromtimestamp(1234.5, UTC)
    again.close()


def test_it_is_written_soon_without_being_asked(tmp_path: Path) -> None:
    state = State.open(tmp_path, linger=0.01)
    state.write(objects(a="1"))
    with state._changed:
        assert state._changed.wait_for(lambda: not state._pending, PATIENCE)
    assert state.flush(PATIENCE)
    assert state.status().rows == 1
    state.close()


def test_writers_may_be_many(tmp_path: Path) -> None:
    state = State.open(tmp_path, linger=0)

    def write(writer: int) -> None:
        for number in range(50):
            state.write(objects(**{f"w{writer}-{number % 10}": str(number)}))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert state.flush(PATIENCE)
    state.close()
    again = State.open(tmp_path)
    assert again.load().objects == {ref(f"w{w}-{n}"): stored(str(40 + n)) for w in range(4) for n in range(10)}
    again.close()


def test_writing_after_the_end_does_nothing(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.close()
    state.write(objects(a="1"))
    state.close()
    assert state.status().pending == 0


NAMES = st.text(max_size=8)
EDITS = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.text(max_size=30)), st.booleans()), max_size=20)


@settings(max_examples=25, deadline=None)
@given(EDITS)
def test_any_edits_come_back_as_they_were_last(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, str | None, bool]]
) -> None:
    folder, expected = tmp_path_factory.mktemp("state"), dict[ObjectRef, StoredObject]()
    state = State.open(folder, linger=0)
    for number, text, restart in edits:
        name = ref(str(number))
        state.write(StateChanges({name: None if text is None else stored(text)}))
        expected.pop(name, None)
        if text is not None:
            expected[name] = stored(text)
        if restart:
            state.close()
            state = State.open(folder, linger=0)
            assert state.load().objects == expected
    state.close()


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_never_in_clear_in_any_file(tmp_path: Path) -> None:
    """Neither while it runs (the log), nor after, nor in the free pages of what was deleted."""
    state = State.open(tmp_path)
    state.write(StateChanges(secrets={secret_ref(f"tls-{n}"): secret(n) for n in range(30)}))
    assert state.flush(PATIENCE)
    assert CANARY not in bytes_on_disk(tmp_path)
    state.write(StateChanges(secrets={secret_ref(f"tls-{n}"): None for n in range(15)}))
    assert state.flush(PATIENCE)
    assert CANARY not in bytes_on_disk(tmp_path)
    state.close()
    assert CANARY not in bytes_on_disk(tmp_path)
    again = State.open(tmp_path)
    assert len(again.load().secrets) == 15
    again.close()


@given(st.dictionaries(NAMES, st.binary(max_size=60), max_size=4))
@settings(max_examples=15, deadline=None)
def test_any_secret_comes_back(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("state")
    state = State.open(folder)
    state.write(StateChanges(secrets={secret_ref("s"): Secret.of(content)}))
    state.close()
    again = State.open(folder)
    assert again.load().secrets == {secret_ref("s"): Secret.of(content)}
    again.close()


def test_a_given_key_seals_and_the_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0f" * 32 + "\n")
    folder = tmp_path / "state"
    state = State.open(folder, tmp_path / "key")
    state.write(StateChanges(secrets={secret_ref("s"): secret()}))
    state.close()
    assert not (folder / "key").exists()
    raw = tmp_path / "raw"
    raw.write_bytes(bytes.fromhex("0f" * 32))
    again = State.open(folder, raw)
    assert again.load().secrets == {secret_ref("s"): secret()}
    again.close()


@pytest.mark.parametrize("content", [None, b"", b"short", b"0f" * 31, b"zz" * 32])
def test_a_given_key_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigurationError, match="key"):
        State.open(tmp_path / "state", tmp_path / "key")


def test_another_key_opens_nothing_and_destroys_nothing(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("01" * 32)
    (tmp_path / "wrong").write_text("02" * 32)
    folder = tmp_path / "state"
    state = State.open(folder, tmp_path / "right")
    state.write(StateChanges(objects(a="1").objects, {secret_ref("s"): secret()}))
    state.close()
    state = State.open(folder, tmp_path / "wrong")
    loaded = state.load()
    assert loaded.secrets == {}
    assert loaded.objects == objects(a="1").objects
    assert loaded.problems == ["secret shop/s is not read: it was encrypted with another key"]
    state.close()
    state = State.open(folder, tmp_path / "right")
    assert state.load().secrets == {secret_ref("s"): secret()}
    state.close()


def test_a_lost_key_is_replaced_and_what_it_sealed_forgotten(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    (tmp_path / "key").unlink()
    state = State.open(tmp_path)
    loaded = state.load()
    assert loaded.secrets == {}
    assert len(loaded.problems) == 3
    state.close()
    again = State.open(tmp_path)
    assert again.load().problems == []
    again.close()


def test_sealed_bytes_of_another_name_are_refused(tmp_path: Path) -> None:
    """Whoever can write the file must not be able to swap two secrets."""
    state = State.open(tmp_path)
    state.write(StateChanges(secrets={secret_ref("a"): secret(1)}))
    assert state.flush(PATIENCE)
    state.close()
    from controlplane.state import opening, rows, tables

    opened, _ = opening.open_file(tmp_path / "state.sqlite", 1 << 20)
    (found,) = opened.scan().rows
    opened.apply([tables.Row(found.table, (b"files", b"shop", b"b"), found.values)])
    opened.close()
    assert rows.ref_of(found) == secret_ref("a")
    again = State.open(tmp_path)
    loaded = again.load()
    assert loaded.secrets == {secret_ref("a"): secret(1)}
    assert loaded.problems == ["secret shop/b is not read: its encrypted bytes are damaged"]
    again.close()


def test_two_processes_make_one_key(tmp_path: Path) -> None:
    first, second = State.open(tmp_path), State.open(tmp_path)
    first.write(StateChanges(secrets={SecretRef("files", "shop", "a"): secret(1)}))
    second.write(StateChanges(secrets={SecretRef("files", "shop", "b"): secret(2)}))
    assert first.flush(PATIENCE)
    first.close()
    assert second.flush(PATIENCE), "it has the folder now"
    second.close()
    again = State.open(tmp_path)
    assert set(again.load().secrets) == {secret_ref("a"), secret_ref("b")}
    again.close()


def test_services_and_how_far_sources_were_heard_come_back(tmp_path: Path) -> None:
    """A service and a secret of the same names are different things."""
    name = ServiceRef("files", "shop", "one")
    service = Service((ServicePort("http", 80),), (Endpoint("10.0.0.1", (("http", 80),), Health.DRAINING),))
    with closing(State.open(tmp_path)) as state:
        told = {"one": 7, "files": 2**70}
        state.write(
            StateChanges(
                services={name: service}, secrets={secret_ref("one"): secret()}, seen={"files": 12.5}, told=told
            )
        )
        assert state.flush(PATIENCE)
    with closing(State.open(tmp_path)) as state:
        loaded = state.load()
        assert loaded.services == {name: service}
        assert loaded.secrets == {secret_ref("one"): secret()}
        assert loaded.seen == {"files": 12.5}
        assert loaded.told == {"one": 7, "files": 2**63 - 1}
        assert not loaded.problems
        state.write(StateChanges(services={name: None}))
        assert state.flush(PATIENCE)
    with closing(State.open(tmp_path)) as state:
        assert not state.load().services


def test_a_state_of_a_version_without_services_is_read_and_extended(tmp_path: Path) -> None:
    with closing(State.open(tmp_path)) as state:
        state.write(objects(one="text"))
        assert state.flush(PATIENCE)
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        connection.executescript("DROP TABLE service; DROP TABLE source; DROP TABLE history; DROP TABLE told;")
    name = ServiceRef("kubernetes/eu", "shop", "a")
    with closing(State.open(tmp_path)) as state:
        assert state.load().objects == {ref("one"): stored("text")}
        state.write(StateChanges(services={name: Service()}, history={NOTE: CANARY}))
        assert state.flush(PATIENCE)
    with closing(State.open(tmp_path)) as state:
        loaded = state.load()
        assert loaded.services == {name: Service()}
        assert loaded.history == {NOTE: CANARY}


def test_a_damaged_note_is_dropped_alone_and_nothing_else_is_in_doubt(tmp_path: Path) -> None:
    """A start waits for sources of which something may be lost. A note is none of what they declare."""
    with closing(State.open(tmp_path)) as state:
        state.write(StateChanges(objects(one="text").objects, history={NOTE: CANARY, ANOTHER: b"other"}))
        assert state.flush(PATIENCE)
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection, connection:
        connection.execute("UPDATE history SET sealed = ? WHERE name = ?", (b"forged", ANOTHER.name.encode()))
    with closing(State.open(tmp_path)) as state:
        loaded = state.load()
        assert (loaded.objects, loaded.history) == ({ref("one"): stored("text")}, {NOTE: CANARY})
        assert "history chain/c is dropped: its checksum does not hold" in loaded.problems
        assert loaded.whole


NOTE, ANOTHER = Note("chain", "a\nb"), Note("chain", "c")


def test_notes_come_back_are_sealed_and_can_be_forgotten(tmp_path: Path) -> None:
    with closing(State.open(tmp_path)) as state:
        state.write(StateChanges(history={NOTE: CANARY, ANOTHER: b""}))
        assert state.flush(PATIENCE)
        assert CANARY not in bytes_on_disk(tmp_path)
    with closing(State.open(tmp_path)) as state:
        loaded = state.load()
        assert loaded.history == {NOTE: CANARY, ANOTHER: b""}
        assert not loaded.problems
        state.write(StateChanges(history={NOTE: None}))
        assert state.flush(PATIENCE)
    with closing(State.open(tmp_path)) as state:
        assert state.load().history == {ANOTHER: b""}


def _another_key(folder: Path) -> None:
    (folder / "key").unlink()


def _another_version(folder: Path) -> None:
    from controlplane.state import opening, tables

    opened, _ = opening.open_file(folder / "state.sqlite", 1 << 20)
    for row in opened.scan().rows:
        if row.table == tables.HISTORY and row.values is not None:
            opened.apply([tables.Row(row.table, row.key, (*row.values[:-1], 2))])
    opened.close()


def _other_names(folder: Path) -> None:
    from controlplane.state import opening, tables

    opened, _ = opening.open_file(folder / "state.sqlite", 1 << 20)
    rows = [row for row in opened.scan().rows if row.table == tables.HISTORY]
    opened.apply([tables.Row(row.table, other.key, row.values) for row, other in zip(rows, rows[::-1], strict=True)])
    opened.close()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_another_key, "it was encrypted with another key"),
        (_another_version, "another version of this program wrote it"),
        (_other_names, "its encrypted bytes are damaged"),
    ],
)
def test_notes_that_cannot_be_read_are_one_problem_and_begin_anew(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    with closing(State.open(tmp_path)) as state:
        state.write(StateChanges(objects(one="text").objects, history={NOTE: CANARY, ANOTHER: b"other"}))
        assert state.flush(PATIENCE)
    spoil(tmp_path)
    with closing(State.open(tmp_path)) as state:
        loaded = state.load()
        assert loaded.objects == {ref("one"): stored("text")}
        assert not loaded.history
        assert loaded.problems == [f"what was noted of chain is not read, and begins anew: {why}"]
        state.write(StateChanges(history={ANOTHER: b"new"}))
        assert state.flush(PATIENCE)
    with closing(State.open(tmp_path)) as state:
        loaded = state.load()
        assert loaded.history == {ANOTHER: b"new"}
        assert not loaded.problems


def test_a_disk_that_does_not_answer_is_said_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = threading.Event(), threading.Event()

    def hangs(*_: object) -> dict[Ref, Change]:
        asked.set()
        answers.wait(PATIENCE)
        return {}

    monkeypatch.setattr(store, "ANSWER_SECONDS", 0.0)
    with closing(State.open(tmp_path, linger=0.0)) as state:
        monkeypatch.setattr(Ledger, "keep", hangs)
        state.write(StateChanges(seen={"files": 1.0}))
        assert asked.wait(PATIENCE)
        degraded = state.status().degraded
        answers.set()
        assert degraded == "not written: the disk has not answered for 0 s"
        assert state.flush(PATIENCE)
        assert state.status().is_kept
