"""What every request must hold, and what it may: `Ended` says what is wrong with it. Called by both variants."""

from __future__ import annotations

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
