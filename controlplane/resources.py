"""One xDS resource: its kind, its identity, its version and its bytes.

Compile makes them, the snapshot store keeps them, xDS sends them. This module knows no gateway and no protobuf class:
the wire framing below is the protobuf encoding itself, so that bytes are made once and shared by every stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

VERSION_CHARACTERS = 16
"""Hex characters of a version: 64 bits of BLAKE2b; a resume names one per resource, so short ones save megabytes."""

FINGERPRINT_BYTES = 16


def content_version(body: bytes) -> str:
    """The version of content: equal bytes give the same one on every replica, restart and Python version."""
    return hashlib.blake2b(body, digest_size=VERSION_CHARACTERS // 2).hexdigest()


_SHORT = tuple(
    bytes((value,)) if value <= 0x7F else bytes((value & 0x7F | 0x80, value >> 7)) for value in range(0x4000)
)
"""What almost every field of a route and every length in it is: made once, for a load asks for it by the hundred thousand."""


def varint(value: int) -> bytes:
    """The base-128 encoding of a length. https://protobuf.dev/programming-guides/encoding/#varints"""
    if value < len(_SHORT):
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, body: bytes) -> bytes:
    """A length-delimited protobuf field (wire type 2) holding `body`."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def version_entry(name: str, version: str) -> bytes:
    """The encoded entry of a map from names to versions (key = 1, value = 2), as clients send them."""
    return delimited(1, name.encode()) + delimited(2, version.encode())


_WRAPPER = "type.googleapis.com/envoy.service.discovery.v3.Resource"
_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. `body` is the serialised message, made once; `origin` is opaque to everything after compile.

    A client may ask for it by one of its `aliases` too. With a `ttl` it lives that long without word from us: xDS
    repeats itself as long as it is published, and leaves the TTL out for clients that do not know of it. One that is
    `late` sends requests to routes, and is none itself: a change of it goes out between the routes that come and those
    that go, whatever its type.
    """

    type_url: str
    name: str
    body: bytes
    version: str = field(default="")
    origin: object = field(default=None, compare=False, repr=False)
    ttl: timedelta | None = None
    aliases: tuple[str, ...] = ()
    late: bool = False
    fingerprint: int = field(init=False, compare=False, repr=False)
    """Identity and version as a number to add up: the sum over a set does not depend on the order in which it was made.

    Made here, where time is taken in slices, and not when 20,000 are published at once; so is `is_plain`.
    """
    is_plain: bool = field(init=False, compare=False, repr=False)
    """Whether it is found by its own name alone, for as long as it is published."""

    def __post_init__(self) -> None:
        """Derive the version from all that a client is told: a resource whose TTL or aliases change is sent again."""
        if self.ttl is not None and self.ttl <= timedelta(0):
            raise ValueError(f"{self.name!r}: a TTL is more than nothing")
        if not self.version:
            beside = _aliases(self.aliases) + _ttl(self.ttl) if self.aliases or self.ttl else b""
            object.__setattr__(self, "version", content_version(self.body + beside))
        identity = f"{self.type_url}\0{self.name}\0{self.version}".encode()
        digest = hashlib.blake2b(identity, digest_size=FINGERPRINT_BYTES).digest()
        object.__setattr__(self, "fingerprint", int.from_bytes(digest, "big"))
        plain = self.ttl is None and not self.aliases and not self.name.startswith("xdstp:")
        object.__setattr__(self, "is_plain", plain)

    def any(self, *, wrapped: bool = False) -> bytes:
        """The encoded `google.protobuf.Any` of the message (type_url = 1, value = 2), or of `delta` when wrapped."""
        url, body = (_WRAPPER, self.delta(timed=True)) if wrapped else (self.type_url, self.body)
        return delimited(1, url.encode()) + delimited(2, body)

    def delta(self, *, timed: bool = False, also: tuple[str, ...] = ()) -> bytes:
        """The encoded `envoy.service.discovery.v3.Resource` (version = 1, resource = 2, name = 3, aliases = 4, ttl = 6).

        `timed`: with its TTL; `also`: aliases beside its own.
        """
        encoded = delimited(1, self.version.encode()) + delimited(2, self.any()) + delimited(3, self.name.encode())
        if self.aliases or also:
            encoded += _aliases(sorted({*self.aliases, *also}))
        return encoded + _ttl(self.ttl) if timed else encoded

    def heartbeat(self) -> bytes:
        """The same with its TTL and without its content: the TTL begins anew.

        https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ttl
        """
        return delimited(1, self.version.encode()) + delimited(3, self.name.encode()) + _ttl(self.ttl)


def vacancy(name: str) -> bytes:
    """The encoded `envoy.service.discovery.v3.Resource` that says that there is nothing of this name."""
    return delimited(3, name.encode()) + delimited(4, name.encode())


def _aliases(names: Iterable[str]) -> bytes:
    return b"".join(delimited(4, name.encode()) for name in names)


def _ttl(ttl: timedelta | None) -> bytes:
    """The field `ttl`, a `google.protobuf.Duration` (seconds = 1, nanos = 2)."""
    if ttl is None:
        return b""
    seconds, rest = divmod(ttl, _SECOND)
    nanoseconds = rest // _MICROSECOND * 1000
    return delimited(
        6,
        (b"\x08" + varint(seconds) if seconds else b"") + (b"\x10" + varint(nanoseconds) if nanoseconds else b""),
    )
