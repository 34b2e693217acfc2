"""What is kept as rows, and rows as what was kept: the one place that knows both the values and the tables.

Used by `store` alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.state.content import Served, StateChanges, StoredObject
from controlplane.state.database import OBJECTS, SECRETS, SERVED, Key, Row, Table
from controlplane.state.sealing import Sealer

CONTENT_SCHEMA = 1
"""The version of the documents' language, kept beside each text."""

Ref = ObjectRef | SecretRef | str
"""What a row is of; a `str` is the name of a view that was served."""

Value = StoredObject | Secret | str
"""What is kept of it; a `str` is the version of a snapshot."""


@dataclass(frozen=True, slots=True)
class Change:
    """A thing as it is since `at` (seconds of the epoch); None forgets it."""

    value: Value | None
    at: float


def changes(of: StateChanges, at: float) -> Mapping[Ref, Change]:
    """Every change by what it is of."""
    found: dict[Ref, Change] = {ref: Change(value, at) for ref, value in of.objects.items()}
    found |= {ref: Change(value, at) for ref, value in of.secrets.items()}
    found |= {ref: Change(value, at) for ref, value in of.served.items()}
    return found


def row(ref: Ref, change: Change, sealer: Sealer | None) -> Row | None:
    """The row of a change; None for a secret when there is no key to encrypt it with: in clear it is never written."""
    value = change.value
    if value is None:
        return Row(_table(ref), _key(ref), None)
    match value:
        case StoredObject(text, file, line):
            return Row(OBJECTS, _key(ref), (_bytes(text), _bytes(file), line, change.at, CONTENT_SCHEMA))
        case Secret():
            assert isinstance(ref, SecretRef)
            return None if sealer is None else Row(SECRETS, _key(ref), (sealer.seal(ref, value), change.at))
        case str():
            return Row(SERVED, _key(ref), (_bytes(value), change.at))
        case _:
            assert_never(value)


def ref_of(found: Row) -> Ref:
    """What a row is of."""
    names = [part.decode("utf-8", "surrogatepass") for part in found.key]
    if found.table == OBJECTS:
        return ObjectRef(*names)
    return SecretRef(*names) if found.table == SECRETS else names[0]


def stored_object(found: Row) -> StoredObject:
    """The document in an intact row of `object`."""
    assert found.values is not None
    text, file, line, *_ = found.values
    assert isinstance(text, bytes)
    assert isinstance(file, bytes)
    return StoredObject(_text(text), _text(file), int(line))


def sealed(found: Row) -> bytes:
    """The encrypted bytes in an intact row of `secret`."""
    assert found.values is not None
    content = found.values[0]
    assert isinstance(content, bytes)
    return content


def served(found: Row) -> Served:
    """The version in an intact row of `served`."""
    assert found.values is not None
    version, at = found.values
    assert isinstance(version, bytes)
    return Served(_text(version), datetime.fromtimestamp(float(at), UTC))


def fingerprint(value: Value) -> bytes:
    """A short hash by which an unchanged thing is not written again. Stays in memory: that of a secret tells of it."""
    digest = hashlib.blake2b(digest_size=16)
    match value:
        case StoredObject(text, file, line):
            parts = [_bytes(text), _bytes(file), b"%d" % line]
        case Secret(items):
            parts = [part for name, content in items for part in (_bytes(name), content)]
        case str():
            parts = [_bytes(value)]
        case _:
            assert_never(value)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


def _table(ref: Ref) -> Table:
    match ref:
        case ObjectRef():
            return OBJECTS
        case SecretRef():
            return SECRETS
        case str():
            return SERVED
        case _:
            assert_never(ref)


def _key(ref: Ref) -> Key:
    return (_bytes(ref),) if isinstance(ref, str) else tuple(map(_bytes, ref))


def _bytes(text: str) -> bytes:
    """UTF-8; names of files that are not are Python's surrogates, which come back the same."""
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
