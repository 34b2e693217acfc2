"""How a backend is divided into clusters.

Most backends are one cluster. One that mixes discovered endpoints with DNS names is several, in the order of their
priorities, behind an aggregate cluster. The name of that one says what it is made of: when the division changes, routes
move to a new cluster when it is warm, and the former one goes last.

The name of a load assignment says how its endpoints are spoken to, unless that is plain HTTP/1.1. A cluster that begins to
speak TLS asks for another one, and has it before it takes the place of the former: were there one for both, an edit of
the port and of `tls` would send requests in clear to endpoints that want TLS, or the reverse, until the second half came.

The name of a cluster whose names Envoy resolves is a hash over the whole cluster, for Envoy does not wait for their addresses
(a name that does not resolve must not hold back the rest): whatever changes it makes another one, to which routes move a
second later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from controlplane.compile import codes
from controlplane.compile.cluster import cluster
from controlplane.compile.grants import Grant, limits_of_backend
from controlplane.compile.pool import Part, Pool, PoolMember, Resolved, Shape, shift_factor, unknown_port
from controlplane.compile.rows import Issue
from controlplane.filters.envoy import serialised
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
from controlplane.spec.backend import Backend, BackendProtocol
from controlplane.spec.member import Member
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


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
    yield key, _shape(key, element.gateway, backend, externals, grant, budget, read.note)


def _shape(
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
            parts.append(_named(Part(part, None, names), key, backend, retry_budget))
        else:
            members = sorted((one for level in run for one in pools[level]), key=_order)
            pool = _pool(key, backend, tuple(members), grant)
            parts.append(Part(part, pool, assignment=assignment_name(part, _speech(backend))))
    if len(parts) == 1:
        return Shape(gateway, parts[0].name, tuple(parts))
    return Shape(gateway, aggregate_name(key, _digest(part.name for part in parts)), tuple(parts))


def _digest(texts: Iterable[str]) -> str:
    return _hash("\0".join(texts).encode())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=4).hexdigest()


def _named(part: Part, key: ElementKey, backend: Backend, retry_budget: float | None) -> Part:
    """A part whose names Envoy resolves, with a name that says all that is in it."""
    message = cluster(part, backend, retry_budget, (key.object.source, key.object.namespace))
    return msgspec.structs.replace(part, name=assignment_name(part.name, _hash(serialised(message))))


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
