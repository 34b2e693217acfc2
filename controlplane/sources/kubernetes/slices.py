"""EndpointSlices and a service to the endpoints that a backend can use: pure, and of one service at a time.

The rules: only the first address of an endpoint counts; `ready` is healthy; an endpoint that terminates but still serves
drains; an address that stands in two slices is one endpoint, in its better state. Of a service with two address families
only the first of `spec.ipFamilies` that has any endpoint is used, so that a proxy without a route to the other family
loses nothing, and no pod counts twice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping

import msgspec

from controlplane.model.endpoint import NOWHERE, Endpoint, Health, Locality, Service, ServicePort
from controlplane.sources.kubernetes import objects

FAMILIES = ("IPv4", "IPv6")


class Slice(msgspec.Struct, frozen=True):
    """One EndpointSlice, converted: what is kept of it."""

    version: int
    family: str
    endpoints: tuple[Endpoint, ...]


class Regions:
    """Which region a zone belongs to, and where a node stands, as the labels of nodes say."""

    def __init__(self, region: str = "") -> None:
        """`region` is that of every endpoint whose zone is not known to belong to another."""
        self.region = region
        self.zones: dict[str, str] = {}
        self.nodes: dict[str, Locality] = {}
        self._used_nodes: set[str] = set()
        self._used_zones: set[str] = set()

    def note(self, node: str, where: Locality) -> bool:
        """A node stands there; whether endpoints are known whose place that may change."""
        if self.nodes.get(node) == where:
            return False
        self.nodes[node] = where
        moved = node in self._used_nodes
        if where.zone and where.region and self.zones.get(where.zone) != where.region:
            self.zones[where.zone] = where.region
            moved = moved or where.zone in self._used_zones
        return moved

    def forget(self, node: str) -> None:
        """A node is gone. Its zone stays where it is."""
        self.nodes.pop(node, None)
        self._used_nodes.discard(node)

    def locality(self, zone: str, node: str) -> Locality:
        """Where an endpoint is."""
        where = self.nodes.get(node, NOWHERE)
        zone = zone or where.zone
        self._used_nodes.add(node)
        self._used_zones.add(zone)
        return Locality(self.zones.get(zone) or where.region or self.region, zone)


def converted(one: objects.EndpointSlice, regions: Regions) -> Slice:
    """What a slice says; nothing for one of names instead of addresses (`FQDN`), which nobody should write any more."""
    if one.address_type not in FAMILIES:
        return Slice(one.metadata.version, one.address_type, ())
    named = {
        port.name or "": port.port
        for port in one.ports or ()
        if port.port is not None and (port.protocol or "TCP") == "TCP"
    }
    if one.ports and not named:  # of UDP alone: nothing that could be used, in contrast to a slice that declares none
        return Slice(one.metadata.version, one.address_type, ())
    ports = tuple(sorted(named.items()))
    localities: dict[tuple[str, str], Locality] = {}
    found = []
    for endpoint in one.endpoints or ():
        if not endpoint.addresses:
            continue
        place = (endpoint.zone or "", endpoint.node_name or "")
        if place not in localities:
            localities[place] = regions.locality(*place)
        try:
            address = _canonical(endpoint.addresses[0], one.address_type)
        except ValueError:
            continue  # the API server lets nobody write such a thing
        found.append(Endpoint(address, ports, health(endpoint.conditions), localities[place]))
    return Slice(one.metadata.version, one.address_type, tuple(found))


def health(conditions: objects.Conditions) -> Health:
    """https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions"""
    ready = conditions.ready is not False
    if not conditions.terminating:
        return Health.HEALTHY if ready else Health.UNHEALTHY
    serving = ready if conditions.serving is None else conditions.serving
    # `ready` while it terminates is what `publishNotReadyAddresses` says: it wants traffic in any case.
    return Health.DRAINING if serving or conditions.ready else Health.UNHEALTHY


def service(declared: objects.Service, slices: Iterable[Slice]) -> Service:
    """The service as backends see it."""
    spec = declared.spec
    ports = tuple(sorted(ServicePort(port.name, port.port) for port in spec.ports or () if port.protocol == "TCP"))
    if spec.type == "ExternalName":
        return Service(ports, (), spec.external_name.rstrip(".") or None)
    by_family: dict[str, list[Endpoint]] = {}
    for one in slices:
        if one.endpoints:
            by_family.setdefault(one.family, []).extend(one.endpoints)
    for family in (*(spec.ip_families or ()), *FAMILIES):
        if family in by_family:
            return Service(ports, merged(by_family[family]))
    return Service(ports)


def with_former_names(now: Service, before: Service) -> Service:
    """The service, with the former name of each port that got another one, for endpoints that do not have it yet.

    A second port makes people name the first, and slices say so only after the service: until then they have no port of
    that name.
    """
    if now.ports == before.ports:
        return now
    names = {port.number: port.name for port in now.ports}
    offered = [dict(ports) for ports in {one.ports for one in now.endpoints}]
    former = [
        port
        for port in before.ports
        if (name := names.get(port.number, port.name)) != port.name
        and any(port.name in ports and name not in ports for ports in offered)
    ]
    return msgspec.structs.replace(now, ports=tuple(sorted((*now.ports, *former)))) if former else now


def merged(endpoints: Collection[Endpoint]) -> tuple[Endpoint, ...]:
    """Sorted, each address once."""
    by_address: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        other = by_address.get(endpoint.address)
        by_address[endpoint.address] = endpoint if other is None else _together(endpoint, other)
    return tuple(by_address[address] for address in sorted(by_address))


def _together(one: Endpoint, other: Endpoint) -> Endpoint:
    """An address that stands in two slices: while a pod moves, one of them is behind."""
    better, worse = (one, other) if (one.health, one) <= (other.health, other) else (other, one)
    ports: Mapping[str, int] = dict(worse.ports) | dict(better.ports)
    return msgspec.structs.replace(better, ports=tuple(sorted(ports.items())))


def _canonical(address: str, family: str) -> str:
    """An IPv6 address has many spellings; those of IPv4 are checked by the API server."""
    return address if family == "IPv4" else str(ipaddress.IPv6Address(address))
