"""Shards: what the routes of a host become, one resource for each first path segment. (ADR 1)

Which gateway has a host, and which declarations of it count, is said by `claims`; which matches of teams are refused for
those of other teams, by `ownership`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from controlplane.compile import codes
from controlplane.compile.action import https_redirect
from controlplane.compile.claims import Level, levels
from controlplane.compile.ownership import refused, refused_of_host
from controlplane.compile.placement import https_port
from controlplane.compile.preflights import guarded
from controlplane.compile.rows import (
    Chain,
    Claim,
    CompiledRoute,
    Entry,
    Issue,
    MatchKey,
    ResourceKey,
    Scope,
    ShardKey,
)
from controlplane.compile.shard import (
    ELSEWHERE,
    MERGED_ROOT,
    MISDIRECTED,
    NOT_FOUND,
    last_redirect,
    ordered,
    redirected,
    shard,
    where_asked,
    without_upgrades,
)
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.filters.shard_lua.compile import CATCH_ALL, FALLBACK
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName, View, part_of, scope_name
from controlplane.resources import Resource
from controlplane.spec.listener import Protocol

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

MAX_FLOATING = 64
"""Floating matches of a host that are copied into each of its segments.

Beyond that, copies would multiply without bound: 1,000 segments would hold more than 64,000 routes. Such a host has one
shard alone, its fallback with all routes: the same answers, at the cost of one plain table.
"""


Placed = tuple[int, Entry]
"""An entry, and the number of its level among those of a shard."""


def shards_of_route(_: ElementKey, route: CompiledRoute) -> Iterator[ShardKey]:
    """Every shard that an entry of the route stands in; floating entries stand in the fallback."""
    for place in route.placements:
        if place.serves:
            for entry in route.entries:
                yield ShardKey(route.gateway, place.group, place.host, entry.segment or FALLBACK)


def scopes_of_route(_: ElementKey, route: CompiledRoute) -> Iterator[Scope]:
    """Every host of a group that the route is placed on."""
    for place in route.placements:
        if place.serves:
            yield route.gateway, place.group, place.host


class _Shard:
    """One shard in the making: what stands in it, level by level, and what happens when nothing of that matches."""

    def __init__(self, read: Read, tables: Tables, key: ShardKey, claim: Claim) -> None:
        self.read = read
        self.tables = tables
        self.key = key
        # An exact host leaves what it does not take to the filters that re-key. Of wildcards they try one: it is complete.
        scope = (key.gateway, key.group, key.host)
        self.left_to_others = claim.open and not key.host.startswith("*")
        self.levels, self.last = levels(read, tables.claims, scope, inherit=not self.left_to_others)
        self.ways_in = [chain for chain in _chains(read, tables, key.gateway) if chain.group == key.group]

    def entries(self, segment: str) -> list[Placed]:
        """The entries of a segment, or those that float."""
        found: list[Placed] = []
        for number, level in enumerate(self.levels):
            where = ShardKey(self.key.gateway, self.key.group, level.host, segment)
            routes = self.read.find(self.tables.routes_by_shard, where)
            left_out = refused(self.read, self.tables, where)
            of_level = self._of_level(level, routes, left_out)
            found += ((number, entry) for entry in of_level if (entry.segment or FALLBACK) == segment)
        return found

    def every_entry(self) -> list[Placed]:
        """The entries of all segments of the host."""
        scope = (self.key.gateway, self.key.group, self.key.host)
        routes = self.read.find(self.tables.routes_by_scope, scope)
        left_out = refused_of_host(self.read, self.tables.refused_by_scope, scope)
        return [
            (number, entry)
            for number, level in enumerate(self.levels)
            for entry in self._of_level(level, routes, left_out)
        ]

    def _of_level(
        self, level: Level, routes: Iterable[tuple[ElementKey, CompiledRoute]], left_out: Container[MatchKey]
    ) -> Iterator[Entry]:
        """The entries of those routes that are placed here by this declaration, but for those that are refused."""
        for _, route in routes:
            for place in route.placements:
                if place.serves and (place.group, place.host, place.declared) == (self.key.group, *level):
                    entries = (entry for entry in route.entries if entry.order.match(level.declared) not in left_out)
                    if place.redirect:
                        to = _redirect(self.read, self.tables, self.key.gateway, self.ways_in, level.host)
                        entries = (redirected(entry, to) for entry in entries)
                    yield from entries

    def resource(self, entries: list[Placed]) -> tuple[ResourceKey, Resource]:
        """The shard with these entries in order, and its end: a shard is complete."""
        by_level: list[list[Entry]] = [[] for _ in self.levels]
        for number in range(len(self.levels)):
            of_level = [entry for level, entry in entries if level == number]
            for entry, rival in ordered(of_level):
                if rival is not None and self.levels[number].host == self.key.host:
                    _say_useless(self.read, self.key, entry, rival)
                if rival is None or rival.signature != entry.signature:
                    by_level[number].append(entry)
        served = guarded(by_level)
        if self.key.segment == FALLBACK:
            bodies = [MERGED_ROOT, *without_upgrades(served), self._end()]
        else:
            bodies = [*(entry.body for entry in served), self._end()]
        # What this gateway would write claims to, were it not for an older one, still comes from nobody else.
        kept_out = self.read.get(self.tables.given_up_headers, self.key.gateway) or frozenset()
        return _row(shard(self.key, bodies, kept_out), self.key.gateway)

    def _end(self) -> bytes:
        if self.left_to_others:
            return ELSEWHERE
        host = self.levels[-1].host if self.last is not None else CATCH_ALL
        if (self.last is not None and self.last.redirect) or any(chain.redirect for chain in self.ways_in):
            return last_redirect(_redirect(self.read, self.tables, self.key.gateway, self.ways_in, host))
        return NOT_FOUND


def _at_home(entry: Entry, key: ShardKey) -> bool:
    """Whether this is the shard to speak of the entry in: the other ones hold copies of it."""
    return key.segment in {FALLBACK, entry.segment}


def _say_useless(read: Read, key: ShardKey, entry: Entry, rival: Entry) -> None:
    """Equal matches are an error of the later name; a match whose requests are all taken before is a warning."""
    route, path = rival.order.route, f"match[{entry.order.number}]"
    where = f'for host "{key.host}"'
    if entry.signature.preflight:
        return
    if entry.signature == rival.signature:
        message = f'the same match {where} as route "{route.element}" of {route.object}'
        help = "that one is served; change the path or a condition of this one"
        read.note(Issue(entry.order.route, path, codes.EQUAL_ROUTES, message, help))
    elif _at_home(entry, key):  # where it is only a copy, others may still need it
        message = f'never reached {where}: route "{route.element}" of {route.object} takes all its requests'
        help = "narrow that route, or remove this match"
        read.note(Issue(entry.order.route, path, codes.SHADOWED, message, help, error=False))


def shard_of_routes(
    read: Read, tables: Tables, key: ShardKey, members: tuple[tuple[ElementKey, CompiledRoute], ...]
) -> Iterator[tuple[ResourceKey, Resource]]:
    """A segment's shard: its own routes and, in their places, the floating routes of the host."""
    claim = read.get(tables.claims, (key.gateway, key.group, key.host))
    if claim is not None and claim.owner != key.gateway:
        for route, _ in members:
            message = f'host "{key.host}" on {key.group} belongs to gateway {claim.owner}'
            read.note(Issue(route, "hosts", codes.CONFLICT, message, "the routes of that gateway are served for it"))
    if claim is None or claim.owner != key.gateway or key.segment == FALLBACK:
        return
    shard = _Shard(read, tables, key, claim)
    entries, floating = shard.entries(key.segment), shard.entries(FALLBACK)
    if entries and (claim.open or len(floating) <= MAX_FLOATING):
        yield shard.resource(entries + floating)


def fallback_of_host(read: Read, tables: Tables, scope: Scope, claim: Claim) -> Iterator[tuple[ResourceKey, Resource]]:
    """A host's fallback shard: its floating routes, for paths whose segment has no shard; of a crowded host all routes.

    An open host has none: what is granted by paths has a literal first segment, and the rest is for others.
    """
    gateway, group, host = scope
    if claim.owner == gateway and not claim.open:
        shard = _Shard(read, tables, ShardKey(gateway, group, host, FALLBACK), claim)
        entries = shard.entries(FALLBACK)
        if len(entries) > MAX_FLOATING:
            _say_crowded(read, shard.key, [entry for _, entry in entries])
            entries = shard.every_entry()
        yield shard.resource(entries)


def _say_crowded(read: Read, key: ShardKey, floating: list[Entry]) -> None:
    last = max(floating, key=lambda entry: (entry.order.claim, entry.order.route))
    message = (
        f'host "{key.host}" has {len(floating)} matches without a literal first segment, more than {MAX_FLOATING}: '
        "all its routes are served from one table, so that each edit costs as much as all of them"
    )
    help = "begin paths with a literal segment (/api/…), or spread the routes over several hosts"
    path = f"match[{last.order.number}].path"
    read.note(Issue(last.order.route, path, codes.CROWDED, message, help, error=False))


def fallbacks_of_chain(
    read: Read, tables: Tables, _: tuple[ElementKey, str], chain: Chain
) -> Iterator[tuple[ResourceKey, Resource]]:
    """What a way in answers for hosts without any route.

    HTTPS: 404 for a host of its certificate, 421 (misdirected) for every other. A redirecting port redirects.
    """
    if chain.protocol is Protocol.HTTPS:
        answers = {CATCH_ALL: MISDIRECTED, **dict.fromkeys(chain.hosts, NOT_FOUND)}
    elif chain.redirect is not None:
        answers = {CATCH_ALL: last_redirect(_redirect(read, tables, chain.gateway, [chain], CATCH_ALL))}
    else:
        answers = {CATCH_ALL: NOT_FOUND}
    for host, answer in answers.items():
        if read.get(tables.claims, (chain.gateway, chain.group, host)) is None:
            yield _row(shard(ShardKey(chain.gateway, chain.group, host, FALLBACK), [answer]), chain.gateway)


def shards_of_lost_host(
    read: Read, tables: Tables, key: tuple[View, Scope], owner: GatewayName
) -> Iterator[tuple[ResourceKey, Resource]]:
    """A gateway's shards as they are where clients come to another one for the host: for connections opened for it before.

    Those of wildcards stay as they are: the table of wildcard hosts leads to them.
    """
    view, (gateway, group, host) = key
    routes = read.find(tables.routes_by_scope, (gateway, group, host))
    for route, _ in routes:
        message = f'host "{host}" on {group} belongs to gateway {owner}, which has TLS for it on this port'
        read.note(Issue(route, "hosts", codes.CONFLICT, message, "clients that ask for it come to that gateway"))
    if not host.startswith("*"):
        for segment in {FALLBACK, *(entry.segment or FALLBACK for _, route in routes for entry in route.entries)}:
            name = scope_name(group, host, segment)
            for table in (tables.shards, tables.fallbacks, tables.chain_fallbacks):
                if (resource := read.get(table, ResourceKey((gateway,), SCOPED_ROUTE, name))) is not None:
                    yield ResourceKey(part_of(view), SCOPED_ROUTE, name), where_asked(resource, host)


def _row(resource: Resource, gateway: GatewayName) -> tuple[ResourceKey, Resource]:
    return ResourceKey((gateway,), SCOPED_ROUTE, resource.name), resource


def _chains(read: Read, tables: Tables, gateway: GatewayName) -> tuple[Chain, ...]:
    return read.get(tables.gateway_chains, gateway) or ()


def _redirect(read: Read, tables: Tables, gateway: GatewayName, ways_in: Sequence[Chain], host: str) -> Any:
    """To the port that the listener says, else to that of the gateway's HTTPS listener for the host."""
    said = next((chain.redirect for chain in ways_in if chain.redirect), None)
    port = said.port if said is not None and said.port is not None else None
    return https_redirect(
        port or https_port(_chains(read, tables, gateway), [host]), said.code if said is not None else 308
    )
