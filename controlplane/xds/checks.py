"""What every request must hold, and what it may: `Ended` says what is wrong with it. Called by both variants."""

from __future__ import annotations

from functools import lru_cache

from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Ended, Node, Status
from controlplane.xds.requests import Request


def type_of(request: Request, node: Node | None, only: str | None) -> str:
    """The type URL of a request on a stream of this node, which may be one for a single type."""
    if node is None:
        raise Ended(Status.INVALID_ARGUMENT, "the first request of a stream must name the node (node.id)")
    type_url = request.type_url or only
    if not type_url:
        raise Ended(Status.INVALID_ARGUMENT, "a request on an aggregated stream must have a type_url")
    if only and type_url != only:
        raise Ended(Status.INVALID_ARGUMENT, f"this stream serves {only}")
    return type_url


_MANY = 64
"""Names, from which on it is remembered how long the longest is: a fleet sends the same ones."""


@lru_cache(maxsize=16)
def _longest(names: frozenset[str]) -> int:
    return max(map(len, names))


def check_names(names: frozenset[str], limits: Limits) -> None:
    """What one list of a request may hold."""
    if not names:
        return
    if len(names) > limits.names:
        raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {limits.names} names in one request")
    longest = _longest(names) if len(names) >= _MANY else max(map(len, names))
    if longest > limits.name_characters:
        raise Ended(Status.INVALID_ARGUMENT, f"a name is longer than {limits.name_characters} characters")
