"""What commits of the graph changed, put together. Used by `compiler` alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from controlplane.compile.rows import ResourceKey
from controlplane.graph.engine import Changes
from controlplane.resources import Resource


def merged(first: Changes, second: Changes) -> Changes:
    """The changes of two commits as if they were one."""
    changes = {name: dict(rows) for name, rows in first.items()}
    for name, rows in second.items():
        before = changes.setdefault(name, {})
        for key, (former, row) in rows.items():
            before[key] = (before[key][0] if key in before else former, row)
    return changes


def touched(tables: Iterable[Any], changes: Changes) -> dict[ResourceKey, None]:
    """The resources that changed in these tables."""
    found: dict[ResourceKey, None] = {}
    for table in tables:
        found |= dict.fromkeys(changes.get(table.name, ()))
    return found


def replaced(tables: Iterable[Any], changes: Changes) -> Iterator[tuple[ResourceKey, Resource | None]]:
    """What stood in these tables where changes were made; None: nothing did."""
    for table in tables:
        yield from ((key, before) for key, (before, _) in changes.get(table.name, {}).items())
