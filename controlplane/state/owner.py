"""Whose file it is: of this program, of this version, of this fleet. What is not is left as it is, or put aside."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

from controlplane.errors import ControlPlaneError
from controlplane.state import tables
from controlplane.state.tables import FLEET

SCHEMA = 1
"""The version of the tables. One that is not this is not read: state is a cache of sources that say it all again."""

APPLICATION_ID = 0x67775354
"""`gwST`, in the header of the file: another program's database is never touched."""

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"


class Unusable(ControlPlaneError):
    """The file cannot be used and must stay as it is; the message says why."""


class OtherFleet(Unusable):
    """The file is the state of another fleet: a copied folder."""


def refuse_foreign(file: Path) -> None:
    """Raise Unusable for another program's or version's database, before SQLite changes a byte of it.

    https://www.sqlite.org/fileformat2.html#the_database_header
    """
    try:
        with file.open("rb") as source:
            header = source.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return  # empty or damaged: SQLite says which
    (version,) = struct.unpack_from(">I", header, 60)
    (application,) = struct.unpack_from(">I", header, 68)
    if application == APPLICATION_ID and version not in {0, SCHEMA}:
        raise Unusable(other_version(file, version))
    if application not in {0, APPLICATION_ID}:
        raise Unusable(f"{file}: a database of another program; left alone, started clean from sources")


def other_version(file: Path, version: int) -> str:
    """What to say about a file of another `SCHEMA`."""
    age = "newer" if version > SCHEMA else "older"
    return (
        f"{file}: written by a {age} version of this program (schema {version}, this one knows {SCHEMA}); "
        "left alone, started clean from sources"
    )


def refuse_other_fleet(connection: sqlite3.Connection, file: Path, fleet: str) -> None:
    """Raise OtherFleet for the state of another one."""
    found = fleet_of(connection)
    if fleet and found and found != fleet:
        raise OtherFleet(
            f"{file}: the state of the fleet {found}, and this one is {fleet} (identity.cluster); not read"
        )


def fleet_of(connection: sqlite3.Connection) -> str | None:
    """Whose state it is: "" when nobody said so (an older version), None when that cannot be read.

    A damaged name is no name: it must not cost the rows beside it, which are intact.
    """
    try:
        for name, digest in connection.execute(f"SELECT name, digest FROM {FLEET.name}"):  # noqa: S608  our own names
            if digest == tables.digest(FLEET, (name,), ()):
                return str(name, "utf-8")
    except sqlite3.Error as error:
        if not is_damage(error) and code_of(error) != sqlite3.SQLITE_ERROR:  # no such table
            raise
        return None
    return ""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken."""
    return code_of(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def code_of(error: sqlite3.Error) -> int:
    """The primary result code. https://www.sqlite.org/rescode.html."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
