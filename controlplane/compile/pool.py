"""The clusters of a backend, and the pool of endpoints behind each that Envoy does not resolve itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from controlplane.compile import codes
from controlplane.compile.grants import Grant
from controlplane.compile.rows import Issue, ResourceKey
from controlplane.compile.xds_types import LOAD_ASSIGNMENT
from controlplane.graph.engine import Read
from controlplane.model.endpoint import Service
from controlplane.names import (
    ElementKey,
    GatewayName,
    ServiceRef,
)
from controlplane.spec.backend import Failover

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


class PoolMember(msgspec.Struct, frozen=True):
    """One member of a pool: an address (`service` None), or the endpoints of a service that its choice leaves.

    `index` is its place in the spec, for messages.
    """

    priority: int
    weight: int
    index: int
    service: ServiceRef | None
    port: int | str | None
    address: str = ""
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()

    @property
    def identity(self) -> str:
        """What it is, whatever its place: the order in which members of one priority are asked."""
        if self.service is None:
            return f"static/{self.address}:{self.port}"
        chosen = [*self.tags, *(f"{key}={value}" for key, value in self.meta)]
        return "/".join([self.service.source, self.service.namespace, self.service.name, str(self.port or ""), *chosen])


class Pool(msgspec.Struct, frozen=True):
    """What the load assignment of one cluster is made of.

    `shift` is Envoy's overprovisioning factor, None for its own. `shares`: members of one priority share its requests by
    their weights, however many endpoints each has. `keep_for` is in seconds, `then` what follows it. `grant` bounds where
    endpoints may stand.
    """

    origin: ElementKey
    members: tuple[PoolMember, ...]
    shift: int | None = None
    within: tuple[str, ...] = ()
    keep_for: float | None = None
    then: str = "keep"
    shares: bool = False
    grant: Grant | None = None

    @property
    def services(self) -> frozenset[ServiceRef]:
        """The services that must be known."""
        return frozenset(member.service for member in self.members if member.service is not None)


class Resolved(msgspec.Struct, frozen=True):
    """A name that Envoy resolves, or an address among such names."""

    host: str
    port: int
    priority: int
    weight: int


class Part(msgspec.Struct, frozen=True):
    """One cluster of a backend: a pool with the name of its load assignment, or names that Envoy resolves."""

    name: str
    pool: Pool | None
    resolved: tuple[Resolved, ...] = ()
    assignment: str = ""


class Shape(msgspec.Struct, frozen=True):
    """The clusters of a backend. Routes name `entry`: the only part, or the aggregate of all in their order."""

    gateway: GatewayName
    entry: str
    parts: tuple[Part, ...]

    @property
    def is_aggregate(self) -> bool:
        """Whether Envoy chooses among several clusters."""
        return len(self.parts) > 1


def shift_factor(failover: Failover) -> int | None:
    """Envoy's overprovisioning factor: health in percent times this is what a level can take. None: Envoy's own, 140."""
    shift = failover.shift_below_healthy
    return None if shift is None else round(100 * 100 / shift)


def unknown_port(
    key: ElementKey, index: int, service: ServiceRef | None, port: int | str | None, known: Service
) -> Issue:
    """A member asks for a port that the service does not declare."""
    ports = ", ".join(f"{one.number} {one.name}".strip() for one in sorted(known.ports, key=lambda one: one.number))
    return Issue(
        key,
        f"members[{index}].kubernetes.port",
        codes.UNKNOWN_PORT,
        f"service {service} has no port {port}" if port else f"service {service} has no port",
        f"known: {ports}" if ports else "it declares none",
        section="backends",
    )


def pools_of_shape(read: Read, tables: Tables, key: ElementKey, found: Shape) -> Iterator[tuple[ResourceKey, Pool]]:
    """The pools of a backend, by the load assignments that they become; none when it leads where it may not."""
    if read.get(tables.refused_backends, key):
        return
    for part in found.parts:
        if part.pool is not None:
            yield ResourceKey((found.gateway,), LOAD_ASSIGNMENT, part.assignment), part.pool
