"""One xDS resource: its kind, its identity, its version and its bytes.

Compile makes them, the snapshot store keeps them, xDS sends them. This module knows no gateway and no protobuf class:
the wire framing below is the protobuf encoding itself. A resource holds its content in the form in which responses hold
it, so that bytes are made once, and an answer is a join of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from functools import cache

VERSION_CHARACTERS = 16
"""Hex characters of a version: 64 bits of BLAKE2b; a resume names one per resource, so short ones save megabytes."""

FINGERPRINT_BYTES = 16


def content_version(body: bytes) -> str:
    """The version of content: equal bytes give the same one on every replica, restart and Python version."""
    return hashlib.blake2b(body, digest_size=VERSION_CHARACTERS // 2).hexdigest()


_SHORT = tuple(
    bytes((value,)) if value <= 0x7F else bytes((value & 0x7F | 0x80, value >> 7)) for value in range(0x1000)
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


def read_varint(encoded: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where the next field goes on. Raises IndexError when the bytes end within it."""
    value = shift = 0
    while (byte := encoded[at]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1


def delimited(number: int, body: bytes) -> bytes:
    """A length-delimited protobuf field (wire type 2) holding `body`."""
    tag, size = number << 3 | 2, len(body)
    if tag < len(_SHORT) and size < len(_SHORT):
        return _SHORT[tag] + _SHORT[size] + body
    return varint(tag) + varint(size) + body


def scalar(number: int, value: int) -> bytes:
    """A varint protobuf field (wire type 0): a number that is not negative, or an enum."""
    return varint(number << 3) + varint(value)


def version_entry(name: str, version: str) -> bytes:
    """The encoded entry of a map from names to versions (key = 1, value = 2), as clients send them."""
    return delimited(1, name.encode()) + delimited(2, version.encode())


_WRAPPER = "type.googleapis.com/envoy.service.discovery.v3.Resource"
_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)


class Resource:
    """One resource, immutable; `origin` is opaque to everything after compile.

    A client may ask for it by one of its `aliases` too. With a `ttl` it lives that long without word from us: xDS
    repeats itself as long as it is published, and leaves the TTL out for clients that do not know of it. One that is
    `late` sends requests to routes, and is none itself: a change of it goes out between the routes that come and those
    that go, whatever its type. What it `offers` has names that routes say: one that names what is not there does not work.

    All that many streams need of it is made here, where time is taken in slices, and not when 20,000 are published or
    sent at once.
    """

    __slots__ = (
        "_any", "_body", "_end", "aliases", "encoded", "fingerprint", "is_plain", "late", "name", "offers", "origin", "ttl", "type_url", "version",
    )  # fmt: skip

    def __init__(
        self, type_url: str, name: str, body: bytes, version: str = "", *,
        origin: object = None, ttl: timedelta | None = None, aliases: tuple[str, ...] = (), late: bool = False,
        offers: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`body` is the serialised message. Its version is a hash of all that a client is told, unless it is given:
        a resource whose TTL or aliases change is sent again. Raises ValueError for a TTL that is none.
        """
        if ttl is not None and ttl <= timedelta(0):
            raise ValueError(f"{name!r}: a TTL is more than nothing")
        self.type_url = type_url
        self.name = name
        self.version = version or content_version(body + _aliases(aliases) + _ttl(ttl) if aliases or ttl else body)
        self.origin = origin
        self.ttl = ttl
        self.aliases = aliases
        self.late = late
        self.offers = offers
        self.is_plain = ttl is None and not aliases and not name.startswith("xdstp:")
        """Whether it is found by its own name alone, for as long as it is published."""
        identity = f"{type_url}\0{name}\0{self.version}".encode()
        self.fingerprint = int.from_bytes(hashlib.blake2b(identity, digest_size=FINGERPRINT_BYTES).digest(), "big")
        """Identity and version as a number to add up: the sum over a set does not depend on the order in which it was made."""
        head = delimited(1, self.version.encode())
        message = delimited(2, _encoded_type(type_url) + delimited(2, body))
        tail = delimited(3, name.encode())
        if aliases:
            tail += _aliases(sorted(set(aliases)))
        self.encoded = delimited(2, head + message + tail)
        """Itself as an entry of a `DeltaDiscoveryResponse` (resources = 2), without its TTL."""
        self._end = len(self.encoded) - len(tail)
        self._any = self._end - len(message)
        self._body = self._end - len(body)

    @property
    def body(self) -> bytes:
        """The serialised message: a copy."""
        return self.encoded[self._body : self._end]

    @property
    def size(self) -> int:
        """Bytes of the serialised message."""
        return self._end - self._body

    def __eq__(self, other: object) -> bool:
        """Whether all that a client is told is equal; where it comes from may differ."""
        return self is other or (
            isinstance(other, Resource)
            and (self.version, self.name, self.type_url) == (other.version, other.name, other.type_url)
            and (self.encoded, self.ttl, self.late) == (other.encoded, other.ttl, other.late)
        )

    def __hash__(self) -> int:
        return hash((self.type_url, self.name, self.version))

    def __repr__(self) -> str:
        return f"Resource({self.type_url!r}, {self.name!r}, version={self.version!r})"

    def with_body(self, body: bytes) -> Resource:
        """The same in other bytes, which pass for the same version."""
        return Resource(
            self.type_url, self.name, body, self.version,
            origin=self.origin, ttl=self.ttl, aliases=self.aliases, late=self.late, offers=self.offers,
        )  # fmt: skip

    def sotw(self, *, wrapped: bool = False) -> bytes:
        """Itself as an entry of a `DiscoveryResponse` (resources = 2), a `google.protobuf.Any` (type_url = 1, value = 2);
        or, to tell its TTL, the entry of the other variant in one.
        """
        if wrapped:
            return delimited(2, delimited(1, _WRAPPER.encode()) + delimited(2, self._delta(timed=True)))
        return self.encoded[self._any : self._end]

    def delta(self, *, timed: bool = False, also: tuple[str, ...] = ()) -> bytes:
        """Itself as an entry of a `DeltaDiscoveryResponse`. `timed`: with its TTL; `also`: aliases beside its own."""
        return delimited(2, self._delta(timed=timed, also=also)) if timed or also else self.encoded

    def _delta(self, *, timed: bool, also: tuple[str, ...] = ()) -> bytes:
        """A `envoy.service.discovery.v3.Resource`: version = 1, resource = 2, name = 3, aliases = 4, ttl = 6."""
        encoded = delimited(1, self.version.encode()) + self.encoded[self._any : self._end]
        encoded += delimited(3, self.name.encode()) + _aliases(sorted({*self.aliases, *also}))
        return encoded + _ttl(self.ttl) if timed else encoded

    def heartbeat(self) -> bytes:
        """The same with its TTL and without its content, as an entry: the TTL begins anew.

        https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ttl
        """
        return delimited(2, delimited(1, self.version.encode()) + delimited(3, self.name.encode()) + _ttl(self.ttl))


@cache
def _encoded_type(type_url: str) -> bytes:
    return delimited(1, type_url.encode())


def vacancy(name: str) -> bytes:
    """The entry of a `DeltaDiscoveryResponse` that says that there is nothing of this name."""
    return delimited(2, delimited(3, name.encode()) + delimited(4, name.encode()))


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
