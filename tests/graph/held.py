"""What a graph still holds: for tests that nothing leaks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controlplane.graph.engine import Graph


def held(graph: Graph, tables: Iterable[Any]) -> dict[str, object]:
    """Every container of the graph, its tables and their indexes that is not empty."""
    found: dict[str, object] = {}
    owners: list[tuple[str, Any]] = [("graph", graph)]
    for table in tables:
        owners.append((table.name, table))
        owners += [(index.name, index) for index in table.indexes]
    wiring = {"tables", "_computed", "children", "indexes"}
    for name, owner in owners:
        for attribute, value in vars(owner).items():
            if attribute not in wiring and isinstance(value, dict | set | list | tuple) and value:
                found[f"{name}.{attribute}"] = value
    return found
