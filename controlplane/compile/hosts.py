"""Hosts: which gateway owns one in a listener group, and the shards that its routes are put into.

A host of a group belongs to one gateway among those that a proxy may see together: the first by name. Gateways whose
selectors exclude each other never meet, so they may both have it. (decisions.md 4)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.action import https_redirect
from controlplane.compile.rows import (
    FALLBACK,
    Chain,
    Claim,
    CompiledRoute,
    Entry,
    HostKey,
    Issue,
    ResourceKey,
    ShardKey,
)
from controlplane.compile.shard import MISDIRECTED, NOT_FOUND, last_redirect, ordered, shard
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName
from controlplane.resources import Resource
from controlplane.spec.listener import Listener, Protocol

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

Scope = tuple[GatewayName, str, str]
"""Gateway, listener group, host."""


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


def _excluded(ours: tuple[tuple[str, str], ...], theirs: tuple[tuple[str, str], ...]) -> bool:
    """Whether no node can carry the labels of both selectors."""
    other = dict(theirs)
    return any(other.get(key, value) != value for key, value in ours)


def claims(
    read: Read, tables: Tables, scope: tuple[str, str], hosts: tuple[tuple[HostKey, bool], ...]
) -> Iterator[tuple[Scope, Claim]]:
    """Who owns a host of a group, and which declaration of it counts: the narrowest (`shop.example.com` before `*`)."""
    group, host = scope
    winners: list[tuple[GatewayName, tuple[tuple[str, str], ...]]] = []
    for gateway in sorted({key.gateway for key, _ in hosts}):
        row = read.get(tables.gateways, gateway)
        if row is None:
            continue
        own = [key for key, _ in hosts if key.gateway == gateway]
        incumbent = next((name for name, labels in winners if not _excluded(labels, row.labels)), None)
        if incumbent is not None:
            yield (gateway, group, host), Claim(incumbent, "", redirect=False)
            continue
        winners.append((gateway, row.labels))
        declared = max((key.declared for key in own), key=lambda name: (name == host, name != "*", len(name)))
        yield (gateway, group, host), Claim(gateway, declared, redirect=any(key.declared == "" for key in own))


def _declared_entries(read: Read, tables: Tables, key: ShardKey, claim: Claim) -> Iterator[Entry]:
    for _, route in read.find(tables.routes_by_shard, key):
        counts = any(
            place.group == key.group and place.host == key.host and place.declared == claim.declared
            for place in route.placements
        )
        if counts:
            yield from (entry for entry in route.entries if (entry.segment or FALLBACK) == key.segment)


def _kept(read: Read, key: ShardKey, entries: Iterator[Entry]) -> list[bytes]:
    bodies = []
    for entry, rival in ordered(entries):
        if rival is None:
            bodies.append(entry.body)
        elif not entry.signature.startswith("preflight"):
            rival_key = rival.order.route
            read.note(
                Issue(
                    entry.order.route,
                    f"match[{entry.order.number}]",
                    codes.EQUAL_ROUTES,
                    f'the same match for host "{key.host}" as route "{rival_key.element}" of {rival_key.object}',
                    "that one is served; change the path or a condition of this one",
                )
            )
    return bodies


def shard_of_routes(
    read: Read, tables: Tables, key: ShardKey, members: tuple[tuple[ElementKey, CompiledRoute], ...]
) -> Iterator[tuple[ResourceKey, Resource]]:
    """A segment's shard: its own routes, and in their places the floating routes of the host."""
    claim = read.get(tables.claims, (key.gateway, key.group, key.host))
    if claim is not None and claim.owner != key.gateway:
        for route, _ in members:
            message = f'host "{key.host}" on {key.group} belongs to gateway {claim.owner}'
            read.note(Issue(route, "hosts", codes.CONFLICT, message, "the routes of that gateway are served for it"))
    if claim is None or claim.owner != key.gateway or key.segment == FALLBACK:
        return
    entries = [*_declared_entries(read, tables, key, claim)]
    if not entries:
        return
    entries += _declared_entries(read, tables, key._replace(segment=FALLBACK), claim)
    resource = shard(key, _kept(read, key, iter(entries)))
    yield ResourceKey((key.gateway,), SCOPED_ROUTE, resource.name), resource


def fallback_of_host(
    read: Read, tables: Tables, scope: Scope, claim: Claim
) -> Iterator[tuple[ResourceKey, Resource]]:
    """A host's fallback shard: its floating routes, and what happens when nothing matches."""
    gateway, group, host = scope
    if claim.owner != gateway:
        return
    key = ShardKey(gateway, group, host, FALLBACK)
    routes = _kept(read, key, _declared_entries(read, tables, key, claim))
    chains = read.get(tables.gateway_chains, gateway) or ()
    ways_in = [chain for chain in chains if chain.group == group]
    if claim.redirect or any(chain.redirect for chain in ways_in):
        routes.append(last_redirect(_redirect(read, tables, chains, ways_in)))
    else:
        routes.append(NOT_FOUND)
    resource = shard(key, routes)
    yield ResourceKey((gateway,), SCOPED_ROUTE, resource.name), resource


def fallbacks_of_chain(
    read: Read, tables: Tables, _: tuple[ElementKey, str], chain: Chain
) -> Iterator[tuple[ResourceKey, Resource]]:
    """What a way in answers for hosts without any route.

    HTTPS: 404 for a host of its certificate, 421 (misdirected) for every other. A redirecting port redirects.
    """
    answers: dict[str, bytes] = {}
    if chain.protocol is Protocol.HTTPS:
        answers = {"*": MISDIRECTED, **dict.fromkeys(chain.hosts, NOT_FOUND)}
    elif chain.redirect is not None:
        chains = read.get(tables.gateway_chains, chain.gateway) or ()
        answers = {"*": last_redirect(_redirect(read, tables, chains, [chain]))}
    for host, answer in answers.items():
        if read.get(tables.claims, (chain.gateway, chain.group, host)) is None:
            resource = shard(ShardKey(chain.gateway, chain.group, host, FALLBACK), [answer])
            yield ResourceKey((chain.gateway,), SCOPED_ROUTE, resource.name), resource


def _redirect(read: Read, tables: Tables, chains: tuple[Chain, ...], ways_in: list[Chain]) -> object:
    """To the port that the listener says, else to that of the gateway's HTTPS listener."""
    said = next((chain.redirect for chain in ways_in if chain.redirect), None)
    if said is not None and said.port is not None:
        return https_redirect(said.port, said.code)
    secure = next((chain.listener for chain in chains if chain.protocol is Protocol.HTTPS), None)
    element = read.get(tables.listeners, secure) if secure else None
    port = element.part.port if element and isinstance(element.part, Listener) else None
    return https_redirect(port, said.code if said else 308)


