"""Route shards: one ScopedRouteConfiguration for each host and first path segment of a listener group.

Envoy rebuilds the whole route table of a route configuration when one route changes; these tables are small. (ADR 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2, scoped_route_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue
from msgspec.structs import replace

from controlplane.compile.action import direct_response
from controlplane.compile.rows import EVERY_PATH, Entry, SaidPath, ShardKey
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.filters import chain
from controlplane.filters.envoy import numbers, serialised
from controlplane.filters.jwt import compile as jwt
from controlplane.filters.shard_lua import compile as shard_lua
from controlplane.names import scope_name, shard_name
from controlplane.resources import Resource, delimited

SERVER_NAME = "gatewayspec/server-name"
"""What a route can ask of a TLS connection: the name that the client opened it for (SNI)."""
LOGGED = "gatewayspec"
"""In what of a route's metadata it says how the access log names it."""

_HOST_NAME, _HOST_DOMAINS, _HOST_ROUTES = numbers(route_components_pb2.VirtualHost, "name", "domains", "routes")
_CONFIGURATION_NAME, _CONFIGURATION_HOSTS = numbers(route_pb2.RouteConfiguration, "name", "virtual_hosts")
_SCOPE = scoped_route_pb2.ScopedRouteConfiguration
_SCOPE_NAME, _SCOPE_KEY, _SCOPE_CONFIGURATION = numbers(_SCOPE, "name", "key", "route_configuration")
(_KEY_FRAGMENTS,) = numbers(_SCOPE.Key, "fragments")
(_FRAGMENT_TEXT,) = numbers(_SCOPE.Key.Fragment, "string_key")


def ordered(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Entry | None]]:
    """Entries in the order in which Envoy tries them, each with an earlier one that takes all its requests, if any."""
    by_path: dict[SaidPath, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.order, entry.signature)):
        earlier = [one for path in (entry.signature.path, *EVERY_PATH) for one in by_path.get(path, ())]
        covering = [one for one in earlier if one.signature.covers(entry.signature)]
        equal = (one for one in covering if one.signature == entry.signature)
        yield entry, next(equal, covering[0] if covering else None)
        by_path.setdefault(entry.signature.path, []).append(entry)


def shard(key: ShardKey, routes: Iterable[bytes], kept_out: frozenset[str] = frozenset()) -> Resource:
    """The resource of one shard; `routes` are serialised Envoy routes in order, `kept_out` headers that go to no backend.

    It is put together as bytes, its fields by number, as in canonical encoding: a message of many routes is not built
    again because one of them changed.
    """
    host, name = (key.host or "*").encode(), scope_name(key.group, key.host, key.segment)
    virtual_host = delimited(_HOST_NAME, host) + delimited(_HOST_DOMAINS, host)
    virtual_host += b"".join([delimited(_HOST_ROUTES, route) for route in routes])
    configuration = delimited(_CONFIGURATION_NAME, shard_name(key.group, key.host, key.segment).encode())
    configuration += delimited(_CONFIGURATION_HOSTS, virtual_host)
    configuration += _what_shards_say(kept_out, fallback=key.segment == shard_lua.FALLBACK)
    fragments = (f"{key.group}|{key.host}".encode(), key.segment.encode())
    scope_key = b"".join([delimited(_KEY_FRAGMENTS, delimited(_FRAGMENT_TEXT, one)) for one in fragments])
    scope = delimited(_SCOPE_NAME, name.encode()) + delimited(_SCOPE_KEY, scope_key)
    return Resource(SCOPED_ROUTE, name, scope + delimited(_SCOPE_CONFIGURATION, configuration))


def where_asked(resource: Resource, host: str) -> Resource:
    """The shard for connections that were opened for this host (SNI); on others it misdirects."""
    scope = _SCOPE.FromString(resource.body)
    (virtual_host,) = scope.route_configuration.virtual_hosts
    for route in virtual_host.routes:
        route.match.filter_state.add(key=SERVER_NAME, string_match=string_pb2.StringMatcher(exact=host))
    virtual_host.routes.append(route_components_pb2.Route.FromString(MISDIRECTED))
    return Resource(SCOPED_ROUTE, resource.name, serialised(scope))


@lru_cache(maxsize=1024)
def _what_shards_say(kept_out: frozenset[str], *, fallback: bool) -> bytes:
    """The fields of a route configuration that follow its virtual hosts."""
    configuration = route_pb2.RouteConfiguration(
        ignore_port_in_host_matching=True,
        # A reference to a cluster that is not there yet answers 503; it must not hold back other shards.
        validate_clusters=BoolValue(value=False),
    )
    shard_lua.decided(configuration, fallback=fallback)
    configuration.request_headers_to_remove.extend(sorted(kept_out))
    return serialised(configuration)


def instead(route: Any, match: Any) -> Any:
    """A route that answers everybody in the place of another one. The log names that one; its limits do not count."""
    message = route_components_pb2.Route(name=route.name, match=match)
    message.metadata.filter_metadata[LOGGED].CopyFrom(route.metadata.filter_metadata[LOGGED])
    message.typed_per_filter_config[chain.JWT].CopyFrom(jwt.public())
    return message


def without_upgrades(entries: Sequence[Entry]) -> Iterator[bytes]:
    """The routes of these entries, with refusals of the upgrades that they do not take.

    For fallbacks: Envoy has decided on an upgrade before it finds them, so they refuse it themselves.
    """
    some = any(entry.websocket for entry in entries)
    if entries and not some:
        yield NO_UPGRADES
    for entry in entries:
        if some:
            yield _refusal(entry)
        yield entry.body


def _refusal(entry: Entry) -> bytes:
    """A route that refuses the upgrades which this entry does not take."""
    message = route_components_pb2.Route.FromString(entry.body)
    refusal = instead(message, message.match)
    if entry.websocket:
        # An inverted condition on a text holds for no request without the header.
        taken = string_pb2.StringMatcher(exact="websocket", ignore_case=True)
        refusal.match.headers.add(name="upgrade", string_match=taken, invert_match=True)
    else:
        refusal.match.headers.add(name="upgrade", present_match=True)
    refusal.direct_response.CopyFrom(direct_response(403, ""))
    return serialised(refusal)


def redirected(entry: Entry, action: Any) -> Entry:
    """The entry where it is only reachable by HTTPS."""
    message = route_components_pb2.Route.FromString(entry.body)
    redirect = instead(message, message.match)
    redirect.redirect.CopyFrom(action)
    return replace(entry, body=serialised(redirect), websocket=False, cors=False)


def _elsewhere() -> bytes:
    """The end of a host that is open: the wildcard that covers it decides. (`shard_lua.elsewhere`)"""
    message = route_components_pb2.Route(name=shard_lua.ELSEWHERE, match={"prefix": "/"})
    shard_lua.elsewhere(message)
    message.typed_per_filter_config[chain.JWT].CopyFrom(jwt.public())
    return serialised(message)


def _no_upgrades() -> bytes:
    match = route_components_pb2.RouteMatch(prefix="/")
    match.headers.add(name="upgrade", present_match=True)
    return _final("no-upgrades", lambda message: message.direct_response.CopyFrom(direct_response(403, "")), match)


def last_resort(name: str, status: int, body: str) -> bytes:
    """A route for everything that no other route of a host takes."""
    return _final(name, lambda message: message.direct_response.CopyFrom(direct_response(status, body)))


def last_redirect(action: Any) -> bytes:
    """A redirect for everything that no other route of a host takes."""
    return _final("redirect-to-https", lambda message: message.redirect.CopyFrom(action))


def _final(name: str, act: Any, match: Any = None) -> bytes:
    everything = route_components_pb2.RouteMatch(prefix="/")
    message = route_components_pb2.Route(name=f"gatewayspec/{name}", match=match or everything)
    act(message)
    message.typed_per_filter_config[chain.JWT].CopyFrom(jwt.public())
    return serialised(message)


def _merged_root() -> bytes:
    redirect = route_components_pb2.RedirectAction(
        path_redirect="/", response_code=route_components_pb2.RedirectAction.RedirectResponseCode.TEMPORARY_REDIRECT
    )
    match = route_components_pb2.RouteMatch(path="//")
    return _final("merged-slashes", lambda message: message.redirect.CopyFrom(redirect), match)


MERGED_ROOT = _merged_root()
"""Envoy merges adjacent slashes everywhere but in a path of slashes alone, which becomes `//`.

An exact `/` would not see it while a backend may take it for `/`: clients are sent to `/`, as for encoded slashes.
"""
NO_UPGRADES = _no_upgrades()
ELSEWHERE = _elsewhere()
NOT_FOUND = last_resort("not-found", 404, "")
MISDIRECTED = last_resort("misdirected", 421, "")
