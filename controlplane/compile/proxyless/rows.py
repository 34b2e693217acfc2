"""The rows of the second graph: what lies between a compiled route and its gRPC resources."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from controlplane.compile.rows import Entry, Placement
from controlplane.names import GatewayName

Port = tuple[str, int]
"""Address and number."""


class GrpcRoute(msgspec.Struct, frozen=True):
    """One route for both ends: entries whose bodies are fields of a virtual host, one for each entry of the route."""

    gateway: GatewayName
    placements: tuple[Placement, ...]
    client: tuple[Entry, ...]
    server: tuple[Entry, ...]


class Way(NamedTuple):
    """A way to a host. The first one is meant by the name of the host alone: HTTPS before HTTP, then by port."""

    plain: bool
    port: int
    routes: str
