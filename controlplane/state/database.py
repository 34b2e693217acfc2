"""The SQLite file: opened whatever its condition, read and written by rows, rebuilt when it is damaged.

Used by `store` alone, under its lock. What rows mean, `store` knows.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from controlplane.state import tables
from controlplane.state.owner import (
    APPLICATION_ID,
    SCHEMA,
    OtherFleet,
    Unusable,
    code_of,
    fleet_of,
    is_damage,
    other_version,
    refuse_foreign,
    refuse_other_fleet,
)
from controlplane.state.tables import FLEET, TABLES, Row, Table

DAMAGED = ".damaged"
"""The suffix of a damaged file that was put aside. Only the last one is kept, so that disks do not fill."""

OTHER_FLEET = ".other-fleet"
"""The suffix of the state of another fleet that was put aside."""

_WAL_BYTES = 4 * 1024 * 1024
_BUSY_SECONDS = 5.0
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_COPIES = 5
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  only where a full disk has no room for a temporary copy


class Scan(NamedTuple):
    """Everything in the file: rows whose checksum holds, the names of those where it does not, and other damage."""

    rows: list[Row]
    dropped: list[str]
    damage: str


def is_full(error: sqlite3.Error) -> bool:
    """Whether there is no room: on the disk, or below the bound of the file."""
    return code_of(error) == sqlite3.SQLITE_FULL


class Database:
    """An open file; all methods raise sqlite3.Error.

    `writable` is False when it can be read only; `refused` then says why, if opening it again later may help.
    """

    def __init__(self, file: Path, connection: sqlite3.Connection, *, writable: bool, refused: str = "") -> None:
        """Use `open_file`."""
        self.file = file
        self.writable = writable
        self.refused = refused
        self._connection = connection

    def scan(self) -> Scan:
        """Read and verify everything; never raises for damage, which is reported."""
        rows: list[Row] = []
        dropped: list[str] = []
        damage = ""
        try:
            # Rows can also vanish without a trace in those that remain: SQLite's own bookkeeping knows.
            (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            damage = "" if found == b"ok" else " ".join(found.decode(errors="replace").split())
        except sqlite3.Error as error:
            damage = str(error)
        for table in TABLES:
            if not self.writable and not self._has(table):
                continue
            try:
                for row, intact in self._rows(table):
                    if intact:
                        rows.append(row)
                    else:
                        dropped.append(f"{table.name} {tables.shown(row.key)}")
            except sqlite3.Error as error:
                damage = damage or str(error)
        return Scan(rows, dropped, damage)

    def apply(self, rows: Iterable[Row]) -> None:
        """Put and remove rows in one transaction."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for row in rows:
                if row.values is None:
                    connection.execute(tables.delete(row.table), row.key)
                else:
                    digest = tables.digest(row.table, row.key, row.values)
                    connection.execute(tables.put(row.table), (*row.key, *row.values, digest))
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; SQLite folds its log into it."""
        self._connection.close()

    def _has(self, table: Table) -> bool:
        """Whether a file that we may not change was written by a version that knew the table."""
        try:
            found = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table.name,)).fetchone()
        except sqlite3.Error:
            return True  # reading it will say what is wrong
        return found is not None

    def _rows(self, table: Table) -> Iterator[tuple[Row, bool]]:
        """Every row with whether its checksum holds."""
        width = len(table.key)
        columns = ", ".join((*table.key, *table.values, "digest"))
        for found in self._connection.execute(f"SELECT {columns} FROM {table.name}"):  # noqa: S608  our own names
            *content, digest = found
            key, values = tuple(content[:width]), tuple(content[width:])
            yield Row(table, key, values), digest == tables.digest(table, key, values)


def open_file(file: Path, max_bytes: int, fleet: str = "") -> tuple[Database, list[str]]:
    """Open or make the file, with what there is to say about it; raises Unusable, and OSError or sqlite3.Error.

    What another `fleet` kept is never read.
    """
    problems: list[str] = []
    if _take_rebuilt(file):
        problems.append(f"{file}: the process ended while it was rebuilt; what it was rebuilt of is used")
    refuse_foreign(file)
    try:
        database = _open_writable(file, max_bytes, fleet)
        _remove(_rebuilt(file))  # not finished: never to be taken for what was in force
        return database, problems
    except OtherFleet as error:
        put_aside(file, OTHER_FLEET)
        problems.append(f"{error}; kept as {file.name}{OTHER_FLEET}, started clean")
        return _open_writable(file, max_bytes, fleet), problems
    except sqlite3.Error as error:
        if is_damage(error):
            put_aside(file)
            problems.append(f"{file}: {error}; kept as {file.name}{DAMAGED}, started clean")
            return _open_writable(file, max_bytes, fleet), problems
        if code_of(error) in _PASSING:
            return _open_copy(file, fleet, str(error), problems), problems
        if code_of(error) not in _READ_ONLY:
            raise
        return _open_read_only(file, fleet), problems
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            return _open_copy(file, fleet, str(error), problems), problems
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS} or not file.exists():
            raise
        return _open_read_only(file, fleet), problems


def rebuild(file: Path, rows: Sequence[Row], max_bytes: int, fleet: str = "") -> Database:
    """Put a damaged (closed) file aside and make a clean one of these rows."""
    fresh = _rebuilt(file)
    _remove(fresh)
    with closing(_open_writable(fresh, max_bytes, fleet)) as database:
        database.apply(rows)
    put_aside(file)
    fresh.rename(file)
    return _open_writable(file, max_bytes, fleet)


def put_aside(file: Path, suffix: str = DAMAGED) -> None:
    """Rename a database and its log, so that it can be looked at and never meets a new one."""
    aside = file.with_name(f"{file.name}{suffix}")
    _remove(aside)
    for end in ("", "-wal", "-shm"):  # its log never goes first: the file without it is an older state
        part = file.with_name(f"{file.name}{end}")
        if part.exists():
            part.rename(aside.with_name(f"{aside.name}{end}"))


def size(file: Path) -> int:
    """The bytes of the file and its log."""
    return sum(_length(file.with_name(f"{file.name}{suffix}")) for suffix in ("", "-wal"))


def _rebuilt(file: Path) -> Path:
    """What `rebuild` makes before it takes the place of the file."""
    return file.with_name(f"{file.name}.new")


def _take_rebuilt(file: Path) -> bool:
    """Finish a `rebuild` that was killed after the damaged file was put aside; whether there was one."""
    fresh = _rebuilt(file)
    if file.exists() or _length(fresh) == 0 or _length(fresh.with_name(f"{fresh.name}-wal")):
        return False
    try:
        for suffix in ("-wal", "-shm"):  # of the damaged one
            file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
        fresh.rename(file)
    except OSError:
        return False  # what opens it next says why
    return True


def _open_writable(file: Path, max_bytes: int, fleet: str) -> Database:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # its log takes the same mode
    connection = _connect(str(file))
    try:
        _prepare(connection, file, max_bytes, fleet)
    except BaseException:
        connection.close()
        raise
    return Database(file, connection, writable=True)


def _prepare(connection: sqlite3.Connection, file: Path, max_bytes: int, fleet: str) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # After a power cut the last transactions may be missing, never half there; no fsync per transaction.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_bytes)}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in {0, SCHEMA}:
            raise Unusable(other_version(file, version))
        for table in (*TABLES, FLEET):
            key, values = ", ".join(table.key), ", ".join((*table.key, *table.values, "digest"))
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table.name} ({values}, PRIMARY KEY ({key}))")
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        refuse_other_fleet(connection, file, fleet)
        if fleet and fleet_of(connection) == "":
            name = fleet.encode()
            connection.execute(tables.put(FLEET), (name, tables.digest(FLEET, (name,), ())))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    if version == 0:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the version is in the file's header, where others look


def _open_read_only(file: Path, fleet: str) -> Database:
    """Read what another process wrote into a folder that is not ours to write."""
    if _length(file.with_name(f"{file.name}-wal")) == 0:
        connection = _connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        return _reading(file, connection, fleet)
    return _reading(file, _copy(file, None), fleet)


def _open_copy(file: Path, fleet: str, refused: str, problems: list[str]) -> Database:
    """What the file holds, in memory: it cannot be written now, and somebody else may be writing it."""
    connection = None
    unread = ""
    for folder in (None, _MEMORY_FOLDER):
        try:
            connection = _copy(file, folder)
            break
        except (OSError, sqlite3.Error) as error:
            unread = str(error)
    if connection is None:
        if _length(file):
            problems.append(f"{file} cannot be read: {unread}")
        return Database(file, _connect(":memory:"), writable=False, refused=refused)
    if _length(file):
        _reading(file, connection, fleet)  # of this version and fleet
    return Database(file, connection, writable=False, refused=refused)


def _copy(file: Path, folder: Path | None) -> sqlite3.Connection:
    """A copy of the file in memory, with its log: to apply that takes a folder that can be written.

    Secrets in it are encrypted. A copy that somebody wrote into meanwhile is made again.
    """
    with tempfile.TemporaryDirectory(prefix="state-", dir=folder) as temporary:
        copy = Path(temporary) / file.name
        for _ in range(_COPIES):
            before = _written(file)
            for suffix in ("-wal", ""):
                if _length(part := file.with_name(f"{file.name}{suffix}")) or not suffix:
                    shutil.copyfile(part, copy.with_name(f"{copy.name}{suffix}"))
            if before == _written(file):
                break
            _remove(copy)
        connection = _connect(":memory:")
        with closing(_connect(str(copy))) as original:
            original.backup(connection)
    return connection


def _written(file: Path) -> list[tuple[int, int, int]]:
    """What changes when somebody writes the file or its log."""
    parts = (file.with_name(f"{file.name}{suffix}") for suffix in ("", "-wal"))
    return [
        (found.st_ino, found.st_size, found.st_mtime_ns) for part in parts if part.exists() and (found := part.stat())
    ]


def _reading(file: Path, connection: sqlite3.Connection, fleet: str) -> Database:
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA:
            raise Unusable(other_version(file, version))
        refuse_other_fleet(connection, file, fleet)
    except BaseException:
        connection.close()
        raise
    return Database(file, connection, writable=False)


def _connect(name: str, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(name, _BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri)
    # Damaged text must fail its checksum, not the reading of its table.
    connection.text_factory = bytes
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(file: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
