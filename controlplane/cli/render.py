"""Diagnostics for people: code and message, position, the line with a caret, the path in the spec, what would work.

The layout is rustc's, because many have learnt to read it. Other formats are in `formats`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from controlplane.cli.terminal import Paint, Terminal
from controlplane.errors import Diagnostic, Severity

WIDTH = 120
"""Columns of a snippet; of a longer line the part around the error is shown."""

_TOKEN = re.compile(r""""(?:[^"\\]|\\.)*"?|'(?:[^']|'')*'?|[^\s:,{}\[\]]+(?::(?=\S)[^\s:,{}\[\]]*)*|\S""")


class Texts:
    """The texts that diagnostics point into, by file name; lines are split once."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._lines: dict[str, list[str]] = {}

    def line(self, file: str, number: int) -> str | None:
        """Line `number` (from 1) of a file, or None when it is not known."""
        if file not in self._texts or number < 1:
            return None
        if file not in self._lines:
            self._lines[file] = self._texts[file].split("\n")
        lines = self._lines[file]
        return lines[number - 1].rstrip("\r") if number <= len(lines) else None


def token_width(line: str, column: int) -> int:
    """How many characters the token at `column` (from 1) has; at least one."""
    match = _TOKEN.match(line, column - 1)
    return len(match[0]) if match else 1


def visible(text: str) -> str:
    """The text without characters that move the cursor, one for one."""
    return "".join(" " if c == "\t" else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in {"W", "F"} else 1 for c in text
    )


def snippet(line: str, column: int) -> tuple[str, str]:
    """The part of the line worth showing, and the row of carets below it."""
    width = token_width(line, column)
    start = max(0, column - 1 - WIDTH // 2) if len(line) > WIDTH else 0
    shown = line[start : start + WIDTH]
    before = shown[: column - 1 - start]
    marked = shown[column - 1 - start : column - 1 - start + width]
    prefix = "… " if start else ""
    suffix = " …" if start + WIDTH < len(line) else ""
    return (
        f"{prefix}{visible(shown)}{suffix}",
        " " * (len(prefix) + _cells(visible(before))) + "^" * max(1, _cells(visible(marked))),
    )


def text(diagnostic: Diagnostic, texts: Texts, terminal: Terminal) -> str:
    """One diagnostic, several lines."""
    paint = Paint.ERROR if diagnostic.severity is Severity.ERROR else Paint.WARNING
    head = terminal.paint(f"{diagnostic.severity}[{diagnostic.code}]", paint)
    lines = [f"{head}: {terminal.paint(visible(diagnostic.message), Paint.STRONG)}"]
    place = diagnostic.place
    source = texts.line(place.file, place.line) if place else None
    gutter = " " * len(str(place.line)) if place and source is not None else " "
    bar = terminal.paint("|", Paint.FRAME)
    if place:
        lines.append(f"{gutter}{terminal.paint('-->', Paint.FRAME)} {visible(str(place))}")
    if place and source is not None:
        lines.append(f"{gutter} {bar}")
        if place.column:
            shown, carets = snippet(source, place.column)
            lines.append(f"{terminal.paint(str(place.line), Paint.FRAME)} {bar} {shown}".rstrip())
            lines.append(f"{gutter} {bar} {terminal.paint(carets, paint)}")
        else:
            lines.append(f"{terminal.paint(str(place.line), Paint.FRAME)} {bar} {visible(source[:WIDTH])}".rstrip())
    where = ", ".join(part for part in (diagnostic.subject, diagnostic.path) if part)
    equals = terminal.paint("=", Paint.FRAME)
    if where:
        lines.append(f"{gutter} {equals} in {visible(where)}")
    if diagnostic.help:
        lines.append(f"{gutter} {equals} help: {visible(diagnostic.help)}")
    return "\n".join(lines)


def count(number: int, noun: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def totals(diagnostics: Iterable[Diagnostic]) -> tuple[int, int]:
    """How many errors and how many warnings."""
    severities = [diagnostic.severity for diagnostic in diagnostics]
    return severities.count(Severity.ERROR), severities.count(Severity.WARNING)


def summary(diagnostics: Sequence[Diagnostic], files: int, routes: int, seconds: float) -> str:
    """The last line: `2 errors, 0 warnings in 3 files (0.08 s)`, or `OK: 3 files, 41 routes, 0 problems (0.08 s)`."""
    if not diagnostics:
        return f"OK: {count(files, 'file')}, {count(routes, 'route')}, 0 problems ({seconds:.2f} s)"
    errors, warnings = totals(diagnostics)
    return f"{count(errors, 'error')}, {count(warnings, 'warning')} in {count(files, 'file')} ({seconds:.2f} s)"
