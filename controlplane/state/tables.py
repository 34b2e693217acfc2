"""The tables of the file, and their rows: checksummed tuples of bytes and numbers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Value = bytes | int | float
Key = tuple[bytes, ...]


class Table(NamedTuple):
    """A table: its name, the columns of its key and the others."""

    name: str
    key: tuple[str, ...]
    values: tuple[str, ...]


OBJECTS = Table(
    "object", ("source", "kind", "namespace", "name"), ("text", "file", "line", "accepted_at", "content_schema")
)
SECRETS = Table("secret", ("source", "namespace", "name"), ("sealed", "accepted_at"))
SERVED = Table("served", ("view",), ("version", "served_at"))
SERVICES = Table("service", ("source", "namespace", "name"), ("content", "accepted_at", "content_schema"))
SEEN = Table("source", ("name",), ("seen_at",))
HISTORY = Table("history", ("kind", "name"), ("sealed", "noted_at", "content_schema"))
TOLD = Table("told", ("source",), ("version", "told_at"))
FLEET = Table("fleet", ("name",), ())
"""Whose state it is, in one row. Nothing that is loaded, so not one of `TABLES`."""

TABLES = (OBJECTS, SECRETS, SERVED, SERVICES, SEEN, HISTORY, TOLD)
"""Tables are added without a new `SCHEMA`: a version that does not know one leaves it alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `values` None means that it is to be removed."""

    table: Table
    key: Key
    values: tuple[Value, ...] | None


def digest(table: Table, key: Sequence[object], values: Sequence[object]) -> bytes:
    """A checksum over the table, the key and all values, with their types and lengths."""
    found = hashlib.blake2b(table.name.encode(), digest_size=16)
    for value in (*key, *values):
        match value:
            case bytes():
                found.update(b"b" + struct.pack(">Q", len(value)))
                found.update(value)
            case int():
                found.update(b"i%d;" % value)
            case float():
                found.update(b"f" + struct.pack(">d", value))
            case _:
                found.update(b"n")
    return found.digest()


def put(table: Table) -> str:
    """The statement that puts a row: its key, its values, its digest."""
    columns = (*table.key, *table.values, "digest")
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR REPLACE INTO {table.name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  our own names


def delete(table: Table) -> str:
    """The statement that removes the row of a key."""
    return f"DELETE FROM {table.name} WHERE {' AND '.join(f'{column} = ?' for column in table.key)}"  # noqa: S608  the same


def shown(key: Sequence[object]) -> str:
    """A key for people; its bytes may be damaged."""
    return "/".join(part.decode(errors="replace") if isinstance(part, bytes) else repr(part) for part in key)
