"""The HTTP filter chain. One line per filter; a filter's place follows from its stage, never from the order here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.filters.cors import compile as cors
from controlplane.filters.header_mutation import compile as header_mutation
from controlplane.filters.jwt import compile as jwt
from controlplane.filters.local_ratelimit import compile as local_ratelimit
from controlplane.filters.query_token import compile as query_token
from controlplane.filters.router import compile as router
from controlplane.filters.shard_lua import compile as shard_lua
from controlplane.filters.stages import Stage

JWT = "gatewayspec/jwt"
IDENTITY_HEADERS = "gatewayspec/identity-headers"
ROUTE_LIMITS = "gatewayspec/route-limits"
LISTENER_LIMITS = "gatewayspec/listener-limits"


@dataclass(frozen=True, slots=True)
class HttpFilter:
    """A filter of every chain.

    `config` gives a fixed configuration. `delivered` names the ECDS resource that brings a changing one instead, so
    that a change reaches open connections and leaves the listener alone; `per_listener` makes that one per listener group.
    Envoy knows a delivered filter, and what routes say to it, by the name of that resource. `type_urls` are what it may be.
    """

    name: str
    stage: Stage
    config: Callable[[], Any] | None = None
    delivered: str | None = None
    type_urls: tuple[str, ...] = ()
    per_listener: bool = False
    by_route: bool = False
    """Left out of the chain unless the route that is found at first asks for it. Nothing that guards may be so."""

    def resource_name(self, group: str) -> str:
        """The name of the filter in the chain of a listener group."""
        return f"{self.delivered}/{group}" if self.per_listener else self.delivered or self.name


def _filters() -> tuple[HttpFilter, ...]:
    limits = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
    mutation = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
    authn = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
    lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    nothing = "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config"
    return (
        HttpFilter(shard_lua.NAME, Stage.FALLBACK_SELECTION, config=shard_lua.native_fallback),
        HttpFilter(shard_lua.NAME, Stage.HOST_SELECTION, config=shard_lua.rekey),
        HttpFilter(shard_lua.NAME, Stage.WILDCARD_SELECTION, delivered=shard_lua.NAME, type_urls=(lua,)),
        HttpFilter(header_mutation.IDENTITY_NAME, Stage.SANITATION, delivered=IDENTITY_HEADERS, type_urls=(mutation,)),
        HttpFilter(
            local_ratelimit.LISTENER_NAME,
            Stage.FLOOD_PROTECTION,
            delivered=LISTENER_LIMITS,
            type_urls=(limits, nothing),
            per_listener=True,
        ),
        HttpFilter(cors.NAME, Stage.CORS, config=cors.filter_config),
        HttpFilter(query_token.NAME, Stage.BEFORE_AUTHENTICATION, config=query_token.filter_config, by_route=True),
        HttpFilter(jwt.NAME, Stage.AUTHENTICATION, delivered=JWT, type_urls=(authn,)),
        HttpFilter(query_token.NAME, Stage.AFTER_AUTHENTICATION, config=query_token.filter_config, by_route=True),
        HttpFilter(local_ratelimit.NAME, Stage.RATE_LIMIT, delivered=ROUTE_LIMITS, type_urls=(limits,)),
        HttpFilter(header_mutation.NAME, Stage.TRANSFORMATION, config=header_mutation.filter_config),
        HttpFilter(router.NAME, Stage.ROUTER, config=router.filter_config),
    )


def http_filters() -> tuple[HttpFilter, ...]:
    """Every filter in the order in which a request passes them."""
    return tuple(sorted(_filters(), key=lambda http_filter: http_filter.stage))
