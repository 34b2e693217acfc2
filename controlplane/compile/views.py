"""What belongs to a view: the listeners of its gateways, merged by port, and the filter configurations they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from envoy.config.core.v3 import extension_pb2

from controlplane.compile import codes
from controlplane.compile.checks import checked
from controlplane.compile.claims import wildcards
from controlplane.compile.listener import MAX_CONNECTIONS, REQUEST_RECEIVED, FilterChain, listener
from controlplane.compile.placement import covering_patterns, covers
from controlplane.compile.rows import Chain, Issue, ResourceKey, excluded
from controlplane.compile.xds_types import EXTENSION, LISTENER
from controlplane.errors import nearest
from controlplane.filters import chain as filter_chain
from controlplane.filters.header_mutation import compile as header_mutation
from controlplane.filters.jwt import compile as jwt
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.filters.local_ratelimit import compile as local_ratelimit
from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.filters.shard_lua import compile as shard_lua
from controlplane.graph.engine import Read
from controlplane.names import GATEWAY_KIND, ElementKey, GatewayName, View, jwks_cluster_name, listener_name, part_of
from controlplane.resources import Resource
from controlplane.spec.listener import Listener, Protocol
from controlplane.spec.policy import Policy

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


def _ports(
    read: Read, tables: Tables, view: View
) -> Iterator[tuple[Port, list[tuple[ElementKey, Listener, GatewayName]]]]:
    """The listeners of the gateways by port. The first gateway on a port decides its protocol, client address and redirect."""
    ports: dict[Port, list[tuple[ElementKey, Listener, GatewayName]]] = {}
    for key, spec, gateway in listeners_of(read, tables, view):
        if (taken := _overlapping(ports, spec, gateway)) is not None:
            message = f"{taken[0]} belongs to gateway {taken[1]}, and {spec.address} would take connections from it"
            help = f"use address: {taken[2]}, or another port"
            read.note(Issue(key, "address", codes.CONFLICT, message, help, section="listeners"))
            continue
        sharing = ports.setdefault((spec.address, spec.port), [])
        if sharing:
            _, first, owner = sharing[0]
            where = f"{listener_name(spec.address, spec.port)} belongs to gateway {owner}"
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
                        "say the same",
                        section="listeners",
                    )
                )
                continue
            if spec.redirect not in (None, first.redirect):
                message = f"{where}, which redirects {'elsewhere' if first.redirect else 'nothing'}"
                help = "say the same, or use another port"
                read.note(Issue(key, "redirect", codes.CONFLICT, message, help, section="listeners"))
        sharing.append((key, spec, gateway))
    yield from sorted(ports.items())


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


def listeners(read: Read, tables: Tables, view: View, __: bool) -> Iterator[tuple[ResourceKey, Resource]]:
    """The Envoy listeners of a view."""
    for (address, port), sharing in _ports(read, tables, view):
        ways_in: dict[str, FilterChain] = {}
        taken: dict[str, Chain] = {}
        for key, spec, gateway in sharing:
            settings = read.get(tables.settings, gateway)
            for chain in read.get(tables.gateway_chains, gateway) or ():
                if chain.listener == key and settings is not None and not chain.draining:
                    min_tls = settings.guardrails.tls.min_version
                    if way_in := _way_in(read, tables, chain, spec, min_tls, taken):
                        ways_in[way_in.group] = way_in.beside(ways_in.get(way_in.group))
        if ways_in:
            proxy_protocol = bool(sharing[0][1].client_ip and sharing[0][1].client_ip.proxy_protocol)
            message = listener(address, port, ways_in.values(), proxy_protocol=proxy_protocol)
            name, origin = message.name, sharing[0][0]
            body = checked(message, origin.object.subject, f"spec.listeners[{origin.element}]")
            yield (
                ResourceKey(part_of(view), LISTENER, name),
                Resource(LISTENER, name, body, origin=origin),
            )


def _way_in(
    read: Read, tables: Tables, chain: Chain, spec: Listener, min_tls: str, taken: dict[str, Chain]
) -> FilterChain | None:
    """A filter chain, without the hosts that others have, which are `taken`; None when it cannot be served."""
    said = spec.timeouts.request_received
    limits = REQUEST_RECEIVED if said is None else said, spec.limits.connections or MAX_CONNECTIONS
    if chain.protocol is Protocol.HTTP:
        return FilterChain(chain.group, chain.hosts, None, min_tls, spec.client_ip, *limits)
    hosts = _names(read, tables, chain, spec, taken)
    assert chain.certificate is not None
    state = read.get(tables.certificate_states, chain.certificate)
    path = f"tls[{_entry(chain, spec)}].certificate.secretRef"
    if state is None:
        message = f'no secret "{chain.certificate}"'
        read.note(
            Issue(
                chain.listener,
                path,
                codes.UNKNOWN_SECRET,
                message,
                "its hosts are left out until it is there",
                section="listeners",
            )
        )
    elif state.problem:
        message = f'secret "{chain.certificate}" {state.problem}'
        read.note(Issue(chain.listener, path, codes.UNUSABLE_SECRET, message, section="listeners"))
    if state is None or state.problem or not hosts:
        return None
    return FilterChain(chain.group, tuple(hosts), chain.certificate, min_tls, spec.client_ip, *limits)


def _entry(chain: Chain, spec: Listener) -> int:
    """The number of the first `tls` entry of a chain."""
    return next(number for number, entry in enumerate(spec.tls) if entry.identity == chain.certificate.name)  # type: ignore[union-attr]


def _names(read: Read, tables: Tables, chain: Chain, spec: Listener, taken: dict[str, Chain]) -> list[str]:
    """The names (SNI) for which a chain is asked: its hosts without those that others have, which are `taken`."""
    path = f"tls[{_entry(chain, spec)}].hosts"
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


def _misdirected(read: Read, tables: Tables, view: View) -> Iterator[str]:
    """`<group>|<host>` of each host that a TLS chain covers, and for which another one of the port is asked (SNI).

    A client chooses what name it says: by that of a wildcard it would come to the routes of the wildcard, public perhaps,
    with the host of a narrower chain, whose routes want a token. It is told to open another connection.
    """
    for _, sharing in _ports(read, tables, view):
        groups: dict[str, set[str]] = {}
        asked: set[str] = set()
        taken: dict[str, Chain] = {}
        for key, spec, gateway in sharing:
            for chain in read.get(tables.gateway_chains, gateway) or ():
                if chain.listener == key and chain.protocol is Protocol.HTTPS:
                    hosts = chain.hosts if chain.draining else _names(read, tables, chain, spec, taken)
                    asked.update(() if chain.draining else hosts)
                    for host in hosts:
                        groups.setdefault(host, set()).add(chain.group)
        for host in asked:
            for pattern in covering_patterns(host):
                yield from (f"{group}|{host}" for group in groups.get(pattern, set()) - groups[host])


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
        if not host.startswith("*"):
            claim = read.get(tables.claims, (other.gateway, other.group, host))
            found = [(host, claim)] if claim is not None else []
        else:
            claims = read.find(tables.claims_by_group, (other.gateway, other.group))
            found = [(key[2], claim) for key, claim in claims if covers(host, key[2])]
        if (lost := next((name for name, claim in found if claim.owner == other.gateway), None)) is not None:
            return other.gateway, lost
    return None


def extensions(read: Read, tables: Tables, view: View, __: bool) -> Iterator[tuple[ResourceKey, Resource]]:
    """The filter configurations that come by ECDS: a change reaches open connections, and no listener drains."""
    config, requirements = _jwt(read, tables, view)
    yield _extension(view, filter_chain.JWT, config, offers=frozenset(requirements))
    headers = {header for gateway in view for header in read.get(tables.identity_headers, gateway) or ()}
    headers |= {header for _, _, spec, _ in _kept(read, tables, view) for header in spec.claims_to_headers.values()}
    yield _extension(view, filter_chain.IDENTITY_HEADERS, header_mutation.identity_config(headers))
    hosts = dict(host for gateway in view for host in wildcards(read, tables, gateway))
    # It sends requests to shards that must be there: those that come before it does, those that go after it did.
    script = shard_lua.rekey_wildcard(hosts, _misdirected(read, tables, view))
    yield _extension(view, shard_lua.NAME, script, late=True)
    kept = (
        row
        for gateway in (*view, *_gone(read, tables, view))
        for row in read.find(tables.kept_limits_by_gateway, gateway)
    )
    said = (row for gateway in view for row in read.find(tables.limits_by_gateway, gateway))
    named = [*kept, *said]  # what specs say of a limit counts
    shared = {identity: limit for (_, _, identity), limit in named}
    slots = {slot for (_, slot, _), _ in named}
    yield _extension(view, filter_chain.ROUTE_LIMITS, local_ratelimit.shared(shared, slots), offers=frozenset(shared))
    limits: dict[str, dict[str, LocalLimit]] = {}
    for _, sharing in _ports(read, tables, view):
        for key, spec, gateway in sharing:
            for chain in read.get(tables.gateway_chains, gateway) or ():
                if chain.listener == key:
                    limits.setdefault(chain.group, {}).update(_listener_limits(read, tables, key, spec, gateway))
    for name, found in sorted(limits.items()):
        config = local_ratelimit.own(found, "listener_limits") if found else local_ratelimit.nothing()
        yield _extension(view, f"{filter_chain.LISTENER_LIMITS}/{name}", config)


def _extension(
    view: View, name: str, config: Any, *, late: bool = False, offers: frozenset[str] = frozenset()
) -> tuple[ResourceKey, Resource]:
    message = extension_pb2.TypedExtensionConfig(name=name, typed_config=config)
    body = checked(message, f"{GATEWAY_KIND} {view[0]}")
    resource = Resource(EXTENSION, name, body, origin=view, late=late, offers=offers)
    return ResourceKey(part_of(view), EXTENSION, name), resource


def _jwt(read: Read, tables: Tables, view: View) -> tuple[Any, list[str]]:
    """The filter, and the requirements that it knows."""
    providers: dict[str, Any] = {}
    requirements: set[str] = set()
    for gateway in view:
        for key, element in read.find(tables.providers_by_gateway, gateway):
            state = read.get(tables.provider_states, key)
            assert isinstance(element.part, JwtProvider)
            name = jwt.provider_name(gateway, element.part.name)
            if state is not None and state.problem is None:
                cluster = jwks_cluster_name(gateway, element.part.name)
                providers[name] = jwt.provider(element.part, state.key_set, cluster)
        for (_, requirement), _ in read.find(tables.requirements_by_gateway, gateway):
            requirements.add(requirement)
    for gateway in (*view, *_gone(read, tables, view)):
        for (_, requirement), _ in read.find(tables.kept_by_gateway, gateway):
            requirements.add(requirement)
    for name, gateway, spec, key_set in _kept(read, tables, view):
        providers[name] = jwt.provider(spec, key_set, jwks_cluster_name(gateway, spec.name))
    possible = sorted(name for name in requirements if all(part in providers for part in jwt.providers_of(name)))
    return jwt.filter_config(providers, possible), possible


def _kept(read: Read, tables: Tables, view: View) -> Iterator[tuple[str, GatewayName, JwtProvider, str | None]]:
    """Providers that are in no spec any more, and that routes on some proxy may still require."""
    declared = {
        jwt.provider_name(gateway, element.part.name)
        for gateway in view
        for _, element in read.find(tables.providers_by_gateway, gateway)
    }
    for gateway in (*view, *_gone(read, tables, view)):
        for (_, requirement), _ in read.find(tables.kept_by_gateway, gateway):
            for name in jwt.providers_of(requirement):
                # One whose keys are lost is declared, and stays closed.
                if name not in declared and (kept := read.get(tables.kept_providers, name)) is not None:
                    yield name, gateway, *kept


def _gone(read: Read, tables: Tables, view: View) -> list[GatewayName]:
    """Gateways that are gone, and that nodes of this view may have had until now."""
    ours = [row.labels for row in (read.get(tables.gateways, gateway) for gateway in view) if row is not None]
    gone = read.find(tables.gone_gateways, True)
    return [gateway for gateway, labels in gone if not any(excluded(labels, own) for own in ours)]


def _listener_limits(
    read: Read, tables: Tables, key: ElementKey, spec: Listener, gateway: GatewayName
) -> dict[str, LocalLimit]:
    found: dict[str, LocalLimit] = {}
    for index, name in enumerate(spec.use):
        policies = read.find(tables.policies_by_name, (gateway, name))
        policy = policies[0][1].part if policies else None
        if not isinstance(policy, Policy):
            message = f'no policy "{name}"'
            read.note(
                Issue(
                    key,
                    f"use[{index}]",
                    codes.UNKNOWN_POLICY,
                    message,
                    nearest(name, (key.element for key, _ in read.find(tables.policies_by_gateway, gateway))),
                    section="listeners",
                )
            )
        elif policy.rate_limit is None or policy.cors is not None:
            message = f'policy "{name}" is not for listeners: only rateLimit is'
            read.note(Issue(key, f"use[{index}]", codes.IMPOSSIBLE, message, section="listeners"))
        else:
            claims = read.get(tables.identity_headers, gateway) or frozenset()
            counted = {(limit.key or "").removeprefix("header:") for limit in policy.rate_limit.local}
            for header in sorted(counted & claims):
                message = f'"{header}" is set by a JWT provider after a listener has counted: all share one bucket'
                help = "use the policy on routes, which count after authentication"
                read.note(
                    Issue(key, f"use[{index}]", codes.IMPOSSIBLE, message, help, error=False, section="listeners")
                )
            identity = f"{key.object.full_name}/{key.element}/{name}"
            found |= {f"{identity}/{number}": limit for number, limit in enumerate(policy.rate_limit.local)}
    return found
