"""A client that talks with a session by hand: send, expect, expect nothing. What it goes over is in link.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.resources import Resource
from controlplane.snapshot.store import Store, View
from controlplane.xds import types
from controlplane.xds.bounds import Limits, Timing
from controlplane.xds.delta import DeltaSession
from controlplane.xds.nodes import Node
from controlplane.xds.observer import Refusal, SilentObserver, TypeStatus
from controlplane.xds.session import Session
from controlplane.xds.sotw import SotwSession
from tests.protocol.link import IDENTIFIER, Direct

link: Any = Direct
"""What dialogues go over, and those that were begun: set by the fixture of conftest.py."""
opened: list[Any] = []

PART = "gateway"

CDS, EDS, SDS, LDS = types.CLUSTER, types.LOAD_ASSIGNMENT, types.SECRET, types.LISTENER
ECDS, RDS, SRDS, VHDS = types.EXTENSION, types.ROUTE_CONFIGURATION, types.SCOPED_ROUTES, types.VIRTUAL_HOST
RTDS = types.RUNTIME

Change = tuple[str, str, Resource | None]


def resource(
    url: str,
    name: str,
    content: str = "1",
    *,
    ttl: float | None = None,
    aliases: tuple[str, ...] = (),
    late: bool = False,
) -> Change:
    """A resource with some content, a TTL in seconds; a cluster is one with static endpoints."""
    body = content.encode()
    if url == CDS:
        body = cluster(name, content=content)
    lives = None if ttl is None else timedelta(seconds=ttl)
    return url, name, Resource(url, name, body, ttl=lives, aliases=aliases, late=late)


def cluster(name: str, *, kind: str = "STATIC", service: str = "", content: str = "1") -> bytes:
    """The bytes of a cluster."""
    message = cluster_pb2.Cluster(name=name, alt_stat_name=content)
    if kind == "DNS":
        message.cluster_type.name = "envoy.cluster.dns"
    else:
        message.type = cluster_pb2.Cluster.DiscoveryType.Value(kind)
    if kind == "EDS":
        message.eds_cluster_config.service_name = service
    return message.SerializeToString(deterministic=True)


def eds_cluster(name: str, content: str = "1", *, service: str = "") -> Change:
    """A cluster whose endpoints are discovered."""
    return CDS, name, Resource(CDS, name, cluster(name, kind="EDS", service=service, content=content))


def removed(url: str, name: str) -> Change:
    """The end of a resource."""
    return url, name, None


class Recorder(SilentObserver):
    """What a session told its observer."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.settlements: list[int] = []
        self.acks: list[tuple[str, int]] = []
        self.held_back: list[tuple[Resource, Resource | None]] = []
        self.larges: list[tuple[str, int]] = []
        self.pushes: list[str] = []

    def nacked(self, node: Node, type_url: str, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def held(self, node: Node, resource: Resource, good: Resource | None, detail: str) -> None:
        self.held_back.append((resource, good))

    def pushed(self, type_url: str, size: int, resources: int) -> None:
        self.pushes.append(type_url)

    def large(self, node: Node, type_url: str, size: int) -> None:
        self.larges.append((type_url, size))

    def settled(self, stream: int, sequence: int) -> None:
        self.settlements.append(sequence)

    def acked(self, type_url: str, sequence: int) -> None:
        self.acks.append((type_url, sequence))


class Dialogue:
    """What both variants have in common. `parts` is what the node sees; None: nothing is configured for it.

    `says`: what else the client says of itself. `bounds`: those of the stream; one that says nothing is not taken for one that
    stands still, unless a `timing` is given.
    """

    kind: type[DeltaSession] | type[SotwSession]
    response: Any

    def __init__(
        self,
        *content: Change,
        store: Store | None = None,
        only: str | None = None,
        node: str = "node-1",
        version: str = "1.40.0",
        says: Mapping[str, Any] | None = None,
        **bounds: Any,
    ) -> None:
        self.store = store or Store()
        if content:
            self.store.publish({PART: content})
        self.parts: tuple[str, ...] | None = (PART,)
        self.refuse: Exception | None = None
        self.observer = Recorder()
        self.inbox: deque[Any] = deque()
        self._link = link(
            self.kind,
            self._admit,
            self.store,
            self._arrived,
            only=only,
            observer=self.observer,
            timing=bounds.pop("timing", Timing(silent=0.0)),
            holds=bounds.pop("holds", None),
            limits=Limits(**bounds),
        )
        opened.append(self)
        self._introduced = False
        self._node = base_pb2.Node(**{"id": node, "user_agent_version": version, **(says or {})})
        self.nonces: set[str] = set()

    def _admit(self, node: Node) -> View | None:
        if self.refuse is not None:
            raise self.refuse
        return self.store.view(self.parts) if self.parts is not None else None

    # -- what happens ------------------------------------------------------------------------------------------

    def publish(self, *changes: Change, part: str = PART) -> None:
        """Publish and let the session look."""
        self.store.publish({part: changes})
        self.changed()

    def changed(self) -> None:
        self._link.changed()

    @property
    def now(self) -> float:
        return self._link.now

    @now.setter
    def now(self, now: float) -> None:
        self._link.now = now

    @property
    def session(self) -> Session:
        return self._link.session

    def advance(self, seconds: float) -> None:
        """Let time pass as the server does: a poll at every deadline."""
        end = self.now + seconds
        while (deadline := self.session.deadline) is not None and deadline <= end:
            assert deadline >= self.now
            self.now = max(deadline, self.now)
            self.poll()
            assert self.session.deadline is None or self.session.deadline > self.now, "a deadline that does not move"
        self.now = end
        self.poll()

    def poll(self) -> None:
        self._link.poll()

    def end(self) -> None:
        self._link.end()

    def _arrived(self, data: bytes) -> None:
        message = self.response.FromString(data)
        assert message.nonce
        assert message.nonce not in self.nonces, "a nonce is unique on its stream"
        self.nonces.add(message.nonce)
        assert message.type_url
        assert message.control_plane.identifier == IDENTIFIER
        self.inbox.append(message)

    def _request(self, message: Any) -> None:
        if not self._introduced:
            self._introduced = True
            message.node.CopyFrom(self._node)
        self.receive(message.SerializeToString())

    def receive(self, data: bytes) -> None:
        self._link.receive(data)

    # -- what is expected ----------------------------------------------------------------------------------------

    def expect(self, url: str) -> Any:
        """The next response, which is of this type."""
        assert self.inbox, f"nothing was sent, {url} expected"
        message = self.inbox.popleft()
        assert message.type_url == url
        return message

    def expect_nothing(self) -> None:
        assert not self.inbox, f"not expected: {self.inbox}"

    def status(self, url: str) -> TypeStatus:
        return next(status for status in self.session.status() if status.type_url == url)


class Delta(Dialogue):
    """An incremental stream."""

    kind = DeltaSession
    response = discovery_pb2.DeltaDiscoveryResponse

    def send(
        self,
        url: str,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        *,
        initial: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str | None = None,
    ) -> None:
        message = discovery_pb2.DeltaDiscoveryRequest(
            type_url=url,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=initial or {},
            response_nonce=nonce,
        )
        if error is not None:
            message.error_detail.message = error
        self._request(message)

    def ack(self, response: Any) -> None:
        self.send(response.type_url, nonce=response.nonce)

    def nack(self, response: Any, error: str = "no") -> None:
        self.send(response.type_url, nonce=response.nonce, error=error)

    def expect_names(self, url: str, names: Iterable[str] = (), removed: Iterable[str] = ()) -> Any:
        """The next response holds exactly these resources, each under its own name, and removes exactly those."""
        message = self.expect(url)
        assert sorted(each.name for each in message.resources) == sorted(names)
        assert sorted(message.removed_resources) == sorted(removed)
        for each in message.resources:
            assert each.version
            assert each.resource.type_url == url
        return message

    def take(self, url: str, names: Iterable[str] = (), removed: Iterable[str] = ()) -> Any:
        """The same, acknowledged."""
        message = self.expect_names(url, names, removed)
        self.ack(message)
        return message

    def version(self, url: str, name: str) -> str:
        """The version of a resource in the store."""
        found = self.store.view([PART]).get(url, name)
        assert found is not None
        return found.version


class Sotw(Dialogue):
    """A state-of-the-world stream."""

    kind = SotwSession
    response = discovery_pb2.DiscoveryResponse

    def send(
        self, url: str, names: Iterable[str] = (), *, version: str = "", nonce: str = "", error: str | None = None
    ) -> None:
        message = discovery_pb2.DiscoveryRequest(
            type_url=url, resource_names=names, version_info=version, response_nonce=nonce
        )
        if error is not None:
            message.error_detail.message = error
        self._request(message)

    def ack(self, response: Any, names: Iterable[str] = ()) -> None:
        self.send(response.type_url, names, version=response.version_info, nonce=response.nonce)

    def nack(self, response: Any, names: Iterable[str] = (), error: str = "no") -> None:
        self.send(response.type_url, names, nonce=response.nonce, error=error)

    def expect_bodies(self, url: str, *bodies: bytes) -> Any:
        """The next response holds exactly these messages."""
        message = self.expect(url)
        assert message.version_info
        assert sorted(each.value for each in message.resources) == sorted(bodies)
        assert all(each.type_url == url for each in message.resources)
        return message

    def take(self, url: str, *bodies: bytes, names: Iterable[str] = ()) -> Any:
        """The same, acknowledged."""
        message = self.expect_bodies(url, *bodies)
        self.ack(message, names)
        return message


NAMED = [EDS, SDS, ECDS, RDS]
"""The types of which an Envoy asks for names."""


def synced(*extra: str, **bounds: Any) -> Delta:
    """A stream that holds one resource of every type."""
    urls = [CDS, EDS, SDS, LDS, ECDS, RDS, SRDS]
    client = Delta(*(resource(url, "a") for url in urls), **bounds)
    for url in urls:
        client.send(url, ["a", *extra] if url in NAMED else [])
        client.ack(client.expect(url))
    client.expect_nothing()
    return client
