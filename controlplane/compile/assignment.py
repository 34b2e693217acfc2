"""The load assignment of a pool: endpoints of all members in one order, as Envoy's priorities and localities.

Pure: services in, bytes out. The order is: priority of the member, nearness to the proxy; then what is used only when
nothing else is left. Levels without endpoints are left out, since Envoy's priorities have no gaps.
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from envoy.config.core.v3 import address_pb2, base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from controlplane.compile.pool import Pool, PoolMember
from controlplane.filters.envoy import numbers
from controlplane.model.endpoint import NOWHERE, Endpoint, Health, Locality, Service
from controlplane.names import ServiceRef
from controlplane.resources import delimited, scalar

SHARE = 1000
"""How finely the weight of a member is divided among its localities."""

REMEMBERED = 32_768
"""Endpoints whose bytes are remembered (some 10 MB): when one of ten thousand changes, the others need not be made anew,
which would hold up all other services for a tenth of a second."""

_HEALTH = {
    Health.HEALTHY: health_check_pb2.UNKNOWN,  # the default: not sent at all
    Health.DEGRADED: health_check_pb2.DEGRADED,
    Health.DRAINING: health_check_pb2.DRAINING,
    Health.UNHEALTHY: health_check_pb2.UNHEALTHY,
}


_HOST, _PORT = numbers(address_pb2.SocketAddress, "address", "port_value")
(_SOCKET,) = numbers(address_pb2.Address, "socket_address")
(_ADDRESS,) = numbers(endpoint_components_pb2.Endpoint, "address")
_OF_ENDPOINT, _STATUS, _WEIGHT = numbers(
    endpoint_components_pb2.LbEndpoint, "endpoint", "health_status", "load_balancing_weight"
)
(_VALUE,) = numbers(UInt32Value, "value")
(_ENDPOINTS,) = numbers(endpoint_components_pb2.LocalityLbEndpoints, "lb_endpoints")


class _Rank(NamedTuple):
    """Where an endpoint stands; smaller is used first."""

    draining: bool
    stale: bool
    priority: int
    nearness: int


_LAST = _Rank(True, False, 0, 0)


class _Placed(NamedTuple):
    """An endpoint of a member, with its address for this member. Sorts by what is better, then by address.

    The first three are what it is grouped by, the rest is what Envoy gets of it alone.
    """

    rank: _Rank
    group: str
    locality: Locality
    address: str
    port: int
    health: Health
    weight: int


def socket_address(address: str, port: int) -> Any:
    """A TCP address."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


class Known(msgspec.Struct, frozen=True):
    """What is known of the services of a pool. `stale` are the sources and namespaces that have been lost for too long."""

    services: Mapping[ServiceRef, Service]
    stale: frozenset[tuple[str, str]] = frozenset()


def load_assignment(name: str, pool: Pool, known: Known, near: Locality = NOWHERE) -> Any:
    """The load assignment of a pool, for proxies in `near` when its order depends on that."""
    grouped: dict[tuple[_Rank, str, Locality], list[_Placed]] = {
        key: list(members) for key, members in groupby(_placed(pool, known, near), itemgetter(0, 1, 2))
    }
    levels = {rank: level for level, rank in enumerate(sorted({rank for rank, _, _ in grouped}))}
    totals: dict[tuple[_Rank, str], int] = {}
    for (rank, group, _), members in grouped.items():
        totals[rank, group] = totals.get((rank, group), 0) + sum(one.weight for one in members)
    weights = {member.identity: member.weight for member in pool.members}
    endpoints = []
    for (rank, group, locality), members in grouped.items():
        # Messages one after the other are one message with all of their endpoints.
        # https://protobuf.dev/programming-guides/encoding/#last-one-wins
        message = endpoint_components_pb2.LocalityLbEndpoints.FromString(
            b"".join([_alone(*one[3:]) for one in members])
        )
        message.priority = levels[rank]
        if locality != NOWHERE or group:
            message.locality.CopyFrom(base_pb2.Locality(region=locality.region, zone=locality.zone, sub_zone=group))
        if pool.shares:
            part = sum(one.weight for one in members)
            share = max(1, round(weights.get(group, 1) * SHARE * part / totals[rank, group])) if group else part
            message.load_balancing_weight.CopyFrom(UInt32Value(value=share))
        endpoints.append(message)
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=endpoints)
    if pool.shift is not None:
        assignment.policy.overprovisioning_factor.CopyFrom(UInt32Value(value=pool.shift))
    return assignment


@lru_cache(REMEMBERED)
def _alone(address: str, port: int, health: Health, weight: int) -> bytes:
    """A locality with this endpoint and nothing else, put together of bytes: fifty thousand may come at once."""
    place = delimited(_SOCKET, delimited(_HOST, address.encode()) + scalar(_PORT, port))
    body = delimited(_OF_ENDPOINT, delimited(_ADDRESS, place))
    if status := _HEALTH[health]:
        body += scalar(_STATUS, status)
    return delimited(_ENDPOINTS, body + delimited(_WEIGHT, scalar(_VALUE, weight)))


def _placed(pool: Pool, known: Known, near: Locality) -> list[_Placed]:
    """Every endpoint once, in order: of what two members say of an address in one priority, the better counts.

    Those that drain get no requests, and stand apart so that a level does not count as less healthy while its endpoints
    are replaced; when nothing better is left, they are used.
    """
    best: dict[tuple[str, int], _Placed] = {}
    for member in pool.members:
        for one in _of_member(pool, member, known, near):
            before = best.get((one.address, one.port))
            if before is None or (one.rank, one.health, one.group) < (before.rank, before.health, before.group):
                best[one.address, one.port] = one
    better = any(one.health < Health.DRAINING for one in best.values())
    return sorted(
        [
            one
            if one.health is not Health.DRAINING
            else one._replace(rank=_LAST)
            if better
            else one._replace(health=Health.DEGRADED)
            for one in best.values()
        ]
    )


def _of_member(pool: Pool, member: PoolMember, known: Known, near: Locality) -> Iterator[_Placed]:
    group = member.identity if pool.shares else ""
    if member.service is None:
        assert isinstance(member.port, int)
        weight = 1 if pool.shares else member.weight
        rank = _Rank(False, False, member.priority, 0)
        yield _Placed(rank, group, NOWHERE, member.address, member.port, Health.HEALTHY, weight)
        return
    service = known.services.get(member.service)
    if service is None:
        return
    stale = (member.service.source, member.service.namespace) in known.stale
    if stale and pool.then == "empty":
        return
    last = stale and pool.then == "next"
    names = port_names(member, service)
    chooses = bool(member.tags or member.meta)
    ports: dict[tuple[tuple[str, int], ...], int | None] = {}
    ranks: dict[Locality, _Rank] = {}  # thousands of endpoints stand in few places, and have the same ports
    for one in service.endpoints:
        if pool.grant is not None and pool.grant.reserved(one.address):
            continue  # a service of a tenant that leads into this machine, or to a cloud's metadata
        if one.ports not in ports:
            ports[one.ports] = _port(member, service, one, names, bounded=is_bounded(pool, member))
        if (port := ports[one.ports]) is None or (chooses and not is_chosen(member, one)):
            continue
        if one.locality not in ranks:
            ranks[one.locality] = _Rank(False, last, member.priority, _nearness(pool, one, near))
        # The pool may be one of several, and names that Envoy resolves come after it: what is degraded waits for them, too.
        health = max(one.health, Health.DEGRADED) if last else one.health
        yield _Placed(ranks[one.locality], group, one.locality, one.address, port, health, one.weight)


def port_names(member: PoolMember, service: Service) -> frozenset[str]:
    """What the endpoints of a service call the port that a member asks for; none when there is no such port."""
    if isinstance(member.port, int):
        return frozenset(one.name for one in service.ports if one.number == member.port)
    return frozenset((member.port or "",))


def _port(
    member: PoolMember, service: Service, endpoint: Endpoint, names: Iterable[str], *, bounded: bool
) -> int | None:
    if member.service is not None and not member.service.namespace and isinstance(member.port, int):
        # A Consul service: another port of the same address.
        registered = not bounded or any(number == member.port for _, number in endpoint.ports)
        return member.port if registered else None
    if not bounded and isinstance(member.port, int) and is_portless(service, endpoint):
        return member.port
    return next((number for name, number in endpoint.ports if name in names), None)


def is_bounded(pool: Pool, member: PoolMember) -> bool:
    """Whether the service of a member is another's: who was granted it was not granted its machines, with all their ports."""
    return pool.grant is not None and member.service is not None and member.service.namespace != pool.grant.namespace


def is_portless(service: Service, endpoint: Endpoint) -> bool:
    """Whether it is of a headless service that declares no ports: its pods have whatever ports they have."""
    return not service.ports and not endpoint.ports


def is_chosen(member: PoolMember, endpoint: Endpoint) -> bool:
    """Whether an endpoint carries all tags and meta that its member asks for."""
    return set(member.tags).issubset(endpoint.tags) and set(member.meta).issubset(endpoint.meta)


def _nearness(pool: Pool, endpoint: Endpoint, near: Locality) -> int:
    """0 for the proxy's own zone (or region), more for what is further away."""
    place = endpoint.locality
    for distance, of in enumerate(pool.within):
        same_region = bool(near.region) and place.region == near.region
        if of == "region" and same_region:
            return distance
        if of == "zone" and same_region and near.zone and place.zone == near.zone:
            return distance
    return len(pool.within)
