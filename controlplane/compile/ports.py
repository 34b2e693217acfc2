"""Ports that gateways of a view share: whose listener counts, and which TLS chain is asked for a name (SNI)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.placement import covering_patterns
from controlplane.compile.rows import Chain, Issue, Scope
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, GatewayName, View, listener_name
from controlplane.spec.listener import Listener, Protocol

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables
    from controlplane.compile.proxyless.tables import GrpcTables

Port = tuple[str, int]


_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104
"""All addresses of IPv4 and of IPv6; a listener on one address of them is asked first."""


def listeners_of(
    read: Read, tables: Tables | GrpcTables, view: View
) -> Iterator[tuple[ElementKey, Listener, GatewayName]]:
    """The listeners of the gateways of a view: the older claim first, as for hosts, then the name. (`claims`)"""
    found = [(gateway, *row) for gateway in view for row in read.find(tables.listeners_by_gateway, gateway)]
    for gateway, key, element in sorted(found, key=lambda row: (row[2].claim, *row[:2])):
        assert isinstance(element.part, Listener)
        yield key, element.part, gateway


def ports(
    read: Read, tables: Tables, view: View
) -> Iterator[tuple[Port, list[tuple[ElementKey, Listener, GatewayName]]]]:
    """The listeners of the gateways by port. The first gateway on a port decides its protocol, client address and redirect."""
    found: dict[Port, list[tuple[ElementKey, Listener, GatewayName]]] = {}
    for key, spec, gateway in listeners_of(read, tables, view):
        if (taken := _overlapping(found, spec, gateway)) is not None:
            message = f"{taken[0]} belongs to gateway {taken[1]}, and {spec.address} would take connections from it"
            help = f"use address: {taken[2]}, or another port"
            read.note(Issue(key, "address", codes.CONFLICT, message, help, section="listeners"))
            continue
        sharing = found.setdefault((spec.address, spec.port), [])
        if sharing:
            own, first, owner = sharing[0]
            whose = f"gateway {owner}" if owner != gateway else f'listener "{own.element}" of this gateway'
            where = f"{listener_name(spec.address, spec.port)} belongs to {whose}"
            if spec.protocol is not first.protocol:
                help = f"use protocol: {first.protocol}, or another port"
                read.note(
                    Issue(
                        key,
                        "protocol",
                        codes.CONFLICT,
                        f"{where}, which speaks {first.protocol}",
                        help,
                        section="listeners",
                    )
                )
                continue
            if spec.client_ip != first.client_ip:
                read.note(
                    Issue(
                        key,
                        "clientIP",
                        codes.CONFLICT,
                        f"{where}, which says another clientIP",
                        "say the same, or use another port",
                        section="listeners",
                    )
                )
                continue
            if spec.redirect not in (None, first.redirect):
                message = f"{where}, which redirects {'elsewhere' if first.redirect else 'nothing'}"
                help = "say the same, or use another port"
                read.note(Issue(key, "redirect", codes.CONFLICT, message, help, section="listeners"))
        sharing.append((key, spec, gateway))
    yield from sorted(found.items())


def _overlapping(
    ports: dict[Port, list[tuple[ElementKey, Listener, GatewayName]]], spec: Listener, gateway: GatewayName
) -> tuple[str, GatewayName, str] | None:
    """Where another gateway listens already, when the kernel would divide its connections by address."""
    family = _EVERYWHERE[":" in spec.address]
    for (address, port), sharing in ports.items():
        overlap = port == spec.port and address != spec.address and family in {address, spec.address}
        if overlap and _EVERYWHERE[":" in address] == family:
            owner = sharing[0][2]
            if owner != gateway:
                return listener_name(address, port), owner, address
    return None


def entry_of(chain: Chain, spec: Listener) -> int:
    """The number of the first `tls` entry of a chain."""
    return next(number for number, entry in enumerate(spec.tls) if entry.identity == chain.certificate.name)  # type: ignore[union-attr]


def _is_served(read: Read, tables: Tables, chain: Chain) -> bool:
    """Whether the certificate of a TLS chain is there and can be used."""
    state = read.get(tables.certificate_states, chain.certificate) if chain.certificate is not None else None
    return state is not None and not state.problem


def names(read: Read, tables: Tables, chain: Chain, spec: Listener, taken: dict[str, Chain]) -> list[str]:
    """The names (SNI) for which a chain is asked: its hosts without those that others have, which are `taken`."""
    path = f"tls[{entry_of(chain, spec)}].hosts"
    hosts = []
    for host in chain.hosts:
        if (rival := _rival(read, tables, chain, host, taken)) is not None:
            message = f'TLS for host "{host}" on this port would take requests for "{rival[1]}" from gateway {rival[0]}'
            help = "that gateway serves them with a certificate for a wider host; agree with its owner"
            read.note(Issue(chain.listener, path, codes.CONFLICT, message, help, section="listeners"))
        elif (owner := _owner(chain, host, taken)) is not None:
            message = f'TLS for host "{host}" on this port belongs to {owner}'
            read.note(Issue(chain.listener, path, codes.CONFLICT, message, section="listeners"))
        else:
            hosts.append(host)
    return hosts


def _owner(chain: Chain, host: str, taken: dict[str, Chain]) -> str | None:
    """Who has the TLS of a host, in words, when it is not this chain: Envoy takes each name once."""
    owner = taken.setdefault(host, chain)
    if owner.group == chain.group:
        return None
    return f"gateway {owner.gateway}" if owner.gateway != chain.gateway else f'listener "{owner.listener.element}"'


def _rival(
    read: Read, tables: Tables, chain: Chain, host: str, taken: dict[str, Chain]
) -> tuple[GatewayName, str] | None:
    """An older gateway whose connections a host would take by being narrower, and a host that its routes declare there."""
    for pattern in covering_patterns(host):
        other = taken.get(pattern) if pattern != host else None
        if other is None or other.gateway == chain.gateway or other.group == chain.group:
            continue
        claims = read.find(tables.claims_below, (other.gateway, other.group, host))
        if (lost := next((key[2] for key, claim in claims if claim.owner == other.gateway), None)) is not None:
            return other.gateway, lost
    return None


def misdirected(read: Read, tables: Tables, view: View) -> Iterator[str]:
    """`<group>|<host>` of each host that a TLS chain covers, and for which another one of the port is asked (SNI).

    A client chooses what name it says: by that of a wildcard it would come to the routes of the wildcard, public perhaps,
    with the host of a narrower chain, whose routes want a token. It is told to open another connection.
    """
    for _, sharing in ports(read, tables, view):
        groups: dict[str, set[str]] = {}
        asked: set[str] = set()
        taken: dict[str, Chain] = {}
        for key, spec, gateway in sharing:
            for chain in read.get(tables.gateway_chains, gateway) or ():
                if chain.listener == key and chain.protocol is Protocol.HTTPS:
                    hosts = chain.hosts if chain.draining else names(read, tables, chain, spec, taken)
                    asked.update(() if chain.draining else hosts)
                    for host in hosts:
                        groups.setdefault(host, set()).add(chain.group)
        for host in asked:
            for pattern in covering_patterns(host):
                yield from (f"{group}|{host}" for group in groups.get(pattern, set()) - groups[host])


def lost_hosts(read: Read, tables: Tables, view: View, __: bool) -> Iterator[tuple[tuple[View, Scope], GatewayName]]:
    """The hosts of TLS chains for which clients (SNI) come to another gateway, with that one, where both are on a proxy.

    No connection of such a chain is for them, whoever said another name in the handshake: the other gateway has them.
    """
    for _, sharing in ports(read, tables, view):
        chains: list[Chain] = []
        asked: dict[str, Chain] = {}
        taken: dict[str, Chain] = {}
        for key, spec, gateway in sharing:
            for chain in read.get(tables.gateway_chains, gateway) or ():
                if chain.listener == key and chain.protocol is Protocol.HTTPS:
                    chains.append(chain)
                    asked_for = () if chain.draining else names(read, tables, chain, spec, taken)
                    asked |= dict.fromkeys(asked_for if _is_served(read, tables, chain) else (), chain)
        below: dict[str, list[str]] = {}
        for name in asked:
            for pattern in covering_patterns(name):
                below.setdefault(pattern, []).append(name)
        for chain in chains:
            for host in _in_question(read, tables, chain, asked, below):
                if (other := _other(chain, host, asked)) is not None:
                    yield (view, (chain.gateway, chain.group, host)), other.gateway


def _other(chain: Chain, host: str, asked: dict[str, Chain]) -> Chain | None:
    """The chain of another gateway that is asked for a host, instead of this one."""
    other = next((asked[pattern] for pattern in covering_patterns(host) if pattern in asked), chain)
    return other if other.gateway != chain.gateway and other.group != chain.group else None


def _in_question(
    read: Read, tables: Tables, chain: Chain, asked: dict[str, Chain], below: dict[str, list[str]]
) -> set[str]:
    """The hosts that a chain names or has routes for, and that others may be asked for: what they and it have names for."""
    theirs = {name for host in chain.hosts for name in below.get(host, ()) if _other(chain, name, asked) is not None}
    lost = {host for host in chain.hosts if _other(chain, host, asked) is not None}
    claims = (
        row for name in theirs | lost for row in read.find(tables.claims_below, (chain.gateway, chain.group, name))
    )
    return lost | {key[2] for key, claim in claims if claim.owner == chain.gateway}
