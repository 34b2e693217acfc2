"""The types of resource, and the order in which a stream gets them: make before break.

Everything in this package that depends on what a type is reads it here. The rules are those of
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
"""

from __future__ import annotations

from dataclasses import dataclass

_PREFIX = "type.googleapis.com/"

CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
LOAD_ASSIGNMENT = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
EXTENSION = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
ROUTE_CONFIGURATION = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTES = _PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
VIRTUAL_HOST = _PREFIX + "envoy.config.route.v3.VirtualHost"
RUNTIME = _PREFIX + "envoy.service.runtime.v3.Runtime"

WILDCARD = "*"
"""The name that stands for everything a node may see."""


@dataclass(frozen=True, slots=True)
class ResourceType:
    """What the protocol says about one type URL.

    `full_state`: a request without names means all of them, and a state-of-the-world response is the complete set.
    `enumerable`: `*` may list its resources (secrets are never listed, only given by name).
    `after`: the types whose additions and changes this stream must have acknowledged before this type's are sent.
    """

    url: str
    short: str
    full_state: bool = False
    enumerable: bool = True
    after: tuple[str, ...] = ()


_BEFORE_LISTENERS = (CLUSTER, LOAD_ASSIGNMENT)
_BEFORE_ROUTES = (*_BEFORE_LISTENERS, LISTENER, EXTENSION)

PUSH_ORDER: tuple[ResourceType, ...] = (
    ResourceType(CLUSTER, "cds", full_state=True),
    ResourceType(LOAD_ASSIGNMENT, "eds"),
    ResourceType(SECRET, "sds", enumerable=False),
    ResourceType(LISTENER, "lds", full_state=True, after=_BEFORE_LISTENERS),
    ResourceType(EXTENSION, "ecds", after=_BEFORE_LISTENERS),
    ResourceType(ROUTE_CONFIGURATION, "rds", after=_BEFORE_ROUTES),
    ResourceType(SCOPED_ROUTES, "srds", full_state=True, after=(*_BEFORE_ROUTES, ROUTE_CONFIGURATION)),
    ResourceType(VIRTUAL_HOST, "vhds", after=(*_BEFORE_ROUTES, ROUTE_CONFIGURATION)),
    ResourceType(RUNTIME, "rtds"),
)
"""Additions and changes, in the order in which one change of all types goes out."""

ROUTES = (ROUTE_CONFIGURATION, SCOPED_ROUTES, VIRTUAL_HOST)
"""What a late resource of any type follows: it sends requests to them."""

REMOVAL_ORDER: tuple[str, ...] = (
    VIRTUAL_HOST,
    SCOPED_ROUTES,
    LISTENER,
    ROUTE_CONFIGURATION,
    EXTENSION,
    CLUSTER,
    LOAD_ASSIGNMENT,
    SECRET,
    RUNTIME,
)
"""What names others goes before what it names: routes, then what they lead to.

Parents go before the children that they subscribe (a listener before its route configuration and extension
configuration, a cluster before its load assignment): a client that dropped the parent has unsubscribed the child, and
a live parent never sees its child removed.
"""

_BY_URL = {kind.url: kind for kind in PUSH_ORDER}
_RANK = {kind.url: rank for rank, kind in enumerate(PUSH_ORDER)}
_REMOVAL_RANK = {url: rank for rank, url in enumerate(REMOVAL_ORDER)}


def resource_type(url: str) -> ResourceType:
    """What is known of a type URL; an unknown type has no resources, and its names are answered as absent."""
    return _BY_URL.get(url) or ResourceType(url, url.rpartition("/")[2])


def is_known(url: str) -> bool:
    """Whether there can be resources of this type."""
    return url in _BY_URL


def short_name(url: str) -> str:
    """`cds`; the last part of an unknown type URL."""
    return resource_type(url).short


BY_SHORT_NAME = {kind.short: kind.url for kind in PUSH_ORDER}


def push_rank(url: str) -> int:
    """The place of a type in the order of additions; unknown types come last."""
    return _RANK.get(url, len(_RANK))


def removal_rank(url: str) -> int:
    """The place of a type in the order of removals; unknown types come last."""
    return _REMOVAL_RANK.get(url, len(_REMOVAL_RANK))
