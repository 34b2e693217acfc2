"""JWT authentication as Envoy's jwt_authn filter.

The filter is in every chain and reads its requirement from the route that is taken in the end. A route without one is
refused: the rules of the filter itself require a token that nobody can have. Public routes say so, by switching the
filter off for themselves.

Requirements are named after the providers they combine and the gateway that declares these, so that a new key set or
audience changes this filter alone, and no route. Provider names contain no character of the syntax.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlsplit

from envoy.config.core.v3 import base_pb2, http_uri_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2

from controlplane.filters.envoy import duration, packed
from controlplane.filters.jwt.spec import Auth, JwtProvider

NAME = "envoy.filters.http.jwt_authn"
NOBODY = "nobody"
"""A provider whose tokens cannot exist. Real providers have a `/` in their name."""


def _nobodys_keys() -> str:
    """A key set that Envoy accepts and that has no private half: its Ed25519 point is the hash of a sentence."""
    point = hashlib.sha256(b"nobody holds the private half of this key").digest()
    x = base64.urlsafe_b64encode(point).rstrip(b"=").decode()
    return json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x}]})


FETCH_TIMEOUT = timedelta(seconds=5)
CACHE = timedelta(minutes=5)
FAILED_REFETCH = timedelta(seconds=10)
CLOCK_SKEW = timedelta(seconds=60)


def provider_name(gateway: str, name: str) -> str:
    """The name of a gateway's provider among those of all gateways that a proxy serves."""
    return f"{gateway}/{name}"


def requirement_name(gateway: str, auth: Auth) -> str:
    """`platform/shop|any:corp,partner`; equal requirements of a gateway share one."""
    names = sorted({mechanism.jwt for mechanism in auth.mechanisms})
    return f"{gateway}|{'any' if auth.any_of else 'all'}:{','.join(names)}"


def providers_of(requirement_name: str) -> list[str]:
    """The full names of the providers that a requirement combines."""
    gateway, _, rest = requirement_name.partition("|")
    return [provider_name(gateway, name) for name in rest.partition(":")[2].split(",")]


def requirement(name: str) -> Any:
    """The requirement that a name stands for."""
    singles = [config_pb2.JwtRequirement(provider_name=provider) for provider in providers_of(name)]
    if len(singles) == 1:
        return singles[0]
    if "|any:" in name:
        return config_pb2.JwtRequirement(requires_any=config_pb2.JwtRequirementOrList(requirements=singles))
    return config_pb2.JwtRequirement(requires_all=config_pb2.JwtRequirementAndList(requirements=singles))


@lru_cache(maxsize=1024)
def per_route(requirement_name: str) -> Any:
    """The route requires this. To be copied: thousands of routes say the same."""
    return packed(config_pb2.PerRouteConfig(requirement_name=requirement_name))


@cache
def public() -> Any:
    """The route requires nothing. To be copied."""
    return packed(config_pb2.PerRouteConfig(disabled=True))


def provider(spec: JwtProvider, key_set: str | None, jwks_cluster: str | None) -> Any:
    """One issuer. `key_set` is the JWKS text when it is known, `jwks_cluster` where Envoy fetches it otherwise."""
    skew = CLOCK_SKEW if spec.clock_skew is None else spec.clock_skew
    message = config_pb2.JwtProvider(
        issuer=spec.issuer,
        audiences=sorted(spec.audiences),
        require_expiration=True,
        forward=spec.forward,
        clock_skew_seconds=int(skew.total_seconds()),
        claim_to_headers=[
            config_pb2.JwtClaimToHeader(header_name=header, claim_name=claim)
            for claim, header in sorted(spec.claims_to_headers.items())
        ],
    )
    for place in spec.from_:
        if place.header is not None:
            message.from_headers.add(name=place.header, value_prefix=place.prefix)
        elif place.cookie is not None:
            message.from_cookies.append(place.cookie)
        elif place.query is not None:
            message.from_params.append(place.query)
    if key_set is not None:
        message.local_jwks.CopyFrom(base_pb2.DataSource(inline_string=key_set))
    else:
        message.remote_jwks.CopyFrom(
            config_pb2.RemoteJwks(
                http_uri=http_uri_pb2.HttpUri(uri=spec.jwks.uri, cluster=jwks_cluster, timeout=duration(FETCH_TIMEOUT)),
                cache_duration=duration(spec.jwks.cache or CACHE),
                # Fetched before the first request needs it, and again soon after a failure; the listener waits for neither.
                async_fetch=config_pb2.JwksAsyncFetch(
                    fast_listener=True, failed_refetch_duration=duration(FAILED_REFETCH)
                ),
            )
        )
    return message


def jwks_address(uri: str) -> tuple[str, str, int]:
    """Scheme, host and port of a JWKS URL."""
    parts = urlsplit(uri)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def filter_config(providers: Mapping[str, Any], requirement_names: Iterable[str]) -> Any:
    """The filter: all providers and requirements of a view, and refusal where no route says what it requires."""
    nobody = config_pb2.JwtProvider(issuer=NOBODY, local_jwks=base_pb2.DataSource(inline_string=_nobodys_keys()))
    return packed(
        config_pb2.JwtAuthentication(
            providers={**providers, NOBODY: nobody},
            requirement_map={name: requirement(name) for name in requirement_names},
            rules=[
                config_pb2.RequirementRule(
                    match=route_components_pb2.RouteMatch(prefix="/"),
                    requires=config_pb2.JwtRequirement(provider_name=NOBODY),
                )
            ],
            strip_failure_response=True,
        )
    )
