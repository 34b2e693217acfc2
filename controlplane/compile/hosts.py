"""Hosts: which gateway owns one in a listener group, and the shards that its routes are put into.

A host of a group belongs to one gateway among those that a proxy may see together: the one with the oldest claim, then
the first by name; a path of a host to one namespace, in the same way. Gateways whose selectors exclude each other never meet, so they may both have it. (decisions.md 4)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.action import https_redirect
from controlplane.compile.placement import https_port
from controlplane.compile.rows import (
    Chain,
    Claim,
    CompiledRoute,
    Entry,
    HostKey,
    Issue,
    ResourceKey,
    ShardKey,
)
from controlplane.compile.shard import (
    MERGED_ROOT,
    MISDIRECTED,
    NOT_FOUND,
    last_redirect,
    ordered,
    shard,
    without_upgrades,
)
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.filters.shard_lua.compile import CATCH_ALL, FALLBACK
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName
from controlplane.resources import Resource
from controlplane.spec.listener import Protocol

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

Scope = tuple[GatewayName, str, str]
"""Gateway, listener group, host."""

MAX_FLOATING = 64
"""Floating matches of a host that are copied into each of its segments.

Beyond that, copies would multiply without bound: 1,000 segments would hold more than 64,000 routes. Such a host has one
shard alone, its fallback with all routes: the same answers, at the cost of one plain table. (decisions.md 18)
"""


def hosts_of_route(_: Read, __: ElementKey, route: CompiledRoute) -> Iterator[tuple[HostKey, bool]]:
    """The hosts that a route declares; the value says whether they are only redirected to HTTPS."""
    redirected: dict[HostKey, bool] = {}
    for place in route.placements:
        host = HostKey(place.group, place.host, route.gateway, "" if place.redirect else place.declared)
        redirected[host] = place.redirect
    yield from redirected.items()


def shards_of_route(_: ElementKey, route: CompiledRoute) -> Iterator[ShardKey]:
    """Every shard that an entry of the route stands in; floating entries stand in the fallback."""
    for place in route.placements:
        if not place.redirect:
            for entry in route.entries:
                yield ShardKey(route.gateway, place.group, place.host, entry.segment or FALLBACK)


def scopes_of_route(_: ElementKey, route: CompiledRoute) -> Iterator[Scope]:
    """Every host of a group that the route is placed on."""
    for place in route.placements:
        if not place.redirect:
            yield route.gateway, place.group, place.host


def wildcard_of_claim(scope: Scope, claim: Claim) -> Iterator[GatewayName]:
    """The gateway of a wildcard host that it has."""
    if scope[2].startswith("*") and claim.owner == scope[0]:
        yield scope[0]


def excluded(ours: tuple[tuple[str, str], ...], theirs: tuple[tuple[str, str], ...]) -> bool:
    """Whether no node can carry the labels of both selectors."""
    other = dict(theirs)
    return any(other.get(key, value) != value for key, value in ours)


def claims(
    read: Read, tables: Tables, scope: tuple[str, str], hosts: tuple[tuple[HostKey, bool], ...]
) -> Iterator[tuple[Scope, Claim]]:
    """Who owns a host of a group, and which declaration of it counts: the narrowest (`shop.example.com` before `*`)."""
    group, host = scope
    winners: list[tuple[GatewayName, tuple[tuple[str, str], ...]]] = []
    rows = ((gateway, read.get(tables.gateways, gateway)) for gateway in {key.gateway for key, _ in hosts})
    for _, gateway, row in sorted((row.claim, gateway, row) for gateway, row in rows if row is not None):
        own = [key for key, _ in hosts if key.gateway == gateway]
        incumbent = next((name for name, labels in winners if not excluded(labels, row.labels)), None)
        if incumbent is not None:
            yield (gateway, group, host), Claim(incumbent, "", redirect=False)
            continue
        winners.append((gateway, row.labels))
        declared = max((key.declared for key in own), key=lambda name: (name == host, name != "*", len(name)))
        yield (gateway, group, host), Claim(gateway, declared, redirect=any(key.declared == "" for key in own))


def _entries(key: ShardKey, claim: Claim, routes: Iterable[tuple[ElementKey, CompiledRoute]]) -> Iterator[Entry]:
    """The entries of those routes that are placed on the shard's host by the declaration that counts."""
    for _, route in routes:
        if any(
            place.group == key.group and place.host == key.host and place.declared == claim.declared
            for place in route.placements
        ):
            yield from route.entries


def _segment_entries(read: Read, tables: Tables, key: ShardKey, claim: Claim) -> list[Entry]:
    entries = _entries(key, claim, read.find(tables.routes_by_shard, key))
    return [entry for entry in entries if (entry.segment or FALLBACK) == key.segment]


def _routes(read: Read, tables: Tables, key: ShardKey, claim: Claim, entries: list[Entry]) -> list[bytes]:
    """The routes of a shard in order, with what happens when none matches at the end: a shard is complete."""
    served: list[Entry] = []
    for entry, rival in ordered(_undisputed(read, key, entries)):
        if rival is not None:
            _say_useless(read, key, entry, rival)
        if rival is None or rival.signature != entry.signature:
            served.append(entry)
    if key.segment == FALLBACK:
        bodies = [MERGED_ROOT, *without_upgrades(served)]
    else:
        bodies = [entry.body for entry in served]
    ways_in = [chain for chain in _chains(read, tables, key.gateway) if chain.group == key.group]
    if claim.redirect or any(chain.redirect for chain in ways_in):
        bodies.append(last_redirect(_redirect(read, tables, key.gateway, ways_in, key.host)))
    else:
        bodies.append(NOT_FOUND)
    return bodies


def with_owners(gateway: GatewayName, entries: list[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Each match with the one whose namespace has its path: the gateway's own, else that of the oldest claim."""
    home = gateway.partition("/")[0]
    owners: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda one: (_namespace(one) != home, one.order.claim, one.order.route)):
        owners.setdefault(entry.signature.path, entry)
    yield from ((entry, owners[entry.signature.path]) for entry in entries)


def owns_path(entry: Entry, owner: Entry) -> bool:
    """Whether a match is served beside the owner of its path: not even a narrower condition takes from it."""
    return _namespace(owner) == _namespace(entry)


def _undisputed(read: Read, key: ShardKey, entries: list[Entry]) -> Iterator[Entry]:
    """Without the matches of a namespace for a path that another one has."""
    for entry, owner in with_owners(key.gateway, entries):
        if owns_path(entry, owner):
            yield entry
        elif _at_home(entry, key) and not entry.signature.preflight:
            route = owner.order.route
            message = f'this path under host "{key.host}" belongs to route "{route.element}" of {route.object}'
            help = "choose another path, or agree with its owner; when that route goes, this one is served"
            read.note(Issue(entry.order.route, f"match[{entry.order.number}].path", codes.CONFLICT, message, help))


def _at_home(entry: Entry, key: ShardKey) -> bool:
    """Whether this is the shard to speak of the entry in: the other ones hold copies of it."""
    return key.segment in {FALLBACK, entry.segment}


def _namespace(entry: Entry) -> str:
    return entry.order.route.object.namespace


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
    entries = _segment_entries(read, tables, key, claim)
    floating = _segment_entries(read, tables, key._replace(segment=FALLBACK), claim)
    if entries and len(floating) <= MAX_FLOATING:
        entries += floating
        yield _row(shard(key, _routes(read, tables, key, claim, entries)), key.gateway)


def fallback_of_host(read: Read, tables: Tables, scope: Scope, claim: Claim) -> Iterator[tuple[ResourceKey, Resource]]:
    """A host's fallback shard: its floating routes, for paths whose segment has no shard; of a crowded host all routes."""
    gateway, group, host = scope
    if claim.owner == gateway:
        key = ShardKey(gateway, group, host, FALLBACK)
        entries = _segment_entries(read, tables, key, claim)
        if len(entries) > MAX_FLOATING:
            _say_crowded(read, key, entries)
            entries = [*_entries(key, claim, read.find(tables.routes_by_scope, scope))]
        yield _row(shard(key, _routes(read, tables, key, claim, entries)), gateway)


def _say_crowded(read: Read, key: ShardKey, floating: list[Entry]) -> None:
    last = max((entry for entry in floating), key=lambda entry: (entry.order.claim, entry.order.route))
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


def wildcards(read: Read, tables: Tables, gateway: GatewayName) -> Iterator[str]:
    """`<group>|<host>` of every wildcard host that has a fallback shard."""
    for (_, group, host), _ in read.find(tables.wildcard_claims, gateway):
        yield f"{group}|{host}"
    for chain in _chains(read, tables, gateway):
        if chain.protocol is Protocol.HTTPS:
            yield from (f"{chain.group}|{host}" for host in chain.hosts if host.startswith("*"))


def _row(resource: Resource, gateway: GatewayName) -> tuple[ResourceKey, Resource]:
    return ResourceKey((gateway,), SCOPED_ROUTE, resource.name), resource


def _chains(read: Read, tables: Tables, gateway: GatewayName) -> tuple[Chain, ...]:
    return read.get(tables.gateway_chains, gateway) or ()


def _redirect(read: Read, tables: Tables, gateway: GatewayName, ways_in: list[Chain], host: str) -> object:
    """To the port that the listener says, else to that of the gateway's HTTPS listener for the host."""
    said = next((chain.redirect for chain in ways_in if chain.redirect), None)
    port = said.port if said is not None and said.port is not None else None
    return https_redirect(
        port or https_port(_chains(read, tables, gateway), [host]), said.code if said is not None else 308
    )
