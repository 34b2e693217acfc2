"""What was refused only because it travelled with something bad, and is sent again.

Envoy 1.40 goes through the scopes of a response one by one, and notes the content of each before it knows that a later
one is bad: the response is refused, none of it is used, and the same content sent again counts as unmodified and is
never used. So a scope that is sent again says the same in other bytes. (tests/protocol/test_envoy_refuses.py)
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.route.v3 import scoped_route_pb2
from google.protobuf.message import DecodeError

from controlplane.resources import Resource, delimited
from controlplane.snapshot.listing import Listing
from controlplane.xds import types
from controlplane.xds.progress import Refused

_NAMESPACE = "sent-again"
"""Of the metadata that nobody reads, in which a second sending differs from the first."""


def altered(type_url: str, listing: Listing, again: Mapping[str, Refused]) -> Listing:
    """The listing with every scope in `again` in other bytes, which differ each time that it was refused."""
    if type_url != types.SCOPED_ROUTES or not any(one.name in again for one in listing.resources):
        return listing
    changed = [_altered(one, again[one.name].nonce) if one.name in again else one for one in listing.resources]
    return Listing(changed, listing.absent)


def _altered(scope: Resource, mark: str) -> Resource:
    try:
        inline = scoped_route_pb2.ScopedRouteConfiguration.FromString(scope.body).HasField("route_configuration")
    except DecodeError:
        inline = False
    if not inline:
        return scope  # its routes travel elsewhere
    # A message field that stands twice is merged: this adds an entry to the metadata of the route configuration.
    # ScopedRouteConfiguration.route_configuration = 5, RouteConfiguration.metadata = 17, Metadata.filter_metadata = 1
    entry = delimited(1, f"{_NAMESPACE}/{mark}".encode()) + delimited(2, b"")
    return scope.with_body(scope.body + delimited(5, delimited(17, delimited(1, entry))))
