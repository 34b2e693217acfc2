"""What is kept and what is said about it: values of the state store, free of SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One accepted document: its text, and the file and line (from 1) on which the text began."""

    text: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Served:
    """What a view was served last: the snapshot's version, and since when."""

    version: str
    at: datetime


class Note(NamedTuple):
    """The name of a note: of what kind it is, and of what."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class StateChanges:
    """What to keep from now on; None forgets.

    `served` maps a view's name to the version of its snapshot, `seen` a source to when it could be read last (seconds of
    the epoch), `told` a source to the highest version that it has told of something. `history` are notes of what proxies have
    that no input says: bytes, which are sealed.
    """

    objects: Mapping[ObjectRef, StoredObject | None] = field(default_factory=dict)
    secrets: Mapping[SecretRef, Secret | None] = field(default_factory=dict)
    served: Mapping[str, str | None] = field(default_factory=dict)
    services: Mapping[ServiceRef, Service | None] = field(default_factory=dict)
    seen: Mapping[str, float | None] = field(default_factory=dict)
    history: Mapping[Note, bytes | None] = field(default_factory=dict)
    told: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the previous process left, and everything that could not be read, each in a sentence.

    `whole` is False when some of it was damaged, other than notes.
    """

    objects: dict[ObjectRef, StoredObject]
    secrets: dict[SecretRef, Secret]
    served: dict[str, Served]
    problems: list[str]
    services: dict[ServiceRef, Service] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    history: dict[Note, bytes] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Status:
    """How the store is.

    `degraded` says why something is not kept on disk (None: everything is); `pending` counts rows that wait to be
    written, `bytes` those of the database with its log. `last_write` is None before the first. `mishaps` counts how often
    the file was removed, replaced or damaged since the start, and was written anew.
    """

    path: Path
    degraded: str | None
    rows: int
    bytes: int
    pending: int
    last_write: datetime | None
    mishaps: int = 0
    last_mishap: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether everything is kept on disk, now or in a moment."""
        return self.degraded is None
