"""Answers of the admin API as tables: columns, ages, places, colours; and as JSON or YAML. For all commands that ask it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from controlplane.cli.render import visible
from controlplane.cli.terminal import Paint, Terminal

_PAINTS = {
    "synced": Paint.GOOD,
    "nack": Paint.ERROR,
    "held": Paint.ERROR,
    "absent": Paint.ERROR,
    "problem": Paint.ERROR,
    "stale": Paint.WARNING,
    "gone": Paint.WARNING,
    "works": Paint.GOOD,
    "waiting": Paint.WARNING,
    "failed": Paint.ERROR,
}


def age(seconds: float) -> str:
    """`0.4s`, `12s`, `5m10s`, `3h02m`, `9d04h`: two units at most."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], terminal: Terminal, *, painted: int) -> str:
    """Columns side by side; the column `painted` in the colour of its word."""
    rows = [[visible(cell) for cell in row] for row in rows]  # proxies say what they like
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if row is not header and (paint := _PAINTS.get(row[painted])) is not None:
            cells[painted] = terminal.paint(cells[painted], paint, sys.stdout)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def place(one: dict[str, Any]) -> str:
    """Where something stands, `specs/edge.yaml:8:29`; "" when that is not known."""
    return f"{one['file']}:{one['line']}:{one['column']}" if one["file"] else ""


def one_line(problem: dict[str, Any]) -> str:
    """A problem on one line: its code, its place, and what is wrong."""
    return ": ".join(filter(None, (problem["code"], place(problem), problem["message"])))


def structured(terminal: Terminal, answer: dict[str, Any], output_format: str) -> None:
    """The whole answer as JSON or YAML."""
    from controlplane.cli import documents

    terminal.data(documents.structured(answer, output_format))
