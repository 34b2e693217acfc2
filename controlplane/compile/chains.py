"""Listeners of a spec as ways in: one per plain HTTP port, one per certificate of an HTTPS port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from controlplane.compile.rows import Chain, Scope
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName, SecretRef, group_of_chain, group_of_port
from controlplane.spec.listener import Listener, Protocol
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


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
    live = dict(members)
    found = list(live.values())
    for key, chain in read.find(tables.kept_chains_by_gateway, gateway):
        served = {host for other in live.values() if other.listener == chain.listener for host in other.hosts}
        if key not in live and (hosts := tuple(host for host in chain.hosts if host in served)):
            found.append(replace(chain, hosts=hosts))
    yield gateway, tuple(found)


def names_host(read: Read, tables: Tables, scope: Scope) -> bool:
    """Whether a listener group is a TLS chain that names this very host: within it, no scope stands for more."""
    gateway, group, host = scope
    chains = read.get(tables.gateway_chains, gateway) or ()
    return any(chain.group == group and chain.protocol is Protocol.HTTPS and host in chain.hosts for chain in chains)


def given_up(key: ElementKey, before: Element, after: Element) -> Mapping[tuple[ElementKey, str], Chain]:
    """The TLS chains of a listener that its next version does not have: proxies drain their connections."""
    old, new = (dict(chains_of_listener(None, key, element)) for element in (before, after))
    return {
        name: replace(chain, draining=True)
        for name, chain in old.items()
        if name not in new and chain.protocol is Protocol.HTTPS
    }
