"""What gRPC servers ask for: the listener of their address, with the routes of its port.

A server takes the calls of every route that it need not do anything about: a route that asks for a token, a limit or
a rewrite is refused there as it is withheld from clients, and so is every call that no route takes, or that has a
header in which only the gateway says who calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.ports import listeners_of
from controlplane.compile.proxyless.hosts import Members, served
from controlplane.compile.proxyless.listener import route_configuration, server_listener, virtual_host
from controlplane.compile.proxyless.route import refusing
from controlplane.compile.proxyless.rows import Port
from controlplane.compile.rows import Issue, ResourceKey, Scope
from controlplane.compile.xds_types import LISTENER, ROUTE_CONFIGURATION
from controlplane.graph.engine import Read
from controlplane.names import (
    ElementKey,
    Family,
    GatewayName,
    View,
    grpc_server_routes,
    listener_name,
    part_of,
)
from controlplane.resources import Resource
from controlplane.spec.listener import Listener, Protocol

if TYPE_CHECKING:
    from controlplane.compile.proxyless.tables import GrpcTables

Groups = tuple[tuple[GatewayName, str], ...]
"""Gateway and listener group, for each way in of a port."""

_ALSO = {"0.0.0.0": ("0.0.0.0", "::")}  # noqa: S104
"""A server that listens on all addresses of IPv6 takes those of IPv4 as well, and says the former."""


def host_of_scope(read: Read, tables: GrpcTables, scope: Scope, members: Members) -> Iterator[tuple[Scope, bytes]]:
    """The routes of a host in a listener group, for servers."""
    routes = served(read, tables, scope, members, lambda route: route.server)
    if routes is not None:
        yield scope, routes


def _ports(
    read: Read, tables: GrpcTables, view: View
) -> Iterator[tuple[Port, list[tuple[ElementKey, Listener, GatewayName]]]]:
    """The listeners by address and port; the first gateway decides the protocol, as for Envoy."""
    ports: dict[Port, list[tuple[ElementKey, Listener, GatewayName]]] = {}
    for key, spec, gateway in listeners_of(read, tables, view):
        sharing = ports.setdefault((spec.address, spec.port), [])
        if spec.redirect is None and all(other.protocol is spec.protocol for _, other, _ in sharing):
            sharing.append((key, spec, gateway))
    yield from ((port, sharing) for port, sharing in sorted(ports.items()) if sharing)


def ports_of_view(read: Read, tables: GrpcTables, view: View, _: bool) -> Iterator[tuple[tuple[View, Port], Groups]]:
    """The listener groups of each port."""
    for port, sharing in _ports(read, tables, view):
        groups = {
            (gateway, chain.group): None
            for key, _spec, gateway in sharing
            for _, chain in read.find(tables.chains_by_listener, key)
        }
        yield (view, port), tuple(groups)


def listeners(read: Read, tables: GrpcTables, view: View, _: bool) -> Iterator[tuple[ResourceKey, Resource]]:
    """The listener of each port, under each address that a server may call it."""
    for (address, port), sharing in _ports(read, tables, view):
        key, spec, _gateway = sharing[0]
        routes = grpc_server_routes(listener_name(address, port))
        for said in _ALSO.get(address, (address,)):
            resource = server_listener(said, port, routes, key, tls=spec.protocol is Protocol.HTTPS)
            yield ResourceKey(part_of(view, Family.GRPC), LISTENER, resource.name), resource


def configuration_of_port(
    read: Read, tables: GrpcTables, key: tuple[View, Port], groups: Groups
) -> Iterator[tuple[ResourceKey, Resource]]:
    """The routes of all hosts of a port. Of two gateways with one host, the first one counts."""
    view, (address, port) = key
    hosts: dict[str, bytes] = {}
    for group in groups:
        for (_, _, host), routes in read.find(tables.server_hosts_by_group, group):
            hosts.setdefault(host, routes)
    if "*" in hosts and any(host.startswith("*.") for host in hosts):
        # gRPC cannot say "*.example.com on any port": with a strange port in the authority it would be taken for `*`.
        del hosts["*"]
        _say_left_out(read, tables, groups, listener_name(address, port))
    # As in Envoy, the headers of all gateways of the view, on every host.
    guards = refusing({header for gateway in view for header in read.get(tables.identity_headers, gateway) or ()})
    blocks = [virtual_host(host, _domains(host, port), guards + routes) for host, routes in sorted(hosts.items())]
    resource = route_configuration(grpc_server_routes(listener_name(address, port)), blocks)
    yield ResourceKey(part_of(view, Family.GRPC), ROUTE_CONFIGURATION, resource.name), resource


def _domains(host: str, port: int) -> list[str]:
    """The authorities of a host. gRPC prefers whole names to `*.suffix`, and that to `prefix*`."""
    if host == "*":
        return [host]
    return [host, f"{host}:{port}"] if host.startswith("*") else [host, f"{host}:{port}", f"{host}:*"]


def _say_left_out(read: Read, tables: GrpcTables, groups: Groups, address: str) -> None:
    for group in groups:
        for _, chain in read.find(tables.chains_by_group, group):
            message = (
                f'the routes of host "*" are withheld from gRPC servers on {address}: it has hosts like "*.a.b" too'
            )
            read.note(Issue(chain.listener, "", codes.WITHHELD, message, error=False, section="listeners"))
