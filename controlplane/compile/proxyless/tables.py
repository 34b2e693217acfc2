"""The wiring of what gRPC clients and servers get: a graph of its own, fed with rows of the first one.

    routes ──► routes of gRPC ─┬─► scopes ──► listeners by host, and by host and port
    clusters ─► usable ────────┤   configurations (one per scope: listener group and host)
    listeners (limits) ────────┴─► server_hosts ──► server_configurations, server_listeners (per view)
    clusters ──► clusters (load assignments: compile/endpoints.py)

It exists from the moment when the first gRPC node asks, and holds the gateways that such nodes asked for, no others:
without them it costs nothing, with them as much as the change. `follow` copies rows of those gateways after each commit
of the first graph.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from controlplane.compile.proxyless import hosts, routes, servers
from controlplane.compile.proxyless.cluster import Usable, cluster
from controlplane.compile.proxyless.rows import GrpcRoute, Port, Way
from controlplane.compile.rows import Chain, Claim, CompiledRoute, MatchKey, ResourceKey, Scope, ShardKey
from controlplane.compile.xds_types import CLUSTER
from controlplane.graph.engine import Changes, Derived, Graph, Grouped, Index, Input, Read
from controlplane.names import ElementKey, Family, GatewayName, View, part_of_gateway
from controlplane.resources import Resource
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

SLICE = 256
"""Rows that are taken over at a time: about a millisecond."""


class GrpcTables:
    """All tables of the second graph. What is assigned first is swept first."""

    def __init__(self) -> None:
        """Wire the tables."""
        # Rows of the first graph, of the gateways that gRPC nodes asked for.
        self.listeners: Input[ElementKey, Element] = Input("grpc_in_listeners")
        self.chains: Input[tuple[ElementKey, str], Chain] = Input("grpc_in_chains")
        self.backends: Input[ResourceKey, Resource] = Input("grpc_in_clusters")
        self.claims: Input[Scope, Claim] = Input("grpc_in_claims")
        self.routes: Input[ElementKey, CompiledRoute] = Input("grpc_in_routes")
        self.refused: Input[ShardKey, frozenset[MatchKey]] = Input("grpc_in_refused")
        self.identity_headers: Input[GatewayName, frozenset[str]] = Input("grpc_in_identity_headers")
        # The sets of gateways that gRPC nodes see.
        self.views: Input[View, bool] = Input("grpc_views")

        self.refused_by_scope = Index(
            "grpc refused by scope", self.refused, lambda key, _: [(key.gateway, key.group, key.host)]
        )
        self.chains_by_group = Index("grpc chains by group", self.chains, lambda _, row: [(row.gateway, row.group)])
        self.listeners_by_gateway = Index("grpc listeners by gateway", self.listeners, lambda _, row: [row.gateway])
        self.chains_by_listener = Index("grpc chains by listener", self.chains, lambda _, row: [row.listener])

        self.usable: Derived[Any, Any, str, Usable] = Derived(
            "grpc_usable", self.backends, lambda _, key, resource: [(key.name, cluster(resource.body))]
        )
        self.grpc_routes: Derived[Any, Any, ElementKey, GrpcRoute] = Derived(
            "grpc_routes", self.routes, self._with(routes.grpc_route)
        )
        self.routes_by_scope = Index("grpc routes by scope", self.grpc_routes, hosts.scopes_of_route)
        self.scopes: Grouped[Any, Any, Scope, Scope, Way] = Grouped(
            "grpc_scopes", self.routes_by_scope, self._with(hosts.way_of_scope)
        )
        self.scopes_by_host = Index("grpc scopes by host", self.scopes, lambda key, _: [(key[0], key[2])])
        self.configurations: Grouped[Any, Any, Scope, ResourceKey, Resource] = Grouped(
            "grpc_configurations", self.routes_by_scope, self._with(hosts.configuration_of_scope)
        )
        self.port_listeners: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "grpc_port_listeners", self.scopes, hosts.listener_of_port
        )
        self.host_listeners: Grouped[Any, Any, Any, ResourceKey, Resource] = Grouped(
            "grpc_host_listeners", self.scopes_by_host, hosts.listener_of_host
        )
        self.clusters: Derived[Any, Any, ResourceKey, Resource] = Derived("grpc_clusters", self.backends, self._cluster)
        self.server_hosts: Grouped[Any, Any, Scope, Scope, bytes] = Grouped(
            "grpc_server_hosts", self.routes_by_scope, self._with(servers.host_of_scope)
        )
        self.server_hosts_by_group = Index("grpc server hosts", self.server_hosts, lambda key, _: [(key[0], key[1])])
        self.server_ports: Derived[Any, Any, tuple[View, Port], tuple[tuple[GatewayName, str], ...]] = Derived(
            "grpc_server_ports", self.views, self._with(servers.ports_of_view)
        )
        self.server_configurations: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "grpc_server_configurations", self.server_ports, self._with(servers.configuration_of_port)
        )
        self.server_listeners: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "grpc_server_listeners", self.views, self._with(servers.listeners)
        )

        self.graph = Graph(table for table in vars(self).values() if not isinstance(table, Index))
        self.resources = (
            self.clusters,
            self.configurations,
            self.port_listeners,
            self.host_listeners,
            self.server_configurations,
            self.server_listeners,
        )

    def _with(self, function: Any) -> Any:
        """The function with these tables as its second argument."""
        return lambda read, key, value: function(read, self, key, value)

    def usable_by(self, read: Read, name: str) -> Usable | None:
        """A cluster, with the problem of the first of its parts that has one."""
        usable = read.get(self.usable, name)
        if usable is None:
            return None
        parts = (read.get(self.usable, part) for part in usable.parts)
        return next((part for part in parts if part is not None and part.problem), usable)

    def _cluster(self, read: Read, key: ResourceKey, resource: Resource) -> Iterator[tuple[ResourceKey, Resource]]:
        usable = self.usable_by(read, key.name)
        if usable is not None and not usable.problem:
            yield grpc_key(key), Resource(CLUSTER, key.name, usable.body, origin=resource.origin)


def grpc_key(key: ResourceKey) -> ResourceKey:
    """The same name in the gRPC part of the same gateway."""
    return key._replace(part=part_of_gateway(GatewayName(key.part[0]), Family.GRPC))


class Followed:
    """The second graph, and which gateways of the first one it follows."""

    def __init__(self, first: Tables) -> None:
        """Follow nothing yet."""
        self._first = first
        self.tables = GrpcTables()
        self._gateways: set[GatewayName] = set()
        self._new: set[GatewayName] = set()
        tables = self.tables
        self._feeds: tuple[tuple[Any, Input[Any, Any], Callable[[Any, Any], GatewayName]], ...] = (
            (first.listeners, tables.listeners, lambda _, row: row.gateway),
            (first.chains, tables.chains, lambda _, row: row.gateway),
            (first.clusters, tables.backends, lambda key, _: key.part[0]),
            (first.claims, tables.claims, lambda key, _: key[0]),
            (first.compiled_routes, tables.routes, lambda _, row: row.gateway),
            (first.identity_headers, tables.identity_headers, lambda key, _: key),
            (first.refused_floating, tables.refused, lambda key, _: key.gateway),
            (first.refused_in_segment, tables.refused, lambda key, _: key.gateway),
        )

    def add_view(self, view: View) -> None:
        """Nodes without a proxy see this set of gateways."""
        self.tables.graph.set(self.tables.views, view, True)
        self._new |= set(view) - self._gateways

    def follow(self, changes: Changes) -> Generator[None, None, None]:
        """Take over what a commit of the first graph changed, and everything of gateways that are new here.

        It yields now and then: a large gateway must not hold the thread.
        """
        gone = {name for name, (_, after) in changes.get(self._first.gateways.name, {}).items() if after is None}
        for view in [view for view in self.tables.views.rows if not gone.isdisjoint(view)]:
            self.tables.graph.delete(self.tables.views, view)
        self._gateways -= gone
        for source, target, gateway_of in self._feeds:
            for number, (key, (before, after)) in enumerate(changes.get(source.name, {}).items(), 1):
                if after is not None and gateway_of(key, after) in self._gateways:
                    self.tables.graph.set(target, key, after)
                elif before is not None and gateway_of(key, before) in self._gateways:
                    self.tables.graph.delete(target, key)
                if number % SLICE == 0:
                    yield
            if gone:
                for key in [key for key, row in target.rows.items() if gateway_of(key, row) in gone]:
                    self.tables.graph.delete(target, key)
            for number, (key, row) in enumerate(source.rows.items() if self._new else (), 1):
                if gateway_of(key, row) in self._new:
                    self.tables.graph.set(target, key, row)
                if number % SLICE == 0:
                    yield
        self._gateways |= self._new
        self._new = set()
