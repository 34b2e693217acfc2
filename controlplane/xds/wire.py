"""The bytes of the discovery messages: requests in, responses out.

Requests are decoded with upb into plain frozen values. Responses are never built as messages: they are the joined
ready bytes of their resources between a head and a tail, so that what many streams get is made once. The field numbers
are those of https://github.com/envoyproxy/envoy/blob/main/api/envoy/service/discovery/v3/discovery.proto
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from controlplane.resources import Resource, delimited, vacancy
from controlplane.snapshot.listing import Listing
from controlplane.xds.nameset import NOTHING, shared
from controlplane.xds.nodes import Ended, Locality, Node, Status
from controlplane.xds.types import VIRTUAL_HOST
from controlplane.xdstp import canonical_names

MAX_NODE_BYTES = 1 << 20
"""Of a node with its metadata; an Envoy with all of its extensions has some 50 kB."""
_MAX_WORD = 1024
"""Characters of what a node is called, which logs and pages show."""


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
        subscribe=_names(message.resource_names_subscribe, message.resource_locators_subscribe),
        unsubscribe=_names(message.resource_names_unsubscribe, message.resource_locators_unsubscribe),
        initial_versions=message.initial_resource_versions,
    )


_TYPE_URL, _NONCE = 0x12, 0x32
"""Tags of `type_url` = 2 and `response_nonce` = 6 in a `DeltaDiscoveryRequest`."""


def acknowledgement(data: bytes) -> tuple[str, str] | None:
    """Type URL and nonce of a `DeltaDiscoveryRequest` that holds just these; None for all else, which is to be decoded.

    Almost every request of a stream is one, and a quarter of what it costs is its decoding.
    """
    if len(data) < 4 or data[0] != _TYPE_URL:
        return None
    end = 2 + data[1]  # of the type URL; a length of 0x80 or more has another byte, and what follows does not fit
    if len(data) < end + 3 or data[end] != _NONCE or data[end + 1] > 0x7F or len(data) != end + 2 + data[end + 1]:
        return None
    return (str(data[2:end], "ascii"), str(data[end + 2 :], "ascii")) if data.isascii() and data[1] < 0x80 else None


def sotw_request(data: bytes) -> SotwRequest:
    """Decode a `DiscoveryRequest`; raises `Ended` when the bytes are none."""
    message = _decode(discovery_pb2.DiscoveryRequest, data)
    return SotwRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        node=_node(message),
        version=message.version_info,
        names=_names(message.resource_names, message.resource_locators),
    )


def _decode(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Ended(Status.INVALID_ARGUMENT, f"these bytes are no {kind.DESCRIPTOR.name}") from None


def _names(names: Any, locators: Any) -> frozenset[str]:
    """A request may name resources in both ways; ours have no variants, so the parameters of a locator select nothing."""
    if not names and not locators:
        return NOTHING
    wanted = frozenset((*names, *(locator.name for locator in locators)) if locators else names)
    return shared(canonical_names(wanted))


def _node(message: Any) -> Node | None:
    if not message.HasField("node"):
        return None
    node = message.node
    if node.ByteSize() > MAX_NODE_BYTES:
        raise Ended(Status.INVALID_ARGUMENT, f"the node has more than {MAX_NODE_BYTES} bytes")
    if max(map(len, (node.id, node.cluster, node.user_agent_name, node.user_agent_version))) > _MAX_WORD:
        raise Ended(Status.INVALID_ARGUMENT, f"id, cluster or version of the node has more than {_MAX_WORD} characters")
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
    """A response that lacks its nonce, which is the last field (5) in both variants; `resources` is how many it holds.

    The same for all streams that are told the same.
    """

    body: bytes
    version: str
    resources: int

    def encode(self, nonce: str) -> bytes:
        """The response."""
        return self.body + _nonce(nonce)


@lru_cache(maxsize=4096)
def _nonce(nonce: str) -> bytes:
    """The field, which streams that began together have in common."""
    return delimited(5, nonce.encode())


class Encoder:
    """Makes responses. One for all streams of a server: it holds what they share.

    `identifier` names this replica in `control_plane.identifier`. Drafts are kept by what they say (type, names,
    versions), so sharing them can never give one node the bytes of another.
    """

    CACHED_BYTES = 64 << 20
    """Bounds what is kept; the first answer for 20,000 scopes is about 30 MB and is asked for by every proxy."""
    CACHED_DRAFTS = 4096
    """Bounds the small ones, of which a change makes one that is asked for in the next moments or never again."""
    ENTRY_BYTES = 1024
    """About what a small body costs beside its bytes."""

    def __init__(self, identifier: str = "") -> None:
        self._control_plane = delimited(1, identifier.encode()) if identifier else b""
        self._drafts: OrderedDict[tuple[object, ...], Draft] = OrderedDict()
        self._size = 0

    def delta(
        self, type_url: str, listing: Listing, version: str = "", *, timed: bool = False, vacant: bool = False
    ) -> Draft:
        """A `DeltaDiscoveryResponse`: system_version_info = 1, resources = 2, type_url = 4, control_plane = 7, and
        removed_resources = 6.

        `timed`: TTLs are told; `vacant`: what is absent is answered by an entry without content, for a client that
        waits with a request in its hand. https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/vhds
        """
        timed = timed and bool(listing.timed)
        key = ("delta", type_url, listing.key, version, timed, vacant)
        if (draft := self._drafts.get(key)) is not None:
            self._drafts.move_to_end(key)
            return draft
        parts = [
            delimited(1, version.encode()),
            *self._head(type_url, 7),
            *(delimited(2, each) for each in _entries(type_url, listing, timed=timed)),
            *(delimited(2, vacancy(name)) if vacant else delimited(6, name.encode()) for name in listing.absent),
        ]
        return self._keep(key, Draft(b"".join(parts), version, len(listing.resources)))

    def sotw(self, type_url: str, listing: Listing, version: str = "", *, timed: bool = False) -> Draft:
        """A `DiscoveryResponse`: version_info = 1, resources = 2, type_url = 4, control_plane = 6.

        `version`: if it is not that of the listing; `timed`: resources with a TTL are wrapped, to tell it.
        """
        timed = timed and bool(listing.timed)
        version = version or listing.version
        key = ("sotw", type_url, listing.key, version, timed)
        if (draft := self._drafts.get(key)) is not None:
            self._drafts.move_to_end(key)
            return draft
        parts = [
            delimited(1, version.encode()),
            *self._head(type_url, 6),
            *(delimited(2, one.any(wrapped=timed and one.ttl is not None)) for one in listing.resources),
        ]
        return self._keep(key, Draft(b"".join(parts), version, len(listing.resources)))

    def delta_heartbeat(self, type_url: str, resources: Iterable[Resource], version: str) -> Draft:
        """A `DeltaDiscoveryResponse` that lets the TTLs of these resources begin anew; it is said to hold none."""
        parts = [*self._head(type_url, 7), *(delimited(2, one.heartbeat()) for one in resources)]
        return Draft(b"".join(parts), version, 0)

    def _head(self, type_url: str, control_plane: int) -> list[bytes]:
        head = [delimited(4, type_url.encode())]
        return [*head, delimited(control_plane, self._control_plane)] if self._control_plane else head

    def _keep(self, key: tuple[object, ...], draft: Draft) -> Draft:
        if len(draft.body) <= self.CACHED_BYTES:
            self._drafts[key] = draft
            self._size += len(draft.body) + self.ENTRY_BYTES
            while self._size > self.CACHED_BYTES or len(self._drafts) > self.CACHED_DRAFTS:
                self._size -= len(self._drafts.popitem(last=False)[1].body) + self.ENTRY_BYTES
        return draft


def _entries(type_url: str, listing: Listing, *, timed: bool) -> Iterable[bytes]:
    """The resources for a delta response. A virtual host is known by what was asked for, which is among its aliases."""
    if type_url != VIRTUAL_HOST:
        return (one.delta(timed=timed) for one in listing.resources)
    return (one.delta(timed=timed, also=(one.name,)) for one in listing.resources)
