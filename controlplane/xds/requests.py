"""What clients ask: the bytes of requests in, plain frozen values out.

A proxy that begins names thousands of resources, one that comes back their versions too, and so does the whole fleet at
once. So the message is taken apart without making a text of each: the names of a request are one run of bytes, which is
looked up among those that others sent, and versions are compared in the bytes that they came in (returning.py). The field
numbers are those of https://github.com/envoyproxy/envoy/blob/main/api/envoy/service/discovery/v3/discovery.proto
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from controlplane.resources import delimited, read_varint
from controlplane.xds.bounds import Limits
from controlplane.xds.nameset import NOTHING, shared
from controlplane.xds.nodes import Ended, Locality, Node, Status
from controlplane.xds.request_names import check_count, check_names, names_of

MAX_NODE_BYTES = 1 << 20
"""Of a node with its metadata; an Envoy with all of its extensions has some 50 kB."""
_MAX_PIECES = 100
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
    """A `DeltaDiscoveryRequest`. `initial_versions` are the entries of that map, still encoded: each is made when it is read."""

    subscribe: frozenset[str] = NOTHING
    unsubscribe: frozenset[str] = NOTHING
    initial_versions: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class SotwRequest(Request):
    """A `DiscoveryRequest`: `names` is the whole subscription."""

    version: str = ""
    names: frozenset[str] = NOTHING


def delta_request(data: bytes, limits: Limits) -> DeltaRequest:
    """Decode a `DeltaDiscoveryRequest`; raises `Ended` when the bytes are none, or when they name too much."""
    data, known = _seen.cut(data)
    message = _parse(_delta_envelope(), data)
    if len(message.versions) > limits.names:
        raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {limits.names} versions in one request")
    return DeltaRequest(
        type_url=message.type_url,
        nonce=message.nonce,
        error=_error(message.error),
        node=_node(message.node),
        unsubscribe=_set(message.unsubscribe, limits, message.unsubscribe_locators),
        initial_versions=message.versions,
        subscribe=_names(message, discovery_pb2.DeltaDiscoveryRequest, "resource_names_subscribe", known, limits),
    )


def sotw_request(data: bytes, limits: Limits) -> SotwRequest:
    """Decode a `DiscoveryRequest`; raises `Ended` when the bytes are none, or when they name too much."""
    data, known = _seen.cut(data)
    message = _parse(_sotw_envelope(), data)
    if len(message.version) > limits.version_characters:
        raise Ended(Status.INVALID_ARGUMENT, f"version_info is longer than {limits.version_characters} characters")
    return SotwRequest(
        type_url=message.type_url,
        nonce=message.nonce,
        error=_error(message.error),
        node=_node(message.node),
        version=message.version,
        names=_names(message, discovery_pb2.DiscoveryRequest, "resource_names", known, limits),
    )


def initial_versions(entries: Iterable[bytes]) -> dict[str, str]:
    """Some entries of `initial_resource_versions`, decoded; raises `Ended` when they are none."""
    data = b"".join(delimited(_VERSIONS, entry) for entry in entries)
    return dict(_parse(discovery_pb2.DeltaDiscoveryRequest, data).initial_resource_versions)


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


# -- taken apart -----------------------------------------------------------------------------------------------------

_VERSIONS, _NAMES_TAG = 5, b"\x1a"
"""`initial_resource_versions`; and how `resource_names` or `resource_names_subscribe` (3) begin, as nearly everybody says it."""
_TEXT, _BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_ONE, _MANY = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


@cache
def _delta_envelope() -> Any:
    return _envelope(
        "DeltaDiscoveryRequest",
        node=(1, _MANY, _BYTES), type_url=(2, _ONE, _TEXT), unsubscribe=(4, _MANY, _TEXT), versions=(5, _MANY, _BYTES),
        nonce=(6, _ONE, _TEXT), error=(7, _MANY, _BYTES), locators=(8, _MANY, _BYTES),
        unsubscribe_locators=(9, _MANY, _BYTES),
    )  # fmt: skip


@cache
def _sotw_envelope() -> Any:
    return _envelope(
        "DiscoveryRequest",
        version=(1, _ONE, _TEXT), node=(2, _MANY, _BYTES), type_url=(4, _ONE, _TEXT), nonce=(5, _ONE, _TEXT),
        error=(6, _MANY, _BYTES), locators=(7, _MANY, _BYTES),
    )  # fmt: skip


def _envelope(name: str, **fields: tuple[int, int, int]) -> Any:
    """A message class that reads a request, but leaves its messages encoded, and its names among what it does not know."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="controlplane.xds", syntax="proto3")
    described = file.message_type.add(name=name)
    for field, (number, label, kind) in fields.items():
        described.field.add(name=field, number=number, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Ended(Status.INVALID_ARGUMENT, f"these bytes are no {kind.DESCRIPTOR.name}") from None


class _Seen:
    """The sets of names that requests had lately, by their bytes: those of a fleet have them in common."""

    SMALL = 1 << 10
    """Bytes of a list that is decoded as quickly as it is looked up."""
    REMEMBERED = 32 << 20
    """Bytes that what is kept takes: lists and their names. One of 5,000 names has some 200 kB, and takes 0.9 MB."""
    NAME = 100
    """About what a name takes beside its characters."""
    RECENT = 4
    """Lists that a request is compared with before it is taken apart: those of the fleet that is coming back."""

    def __init__(self) -> None:
        self._sets: OrderedDict[bytes, frozenset[str]] = OrderedDict()
        self._size = 0

    def cut(self, data: bytes) -> tuple[bytes, frozenset[str]]:
        """A request without its list of names, and these names, if somebody sent the same list just before."""
        if len(data) > self.SMALL:
            begin = _before_names(data)
            for encoded in islice(reversed(self._sets), self.RECENT):
                end = begin + len(encoded)
                if data.startswith(encoded, begin) and data[end : end + 1] != _NAMES_TAG:
                    self._sets.move_to_end(encoded)
                    return data[:begin] + data[end:], self._sets[encoded]
        return data, NOTHING

    def names(self, encoded: bytes, kind: Any, field: str, limits: Limits) -> frozenset[str]:
        """The names in these bytes, which are a message of this kind."""
        if len(encoded) < self.SMALL:
            return _set(getattr(_parse(kind, encoded), field), limits)
        if (found := self._sets.get(encoded)) is not None:
            self._sets.move_to_end(encoded)
            return found
        check_count(encoded, limits)
        names = self._sets[encoded] = _set(getattr(_parse(kind, encoded), field), limits)
        self._size += self._weight(encoded, names)
        while self._size > self.REMEMBERED:
            self._size -= self._weight(*self._sets.popitem(last=False))
        return names

    def _weight(self, encoded: bytes, names: frozenset[str]) -> int:
        return 2 * len(encoded) + self.NAME * len(names)


_seen = _Seen()


def _before_names(data: bytes) -> int:
    """Where the first name of a request stands, as clients write it: behind whole texts and messages."""
    at = 0
    with suppress(IndexError):
        while data[at : at + 1] != _NAMES_TAG and data[at] & 0x87 == 2:
            size, at = read_varint(data, at + 1)
            at += size
    return at


def _names(message: Any, kind: Any, field: str, known: frozenset[str], limits: Limits) -> frozenset[str]:
    """A request may name resources in both ways; ours have no variants, so the parameters of a locator select nothing.

    The message is spent: only what it does not know is left of it, which are the names beside those that are `known`.
    """
    located = _set((), limits, message.locators)
    for one in message.DESCRIPTOR.fields:
        message.ClearField(one.name)
    encoded = message.SerializeToString()
    names = _seen.names(encoded, kind, field, limits) if encoded else NOTHING
    found = [each for each in (known, names, located) if each]
    if len(found) < 2:
        return found[0] if found else NOTHING
    check_names(all_of_them := frozenset().union(*found), limits)
    return shared(all_of_them)


def _set(names: Collection[str], limits: Limits, locators: Collection[bytes] = ()) -> frozenset[str]:
    if len(names) + len(locators) > limits.names:  # not one of them was made yet
        raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {limits.names} names in one request")
    located = (_parse(discovery_pb2.ResourceLocator, one).name for one in locators)
    return names_of(frozenset((*names, *located)), limits)


def _error(encoded: Sequence[bytes]) -> str | None:
    return _parse(status_pb2.Status, _merged(encoded)).message if encoded else None


def _merged(encoded: Sequence[bytes]) -> bytes:
    """A message that stands twice is merged; nobody writes it thousands of times."""
    if len(encoded) > _MAX_PIECES:
        raise Ended(Status.INVALID_ARGUMENT, f"a field that stands once stands more than {_MAX_PIECES} times")
    return b"".join(encoded)


def _node(encoded: Sequence[bytes]) -> Node | None:
    if not encoded:
        return None
    data = _merged(encoded)
    if len(data) > MAX_NODE_BYTES:
        raise Ended(Status.INVALID_ARGUMENT, f"the node has more than {MAX_NODE_BYTES} bytes")
    node = _parse(base_pb2.Node, data)
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
