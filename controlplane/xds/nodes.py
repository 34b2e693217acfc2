"""Who is at the other end of a stream: the node as it introduces itself, the peer as its certificate proves it.

`Directory` is the door to the application: it decides what a node may see. Node metadata is untrusted; the peer is
what the TLS handshake verified. This module imports neither grpc nor a protobuf class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from controlplane.errors import ControlPlaneError
from controlplane.snapshot.store import View

_RELEASE = re.compile(r"(\d{1,6})\.(\d{1,6})\.")
_WILDCARD_RELEASE = (1, 21)

MAX_LABELS = 256
MAX_CHARACTERS = 16_384
"""Of labels and place together; each stream keeps them. A certificate attests 8 KiB, and a pod has a few dozen labels."""


@dataclass(frozen=True, slots=True)
class Locality:
    """Where a node says it runs."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """An Envoy as it introduced itself; `labels` are the strings of `metadata.labels`.

    Raises `Ended` when there is more of them than is believable.
    """

    id: str
    cluster: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    locality: Locality = field(default_factory=Locality)
    user_agent: str = ""
    version: str = ""
    features: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Count what a stream would keep."""
        place = self.locality
        said = sum(map(len, (*self.labels, *self.labels.values(), place.region, place.zone, place.sub_zone)))
        if len(self.labels) > MAX_LABELS or said > MAX_CHARACTERS:
            reason = f"labels and locality of the node are more than {MAX_LABELS} labels or {MAX_CHARACTERS} characters"
            raise Ended(Status.INVALID_ARGUMENT, reason)

    @property
    def lets_go(self) -> bool:
        """Whether the client gives up clusters that its routes no longer lead to, and by that says that it follows them.

        gRPC does. It acknowledges routes when it has read them, follows them when their clusters have endpoints, and
        fails calls on their way to a cluster that is taken from it until then.
        """
        return not self.empty_is_everything

    @property
    def empty_is_everything(self) -> bool:
        """Whether a first request for listeners or clusters without names means all of them: the legacy wildcard.

        gRPC clients never mean it; they send such requests after a reconnect, when they want nothing.
        https://github.com/grpc/grpc-go/issues/7013
        """
        return not self.user_agent.lower().startswith("grpc")

    @property
    def names_wildcard(self) -> bool:
        """Whether the client says `*` when it wants everything. Envoy before 1.21 comes back with the names of what it
        holds instead, and must not be kept to those for good. https://github.com/envoyproxy/envoy/issues/16063
        """
        release = _RELEASE.match(self.version)
        return self.user_agent != "envoy" or release is None or tuple(map(int, release.groups())) >= _WILDCARD_RELEASE


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    `uris` are the URI names of the verified client certificate, in their order; empty on a connection without one,
    where `authenticated` is False (`--insecure`, loopback only). `certificate` is its PEM encoding; `chain` what the peer
    sent with it, which only a look at its signature needs.
    """

    address: str = ""
    uris: tuple[str, ...] = ()
    authenticated: bool = False
    certificate: bytes = field(default=b"", repr=False)
    chain: bytes = field(default=b"", repr=False, compare=False)


class Denied(ControlPlaneError):
    """This peer may not have what this node asks for; the reason is for the log and the peer."""


class Status(StrEnum):
    """How a stream ends, in the words of gRPC."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"


class Ended(ControlPlaneError):
    """The stream cannot go on: the status and the reason that the peer is told."""

    def __init__(self, status: Status, reason: str) -> None:
        """Keep both; the reason never holds more of the peer's own bytes than is safe to log."""
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Directory(Protocol):
    """What a node may see, decided by the application."""

    def meet(self, peer: Peer) -> None:
        """Whether the peer may say anything, whatever node it is going to be: asked before its first request is read.

        Raises `Denied`: the stream ends.
        """
        ...

    def admit(self, node: Node, peer: Peer) -> View | None:
        """The view of this node; None when nothing is configured for it (yet): the stream stays open.

        Called at the start of a stream and again after every change. Raises `Denied` when the peer may not be this
        node: the stream ends.
        """
        ...

    @property
    def ready(self) -> bool:
        """False before the first complete compile: streams are refused UNAVAILABLE."""
        ...
