"""What is wrong right now, as sources and the compiler said it, with places found when somebody looks.

Fed by the intake and by commits; read by the log, the metrics and the admin API.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from controlplane.errors import Diagnostic, InvalidInput, Place, Severity
from controlplane.names import ObjectRef
from controlplane.sources.base import SpecObject
from controlplane.spec.parse import locate

log = structlog.get_logger(__name__)

LOGGED_AT_ONCE = 20
"""Problems of one change that are logged one by one; the rest are counted. The admin API has them all."""


@dataclass(slots=True)
class Problems:
    """Diagnostics by who said them and about what; saying () takes them back."""

    object_of: Callable[[ObjectRef], SpecObject | None] = lambda _: None
    _said: dict[Hashable, tuple[Diagnostic, ...]] = field(default_factory=dict)
    _speakers: dict[str, dict[Hashable, None]] = field(default_factory=dict)
    """By subject: who says something about it."""
    changed: Callable[[Collection[str]], None] = lambda _: None
    """Called with the subjects of which something else is said now."""

    def say(self, speaker: Hashable, diagnostics: Sequence[Diagnostic]) -> None:
        """Replace what this speaker said before; log what is new."""
        self.say_all({speaker: tuple(diagnostics)})

    def say_all(self, said: Mapping[Hashable, tuple[Diagnostic, ...]]) -> None:
        """What many speakers say at once."""
        fresh: list[Diagnostic] = []
        changed: dict[str, None] = {}
        for speaker, diagnostics in said.items():
            before = self._said.pop(speaker, ())
            if diagnostics:
                self._said[speaker] = diagnostics
            if diagnostics != before:
                changed |= self._attribute(speaker, before, diagnostics)
            fresh += [one for one in diagnostics if one not in before]
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
        for subject in new - old:
            self._speakers.setdefault(subject, {})[speaker] = None
        return dict.fromkeys(old | new)

    def all(self) -> list[Diagnostic]:
        """Every diagnostic with its place, each once, sorted."""
        placed = {self.placed(one) for diagnostics in self._said.values() for one in diagnostics}
        return sorted(placed, key=lambda one: (one.place or Place(""), one.subject, one.path, one.message))

    def placed(self, diagnostic: Diagnostic) -> Diagnostic:
        """The diagnostic with its position in the file of its object, when that is known."""
        spec = self.object(diagnostic.subject)
        if diagnostic.place is not None or spec is None:
            return diagnostic
        try:
            return diagnostic.at(locate(spec.text, spec.file, spec.line, diagnostic.path or "metadata.name"))
        except InvalidInput:
            return diagnostic.at(Place(spec.file, spec.line))

    def _log(self, fresh: Iterable[Diagnostic]) -> None:
        listed = list(fresh)
        for one in listed[:LOGGED_AT_ONCE]:
            placed = self.placed(one)
            say = log.error if one.severity is Severity.ERROR else log.warning
            say(
                "problem",
                code=str(one.code),
                at=str(placed.place or ""),
                path=one.path,
                detail=one.message,
                help=one.help,
            )
        if len(listed) > LOGGED_AT_ONCE:
            log.warning("more problems", count=len(listed) - LOGGED_AT_ONCE)
