"""The wiring diagram: every table, in the order in which it is swept. Read this first.

    gateways ──── settings, grants ───┐
    listeners ─── chains ─────────────┤
    providers ─── provider_states ────┤
    policies, backends ───────────────┴─► compiled_routes ─┬─ hosts ── claims ───┬─► shards, fallbacks
    backends ──► shapes ──► clusters, pools                ├─ team_paths, refused ┘
                                                           ├─ requirements ─┐
    secrets ───► certificate_states, served_secrets        └─ limits ───────┴─► listeners, extensions (per view)

Load assignments are made of the pools by another graph (endpoints.py), which knows services: they change apart.
Inputs are what sources said, and what history adds to it. The rows of the tables in `Tables.resources` are Envoy
resources; their keys say to which part of a snapshot they belong: to a gateway, or to a view of several.
The functions stand in the modules beside this one. They read other tables through `read` alone.
"""

from __future__ import annotations

from typing import Any

from controlplane.compile import (
    backends,
    chains,
    claims,
    grants,
    hosts,
    ownership,
    pool,
    ports,
    providers,
    routes,
    secrets,
    shape,
    views,
)
from controlplane.compile.grants import Grant, GrantKey
from controlplane.compile.pool import Pool, Shape
from controlplane.compile.rows import (
    CertificateStatus,
    Chain,
    Claim,
    CompiledRoute,
    HostKey,
    LimitKey,
    MatchKey,
    ProviderStatus,
    ResourceKey,
    Scope,
    SecretUse,
    Settings,
    ShardKey,
)
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.graph.engine import Derived, Graph, Grouped, Index, Input
from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import GATEWAY_KIND, ElementKey, GatewayName, SecretRef, ServiceRef, View
from controlplane.resources import Resource
from controlplane.spec.rows import Element, GatewayRow, Kind

Labels = tuple[tuple[str, str], ...]
"""A selector."""

Named = Index[ElementKey, Element, tuple[GatewayName, str]]


def _by_name(name: str, table: Input[ElementKey, Element]) -> Named:
    return Index(f"{name} by name", table, lambda _, element: [(element.gateway, element.part.name)])


def _by_gateway(name: str, table: Input[ElementKey, Element]) -> Index[ElementKey, Element, GatewayName]:
    return Index(f"{name} by gateway", table, lambda _, element: [element.gateway])


def _scope_of_shard(key: ShardKey, _: object) -> list[Scope]:
    return [(key.gateway, key.group, key.host)]


class Tables:
    """All tables of one graph. What is assigned first is swept first."""

    def __init__(self) -> None:
        """Wire the tables."""
        # What sources said.
        self.gateways: Input[GatewayName, GatewayRow] = Input("gateways")
        self.listeners: Input[ElementKey, Element] = Input("listeners")
        self.routes: Input[ElementKey, Element] = Input("routes")
        self.backends: Input[ElementKey, Element] = Input("backends")
        self.policies: Input[ElementKey, Element] = Input("policies")
        self.providers: Input[ElementKey, Element] = Input("providers")
        self.secrets: Input[SecretRef, Secret] = Input("secrets")
        self.externals: Input[ServiceRef, Service] = Input("externals")  # services that stand for a DNS name
        # What nodes ask for: the sets of gateways that they see.
        self.views: Input[View, bool] = Input("views")
        # What history adds: requirements that routes on some proxy may still name. (ADR 7)
        self.kept_requirements: Input[tuple[GatewayName, str], bool] = Input("kept_requirements")
        # The providers of these that are in no spec any more, by full name, and the selectors of gateways that are gone.
        self.kept_providers: Input[str, tuple[JwtProvider, str | None]] = Input("kept_providers")
        self.kept_gateways: Input[GatewayName, Labels] = Input("kept_gateways")

        # Rate limits that only routes on some proxy may still name.
        self.kept_limits: Input[LimitKey, LocalLimit] = Input("kept_limits")
        # And the filter chains whose connections proxies are draining.
        self.kept_chains: Input[tuple[ElementKey, str], Chain] = Input("kept_chains")

        self.listeners_by_name = _by_name("listeners", self.listeners)
        self.backends_by_name = _by_name("backends", self.backends)
        self.policies_by_name = _by_name("policies", self.policies)
        self.providers_by_name = _by_name("providers", self.providers)
        self.listeners_by_gateway = _by_gateway("listeners", self.listeners)
        self.providers_by_gateway = _by_gateway("providers", self.providers)
        self.policies_by_gateway = _by_gateway("policies", self.policies)
        self.backends_by_object = Index("backends by object", self.backends, lambda key, _: [key.object])
        self.shared_backends = Index(
            "shared backends",
            self.backends,
            lambda key, element: [element.gateway] if key.object.kind == GATEWAY_KIND else [],
        )
        self.providers_by_claim_header = Index("providers by claim header", self.providers, providers.claim_headers)
        self.providers_by_token_header = Index("providers by token header", self.providers, providers.token_headers)
        self.kept_by_gateway = Index("kept by gateway", self.kept_requirements, lambda key, _: [key[0]])
        self.kept_limits_by_gateway = Index("kept limits", self.kept_limits, lambda key, _: [key[0]])
        self.kept_chains_by_gateway = Index("kept chains", self.kept_chains, lambda _, chain: [chain.gateway])
        self.gone_gateways = Index("gone gateways", self.kept_gateways, lambda _, __: [True])

        # What is derived from one row, without the parts that change for other reasons.
        self.settings: Derived[Any, Any, GatewayName, Settings] = Derived(
            "settings", self.gateways, lambda _, name, row: [(name, Settings(row.guardrails, row.defaults))]
        )
        self.grants: Derived[Any, Any, GrantKey, Grant] = Derived("grants", self.gateways, grants.grants_of_gateway)
        self.certificate_states: Derived[Any, Any, SecretRef, CertificateStatus] = Derived(
            "certificate_states", self.secrets, secrets.certificate_state
        )
        self.refused_backends: Derived[Any, Any, ElementKey, bool] = Derived(
            "refused_backends", self.backends, self._with(grants.refusals_of_backend)
        )
        self.given_up_headers: Grouped[Any, Any, Any, GatewayName, frozenset[str]] = Grouped(
            "given_up_headers", self.providers_by_gateway, self._with(providers.given_up_headers)
        )
        self.identity_headers: Grouped[Any, Any, Any, GatewayName, frozenset[str]] = Grouped(
            "identity_headers", self.providers_by_gateway, self._with(providers.identity_headers)
        )
        self.provider_states: Derived[Any, Any, ElementKey, ProviderStatus] = Derived(
            "provider_states", self.providers, self._with(providers.provider_state)
        )
        self.chains: Derived[Any, Any, tuple[ElementKey, str], Chain] = Derived(
            "chains", self.listeners, chains.chains_of_listener
        )
        self.chains_by_gateway = Index("chains by gateway", self.chains, lambda _, chain: [chain.gateway])
        self.chains_by_group = Index("chains by group", self.chains, lambda _, chain: [chain.group])
        self.gateway_chains: Grouped[Any, Any, Any, GatewayName, tuple[Chain, ...]] = Grouped(
            "gateway_chains",
            self.chains_by_gateway,
            self._with(chains.chains_of_gateway),
        )

        self.shapes: Derived[Any, Any, ElementKey, Shape] = Derived(
            "shapes", self.backends, self._with(shape.shape_of_backend)
        )

        # Routes, and the shards they are put into.
        self.compiled_routes: Derived[Any, Any, ElementKey, CompiledRoute] = Derived(
            "compiled_routes", self.routes, self._with(routes.compiled)
        )
        self.routes_by_shard = Index("routes by shard", self.compiled_routes, hosts.shards_of_route)
        self.routes_by_scope = Index("routes by scope", self.compiled_routes, hosts.scopes_of_route)
        self.team_shards = Index("shards of teams", self.compiled_routes, ownership.shards_of_team)
        self.team_paths: Grouped[Any, Any, ShardKey, ShardKey, tuple[ownership.Wanted, ...]] = Grouped(
            "team_paths", self.team_shards, self._with(ownership.team_paths)
        )
        self.team_paths_by_scope = Index("team paths by scope", self.team_paths, _scope_of_shard)
        self.hosts: Derived[Any, Any, HostKey, bool] = Derived("hosts", self.compiled_routes, claims.hosts_of_route)
        self.hosts_by_scope = Index("hosts by scope", self.hosts, lambda key, _: [(key.group, key.host)])
        self.claims: Grouped[Any, Any, Any, Scope, Claim] = Grouped(
            "claims", self.hosts_by_scope, self._with(claims.claims)
        )
        self.claims_below = Index("claims below a name", self.claims, claims.names_over)
        self.refused_floating: Derived[Any, Any, ShardKey, frozenset[MatchKey]] = Derived(
            "refused_floating", self.team_paths, self._with(ownership.refused_floating)
        )
        self.refused_in_segment: Derived[Any, Any, ShardKey, frozenset[MatchKey]] = Derived(
            "refused_in_segment", self.team_paths, self._with(ownership.refused_in_segment)
        )
        self.refused_by_scope = tuple(
            Index(f"{table.name} by scope", table, _scope_of_shard)
            for table in (self.refused_floating, self.refused_in_segment)
        )
        self.wildcards: Derived[Any, Any, Scope, tuple[str, ...]] = Derived(
            "wildcards", self.claims, self._with(claims.segments_of_wildcard)
        )
        self.wildcards_by_gateway = Index("wildcards by gateway", self.wildcards, lambda key, _: [key[0]])
        self.shards: Grouped[Any, Any, ShardKey, ResourceKey, Resource] = Grouped(
            "shards", self.routes_by_shard, self._with(hosts.shard_of_routes)
        )
        self.fallbacks: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "fallbacks", self.claims, self._with(hosts.fallback_of_host)
        )
        self.chain_fallbacks: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "chain_fallbacks", self.chains, self._with(hosts.fallbacks_of_chain)
        )

        # Clusters and secrets.
        self.clusters: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "clusters", self.backends, self._with(backends.cluster_of_backend)
        )
        self.pools: Derived[Any, Any, ResourceKey, Pool] = Derived(
            "pools", self.shapes, self._with(pool.pools_of_shape)
        )
        self.jwks_clusters: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "jwks_clusters", self.providers, self._with(backends.cluster_of_provider)
        )
        self.chain_secrets: Derived[Any, Any, SecretUse, bool] = Derived(
            "chain_secrets", self.chains, secrets.uses_of_chain
        )
        self.backend_secrets: Derived[Any, Any, SecretUse, bool] = Derived(
            "backend_secrets", self.backends, secrets.uses_of_backend
        )
        self.provider_secrets: Derived[Any, Any, SecretUse, bool] = Derived(
            "provider_secrets", self.providers, secrets.uses_of_provider
        )
        served = self._with(secrets.served)
        self.chain_certificates: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "chain_certificates", self.chain_secrets, served
        )
        self.backend_certificates: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "backend_certificates", self.backend_secrets, served
        )
        self.provider_certificates: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "provider_certificates", self.provider_secrets, served
        )

        # What belongs to a view: listeners, and the filter configurations they share.
        self.requirements: Derived[Any, Any, tuple[GatewayName, str], bool] = Derived(
            "requirements", self.compiled_routes, routes.requirement_of_route
        )
        self.requirements_by_gateway = Index("requirements by gateway", self.requirements, lambda key, _: [key[0]])
        self.limits: Derived[Any, Any, LimitKey, LocalLimit] = Derived(
            "limits", self.compiled_routes, routes.limits_of_route
        )
        self.limits_by_gateway = Index("limits by gateway", self.limits, lambda key, _: [key[0]])
        self.view_listeners: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "view_listeners", self.views, self._with(views.listeners)
        )
        self.lost_hosts: Derived[Any, Any, tuple[View, Scope], GatewayName] = Derived(
            "lost_hosts", self.views, self._with(ports.lost_hosts)
        )
        self.lost_by_view = Index("lost hosts by view", self.lost_hosts, lambda key, _: [key[0]])
        self.lost_shards: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "lost_shards", self.lost_hosts, self._with(hosts.shards_of_lost_host)
        )
        self.view_extensions: Derived[Any, Any, ResourceKey, Resource] = Derived(
            "view_extensions", self.views, self._with(views.extensions)
        )

        self.graph = Graph(table for table in vars(self).values() if not isinstance(table, Index | tuple))
        self.resources = (
            self.clusters,
            self.jwks_clusters,
            self.chain_certificates,
            self.backend_certificates,
            self.provider_certificates,
            self.shards,
            self.fallbacks,
            self.chain_fallbacks,
            self.view_listeners,
            self.lost_shards,
            self.view_extensions,
        )

    def _with(self, function: Any) -> Any:
        """The function with these tables as its second argument."""
        return lambda read, key, value: function(read, self, key, value)

    def input(self, kind: Kind) -> Input[ElementKey, Element]:
        """The table that rows of a kind go to (gateways have one of their own)."""
        table: Input[ElementKey, Element] = getattr(self, kind.value)
        return table

    def is_named(self, gateway: GatewayName) -> bool:
        """Whether proxies may name a requirement or a limit of this gateway, though it is in no spec."""
        indexes = (self.kept_by_gateway, self.kept_limits_by_gateway, self.limits_by_gateway)
        return any(gateway in index.members for index in indexes)
