"""Consul's JSON as services: only the fields that matter are decoded, and every instance is normalised. Pure.

https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from controlplane.model.endpoint import NOWHERE, Endpoint, Health, Locality, Service, ServicePort

MAX_WEIGHT = 65535
"""What Consul itself allows."""

_MAINTENANCE = ("_service_maintenance", "_node_maintenance")
"""How the ids of the checks begin by which an operator takes an instance or a node out (`consul maint`)."""


class _Consul(msgspec.Struct, frozen=True, rename="pascal", gc=False):
    """An object of Consul's API; lists and maps in it may be null."""


class Check(_Consul, frozen=True):
    """A check that is not passing, as the list of such checks has it."""

    node: str
    check_id: str = msgspec.field(name="CheckID")
    status: str = ""
    service_name: str = ""

    @property
    def level(self) -> Health:
        """What the check alone says of an instance."""
        match self.status:
            case "passing":
                return Health.HEALTHY
            case "warning":
                return Health.DEGRADED
            case _ if self.check_id.startswith(_MAINTENANCE):
                return Health.DRAINING
            case _:
                return Health.UNHEALTHY


class _Place(_Consul, frozen=True):
    region: str = ""
    zone: str = ""


class _Node(_Consul, frozen=True):
    node: str
    address: str = ""
    tagged_addresses: dict[str, str] | None = None
    locality: _Place | None = None


class _Address(_Consul, frozen=True):
    address: str = ""
    port: int = 0


class _Weights(_Consul, frozen=True):
    passing: int = 1
    warning: int = 1


class _Service(_Consul, frozen=True):
    id: str = msgspec.field(name="ID", default="")
    address: str = ""
    port: int = 0
    tags: list[str] | None = None
    meta: dict[str, str] | None = None
    tagged_addresses: dict[str, _Address] | None = None
    weights: _Weights | None = None
    locality: _Place | None = None


class Instance(_Consul, frozen=True):
    """A service on a node, with all checks that concern it."""

    node: _Node
    service: _Service
    checks: list[Check] | None = None


class Entry(_Consul, frozen=True):
    """A key of the key-value store; `value` is base64, or None for an empty one."""

    key: str
    modify_index: int = 0
    value: str | None = None


_instances = msgspec.json.Decoder(list[Instance] | None)
_checks = msgspec.json.Decoder(list[Check] | None)
_names = msgspec.json.Decoder(dict[str, list[str] | None] | None)
_entries = msgspec.json.Decoder(list[Entry] | None)


def instances(body: bytes) -> list[Instance]:
    """Of `/v1/health/service/NAME`. Raises ValueError (msgspec.DecodeError)."""
    return _instances.decode(body) or []


def checks(body: bytes) -> frozenset[Check]:
    """Of `/v1/health/state/STATE`. Raises ValueError."""
    return frozenset(_checks.decode(body) or ())


def names(body: bytes) -> dict[str, tuple[str, ...]]:
    """Of `/v1/catalog/services`: the tags of each service, sorted. Raises ValueError."""
    return {name: tuple(sorted(tags or ())) for name, tags in (_names.decode(body) or {}).items()}


def entries(body: bytes) -> list[Entry]:
    """Of `/v1/kv/PREFIX?recurse`. Raises ValueError."""
    return _entries.decode(body) or []


@dataclass(frozen=True, slots=True)
class Reading:
    """A service as Consul has it; `unusable` says of which instances no endpoint can be made, and why."""

    service: Service
    nodes: frozenset[str]
    unusable: tuple[str, ...] = ()


def reading(found: Sequence[Instance], locality: Locality = NOWHERE, tagged_address: str | None = None) -> Reading:
    """The service of these instances; `locality` is for those that say nothing of it.

    Two instances with one address are one endpoint: that of the better health, since a node that was replaced leaves
    the record of its predecessor behind until somebody removes it.
    """
    endpoints: dict[tuple[str, int], Endpoint] = {}
    unusable = []
    for instance in found:
        written, port = _address(instance, tagged_address)
        address = _ip(written)
        if address is None or not 0 < port <= 65535:
            unusable.append(f"{instance.service.id or '?'} on {instance.node.node}: {written or 'no address'}:{port}")
            continue
        endpoint = _endpoint(instance, address, port, locality)
        known = endpoints.get((address, port))
        if known is None or (endpoint.health, endpoint) < (known.health, known):
            endpoints[address, port] = endpoint
    numbers = sorted({endpoint.ports[0][1] for endpoint in endpoints.values()})
    service = Service(
        # Instances of one service may each have a port of their own; callers do not choose among them.
        ports=(ServicePort("", numbers[0]),) if len(numbers) == 1 else (),
        endpoints=tuple(sorted(endpoints.values())),
    )
    return Reading(service, frozenset(instance.node.node for instance in found), tuple(sorted(unusable)))


def _endpoint(instance: Instance, address: str, port: int, locality: Locality) -> Endpoint:
    service, health = instance.service, _health(instance.checks or ())
    weights = service.weights or _Weights()
    weight = weights.warning if health is Health.DEGRADED else weights.passing
    if weight <= 0:
        health = max(health, Health.DRAINING)  # it is to get no requests
    place = service.locality or instance.node.locality
    return Endpoint(
        address=address,
        ports=(("", port),),
        health=health,
        locality=Locality(place.region, place.zone) if place is not None and place.region else locality,
        weight=min(max(weight, 1), MAX_WEIGHT),
        tags=tuple(sorted(set(service.tags or ()))),
        meta=tuple(sorted((service.meta or {}).items())),
    )


def _health(found: Iterable[Check]) -> Health:
    """The worst of the checks; without checks there is nothing to complain of."""
    return max((check.level for check in found), default=Health.HEALTHY)


def _address(instance: Instance, tagged: str | None) -> tuple[str, int]:
    """Address and port of an instance: the tagged ones where it has them, and the node's where it has none."""
    node, service = instance.node, instance.service
    if tagged is not None:
        if (found := (service.tagged_addresses or {}).get(tagged)) is not None and found.address:
            return found.address, found.port or service.port
        if not service.address and (address := (node.tagged_addresses or {}).get(tagged)):
            return address, service.port
    return service.address or node.address, service.port


def _ip(text: str) -> str | None:
    """The address in its canonical form; None for a host name, which an endpoint cannot have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.is_unspecified or address.is_multicast:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return None
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
    return str(address)


def with_missing(now: Service, before: Service) -> Service:
    """`now`, with the endpoints that it lacks as they were before."""
    known = {(endpoint.address, endpoint.ports) for endpoint in now.endpoints}
    missing = [endpoint for endpoint in before.endpoints if (endpoint.address, endpoint.ports) not in known]
    if not missing:
        return now
    return Service(now.ports or before.ports, tuple(sorted((*now.endpoints, *missing))), now.external_name)
