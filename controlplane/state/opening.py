"""Opening the SQLite file whatever its condition: to write it, to read it alone, or to rebuild it when it is damaged.

Used by `ledger` alone, which has claimed the folder before anything is written.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from controlplane.state import tables
from controlplane.state.database import Database, connect, length
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
from controlplane.state.tables import FLEET, TABLES, Row

DAMAGED = ".damaged"
"""The suffix of a damaged file that was put aside. Only the last one is kept, so that disks do not fill."""

OTHER_FLEET = ".other-fleet"
"""The suffix of the state of another fleet that was put aside."""

REPLACED = ".replaced"
"""The suffix of what somebody put in the place of the file while it was in use."""

_WAL_BYTES = 4 * 1024 * 1024
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_COPIES = 5
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  only where a full disk has no room for a temporary copy


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


def open_held(file: Path, fleet: str, holder: str) -> tuple[Database, list[str]]:
    """What the file holds that another process writes, as it is at this moment, in memory; raises as `open_file`."""
    problems: list[str] = []
    refused = f"another process writes it ({holder})"
    refuse_foreign(file)
    connection = connect(":memory:")
    try:
        with closing(connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as original:
            original.backup(connection)
    except sqlite3.Error:
        connection.close()
        return _open_copy(file, fleet, refused, problems), problems
    _reading(file, connection, fleet)  # of this version and fleet
    return Database(file, connection, writable=False, refused=refused), problems


def nothing(file: Path, refused: str) -> Database:
    """Instead of a file that is not there any more, until it can be made again."""
    return Database(file, connect(":memory:"), writable=False, refused=refused)


def rebuild(file: Path, rows: Sequence[Row], max_bytes: int, fleet: str = "", aside: str = DAMAGED) -> Database:
    """Put a (closed) file aside, or what is in its place, and make a clean one of these rows."""
    fresh = _rebuilt(file)
    _remove(fresh)
    with closing(_open_writable(fresh, max_bytes, fleet)) as database:
        database.apply(rows)
    put_aside(file, aside)
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


def _rebuilt(file: Path) -> Path:
    """What `rebuild` makes before it takes the place of the file."""
    return file.with_name(f"{file.name}.new")


def _take_rebuilt(file: Path) -> bool:
    """Finish a `rebuild` that was killed after the damaged file was put aside; whether there was one."""
    fresh = _rebuilt(file)
    if file.exists() or length(fresh) == 0 or length(fresh.with_name(f"{fresh.name}-wal")):
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
    connection = connect(str(file))
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
    if length(file.with_name(f"{file.name}-wal")) == 0:
        connection = connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
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
        if length(file):
            problems.append(f"{file} cannot be read: {unread}")
        return nothing(file, refused)
    if length(file):
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
                if length(part := file.with_name(f"{file.name}{suffix}")) or not suffix:
                    shutil.copyfile(part, copy.with_name(f"{copy.name}{suffix}"))
            if before == _written(file):
                break
            _remove(copy)
        else:
            raise sqlite3.OperationalError("it is written all the time")
        connection = connect(":memory:")
        with closing(connect(str(copy))) as original:
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
        if version not in {0, SCHEMA}:  # 0: its tables are being made
            raise Unusable(other_version(file, version))
        refuse_other_fleet(connection, file, fleet)
    except BaseException:
        connection.close()
        raise
    return Database(file, connection, writable=False, refused=f"{file.parent} is read-only")


def _remove(file: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
