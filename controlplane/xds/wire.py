"""The bytes of the discovery messages: requests in, responses out.

Requests are decoded with upb into plain frozen values. Responses are never built as messages: they are the joined
ready bytes of their resources between a head and a tail, so that what many streams get is made once. The field numbers
are those of https://github.com/envoyproxy/envoy/blob/main/api/envoy/service/discovery/v3/discovery.proto
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from controlplane.resources import delimited
from controlplane.snapshot.listing import Listing
from controlplane.xds.nameset import NOTHING, shared
from controlplane.xds.nodes import Ended, Locality, Node, Status


@dataclass(frozen=True, slots=True)
class Request:
    """What the requests of both variants have in common. `error` is None for anything but a NACK."""

    type_url: str
    nonce: str = ""
    error: str | None = None
    node: Node | None = None


@dataclass(frozen=True, slots=True)
class DeltaRequest(Request):
    """A `DeltaDiscoveryRequest`. The map of initial versions is the decoder's own: most are only looked up in it."""

    subscribe: frozenset[str] = NOTHING
    unsubscribe: frozenset[str] = NOTHING
    initial_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SotwRequest(Request):
    """A `DiscoveryRequest`: `names` is the whole subscription."""

    version: str = ""
    names: frozenset[str] = NOTHING


def delta_request(data: bytes) -> DeltaRequest:
    """Decode a `DeltaDiscoveryRequest`; raises `Ended` when the bytes are none."""
    message = _decode(discovery_pb2.DeltaDiscoveryRequest, data)
    return DeltaRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        node=_node(message),
        subscribe=shared(message.resource_names_subscribe),
        unsubscribe=shared(message.resource_names_unsubscribe),
        initial_versions=message.initial_resource_versions,
    )


def sotw_request(data: bytes) -> SotwRequest:
    """Decode a `DiscoveryRequest`; raises `Ended` when the bytes are none."""
    message = _decode(discovery_pb2.DiscoveryRequest, data)
    return SotwRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        node=_node(message),
        version=message.version_info,
        names=shared(message.resource_names),
    )


def _decode(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Ended(Status.INVALID_ARGUMENT, f"these bytes are no {kind.DESCRIPTOR.name}") from None


def _node(message: Any) -> Node | None:
    if not message.HasField("node"):
        return None
    node = message.node
    labels: dict[str, str] = {}
    if "labels" in node.metadata.fields:
        for key, value in node.metadata.fields["labels"].struct_value.fields.items():
            if value.WhichOneof("kind") == "string_value":
                labels[key] = value.string_value
    build = node.user_agent_build_version.version
    return Node(
        id=node.id,
        cluster=node.cluster,
        labels=labels,
        locality=Locality(node.locality.region, node.locality.zone, node.locality.sub_zone),
        user_agent=node.user_agent_name,
        version=node.user_agent_version or f"{build.major_number}.{build.minor_number}.{build.patch}",
        features=frozenset(node.client_features),
    )


@dataclass(frozen=True, slots=True)
class Draft:
    """A response without its nonce: its bytes for a nonce, its version, and how many resources it holds."""

    encode: Callable[[str], bytes]
    version: str
    resources: int


class Encoder:
    """Makes responses. One for all streams of a server: it holds what they share.

    `identifier` names this replica in `control_plane.identifier`. Bodies are kept by what they say (type, names,
    versions), so sharing them can never give one node the bytes of another.
    """

    CACHED_BYTES = 64 << 20
    """Bounds what is kept; the first answer for 20,000 scopes is about 30 MB and is asked for by every proxy."""
    ENTRY_BYTES = 1024
    """About what a small body costs beside its bytes."""

    def __init__(self, identifier: str = "") -> None:
        self._control_plane = delimited(1, identifier.encode()) if identifier else b""
        self._bodies: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._size = 0

    def delta(self, type_url: str, listing: Listing) -> Callable[[str], bytes]:
        """A `DeltaDiscoveryResponse` that lacks its nonce: resources = 2, type_url = 4, control_plane = 7, and
        removed_resources = 6; the nonce = 5 is the last field.
        """
        body = self._body(
            ("delta", type_url, listing.key),
            lambda: [
                delimited(4, type_url.encode()),
                delimited(7, self._control_plane) if self._control_plane else b"",
                *(delimited(2, resource.delta()) for resource in listing.resources),
                *(delimited(6, name.encode()) for name in listing.absent),
            ],
        )
        return lambda nonce: body + delimited(5, nonce.encode())

    def sotw(self, type_url: str, listing: Listing) -> Callable[[str], bytes]:
        """A `DiscoveryResponse` that lacks its nonce: version_info = 1, resources = 2, type_url = 4,
        control_plane = 6; the nonce = 5 is the last field.
        """
        body = self._body(
            ("sotw", type_url, listing.key),
            lambda: [
                delimited(1, listing.version.encode()),
                delimited(4, type_url.encode()),
                delimited(6, self._control_plane) if self._control_plane else b"",
                *(delimited(2, resource.any()) for resource in listing.resources),
            ],
        )
        return lambda nonce: body + delimited(5, nonce.encode())

    def _body(self, key: tuple[object, ...], parts: Callable[[], list[bytes]]) -> bytes:
        if (body := self._bodies.get(key)) is not None:
            self._bodies.move_to_end(key)
            return body
        body = b"".join(parts())
        if len(body) <= self.CACHED_BYTES:
            self._bodies[key] = body
            self._size += len(body) + self.ENTRY_BYTES
            while self._size > self.CACHED_BYTES:
                self._size -= len(self._bodies.popitem(last=False)[1]) + self.ENTRY_BYTES
        return body
