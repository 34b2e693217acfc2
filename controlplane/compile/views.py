"""What belongs to a view: the listeners of its gateways, merged by port, and the filter configurations they share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from envoy.config.core.v3 import extension_pb2

from controlplane.compile import codes
from controlplane.compile.checks import checked
from controlplane.compile.claims import wildcards
from controlplane.compile.listener import MAX_CONNECTIONS, REQUEST_RECEIVED, FilterChain, listener
from controlplane.compile.ports import entry_of, listeners_of, misdirected, names, ports
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
from controlplane.names import GATEWAY_KIND, ElementKey, GatewayName, View, jwks_cluster_name, part_of
from controlplane.resources import Resource
from controlplane.spec.listener import Listener, Protocol
from controlplane.spec.policy import Policy

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


def listeners(read: Read, tables: Tables, view: View, __: bool) -> Iterator[tuple[ResourceKey, Resource]]:
    """The Envoy listeners of a view."""
    for (address, port), sharing in ports(read, tables, view):
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
    hosts = names(read, tables, chain, spec, taken)
    assert chain.certificate is not None
    state = read.get(tables.certificate_states, chain.certificate)
    path = f"tls[{entry_of(chain, spec)}].certificate.secretRef"
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


def extensions(read: Read, tables: Tables, view: View, __: bool) -> Iterator[tuple[ResourceKey, Resource]]:
    """The filter configurations that come by ECDS: a change reaches open connections, and no listener drains."""
    config, requirements = _jwt(read, tables, view)
    yield _extension(view, filter_chain.JWT, config, offers=frozenset(requirements))
    headers = {header for gateway in view for header in read.get(tables.identity_headers, gateway) or ()}
    headers |= {header for _, _, spec, _ in _kept(read, tables, view) for header in spec.claims_to_headers.values()}
    yield _extension(view, filter_chain.IDENTITY_HEADERS, header_mutation.identity_config(headers))
    hosts = dict(host for gateway in view for host in wildcards(read, tables, gateway))
    lost = (f"{group}|{host}" for (_, (_, group, host)), _ in read.find(tables.lost_by_view, view) if host[0] == "*")
    # It sends requests to shards that must be there: those that come before it does, those that go after it did.
    script = shard_lua.rekey_wildcard(hosts, misdirected(read, tables, view), lost)
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
    sharing = [one for _, of_port in ports(read, tables, view) for one in of_port]
    limits: dict[str, dict[str, LocalLimit]] = {chain.group: {} for chain, _ in _chains_of(read, tables, sharing)}
    # Those of a listener that lost its port too: its hosts are served there all the same when they share its group.
    for chain, (key, spec, gateway) in _chains_of(read, tables, listeners_of(read, tables, view)):
        if chain.group in limits:
            limits[chain.group].update(_listener_limits(read, tables, key, spec, gateway))
    for name, found in sorted(limits.items()):
        config = local_ratelimit.own(found, "listener_limits") if found else local_ratelimit.nothing()
        yield _extension(view, f"{filter_chain.LISTENER_LIMITS}/{name}", config)


def _chains_of(
    read: Read, tables: Tables, listeners: Iterable[tuple[ElementKey, Listener, GatewayName]]
) -> Iterator[tuple[Chain, tuple[ElementKey, Listener, GatewayName]]]:
    for one in listeners:
        for chain in read.get(tables.gateway_chains, one[2]) or ():
            if chain.listener == one[0]:
                yield chain, one


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
