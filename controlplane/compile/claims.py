"""Claims: which gateway has a host in a listener group, and whose declarations of it count.

A host of a group belongs to one gateway among those that a proxy may see together: the one with the oldest claim, then
the first by name. Gateways whose selectors exclude each other never meet, so they may both have it. (ADR 6)

Whoever was granted only some paths of a host takes these, and no others: a host that nobody declares as a whole is *open*.
What its routes do not take goes on to the wildcard that covers it, as if the host were not there. (ADR 9)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from controlplane.compile.chains import names_host
from controlplane.compile.ownership import is_foreign, is_held, refused_of_host
from controlplane.compile.placement import covering_patterns
from controlplane.compile.rows import Claim, CompiledRoute, HostKey, Scope, excluded
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName
from controlplane.spec.listener import Protocol

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


def hosts_of_route(_: Read, key: ElementKey, route: CompiledRoute) -> Iterator[tuple[HostKey, bool]]:
    """The hosts that a route declares."""
    team = (route.entries[0].order.claim, key.object) if route.entries and is_foreign(key, route.gateway) else ()
    for place in route.placements:
        how = place.declared, place.redirect, place.limited
        yield HostKey(place.group, place.host, route.gateway, *how, team), True


def claims(
    read: Read, tables: Tables, scope: tuple[str, str], hosts: tuple[tuple[HostKey, bool], ...]
) -> Iterator[tuple[Scope, Claim]]:
    """Who has a host of a group, and which of its declarations count there."""
    group, host = scope
    winners: list[tuple[GatewayName, tuple[tuple[str, str], ...]]] = []
    rows = ((gateway, read.get(tables.gateways, gateway)) for gateway in {key.gateway for key, _ in hosts})
    for _, gateway, row in sorted((row.claim, gateway, row) for gateway, row in rows if row is not None):
        incumbent = next((name for name, labels in winners if not excluded(labels, row.labels)), None)
        if incumbent is not None:
            yield (gateway, group, host), Claim(incumbent)
            continue
        winners.append((gateway, row.labels))
        own = [key for key, _ in hosts if key.gateway == gateway]
        yield (gateway, group, host), _claim(read, tables, (gateway, group, host), own)


def _claim(read: Read, tables: Tables, scope: Scope, own: list[HostKey]) -> Claim:
    """The claim of the gateway that has the host: the narrowest declaration (`shop.example.com` before `*`) decides.

    Unless nobody declares the host as a whole by it: then the next one counts behind it, and so on.
    """
    gateway, _, host = scope
    whole = [key for key in own if not key.limited and not (key.team and is_held(read, tables, scope, key))]
    redirect = any(key.redirect for key in whole)
    said: list[str] = []
    for name in sorted({key.declared for key in own}, key=lambda name: (name != host, name == "*", -len(name))):
        said.append(name)
        if any(key.declared == name for key in whole):
            return Claim(gateway, tuple(said), redirect=redirect)
    # A miss on the host that a TLS chain is for is a miss.
    is_open = not redirect and not names_host(read, tables, scope)
    return Claim(gateway, tuple(said), redirect=redirect, open=is_open)


def names_over(scope: Scope, _: Claim) -> Iterator[Scope]:
    """The host of a claim, and every wildcard that covers it."""
    gateway, group, host = scope
    for pattern in covering_patterns(host):
        yield gateway, group, pattern


class Level(NamedTuple):
    """Routes of one declaration, where they stand in the order of a host: behind all of the level before."""

    host: str
    """The host of the scope that they are placed on."""
    declared: str


def levels(read: Read, table: object, scope: Scope, *, inherit: bool) -> tuple[list[Level], Claim | None]:
    """The declarations that count for a host that its gateway has, the narrowest first; and the claim that ends them.

    `inherit`: those of the wildcards that cover an open host too. The claim is None when nothing but open hosts was found.
    """
    gateway, group, host = scope
    found: list[Level] = []
    for pattern in covering_patterns(host) if inherit else (host,):
        claim: Claim | None = read.get(table, (gateway, group, pattern))  # type: ignore[arg-type]  # of either graph
        if claim is None or claim.owner != gateway:
            continue
        found += (Level(pattern, declared) for declared in claim.declared)
        if not claim.open:
            return found, claim
    return found, None


def segments_of_wildcard(
    read: Read, tables: Tables, scope: Scope, claim: Claim
) -> Iterator[tuple[Scope, tuple[str, ...]]]:
    """A wildcard host that the gateway has, with the first segments that it has shards for; none: for all of them."""
    gateway, _, host = scope
    if claim.owner != gateway or not host.startswith("*"):
        return
    if not claim.open:
        yield scope, ()
        return
    refused = refused_of_host(read, tables.refused_by_scope, scope)
    segments = {
        entry.segment
        for _, route in read.find(tables.routes_by_scope, scope)
        for entry in route.entries
        if entry.segment is not None and any(entry.order.match(name) not in refused for name in claim.declared)
    }
    if segments:
        yield scope, tuple(sorted(segments))


def wildcards(read: Read, tables: Tables, gateway: GatewayName) -> Iterator[tuple[str, tuple[str, ...]]]:
    """`<group>|<host>` of every wildcard host, with the segments that it is asked for (none: all)."""
    for (_, group, host), segments in read.find(tables.wildcards_by_gateway, gateway):
        yield f"{group}|{host}", segments
    for chain in read.get(tables.gateway_chains, gateway) or ():
        if chain.protocol is Protocol.HTTPS:
            yield from ((f"{chain.group}|{host}", ()) for host in chain.hosts if host.startswith("*"))
