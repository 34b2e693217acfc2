"""What is wrong right now, as sources and the compiler said it, with places found when somebody looks.

Fed by the intake and by commits; read by the log, the metrics and the admin API.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
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
    _subjects: dict[str, ObjectRef] = field(default_factory=dict)

    def say(self, speaker: Hashable, diagnostics: Sequence[Diagnostic]) -> None:
        """Replace what this speaker said before; log what is new."""
        before = self._said.pop(speaker, ())
        if diagnostics:
            self._said[speaker] = tuple(diagnostics)
        self._log([one for one in diagnostics if one not in before])

    def say_all(self, said: Mapping[Hashable, tuple[Diagnostic, ...]]) -> None:
        """What many speakers say at once."""
        fresh: list[Diagnostic] = []
        for speaker, diagnostics in said.items():
            before = self._said.pop(speaker, ())
            if diagnostics:
                self._said[speaker] = diagnostics
            fresh += [one for one in diagnostics if one not in before]
        self._log(fresh)

    def know(self, ref: ObjectRef) -> None:
        """Remember the object behind a subject, so that its diagnostics find their place."""
        self._subjects[str(ref)] = ref

    def forget(self, ref: ObjectRef) -> None:
        """The object is gone."""
        self._subjects.pop(str(ref), None)

    def object(self, subject: str) -> SpecObject | None:
        """The object that a subject names."""
        ref = self._subjects.get(subject)
        return self.object_of(ref) if ref is not None else None

    def count(self, severity: Severity) -> int:
        """How many diagnostics of a severity there are."""
        return sum(one.severity is severity for diagnostics in self._said.values() for one in diagnostics)

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
