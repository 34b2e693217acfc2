"""What a session tells about itself: events for metrics and logs, and a status for people.

The application implements `Observer`; nothing here knows Prometheus, HTTP or a log format.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from controlplane.resources import Resource
from controlplane.xds.nodes import Node, Peer


class Variant(StrEnum):
    """The two ways of the protocol to say what changed."""

    DELTA = "delta"
    SOTW = "sotw"


class State(StrEnum):
    """Where a stream stands with one type."""

    NOT_SENT = "not_sent"
    PENDING = "pending"
    SYNCED = "synced"
    NACK = "nack"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response that the client refused, and when: `names` are the resources in it (the first ones of many)."""

    nonce: str
    version: str
    names: tuple[str, ...]
    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One type on one stream. `since` is when `state` began, on the clock of the server.

    `unacked` is when the response went out that lacks its ACK, of this type or of what it may wait for (None: there is none).
    `nack` is the last refusal that still matters: nothing was taken over since, or what was to blame is held back.
    `held` are names that this client is spared, with the version that is shown instead (None: nothing).
    """

    type_url: str
    state: State
    since: float
    unacked: float | None
    wildcard: bool
    names: int
    sent_nonce: str
    sent_version: str
    acked_nonce: str
    acked_version: str
    settled: int
    nack: Refusal | None
    held: Mapping[str, str | None]

    @property
    def lacks(self) -> bool:
        """Whether the client is without something, as long as nothing changes, because it or others refused it."""
        return self.state is State.NACK or bool(self.held)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream: who is at the other end, what it may see, and where it stands."""

    stream: int
    method: str
    variant: Variant
    node: Node
    peer: Peer
    parts: tuple[Hashable, ...] | None
    connected: float
    settled: int
    types: tuple[TypeStatus, ...]


class Observer(Protocol):
    """Callbacks of the server, made on its event loop: they return at once and do not raise."""

    def connected(self, stream: int, node: Node, variant: Variant, *, shown: bool) -> None:
        """The first request of a stream was admitted; `shown`: and a view was given to it, otherwise it waits for one."""
        ...

    def disconnected(self, stream: int, node: Node, reason: str | None) -> None:
        """A stream that was connected has ended; `reason`: why the server ended it, None: the client left, or is let go."""
        ...

    def pushed(self, type_url: str, size: int, resources: int) -> None:
        """A response of `size` bytes with that many resources was made for a stream."""
        ...

    def large(self, node: Node, type_url: str, size: int) -> None:
        """A response has more bytes than a gRPC client takes unless it was told to; said once for a stream and type."""
        ...

    def acked(self, type_url: str, sequence: int) -> None:
        """A response that was made at this sequence number of the store was acknowledged."""
        ...

    def nacked(self, node: Node, type_url: str, refusal: Refusal) -> None:
        """A response was refused."""
        ...

    def held(self, node: Node, resource: Resource, good: Resource | None, detail: str) -> None:
        """This resource of a refused response is to blame, and held back; `good` is shown instead, None: nothing.

        Its `origin` is what the publisher gave it. Said once for each version of a resource.
        """
        ...

    def settled(self, stream: int, sequence: int) -> None:
        """This stream has acknowledged everything that concerns it up to this sequence number of the store."""
        ...


class SilentObserver:
    """Listens to nothing."""

    def connected(self, stream: int, node: Node, variant: Variant, *, shown: bool) -> None:
        """Ignore it."""

    def disconnected(self, stream: int, node: Node, reason: str | None) -> None:
        """Ignore it."""

    def pushed(self, type_url: str, size: int, resources: int) -> None:
        """Ignore it."""

    def large(self, node: Node, type_url: str, size: int) -> None:
        """Ignore it."""

    def acked(self, type_url: str, sequence: int) -> None:
        """Ignore it."""

    def nacked(self, node: Node, type_url: str, refusal: Refusal) -> None:
        """Ignore it."""

    def held(self, node: Node, resource: Resource, good: Resource | None, detail: str) -> None:
        """Ignore it."""

    def settled(self, stream: int, sequence: int) -> None:
        """Ignore it."""
