"""Route shards: one ScopedRouteConfiguration for each host and first path segment of a listener group.

Envoy rebuilds the whole route table of a route configuration when one route changes; these tables are small. (ADR 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2, scoped_route_pb2

from controlplane.compile.action import direct_response
from controlplane.compile.rows import FALLBACK, Entry, ShardKey
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.filters import chain
from controlplane.filters.envoy import serialised
from controlplane.filters.jwt import compile as jwt
from controlplane.names import scope_name
from controlplane.resources import Resource, delimited

_VIRTUAL_HOST_ROUTES = route_components_pb2.VirtualHost.DESCRIPTOR.fields_by_name["routes"].number


def ordered(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Entry | None]]:
    """Entries in the order in which Envoy tries them, each with the entry that makes it useless, if any.

    Of equal matches the first in the order of names is kept: where it stands in a document means nothing.
    """
    seen: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.order, entry.signature)):
        if entry.signature in seen:
            yield entry, seen[entry.signature]
        else:
            seen[entry.signature] = entry
            yield entry, None


def shard(key: ShardKey, routes: Iterable[bytes]) -> Resource:
    """The resource of one shard; `routes` are serialised Envoy routes in order.

    The routes are spliced in as bytes: a message of many routes is not built again because one of them changed.
    """
    domain = "*" if key.host == "*" else key.host
    head = serialised(route_components_pb2.VirtualHost(name=key.host, domains=[domain]))
    virtual_host = head + b"".join(delimited(_VIRTUAL_HOST_ROUTES, route) for route in routes)
    name = scope_name(key.group, key.host, key.segment)
    message = scoped_route_pb2.ScopedRouteConfiguration(
        name=name,
        key=scoped_route_pb2.ScopedRouteConfiguration.Key(
            fragments=[
                scoped_route_pb2.ScopedRouteConfiguration.Key.Fragment(string_key=f"{key.group}|{key.host}"),
                scoped_route_pb2.ScopedRouteConfiguration.Key.Fragment(string_key=key.segment),
            ]
        ),
        route_configuration=route_pb2.RouteConfiguration(
            name=name,
            virtual_hosts=[route_components_pb2.VirtualHost.FromString(virtual_host)],
            ignore_port_in_host_matching=True,
        ),
    )
    return Resource(SCOPED_ROUTE, name, serialised(message))


def last_resort(name: str, status: int, body: str) -> bytes:
    """A route for everything that no other route of a host takes."""
    return _final(name, lambda message: message.direct_response.CopyFrom(direct_response(status, body)))


def last_redirect(action: Any) -> bytes:
    """A redirect for everything that no other route of a host takes."""
    return _final("redirect-to-https", lambda message: message.redirect.CopyFrom(action))


def _final(name: str, act: Any) -> bytes:
    message = route_components_pb2.Route(name=f"gatewayspec/{name}", match=route_components_pb2.RouteMatch(prefix="/"))
    act(message)
    message.typed_per_filter_config[chain.JWT].CopyFrom(jwt.public())
    return serialised(message)


NOT_FOUND = last_resort("not-found", 404, "")
MISDIRECTED = last_resort("misdirected", 421, "")

__all__ = ["FALLBACK", "MISDIRECTED", "NOT_FOUND", "last_redirect", "ordered", "shard"]
