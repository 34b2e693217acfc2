"""The endpoint lane: a small graph of its own, so that no change of an endpoint waits for a compile of anything else.

    services, stale, classes ──┐
    pools (of the last config commit) ──► assignments ──► grpc_assignments

Its commits take as long as the pools that are concerned, and end before anything else runs. Pools are what the
configuration lane hands over. What is not known yet is no row: a load assignment of which nothing is known is not
made, and a pool that asks for unknown services does not replace one that works. (ADR 18 and 21)
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from controlplane.compile import codes
from controlplane.compile.assignment import Known, is_bounded, is_chosen, is_portless, load_assignment
from controlplane.compile.pool import Pool, PoolMember, unknown_port
from controlplane.compile.proxyless.cluster import load_assignment as grpc_load_assignment
from controlplane.compile.rows import Issue, ResourceKey
from controlplane.compile.xds_types import LOAD_ASSIGNMENT
from controlplane.errors import nearest
from controlplane.filters.envoy import serialised
from controlplane.graph.engine import Derived, Graph, Index, Input, Read
from controlplane.model.endpoint import Locality, Service
from controlplane.names import Family, GatewayName, ServiceRef, part_of_gateway
from controlplane.resources import Resource

ABSENT = Service()
"""A service that its source says does not exist: known, and without endpoints."""

SLICE = 16
"""Pools that are handed over at a time."""

MAX_CLASSES = 256
"""Places of nodes that get an order of their own: nodes say where they are, and nobody proves it."""


class Keeping(NamedTuple):
    """For how many seconds some pool keeps the endpoints of services that cannot be read: of a source and a namespace."""

    source: str
    namespace: str
    seconds: float


Touched = dict[ResourceKey, None]
"""The load assignments that are others now."""


def near_part(gateway: str, place: Locality, family: Family = Family.ENVOY) -> tuple[str, ...]:
    """The part of a snapshot that holds what only the nodes in one place get of a gateway, in place of the general."""
    part = ("near", gateway, place.region, place.zone)
    return part if family is Family.ENVOY else (*part, str(family))


class EndpointTables:
    """All tables of the endpoint graph. `sources` are those that exist; None: nobody knows, so nothing is missed."""

    def __init__(self, sources: Collection[str] | None) -> None:
        """Wire the tables."""
        self.sources = sources
        self.services: Input[ServiceRef, Service] = Input("services")
        self.stale: Input[Keeping, bool] = Input("stale")
        self.classes: Input[Locality, bool] = Input("locality_classes")
        self.pools: Input[ResourceKey, Pool] = Input("pools")
        self.pools_by_service = Index("pools by service", self.pools, lambda _, pool: pool.services)
        self.pools_by_keeping = Index("pools by keeping", self.pools, _keeping)
        self.pools_by_place = Index("pools by place", self.pools, lambda key, pool: key.part if pool.within else ())
        self.assignments: Derived[ResourceKey, Pool, ResourceKey, Resource] = Derived(
            "assignments", self.pools, self._assignments
        )
        self.waiting: Input[ResourceKey, Pool] = Input("waiting_pools")
        self.waits: Derived[ResourceKey, Pool, ResourceKey, bool] = Derived("waits", self.waiting, self._waits)
        self.followed: Input[str, bool] = Input("grpc_gateways")
        self.grpc_assignments: Derived[ResourceKey, Resource, ResourceKey, Resource] = Derived(
            "grpc_assignments", self.assignments, self._for_grpc
        )
        self.resources = (self.assignments, self.grpc_assignments)
        self.graph = Graph(
            (
                self.services,
                self.stale,
                self.classes,
                self.followed,
                self.pools,
                self.waiting,
                self.assignments,
                self.grpc_assignments,
                self.waits,
            )
        )

    def _assignments(self, read: Read, key: ResourceKey, pool: Pool) -> Iterator[tuple[ResourceKey, Resource]]:
        """The load assignment of a pool: for everybody, and for each place when nearness counts."""
        services = {ref: found for ref in sorted(pool.services) if (found := read.get(self.services, ref)) is not None}
        stale = frozenset(
            (keeping.source, keeping.namespace)
            for keeping in sorted(_keeping(key, pool))
            if read.get(self.stale, keeping) is not None
        )
        self._judge(read, pool, services)
        if pool.services and not services and all(member.service for member in pool.members):
            return  # nothing is known: an empty one would be a lie
        known = Known(services, stale)
        general = serialised(load_assignment(key.name, pool, known))
        yield key, Resource(LOAD_ASSIGNMENT, key.name, general, origin=pool.origin)
        if pool.within:
            for place, _ in read.all(self.classes):
                body = serialised(load_assignment(key.name, pool, known, place))
                if body != general:
                    part = near_part(key.part[0], place)
                    yield ResourceKey(part, *key[1:]), Resource(LOAD_ASSIGNMENT, key.name, body, origin=pool.origin)

    def _for_grpc(self, read: Read, key: ResourceKey, resource: Resource) -> Iterator[tuple[ResourceKey, Resource]]:
        """The same for gRPC clients, of gateways that some of them see."""
        kind, gateway, *place = key.part if len(key.part) > 1 else ("", *key.part)
        if read.get(self.followed, gateway) is not None:
            part = (
                (kind, gateway, *place, str(Family.GRPC))
                if kind
                else part_of_gateway(GatewayName(gateway), Family.GRPC)
            )
            body = grpc_load_assignment(resource.body)
            yield ResourceKey(part, *key[1:]), Resource(LOAD_ASSIGNMENT, key.name, body, origin=resource.origin)

    def _waits(self, read: Read, _: ResourceKey, pool: Pool) -> Iterator[tuple[ResourceKey, bool]]:
        """Remark on the services for which a pool that is to replace another one waits."""
        for member in pool.members:
            if member.service is not None and read.get(self.services, member.service) is None:
                read.note(_unheard(pool, member, "what was in force of this backend before stays until then"))
        yield from ()

    def _judge(self, read: Read, pool: Pool, services: Mapping[ServiceRef, Service]) -> None:
        """Remark on members that can have no endpoints."""
        for member in pool.members:
            ref = member.service
            if ref is None:
                continue
            kind, _, source = ref.source.partition("/")
            path = f"members[{member.index}].{kind}"
            service = services.get(ref)
            if self.sources is not None and ref.source not in self.sources:
                field_name, what = ("cluster", "cluster") if kind == "kubernetes" else ("datacenter", "datacenter")
                known = (one.partition("/")[2] for one in self.sources if one.startswith(f"{kind}/"))
                message = f'no {what} "{source}" is configured'
                help = nearest(source, known)
                read.note(
                    Issue(pool.origin, f"{path}.{field_name}", codes.UNKNOWN_SOURCE, message, help, section="backends")
                )
            elif service is None:
                if self.sources is not None:
                    read.note(_unheard(pool, member, "it has no endpoints until then"))
            elif service == ABSENT:
                message = f"there is no service {ref}"
                help = "it has no endpoints until there is one"
                read.note(
                    Issue(pool.origin, f"{path}.service", codes.UNKNOWN_SERVICE, message, help, False, "backends")
                )
            elif ref.namespace and not _has_port(pool, member, service):
                read.note(unknown_port(pool.origin, member.index, ref, member.port, service))
            elif is_bounded(pool, member) and _leads_elsewhere(member, service):
                message = f"no instance of {ref} has registered port {member.port}, and no other port was granted"
                help = "leave port out, for the one that is registered"
                read.note(Issue(pool.origin, f"{path}.port", codes.UNKNOWN_PORT, message, help, section="backends"))
            elif (
                service.endpoints
                and (member.tags or member.meta)
                and not any(is_chosen(member, one) for one in service.endpoints)
            ):
                message = f"no instance of {ref} has all of these tags and meta"
                read.note(Issue(pool.origin, path, codes.UNKNOWN_SERVICE, message, "", False, "backends"))
            if service is not None and (issue := _not_granted(pool, member, service)):
                read.note(issue)


def _not_granted(pool: Pool, member: PoolMember, service: Service) -> Issue | None:
    """Endpoints of a member stand where its document may not lead. How many others there are is not said: that changes more."""
    if (grant := pool.grant) is None or member.service is None:
        return None
    left_out = {one.address for one in service.endpoints if grant.reserved(one.address) and is_chosen(member, one)}
    if not left_out:
        return None
    some = any(one.address not in left_out and is_chosen(member, one) for one in service.endpoints)
    where, more = min(left_out), len(left_out) - 1
    message = (
        f"endpoints of service {member.service} at {where}{f' and {more} more' if more else ''} are left out: "
        f'that is not granted to namespace "{grant.namespace}"{"" if some else "; it has no others"}'
    )
    help = "the owner of the gateway can grant it by a network that is for such addresses alone: spec.delegates[].addresses"
    path = f"members[{member.index}].{member.service.source.partition('/')[0]}.service"
    return Issue(pool.origin, path, codes.NOT_GRANTED, message, help, not some, "backends")


def _unheard(pool: Pool, member: PoolMember, meanwhile: str) -> Issue:
    """The source of a service has not spoken of it."""
    assert member.service is not None
    path = f"members[{member.index}].{member.service.source.partition('/')[0]}.service"
    message = f"nothing has been heard of service {member.service} yet; {meanwhile}"
    help = "controlplane sources says whether it can be read"
    return Issue(pool.origin, path, codes.UNKNOWN_SERVICE, message, help, False, "backends")


def _leads_elsewhere(member: PoolMember, service: Service) -> bool:
    """Whether a member of a Consul service asks for a port that none of its instances has registered."""
    if member.service is None or member.service.namespace or not isinstance(member.port, int):
        return False
    numbers = {number for one in service.endpoints for _, number in one.ports}
    return bool(numbers) and member.port not in numbers


def _has_port(pool: Pool, member: PoolMember, service: Service) -> bool:
    if isinstance(member.port, int) and any(is_portless(service, one) for one in service.endpoints):
        return not is_bounded(pool, member)
    return any(member.port in {one.name, one.number} for one in service.ports)


def _keeping(_: ResourceKey, pool: Pool) -> set[Keeping]:
    """The services whose loss matters to a pool after some time."""
    if pool.keep_for is None or pool.then == "keep":
        return set()
    return {Keeping(ref.source, ref.namespace, pool.keep_for) for ref in pool.services}


@dataclass(slots=True)
class Endpoints:
    """The endpoint lane: services in, load assignments out. `pools` are handed over by the configuration lane."""

    tables: EndpointTables
    _waiting_for: dict[ServiceRef, dict[ResourceKey, None]] = field(default_factory=dict)

    def put(self, ref: ServiceRef, service: Service) -> None:
        """The service as it is now; `ABSENT` when it does not exist."""
        self.tables.graph.set(self.tables.services, ref, service)
        if ref in self._waiting_for:
            self._admit(ref)

    def forget(self, ref: ServiceRef) -> None:
        """Nothing is known of the service any more, for nobody asks for it."""
        self.tables.graph.delete(self.tables.services, ref)

    def is_used(self, ref: ServiceRef) -> bool:
        """Whether a pool, or one that waits, asks for the service."""
        return ref in self.tables.pools_by_service.members or ref in self._waiting_for

    def lost(self, stale: Collection[Keeping]) -> None:
        """The services that have been lost for longer than some pools keep their endpoints."""
        for key in self.tables.stale.rows.keys() - set(stale):
            self.tables.graph.delete(self.tables.stale, key)
        for key in stale:
            self.tables.graph.set(self.tables.stale, key, True)

    def keepings(self) -> Collection[Keeping]:
        """For how long pools keep the endpoints of which services."""
        return self.tables.pools_by_keeping.members.keys()

    def near(self, gateways: Iterable[str], place: Locality, family: Family) -> list[tuple[str, ...]]:
        """The parts of a snapshot in which nodes of this place find what is ordered by nearness; they come first."""
        if not place.region:
            return []
        ordered = self.tables.pools_by_place.members
        return [near_part(gateway, place, family) for gateway in gateways if gateway in ordered]

    def has_class(self, place: Locality) -> bool:
        """Whether nodes in this place were seen."""
        return place in self.tables.classes.rows

    def has_room(self) -> bool:
        """Whether one more place can be told apart."""
        return len(self.tables.classes.rows) < MAX_CLASSES

    def add_class(self, place: Locality) -> None:
        """Nodes in this place exist."""
        self.tables.graph.set(self.tables.classes, place, True)

    def follow(self, gateways: Iterable[str]) -> None:
        """Clients without a proxy see these gateways."""
        for gateway in gateways:
            self.tables.graph.set(self.tables.followed, gateway, True)

    def commit(self) -> Touched:
        """Sweep to the end; which load assignments are others now."""
        changes = self.tables.graph.commit_now()
        return {key: None for table in self.tables.resources for key in changes.get(table.name, ())}

    def take_over(self, pools: Mapping[ResourceKey, tuple[Pool | None, Pool | None]]) -> Generator[None, None, Touched]:
        """Take over what a configuration commit changed, in slices: endpoints change in between."""
        touched: Touched = {}
        for number, (key, (_, pool)) in enumerate(pools.items(), 1):
            self._stop_waiting(key)
            before = self.tables.pools.rows.get(key)
            if pool is None:
                self.tables.graph.delete(self.tables.pools, key)
            elif before is not None and not self._is_known(pool) and key in self.tables.assignments.rows:
                self.tables.graph.set(self.tables.waiting, key, pool)
                for ref in pool.services:
                    self._waiting_for.setdefault(ref, {})[key] = None
            else:
                self.tables.graph.set(self.tables.pools, key, pool)
            if number % SLICE == 0:
                touched |= self.commit()
                yield
        return touched | self.commit()

    def of_pools(self, pools: Iterable[ResourceKey]) -> Iterator[tuple[ResourceKey, Resource | None]]:
        """The load assignments that these pools have for everybody, if any."""
        return ((key, self.tables.assignments.rows.get(key)) for key in pools)

    def publication(self, touched: Iterable[ResourceKey]) -> dict[Hashable, list[tuple[str, str, Resource | None]]]:
        """What to publish of load assignments, as they are now."""
        found: dict[Hashable, list[tuple[str, str, Resource | None]]] = {}
        tables = self.tables
        for key in touched:
            resource = tables.assignments.rows.get(key) or tables.grpc_assignments.rows.get(key)
            found.setdefault(key.part, []).append((key.type_url, key.name, resource))
        return found

    def _is_known(self, pool: Pool) -> bool:
        """Whether every service of a pool was heard of; of a source that does not exist nothing ever is."""
        services, sources = self.tables.services.rows, self.tables.sources
        return all(ref in services or (sources is not None and ref.source not in sources) for ref in pool.services)

    def _admit(self, ref: ServiceRef) -> None:
        """Pools that waited for a service replace the former ones when all is known."""
        for key, pool in [(key, self.tables.waiting.rows[key]) for key in self._waiting_for[ref]]:
            if self._is_known(pool):
                self._stop_waiting(key)
                self.tables.graph.set(self.tables.pools, key, pool)

    def _stop_waiting(self, key: ResourceKey) -> None:
        if (pool := self.tables.waiting.rows.get(key)) is None:
            return
        self.tables.graph.delete(self.tables.waiting, key)
        for ref in pool.services:
            del self._waiting_for[ref][key]
            if not self._waiting_for[ref]:
                del self._waiting_for[ref]
