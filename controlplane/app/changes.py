"""The last changes: which edits were taken when, what each changed of what proxies are offered, and what went wrong.

For `controlplane changes`, the admin API and the log. It only looks, and remembers since the process began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import structlog

from controlplane.app.problems import Problems, plain
from controlplane.errors import Diagnostic
from controlplane.names import ObjectRef, SecretRef
from controlplane.snapshot.content import Touched
from controlplane.xds import types

log = structlog.get_logger(__name__)

REMEMBERED = 1000
"""Changes: where people edit a few times an hour, of some days."""
NAMED = 100
"""Edits of one change that are remembered by name; the others are counted."""
LOGGED = 20
"""Those that its line of the log names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one commit took and did, or what went wrong at once."""

    at: datetime
    edited: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    more: int = 0
    """Edits or problems that are not named."""
    sequence: int | None = None
    """Of the publication; None when nothing of what proxies are offered has changed."""
    gateways: tuple[str, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict)
    """By type: how many were added, changed or removed."""

    def is_of(self, pattern: str) -> bool:
        """Whether something that is so called took part; among those that are not named, it may have."""
        of_problems = [name for one in self.problems for name in (one.subject, one.place.file if one.place else "")]
        names = [*self.edited, *self.removed, *of_problems] or [""]  # what nobody edited is of everything alone
        return self.more > 0 or any(_is_called(one, pattern) for one in names)

    def plain(self, now: datetime) -> dict[str, Any]:
        """As data, for JSON."""
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "ageSeconds": round((now - self.at).total_seconds(), 3),
            "sequence": self.sequence,
            "edited": list(self.edited),
            "removed": list(self.removed),
            "gateways": list(self.gateways),
            "resources": dict(self.resources),
            "problems": [plain(one) for one in self.problems],
            "more": self.more,
        }


@dataclass(slots=True)
class Changes:
    """Told by commits, and of what is wrong all at once."""

    register: Problems
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    began: datetime = field(init=False)
    _entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def __post_init__(self) -> None:
        """From now on it remembers."""
        self.began = self.clock()
        self.register.fresh = self._gone_wrong

    def committed(
        self, edits: Sequence[Hashable], touched: Mapping[Hashable, Touched], sequence: int, build_ms: float
    ) -> None:
        """A commit took these edits, and touched this of what is served."""
        objects = [key for key in edits if isinstance(key, ObjectRef | SecretRef)]
        if not objects and not touched:
            return
        names: dict[str, set[str]] = {}
        for one in touched.values():
            for url, of_type in one.items():
                names.setdefault(url, set()).update(of_type)
        removed = [one for one in objects[:NAMED] if self._is_removed(one)]
        entry = Entry(
            self.clock(),
            edited=tuple(_name(one) for one in objects[:NAMED] if one not in removed),
            removed=tuple(map(_name, removed)),
            more=len(objects[NAMED:]),
            sequence=sequence if touched else None,
            gateways=tuple(sorted({name for part in touched for name in _gateways(part)})),
            resources={types.short_name(url): len(names[url]) for url in sorted(names, key=types.push_rank)},
        )
        self._entries.append(entry)
        said = {name: list(of[:LOGGED]) for name in ("edited", "removed") if (of := getattr(entry, name))}
        if touched:
            resources = sum(entry.resources.values())
            log.info("published", sequence=sequence, resources=resources, build_ms=build_ms, **said)
        else:
            log.info("nothing published", build_ms=build_ms, **said)

    def explained(self, pattern: str, last: int) -> dict[str, Any]:
        """The last changes in which something so called took part, the newest first, and since when any is remembered."""
        now = self.clock()
        found = [entry for entry in reversed(self._entries) if entry.is_of(pattern)]
        full = len(self._entries) == REMEMBERED
        return {
            "changes": [entry.plain(now) for entry in found[:last]],
            "more": len(found[last:]),
            "rememberedSince": (self._entries[0].at if full else self.began).isoformat(timespec="milliseconds"),
        }

    def _gone_wrong(self, fresh: Sequence[Diagnostic], more: int) -> None:
        """These are wrong from now on, and so many others."""
        self._entries.append(Entry(self.clock(), problems=tuple(fresh), more=more))

    def _is_removed(self, ref: ObjectRef | SecretRef) -> bool:
        return isinstance(ref, ObjectRef) and self.register.object_of(ref) is None


def _name(ref: ObjectRef | SecretRef) -> str:
    return ref.subject if isinstance(ref, ObjectRef) else f"secret {ref.subject}"


def _is_called(name: str, pattern: str) -> bool:
    """Whether a name is like this with its source and kind before it, without the source, or without both."""
    return any(fnmatchcase(one, pattern) for one in (name, name.rpartition(": ")[2], name.rpartition(" ")[2]))


def _gateways(part: Hashable) -> list[str]:
    """The gateways in the name of a part of the snapshot; its other words have no slash."""
    return [word for word in part if "/" in word] if isinstance(part, tuple) else []
