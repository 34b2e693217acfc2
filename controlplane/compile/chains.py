"""Listeners of a spec as ways in: one per plain HTTP port, one per certificate of an HTTPS port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from controlplane.compile.placement import covering_patterns
from controlplane.compile.rows import Chain, Scope, excluded
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName, SecretRef, group_of_chain, group_of_port
from controlplane.spec.listener import Listener, Protocol
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

MAX_DRAINING = 64
"""Chains whose connections are drained: each has shards of its own for its hosts."""


def chains_of_listener(
    _: Read | None, key: ElementKey, element: Element
) -> Iterator[tuple[tuple[ElementKey, str], Chain]]:
    """The chains of one listener; tls entries that name the same secret are one chain."""
    listener = element.part
    assert isinstance(listener, Listener)
    if listener.protocol is Protocol.HTTP:
        group = group_of_port(listener.address, listener.port)
        yield (key, ""), Chain(element.gateway, key, group, listener.protocol, listener.port, ("*",), listener.redirect)
        return
    hosts: dict[str, set[str]] = {}
    for entry in listener.tls:
        hosts.setdefault(entry.identity, set()).update(entry.hosts)
    for identity, names in hosts.items():
        secret = SecretRef(key.object.source, key.object.namespace, identity)
        yield (
            (key, identity),
            Chain(
                element.gateway,
                key,
                group_of_chain(listener.address, listener.port, secret),
                listener.protocol,
                listener.port,
                tuple(sorted(names)),
                listener.redirect,
                secret,
            ),
        )


def chains_of_gateway(
    read: Read, tables: Tables, gateway: GatewayName, members: tuple[tuple[tuple[ElementKey, str], Chain], ...]
) -> Iterator[tuple[GatewayName, tuple[Chain, ...]]]:
    """All chains of a gateway. Those that drain have routes for the hosts that their listener still is for."""
    live = [chain for _, chain in members]
    groups = {chain.group for chain in live}
    found = list(live)
    for _, chain in read.find(tables.kept_chains_by_gateway, gateway):
        served = {host for other in live if other.listener == chain.listener for host in other.hosts}
        hosts = tuple(host for host in chain.hosts if not served.isdisjoint(covering_patterns(host)))
        if hosts and chain.group not in groups and not _is_taken(read, tables, chain):
            found.append(replace(chain, hosts=hosts))
    yield gateway, tuple(found)


def _is_taken(read: Read, tables: Tables, chain: Chain) -> bool:
    """Whether a plain port that was given up is another gateway's by now, on proxies that may see both: it has the requests."""
    if chain.protocol is not Protocol.HTTP:
        return False
    ours = read.get(tables.gateways, chain.gateway)
    rows = (read.get(tables.gateways, other.gateway) for _, other in read.find(tables.chains_by_group, chain.group))
    return any(row is not None and ours is not None and not excluded(ours.labels, row.labels) for row in rows)


def names_host(read: Read, tables: Tables, scope: Scope) -> bool:
    """Whether a listener group is a TLS chain that names this very host: within it, no scope stands for more."""
    gateway, group, host = scope
    chains = read.get(tables.gateway_chains, gateway) or ()
    return any(chain.group == group and chain.protocol is Protocol.HTTPS and host in chain.hosts for chain in chains)


def keep_chain(tables: Tables, chain: Chain) -> None:
    """Connections of a chain that is in no spec are open for a while."""
    if len(tables.kept_chains.rows) < MAX_DRAINING:
        tables.graph.set(tables.kept_chains, (chain.listener, chain.group), chain)


def ways_in(key: ElementKey, element: Element) -> dict[tuple[ElementKey, str], Chain]:
    """The chains of a listener by what connections go by: its own key, and their group."""
    return {(key, chain.group): chain for _, chain in chains_of_listener(None, key, element)}
