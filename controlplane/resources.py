"""One xDS resource: its kind, its identity, its version and its bytes.

Compile makes them, the snapshot store keeps them, xDS sends them. This module knows no gateway and no protobuf class:
the wire framing below is the protobuf encoding itself, so that bytes are made once and shared by every stream.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

VERSION_CHARACTERS = 16
"""Hex characters of a version: 64 bits of BLAKE2b; a resume names one per resource, so short ones save megabytes."""


def content_version(body: bytes) -> str:
    """The version of content: equal bytes give the same one on every replica, restart and Python version."""
    return hashlib.blake2b(body, digest_size=VERSION_CHARACTERS // 2).hexdigest()


def varint(value: int) -> bytes:
    """The base-128 encoding of a length. https://protobuf.dev/programming-guides/encoding/#varints"""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, body: bytes) -> bytes:
    """A length-delimited protobuf field (wire type 2) holding `body`."""
    return varint(number << 3 | 2) + varint(len(body)) + body


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. `body` is the serialised message, made once; `origin` is opaque to everything after compile."""

    type_url: str
    name: str
    body: bytes
    version: str = field(default="")
    origin: object = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Derive the version from the content."""
        if not self.version:
            object.__setattr__(self, "version", content_version(self.body))

    def any(self) -> bytes:
        """The encoded `google.protobuf.Any` of the message (type_url = 1, value = 2)."""
        return delimited(1, self.type_url.encode()) + delimited(2, self.body)

    def delta(self) -> bytes:
        """The encoded `envoy.service.discovery.v3.Resource` (version = 1, resource = 2, name = 3)."""
        return delimited(1, self.version.encode()) + delimited(2, self.any()) + delimited(3, self.name.encode())
