"""The table of gRPC routes: what one compiled route asks of other tables, and what is withheld of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.proxyless.route import NOTHING, Reason, converted
from controlplane.compile.proxyless.rows import GrpcRoute
from controlplane.compile.rows import CompiledRoute, Entry, Issue
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, backend_of
from controlplane.spec.listener import Listener

if TYPE_CHECKING:
    from controlplane.compile.proxyless.tables import GrpcTables


def grpc_route(
    read: Read, tables: GrpcTables, key: ElementKey, route: CompiledRoute
) -> Iterator[tuple[ElementKey, GrpcRoute]]:
    """One route, for clients and for servers."""

    def problem_of(cluster: str) -> Reason | None:
        usable = tables.usable_by(read, cluster)
        if usable is None or not usable.problem:
            return None
        return Reason("to", f'backend "{backend_of(cluster)}" {usable.problem}', servers=False)

    listener = _limited(read, tables, route)
    client: list[Entry] = []
    server: list[Entry] = []
    reasons: dict[Reason, None] = {}
    for entry in route.entries:
        # Browsers ask preflight questions, of Envoy. What gRPC never matches stays as an owner of its path.
        found = NOTHING if entry.signature.preflight else converted(entry.body, problem_of, listener)
        client.append(Entry(entry.order, None, entry.signature, found.client))
        server.append(Entry(entry.order, None, entry.signature, found.server))
        reasons |= dict.fromkeys(found.reasons)
    for reason in reasons:
        message = f"withheld from gRPC clients without a proxy: {reason.why}"
        help = "they get UNAVAILABLE for its requests; through Envoy it works as it is written"
        read.note(Issue(key, reason.path, codes.WITHHELD, message, help, error=False))
    yield key, GrpcRoute(route.gateway, route.placements, tuple(client), tuple(server))


def _limited(read: Read, tables: GrpcTables, route: CompiledRoute) -> Reason | None:
    """Whether a listener that the route is reachable by limits requests."""
    for group in sorted({place.group for place in route.placements if not place.redirect}):
        for _, chain in read.find(tables.chains_by_group, (route.gateway, group)):
            element = read.get(tables.listeners, chain.listener)
            if element is not None and isinstance(element.part, Listener) and element.part.use:
                why = f'listener "{chain.listener.element}" limits rates, and gRPC clients do not'
                return Reason("listeners", why)
    return None
