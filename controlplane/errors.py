"""What can be wrong and how it is said: diagnostics with a place, and the few exceptions of this package.

Every layer uses this module and it uses none. A diagnostic speaks to a tired person: where, what, what next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class Severity(StrEnum):
    """How much a diagnostic matters: an error disables what it names, a warning disables nothing."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file: `line` and `column` count from 1; 0 means that it is not known."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """`file:line:column`, without the parts that are not known."""
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem.

    `code` is stable (`GW0107`; the table is docs/errors.md), `path` is the place inside the object in the words of the
    spec (`spec.routes[web].to[0].backend`), `subject` names the object (`GatewaySpec platform/shop-edge`), `help` says
    what would work.
    """

    code: str
    message: str
    path: str = ""
    help: str = ""
    severity: Severity = Severity.ERROR
    subject: str = ""
    place: Place | None = None

    def at(self, place: Place) -> Diagnostic:
        """The same diagnostic with its position."""
        return replace(self, place=place)

    def __str__(self) -> str:
        """`shop.yaml:14:9: spec.listeners[https].tls[0]: no secret "tls/web" (known: tls/shop)`."""
        parts = [str(self.place)] if self.place else [self.subject] if self.subject else []
        if self.path:
            parts.append(self.path)
        parts.append(f"{self.message} ({self.help})" if self.help else self.message)
        return ": ".join(parts)


class ControlPlaneError(Exception):
    """The base of everything this package raises on purpose."""


class InvalidInput(ControlPlaneError):
    """Input that cannot be used, with all its diagnostics at once."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Keep the diagnostics in the order found."""
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(str, self.diagnostics)))


class ConfigurationError(ControlPlaneError):
    """The process was started in a way that cannot work; the message says what would."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean "retries"?`, else `known: a, b, c` (at most eight), for the `help` of a diagnostic."""
    import difflib  # only on the error path: it costs 5 ms at start

    names = sorted(set(known))
    if alike := next((name for name in names if name.lower() == word.lower()), None):
        return f'did you mean "{alike}"?'
    if close := difflib.get_close_matches(word, names, 1):
        return f'did you mean "{close[0]}"?'
    if not names:
        return "none is declared"
    return "known: " + ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
