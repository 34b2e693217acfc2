"""How a backend is divided into clusters, and the pool of endpoints behind each that Envoy does not resolve itself.

Most backends are one cluster. One that mixes discovered endpoints with DNS names is several, in the order of their
priorities, behind an aggregate cluster. The name of that one says what it is made of: when the division changes, routes
move to a new cluster when it is warm, and the former one goes last.

The name of a load assignment says how its endpoints are spoken to, unless that is plain HTTP/1.1. A cluster that begins to
speak TLS asks for another one, and has it before it takes the place of the former: were there one for both, an edit of
the port and of `tls` would send requests in clear to endpoints that want TLS, or the reverse, until the second half came.

The name of a cluster whose names Envoy resolves says what is in it, for Envoy does not wait for their addresses (a name that
does not resolve must not hold back the rest): an edit makes another one, to which routes move a moment later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from controlplane.compile import codes
from controlplane.compile.grants import Grant, limits_of_backend
from controlplane.compile.rows import Issue, ResourceKey
from controlplane.compile.xds_types import LOAD_ASSIGNMENT
from controlplane.graph.engine import Read
from controlplane.model.endpoint import Service
from controlplane.names import (
    ElementKey,
    GatewayName,
    ServiceRef,
    aggregate_name,
    assignment_name,
    cluster_name,
    part_name,
)
from controlplane.spec.backend import Backend, BackendProtocol, Failover
from controlplane.spec.member import Member
from controlplane.spec.rows import Element

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


_Level = tuple[int, bool]
"""A priority, and whether Envoy resolves what is in it."""


def shape_of_backend(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ElementKey, Shape]]:
    """How one backend is divided. A service that stands for a DNS name counts as that name."""
    backend = element.part
    assert isinstance(backend, Backend)
    externals = {
        service: external
        for member in backend.members
        if (service := member.service) is not None and (external := read.get(tables.externals, service)) is not None
    }
    grant = limits_of_backend(read, tables, key, element.gateway)
    has_names = externals or any(member.dns is not None for member in backend.members)
    settings = read.get(tables.settings, element.gateway) if has_names else None
    budget = settings.defaults.retry.budget if settings is not None else None
    yield key, shape(key, element.gateway, backend, externals, grant, budget, read.note)


def shape(
    key: ElementKey,
    gateway: GatewayName,
    backend: Backend,
    externals: Mapping[ServiceRef, Service],
    grant: Grant | None,
    retry_budget: float | None,
    note: Callable[[Issue], None],
) -> Shape:
    """How a backend is divided, given the services in it that stand for a DNS name, and what it may lead to."""
    pools, resolved = _levels(key, backend, externals, grant, note)
    runs = [list(levels) for _, levels in groupby(sorted({*pools, *resolved}), key=lambda level: level[1])] or [[]]
    parts = []
    for run in runs:
        is_resolved = any(resolving for _, resolving in run)
        if len(runs) == 1 and (not is_resolved or not backend.is_discovered):
            part = cluster_name(key)
        else:
            part = part_name(key, "dns" if is_resolved else "eds", run[0][0])
        if is_resolved:
            names = tuple(_dense(one for level in run for one in resolved[level]))
            parts.append(Part(assignment_name(part, _content(backend, retry_budget, names)), None, names))
        else:
            members = sorted((one for level in run for one in pools[level]), key=_order)
            pool = _pool(key, backend, tuple(members), grant)
            parts.append(Part(part, pool, assignment=assignment_name(part, _speech(backend))))
    if len(parts) == 1:
        return Shape(gateway, parts[0].name, tuple(parts))
    return Shape(gateway, aggregate_name(key, _digest(part.name for part in parts)), tuple(parts))


def _digest(texts: Iterable[str]) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=4).hexdigest()


def _content(backend: Backend, retry_budget: float | None, names: tuple[Resolved, ...]) -> str:
    """A hash over everything that makes a cluster of names: one in the place of another would be empty until they are resolved."""
    ordered = any(member.priority for member in backend.members)
    settings = backend.model_dump_json(exclude={"name", "members", "on_source_lost"})
    return _digest((settings, str(ordered), str(backend.is_discovered), str(retry_budget), *map(str, names)))


def _speech(backend: Backend) -> str:
    """A hash over how endpoints are spoken to; empty for plain HTTP/1.1."""
    http2, tls = backend.protocol is not BackendProtocol.HTTP1, backend.tls
    if tls is not None:
        # Their order means nothing.
        tls = tls.model_copy(update={"san_match": tuple(sorted(set(tls.san_match)))})
    return _digest((str(http2), tls.model_dump_json() if tls else "")) if http2 or tls else ""


def _levels(
    key: ElementKey,
    backend: Backend,
    externals: Mapping[ServiceRef, Service],
    grant: Grant | None,
    note: Callable[[Issue], None],
) -> tuple[dict[_Level, list[PoolMember]], dict[_Level, list[Resolved]]]:
    """Its members by level: those whose endpoints are ours to say, and those that Envoy resolves."""
    names = {member.priority for member in backend.members if member.dns}
    pools: dict[_Level, list[PoolMember]] = {}
    resolved: dict[_Level, list[Resolved]] = {}
    for index, member in enumerate(backend.members):
        external = externals.get(member.service) if member.service else None
        if external is not None:
            if grant is not None and not grant.dns(external.external_name or ""):
                message = f'service {member.service} stands for "{external.external_name}", which is not granted'
                path = f"members[{index}].kubernetes.service"
                note(Issue(key, path, codes.NOT_GRANTED, message, "spec.delegates[].dnsHosts", section="backends"))
                continue
            if (port := _number(member, external)) is None:
                note(unknown_port(key, index, member.service, member_port(member), external))
                continue
            host = external.external_name or ""
        elif member.dns is not None:
            host, port = member.dns.host, member.dns.port
        elif member.static is not None and (member.priority in names or (names and not backend.is_discovered)):
            host, port = member.static.address, member.static.port
        else:
            pools.setdefault((member.priority, False), []).append(_pool_member(member, index))
            continue
        found = Resolved(host, port, member.priority, member.weight)
        resolved.setdefault((member.priority, True), []).append(found)
    return pools, resolved


def _pool(key: ElementKey, backend: Backend, members: tuple[PoolMember, ...], grant: Grant | None) -> Pool:
    failover, lost = backend.failover, backend.on_source_lost
    discovered = any(member.service is not None for member in members)
    several = {member.priority for member in members}
    return Pool(
        key,
        members,
        shift_factor(failover),
        (failover.within or ()) if discovered else (),
        lost.keep_for.total_seconds() if lost and discovered else None,
        lost.then if lost and discovered else "keep",
        discovered and len(members) > len(several),
        grant if discovered else None,
    )


def shift_factor(failover: Failover) -> int | None:
    """Envoy's overprovisioning factor: health in percent times this is what a level can take. None: Envoy's own, 140."""
    shift = failover.shift_below_healthy
    return None if shift is None else round(100 * 100 / shift)


def _pool_member(member: Member, index: int) -> PoolMember:
    if member.static:
        return PoolMember(member.priority, member.weight, index, None, member.static.port, member.static.address)
    tags: Iterable[str] = member.consul.tags if member.consul else ()
    meta = member.consul.meta if member.consul else {}
    return PoolMember(
        member.priority,
        member.weight,
        index,
        member.service,
        member_port(member),
        tags=tuple(sorted(set(tags))),
        meta=tuple(sorted(meta.items())),
    )


def member_port(member: Member) -> int | str | None:
    """The port that a discovered member asks for."""
    return member.kubernetes.port if member.kubernetes else member.consul.port if member.consul else None


def _number(member: Member, external: Service) -> int | None:
    """The port of a DNS name: a number is what it is, a name is one of the service's ports."""
    port = member_port(member)
    if isinstance(port, int):
        return port
    return next((one.number for one in external.ports if port in {one.name, None}), None)


def _order(member: PoolMember) -> tuple[int, str]:
    return member.priority, member.identity


def _dense(members: Iterable[Resolved]) -> Iterator[Resolved]:
    """The same with priorities from 0 on, without gaps, sorted."""
    found = sorted(members, key=lambda one: (one.priority, one.host, one.port, one.weight))
    ranks = {priority: rank for rank, priority in enumerate(sorted({one.priority for one in found}))}
    return (Resolved(one.host, one.port, ranks[one.priority], one.weight) for one in found)


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
