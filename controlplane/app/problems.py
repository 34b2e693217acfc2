"""What is wrong right now, as sources and the compiler said it, with places found when somebody looks.

Fed by the intake and by commits; read by the log, the metrics and the admin API.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from controlplane.errors import Diagnostic, Place, Severity
from controlplane.names import ObjectRef
from controlplane.sources.base import SpecObject
from controlplane.spec.parse import locate_all

log = structlog.get_logger(__name__)

LOGGED_AT_ONCE = 20
"""Problems of one change that are logged one by one; the rest are counted. The admin API has them all."""


@dataclass(slots=True)
class Problems:
    """Diagnostics by who said them and about what; saying () takes them back."""

    object_of: Callable[[ObjectRef], SpecObject | None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    _said: dict[Hashable, dict[Diagnostic, float]] = field(default_factory=dict)
    """By speaker: what it says, and since when."""
    _speakers: dict[str, dict[Hashable, None]] = field(default_factory=dict)
    """By subject: who says something about it."""
    _places: dict[str, tuple[SpecObject, dict[str, Place]]] = field(default_factory=dict)
    """By subject of which something is said: where its paths stand, for as long as the object is the same."""
    changed: Callable[[Collection[str]], None] = lambda _: None
    """Called with the subjects of which something else is said now."""
    fresh: Callable[[Sequence[Diagnostic], int], None] = lambda _, __: None
    """Called with what is said for the first time, in its place: those that are logged, and how many others."""

    def say(self, speaker: Hashable, diagnostics: Sequence[Diagnostic]) -> None:
        """Replace what this speaker said before; log what is new."""
        self.say_all({speaker: tuple(diagnostics)})

    def say_all(self, said: Mapping[Hashable, tuple[Diagnostic, ...]]) -> None:
        """What many speakers say at once."""
        fresh: list[Diagnostic] = []
        changed: dict[str, None] = {}
        now = self.clock()
        for speaker, diagnostics in said.items():
            before = self._said.pop(speaker, {})
            after = {one: before.get(one, now) for one in diagnostics}
            if after:
                self._said[speaker] = after
            if list(after) != list(before):
                changed |= self._attribute(speaker, before, after)
            fresh += [one for one in after if one not in before]
        if fresh:
            self._log(fresh)
        if changed:
            self.changed(changed)

    def object(self, subject: str) -> SpecObject | None:
        """The object that a subject names."""
        ref = ObjectRef.of_subject(subject)
        return self.object_of(ref) if ref is not None else None

    def count(self, severity: Severity) -> int:
        """How many diagnostics of a severity there are."""
        return sum(one.severity is severity for diagnostics in self._said.values() for one in diagnostics)

    def of(self, subject: str) -> tuple[Diagnostic, ...]:
        """Everything that is said about an object."""
        speakers = self._speakers.get(subject, ())
        found = (one for speaker in speakers for one in self._said.get(speaker, ()) if one.subject == subject)
        return tuple(dict.fromkeys(found))

    def _attribute(self, speaker: Hashable, before: Iterable[Diagnostic], now: Iterable[Diagnostic]) -> dict[str, None]:
        """Note of whom a speaker speaks; every subject that it spoke or speaks of."""
        old, new = ({one.subject for one in diagnostics if one.subject} for diagnostics in (before, now))
        for subject in old - new:
            speakers = self._speakers[subject]
            del speakers[speaker]
            if not speakers:
                del self._speakers[subject]
                self._places.pop(subject, None)
        for subject in new - old:
            self._speakers.setdefault(subject, {})[speaker] = None
        return dict.fromkeys(old | new)

    def counts(self) -> Counter[str]:
        """How much is said about each subject; nothing needs a place for that."""
        return Counter(one.subject for one in self._distinct())

    async def all(self) -> dict[Diagnostic, float]:
        """Every diagnostic of this moment with its place, and since when it is said; sorted.

        Others have their turns in between.
        """
        by_subject: dict[str, dict[Diagnostic, float]] = {}
        for one, since in self._distinct().items():
            by_subject.setdefault(one.subject, {})[one] = since
        placed: dict[Diagnostic, float] = {}
        for spec, said in [(self.object(subject), said) for subject, said in by_subject.items()]:
            for one, since in zip(self._of_object(spec, list(said)), said.values(), strict=True):
                placed[one] = min(since, placed.get(one, since))
            await asyncio.sleep(0)
        return {one: placed[one] for one in sorted(placed, key=_order)}

    def placed(self, diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
        """The diagnostics with their positions in the files of their objects, when these are known."""
        by_subject: dict[str, list[Diagnostic]] = {}
        listed = list(diagnostics)
        for one in listed:
            by_subject.setdefault(one.subject, []).append(one)
        found = {
            one: placed
            for subject, said in by_subject.items()
            for one, placed in zip(said, self._of_object(self.object(subject), said), strict=True)
        }
        return [found[one] for one in listed]

    def _distinct(self) -> dict[Diagnostic, float]:
        found: dict[Diagnostic, float] = {}
        for said in self._said.values():
            for one, since in said.items():
                found[one] = min(since, found.get(one, since))
        return found

    def _of_object(self, spec: SpecObject | None, diagnostics: list[Diagnostic]) -> list[Diagnostic]:
        """Diagnostics of one object with their places: its text is read once for all that have none yet."""
        paths = {_path(one) for one in diagnostics if one.place is None}
        if spec is None or not paths:
            return diagnostics
        subject = spec.ref.subject
        known, places = self._places.get(subject, (None, {}))
        if known is not spec:
            places = {}
        if missing := paths - places.keys():
            places = places | locate_all(spec.text, spec.file, spec.line, missing)
            if subject in self._speakers:  # else nobody would take them away
                self._places[subject] = spec, places
        return [one if one.place is not None else one.at(places[_path(one)]) for one in diagnostics]

    def _log(self, fresh: Sequence[Diagnostic]) -> None:
        listed, others = self.placed(fresh[:LOGGED_AT_ONCE]), len(fresh[LOGGED_AT_ONCE:])
        for one in listed:
            say = log.error if one.severity is Severity.ERROR else log.warning
            say(
                "problem",
                code=str(one.code),
                at=str(one.place or ""),
                path=one.path,
                detail=one.message,
                help=one.help,
            )
        if others:
            log.warning("more problems", count=others)
        self.fresh(listed, others)


def plain(one: Diagnostic) -> dict[str, Any]:
    """A diagnostic as data, for JSON."""
    place = one.place
    return {
        "severity": str(one.severity),
        "code": str(one.code),
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "subject": one.subject,
        "path": one.path,
        "message": one.message,
        "help": one.help,
    }


def _path(one: Diagnostic) -> str:
    """What of its object a diagnostic points at."""
    return one.path or "metadata.name"


def _order(one: Diagnostic) -> tuple[str, int, int, str, str, str]:
    place = one.place or Place("")
    return place.file, place.line, place.column, one.subject, one.path, one.message
