"""From an Envoy resource back to the elements of the specs that it was made of: for what a proxy refused.

Used by the application. Which field it was is found in the text of the document, elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from envoy.config.route.v3 import route_components_pb2, route_pb2, scoped_route_pb2

from controlplane.compile.references import route_name
from controlplane.compile.xds_types import LISTENER, ROUTE_CONFIGURATION, SCOPED_ROUTE
from controlplane.filters.envoy import numbers
from controlplane.names import GATEWAY_KIND, ROUTE_KIND, ElementKey, SecretRef
from controlplane.resources import Resource, delimited

_OF_ROUTES = {SCOPED_ROUTE, ROUTE_CONFIGURATION}
_KINDS = {kind.lower(): kind for kind in (GATEWAY_KIND, ROUTE_KIND)}
"""By the first part of the names of Envoy's routes (`references.route_name`)."""
(_ROUTE_NAME,) = numbers(route_components_pb2.Route, "name")


class Made(NamedTuple):
    """An element of a document that a resource was made of: the object, and the path of the element in it.

    What only the name of a resource tells is without the object's source.
    """

    subject: str
    path: str


def elements(resource: Resource, good: Resource | None = None) -> tuple[Made, ...]:
    """What a resource was made of; of routes, those that differ from `good`, when some do."""
    if resource.type_url in _OF_ROUTES:
        before = set(_routes(good)) if good is not None else set()
        routes = list(_routes(resource))
        return tuple(dict.fromkeys(made for made, body in routes if (made, body) not in before)) or tuple(
            dict.fromkeys(made for made, _ in routes)
        )
    match resource.origin:
        case ElementKey(of, element):
            return (Made(of.subject, f"spec.{_section(resource)}[{element}]"),)
        case SecretRef() as ref:
            return (Made(ref.subject, ""),)
        case tuple() as gateways:
            return tuple(Made(f"{GATEWAY_KIND} {gateway}", "") for gateway in gateways)
    return ()


def has_route(shard: Resource, route: ElementKey) -> bool:
    """Whether a route shard has an Envoy route of this one. Told by the bytes of its name: to read a large shard takes long."""
    return delimited(_ROUTE_NAME, route_name(route).encode()) in shard.encoded


def title(resource: Resource) -> str:
    """What people call the resource: a route shard has a name that says nothing, its route configuration one that does."""
    if resource.type_url == SCOPED_ROUTE:
        return str(_configuration(resource).name)
    return resource.name


def _section(resource: Resource) -> str:
    if resource.type_url == LISTENER:
        return "listeners"
    return "identity.jwt" if resource.name.startswith("jwks/") else "backends"


def _routes(resource: Resource) -> Iterator[tuple[Made, bytes]]:
    """Every route that comes from a document, told by its name."""
    for host in _configuration(resource).virtual_hosts:
        for route in host.routes:
            kind, *names = route.name.split("/")
            if kind in _KINDS and len(names) == 3:  # others are ours: not found, misdirected
                namespace, name, element = names
                made = Made(f"{_KINDS[kind]} {namespace}/{name}", f"spec.routes[{element}]")
                yield made, route.SerializeToString(deterministic=True)


def _configuration(resource: Resource) -> Any:
    if resource.type_url == ROUTE_CONFIGURATION:
        return route_pb2.RouteConfiguration.FromString(resource.body)
    return scoped_route_pb2.ScopedRouteConfiguration.FromString(resource.body).route_configuration
