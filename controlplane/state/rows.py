"""What is kept as rows, and rows as what was kept: the one place that knows both the values and the tables.

Used by `ledger` and `store` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import msgspec

from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.state.content import Note, StateChanges, StoredObject
from controlplane.state.sealing import Sealer
from controlplane.state.tables import HISTORY, OBJECTS, SECRETS, SEEN, SERVED, SERVICES, TOLD, Key, Row, Table

CONTENT_SCHEMA = 1
"""The version of the documents' language, kept beside each text."""

SERVICE_SCHEMA = 1
"""The version of what is written of a service."""

HISTORY_SCHEMA = 1
"""The version of what is written in notes."""


@dataclass(frozen=True, slots=True)
class OfService:
    """A service; its name alone would equal that of a secret."""

    service: ServiceRef


@dataclass(frozen=True, slots=True)
class OfSource:
    """When a source could be read last."""

    name: str


@dataclass(frozen=True, slots=True)
class OfVersions:
    """The highest version that a source has told."""

    source: str


Ref = ObjectRef | SecretRef | OfService | OfSource | OfVersions | Note | str
"""What a row is of; a `str` is the name of a view that was served."""

Value = StoredObject | Secret | Service | float | int | str | bytes
"""What is kept of it; a `str` is the version of a snapshot, a `float` is seconds of the epoch, an `int` a version of a source,
`bytes` are a note."""

MAX_VERSION = 2**63 - 1
"""What a column takes."""


@dataclass(frozen=True, slots=True)
class Change:
    """A thing as it is since `at` (seconds of the epoch); None forgets it."""

    value: Value | None
    at: float


def changes(of: StateChanges, at: float) -> Mapping[Ref, Change]:
    """Every change by what it is of."""
    found: dict[Ref, Change] = {note: Change(value, at) for note, value in of.history.items()}  # first, if not all fit
    found |= {ref: Change(value, at) for ref, value in of.objects.items()}
    found |= {ref: Change(value, at) for ref, value in of.secrets.items()}
    found |= {ref: Change(value, at) for ref, value in of.served.items()}
    found |= {OfService(ref): Change(value, at) for ref, value in of.services.items()}
    found |= {OfSource(name): Change(value, at) for name, value in of.seen.items()}
    found |= {OfVersions(name): Change(value, at) for name, value in of.told.items()}
    return found


def row(ref: Ref, change: Change, sealer: Sealer | None) -> Row | None:
    """The row of a change; None for what is sealed when there is no key for it: in clear it is never written."""
    value = change.value
    if value is None:
        return Row(_table(ref), _key(ref), None)
    match value:
        case StoredObject(text, file, line):
            return Row(OBJECTS, _key(ref), (_bytes(text), _bytes(file), line, change.at, CONTENT_SCHEMA))
        case Secret():
            assert isinstance(ref, SecretRef)
            return None if sealer is None else Row(SECRETS, _key(ref), (sealer.seal(ref, value), change.at))
        case Service():
            return Row(SERVICES, _key(ref), (msgspec.msgpack.encode(value), change.at, SERVICE_SCHEMA))
        case int():
            return Row(TOLD, _key(ref), (min(value, MAX_VERSION), change.at))
        case float():
            return Row(SEEN, _key(ref), (value,))
        case bytes():
            assert isinstance(ref, Note)
            content = sealer.seal_note(ref, value) if sealer is not None else None
            return None if content is None else Row(HISTORY, _key(ref), (content, change.at, HISTORY_SCHEMA))
        case str():
            return Row(SERVED, _key(ref), (_bytes(value), change.at))
        case _:
            assert_never(value)


def since(found: Row) -> float:
    """Since when what is in an intact row is as it is there (seconds of the epoch)."""
    assert found.values is not None
    return next(
        float(value) for name, value in zip(found.table.values, found.values, strict=True) if name.endswith("_at")
    )


def ref_of(found: Row) -> Ref:
    """What a row is of."""
    names = [part.decode("utf-8", "surrogatepass") for part in found.key]
    if found.table == OBJECTS:
        return ObjectRef(*names)
    if found.table == SECRETS:
        return SecretRef(*names)
    if found.table == SERVICES:
        return OfService(ServiceRef(*names))
    if found.table == HISTORY:
        return Note(*names)
    if found.table == TOLD:
        return OfVersions(names[0])
    return OfSource(names[0]) if found.table == SEEN else names[0]


def stored_object(found: Row) -> StoredObject:
    """The document in an intact row of `object`."""
    assert found.values is not None
    text, file, line, *_ = found.values
    assert isinstance(text, bytes)
    assert isinstance(file, bytes)
    return StoredObject(_text(text), _text(file), int(line))


def sealed(found: Row) -> bytes:
    """The encrypted bytes in an intact row of `secret` or `history`."""
    assert found.values is not None
    content = found.values[0]
    assert isinstance(content, bytes)
    return content


def is_readable(found: Row) -> bool:
    """Whether an intact row of `history` is of this version of the program."""
    assert found.values is not None
    return found.values[-1] == HISTORY_SCHEMA


def served(found: Row) -> str:
    """The version in an intact row of `served`."""
    assert found.values is not None
    version, _ = found.values
    assert isinstance(version, bytes)
    return _text(version)


def service(found: Row) -> Service | None:
    """The service in an intact row of `service`; None when another version of this program wrote it."""
    assert found.values is not None
    content, _, schema = found.values
    assert isinstance(content, bytes)
    if schema != SERVICE_SCHEMA:
        return None
    try:
        return msgspec.msgpack.decode(content, type=Service)
    except msgspec.MsgspecError:
        return None


def told(found: Row) -> int:
    """The version in an intact row of `told`."""
    assert found.values is not None
    version, _ = found.values
    assert isinstance(version, int)
    return version


def _table(ref: Ref) -> Table:
    match ref:
        case ObjectRef():
            return OBJECTS
        case SecretRef():
            return SECRETS
        case OfService():
            return SERVICES
        case OfSource():
            return SEEN
        case Note():
            return HISTORY
        case OfVersions():
            return TOLD
        case str():
            return SERVED
        case _:
            assert_never(ref)


def _key(ref: Ref) -> Key:
    match ref:
        case str():
            return (_bytes(ref),)
        case OfSource(name) | OfVersions(name):
            return (_bytes(name),)
        case OfService(service):
            return tuple(map(_bytes, service))
        case _:
            return tuple(map(_bytes, ref))


def _bytes(text: str) -> bytes:
    """UTF-8; names of files that are not are Python's surrogates, which come back the same."""
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
