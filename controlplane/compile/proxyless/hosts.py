"""What gRPC clients ask for by name: a listener for every host of a gateway, and the routes of each.

The same host on several ports may have other routes on each. `xds:///shop.example.com:8080` means those of port 8080;
without a port, those of the first one: HTTPS before HTTP, then the lowest number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from controlplane.compile.claims import levels
from controlplane.compile.ownership import refused_of_host
from controlplane.compile.proxyless.listener import client_listener, route_configuration, virtual_host
from controlplane.compile.proxyless.rows import GrpcRoute, Way
from controlplane.compile.rows import Entry, ResourceKey, Scope
from controlplane.compile.shard import ordered
from controlplane.compile.xds_types import LISTENER, ROUTE_CONFIGURATION
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, Family, GatewayName, grpc_routes, part_of_gateway
from controlplane.resources import Resource
from controlplane.spec.listener import Listener, Protocol

if TYPE_CHECKING:
    from controlplane.compile.proxyless.tables import GrpcTables

Members = tuple[tuple[ElementKey, GrpcRoute], ...]


def scopes_of_route(_: ElementKey, route: GrpcRoute) -> Iterator[Scope]:
    """Where the route is reachable without being sent on to HTTPS."""
    for place in route.placements:
        if not place.redirect:
            yield route.gateway, place.group, place.host


def served(
    read: Read, tables: GrpcTables, scope: Scope, members: Members, side: Callable[[GrpcRoute], tuple[Entry, ...]]
) -> bytes | None:
    """The routes of a host in order, by the same rules as those of a shard; None when another gateway has the host."""
    gateway, group, _ = scope
    claim = read.get(tables.claims, scope)
    if claim is None or claim.owner != gateway:
        return None
    routes: list[bytes] = []
    for level in levels(read, tables.claims, scope, inherit=True)[0]:
        placed = (gateway, group, level.host)
        refused = refused_of_host(read, [tables.refused_by_scope], placed)
        there = members if level.host == scope[2] else read.find(tables.routes_by_scope, placed)
        entries = [
            entry
            for _, route in there
            if any((place.group, place.host, place.declared) == (group, *level) for place in route.placements)
            for entry in side(route)
            if entry.order.match(level.declared) not in refused
        ]
        routes += (
            entry.body for entry, rival in ordered(entries) if rival is None or rival.signature != entry.signature
        )
    return b"".join(routes)


def way_of_scope(read: Read, tables: GrpcTables, scope: Scope, __: Members) -> Iterator[tuple[Scope, Way]]:
    """Protocol and port of a host in a listener group."""
    gateway, group, host = scope
    claim = read.get(tables.claims, scope)
    if claim is None or claim.owner != gateway:
        return
    for _, chain in read.find(tables.chains_by_group, (gateway, group)):
        element = read.get(tables.listeners, chain.listener)
        if element is not None and isinstance(element.part, Listener):
            yield scope, Way(chain.protocol is not Protocol.HTTPS, element.part.port, grpc_routes(group, host))
            return


def configuration_of_scope(
    read: Read, tables: GrpcTables, scope: Scope, members: Members
) -> Iterator[tuple[ResourceKey, Resource]]:
    """The routes of a host in a listener group. The listener was chosen by its host, so any authority will do."""
    gateway, group, host = scope
    routes = served(read, tables, scope, members, lambda route: route.client)
    if routes is not None:
        resource = route_configuration(grpc_routes(group, host), [virtual_host(host, ["*"], routes)])
        yield ResourceKey(part_of_gateway(gateway, Family.GRPC), ROUTE_CONFIGURATION, resource.name), resource


def _listener(gateway: GatewayName, name: str, way: Way) -> tuple[ResourceKey, Resource]:
    part = part_of_gateway(gateway, Family.GRPC)
    return ResourceKey(part, LISTENER, name), client_listener(name, way.routes, None)


def listener_of_port(_: Read, scope: Scope, way: Way) -> Iterator[tuple[ResourceKey, Resource]]:
    """`shop.example.com:8080`."""
    yield _listener(scope[0], f"{scope[2]}:{way.port}", way)


def listener_of_host(
    _: Read, host: tuple[GatewayName, str], ways: tuple[tuple[Scope, Way], ...]
) -> Iterator[tuple[ResourceKey, Resource]]:
    """`shop.example.com`. `*` alone is no name that can be asked for: it means everything."""
    if host[1] != "*":
        yield _listener(host[0], host[1], min(way for _, way in ways))
