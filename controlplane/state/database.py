"""The SQLite file that is open: read and written by rows.

Used by `ledger` alone, which knows what rows mean; `opening` opens it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from controlplane.state import tables
from controlplane.state.owner import (
    code_of,
)
from controlplane.state.tables import TABLES, Row, Table

BUSY_SECONDS = 5.0


class Scan(NamedTuple):
    """Everything in the file: rows whose checksum holds, those where it does not, and other damage."""

    rows: list[Row]
    dropped: list[Row]
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
        self._parts = _parts(file)

    def scan(self) -> Scan:
        """Read and verify everything; never raises for damage, which is reported."""
        rows: list[Row] = []
        dropped: list[Row] = []
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
                    (rows if intact else dropped).append(row)
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
            self._parts = _parts(self.file)

    def lost(self) -> str | None:
        """What somebody else did to the file since it was written: SQLite goes on with what nobody will find again."""
        now = _parts(self.file)
        for name, before in self._parts.items():
            match now.get(name):
                case None:
                    return f"{name} was removed"
                case found if found[0] != before[0]:
                    return f"{name} was replaced"
                case found if found[1] != before[1]:
                    return f"{name} was changed by somebody else ({found[1]} bytes instead of {before[1]})"
        return None

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


def size(file: Path) -> int:
    """The bytes of the file and its log."""
    return sum(length(file.with_name(f"{file.name}{suffix}")) for suffix in ("", "-wal"))


def _parts(file: Path) -> dict[str, tuple[int, int]]:
    """Inode and size of the file and its log, by name, of those that are there."""
    found: dict[str, tuple[int, int]] = {}
    for suffix in ("", "-wal"):
        part = file.with_name(f"{file.name}{suffix}")
        with suppress(OSError):
            status = part.stat()
            found[part.name] = (status.st_ino, status.st_size)
    return found


def connect(name: str, *, uri: bool = False) -> sqlite3.Connection:
    """A connection whose rows are bytes and numbers."""
    connection = sqlite3.connect(name, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri)
    # Damaged text must fail its checksum, not the reading of its table.
    connection.text_factory = bytes
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def length(file: Path) -> int:
    """The bytes of a file; 0 for one that cannot be reached."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
