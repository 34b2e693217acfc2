"""From an Envoy resource back to the elements of the specs that it was made of: for what a proxy refused.

Used by the application. Which field it was is found in the text of the document, elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from envoy.config.route.v3 import scoped_route_pb2

from controlplane.compile.xds_types import LISTENER, SCOPED_ROUTE
from controlplane.names import GATEWAY_KIND, ElementKey, SecretRef
from controlplane.resources import Resource


class Made(NamedTuple):
    """An element of a document that a resource was made of: the object, and the path of the element in it."""

    subject: str
    path: str


def elements(resource: Resource, good: Resource | None = None) -> tuple[Made, ...]:
    """What a resource was made of; of a route shard, the routes that differ from `good`, when some do."""
    if resource.type_url == SCOPED_ROUTE:
        before = set(_routes(good)) if good is not None else set()
        routes = list(_routes(resource))
        return tuple(dict.fromkeys(made for made, body in routes if (made, body) not in before)) or tuple(
            dict.fromkeys(made for made, _ in routes)
        )
    match resource.origin:
        case ElementKey(of, element):
            return (Made(str(of), f"spec.{_section(resource)}[{element}]"),)
        case SecretRef() as ref:
            return (Made(str(ref), ""),)
        case tuple() as gateways:
            return tuple(Made(f"{GATEWAY_KIND} {gateway}", "") for gateway in gateways)
    return ()


def title(resource: Resource) -> str:
    """What people call the resource: a route shard has a name that says nothing, its route configuration one that does."""
    if resource.type_url == SCOPED_ROUTE:
        return str(scoped_route_pb2.ScopedRouteConfiguration.FromString(resource.body).route_configuration.name)
    return resource.name


def _section(resource: Resource) -> str:
    if resource.type_url == LISTENER:
        return "listeners"
    return "identity.jwt" if resource.name.startswith("jwks/") else "backends"


def _routes(shard: Resource) -> Iterator[tuple[Made, bytes]]:
    message = scoped_route_pb2.ScopedRouteConfiguration.FromString(shard.body)
    for host in message.route_configuration.virtual_hosts:
        for route in host.routes:
            said = route.metadata.filter_metadata.get("gatewayspec")
            if said is not None:
                made = Made(said["spec"], f"spec.routes[{said['route']}]")
                yield made, route.SerializeToString(deterministic=True)
