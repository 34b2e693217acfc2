"""What a document of another namespace may do at a gateway: pure questions about a `Grant`, and the table of them.

A grant is asked for every host and path that a route claims and for every place that a backend leads to; what is not
granted is not claimed (its requests go on to whom they belong), and a route that leads elsewhere answers 503.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from controlplane.compile import codes
from controlplane.compile.placement import covers
from controlplane.compile.rows import Issue
from controlplane.graph.engine import Read
from controlplane.model import regex
from controlplane.names import ElementKey, GatewayName
from controlplane.spec.backend import Backend, Member
from controlplane.spec.delegation import Delegate
from controlplane.spec.match import PathMatch
from controlplane.spec.route import Route
from controlplane.spec.rows import Element, GatewayRow

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

RESERVED = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "100.100.100.200/32",
            "168.63.129.16/32", "192.0.0.192/32",
            "::/96", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128",
            "fd00:c1::a9fe:a9fe/128",
        ),
    )
)  # fmt: skip
"""This machine, its links, and where clouds tell credentials: only a grant of a network within these leads there."""

_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))
"""Addresses of IPv6 that a router translates: they end with one of IPv4. (RFC 6052, RFC 8215, RFC 2765)"""

RESERVED_NAMES = (
    "localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6", "localhost6.localdomain6",
    "ip6-localhost", "ip6-loopback",
    "metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
    "metadata.tencentyun.com",
)  # fmt: skip
"""What such addresses are called wherever one is, in hosts files and by the short names of clouds' search domains too: only a
grant of this very name, or one below it, leads there."""

_NUMBERS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*")
"""Names that some resolver takes for an address: `127.0.0.1`, and `127.1`, `2130706433` or `0x7f.0.0.1` for the same."""

GrantKey = tuple[GatewayName, str]
"""A gateway, and the namespace that it grants something to."""


class Grant(msgspec.Struct, frozen=True):
    """Everything that a gateway grants to one namespace."""

    namespace: str
    delegates: tuple[Delegate, ...]

    def host(self, host: str) -> bool:
        """Whether something is granted under this host."""
        return any(covers(pattern, host) for delegate in self.delegates for pattern in delegate.hosts)

    def path(self, host: str, path: PathMatch) -> str | None:
        """The longest granted prefix under this host that every path of this match lies below."""
        return max((prefix for prefix in self.prefixes(host) if within(prefix, path)), key=len, default=None)

    def whole(self, host: str) -> bool:
        """Whether every path of this host is granted."""
        return "/" in self.prefixes(host)

    def prefixes(self, host: str) -> list[str]:
        """The path prefixes that are granted under this host, sorted: "/" is the first one."""
        return sorted(
            {
                prefix
                for delegate in self.delegates
                if any(covers(pattern, host) for pattern in delegate.hosts)
                for prefix in delegate.path_prefixes
            }
        )

    def hosts(self) -> list[str]:
        """The hosts that are granted, for a message."""
        return sorted({host for delegate in self.delegates for host in delegate.hosts})

    def backend(self, name: str) -> bool:
        """Whether a backend of the gateway is granted."""
        return any(name in delegate.backends for delegate in self.delegates)

    def backends(self) -> list[str]:
        """The backends of the gateway that are granted, for a message."""
        return sorted({name for delegate in self.delegates for name in delegate.backends})

    def kubernetes(self, cluster: str, namespace: str, service: str) -> bool:
        """Whether a Kubernetes service is granted; those of the own namespace always are."""
        return namespace == self.namespace or any(
            one.kubernetes is not None
            and one.kubernetes.namespace == namespace
            and _fits(one.kubernetes.cluster, cluster)
            and _fits(one.kubernetes.service, service)
            for delegate in self.delegates
            for one in delegate.services
        )

    def consul(self, datacenter: str, service: str) -> bool:
        """Whether a Consul service is granted; the one that is called as the namespace always is."""
        return service == self.namespace or any(
            one.consul is not None and _fits(one.consul.datacenter, datacenter) and _fits(one.consul.service, service)
            for delegate in self.delegates
            for one in delegate.services
        )

    def address(self, address: str) -> bool:
        """Whether an address is granted; a reserved one must be granted by a network within the reserved one."""
        return _granted(address, self._networks())

    def dns(self, host: str) -> bool:
        """Whether a DNS name is granted; one that is an address as an address, and a reserved one by its own name only."""
        if _NUMBERS.fullmatch(host):
            return _is_canonical(host) and self.address(host)
        reserved = [name for name in RESERVED_NAMES if _is_below(host, name)]
        return any(
            covers(pattern, host) and all(_is_below(pattern, name) for name in reserved)
            for delegate in self.delegates
            for pattern in delegate.dns_hosts
        )

    def reserved(self, address: str) -> bool:
        """Whether a discovered endpoint stands at a reserved address that is not granted."""
        return is_reserved(address) and not self.address(address)

    def _networks(self) -> Iterator[str]:
        return (network for delegate in self.delegates for network in delegate.addresses)


def _is_canonical(address: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(address)) == address
    except ValueError:
        return False


def _is_below(host: str, name: str) -> bool:
    return host == name or host.endswith(f".{name}")


@lru_cache(maxsize=32_768)
def is_reserved(address: str) -> bool:
    """Whether an address means this machine, its links, or a cloud's metadata.

    Remembered: when one of ten thousand endpoints changes, it would be asked for all of them, which takes 0.1 s.
    """
    return any(one in network for one in _meant(address) for network in RESERVED)


def _meant(address: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The address, and the one of IPv4 that it leads to when it is one of IPv6 that stands for that."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return [parsed]
    inner = parsed.ipv4_mapped or parsed.sixtofour
    if any(parsed in network for network in _TRANSLATED):
        inner = ipaddress.IPv4Address(parsed.packed[-4:])
    return [parsed, inner] if inner is not None else [parsed]


def _granted(address: str, networks: Iterable[str]) -> bool:
    """Whether a network holds the address, and, of what is reserved in any of its forms, one that is for that."""
    first, *inner = _meant(address)
    said = [ipaddress.ip_network(text) for text in networks]
    return all(
        any(one in network and all(_is_within(network, other) for other in reserved) for network in said)
        for one, reserved in ((one, [network for network in RESERVED if one in network]) for one in (first, *inner))
        if one is first or reserved
    )


def _is_within(network: ipaddress.IPv4Network | ipaddress.IPv6Network, other: object) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)


def _fits(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


class Claimed(msgspec.Struct, frozen=True):
    """What of a route's hosts and matches its gateway grants: the rest is not claimed, not even with a 503."""

    hosts: tuple[str, ...]
    matches: Mapping[int, str]
    """By number, with a prefix that every path of the match lies below."""
    limited: frozenset[str] = frozenset()
    """The hosts of which only some paths are granted."""


def claimed_by(
    note: Callable[[Issue], None], grant: Grant | None, key: ElementKey, gateway: GatewayName, route: Route
) -> Claimed:
    """What of the route is granted; every part that is not is noted, and left to whom it belongs."""
    namespace = key.object.namespace

    def refuse(path: str, message: str, help: str) -> None:
        note(Issue(key, path, codes.NOT_GRANTED, message, help))

    if grant is None:
        message = f'gateway {gateway} grants nothing to namespace "{namespace}"'
        refuse("spec.gateway", message, "its owner can name the namespace in spec.delegates")
        return Claimed((), {})
    hosts = []
    for index, host in enumerate(route.hosts):
        if grant.host(host):
            hosts.append(host)
        else:
            message = f'host "{host}" is not granted to namespace "{namespace}"'
            refuse(f"hosts[{index}]", message, f"granted are {', '.join(grant.hosts())}")
    matches = {}
    for number, match in enumerate(route.match):
        prefixes = {host: grant.path(host, match.path) for host in hosts}
        outside = next((host for host, prefix in prefixes.items() if prefix is None), None)
        if outside is None:
            matches[number] = max((prefix for prefix in prefixes.values() if prefix is not None), key=len, default="/")
        else:
            message = f'the path is not granted to namespace "{namespace}" under host "{outside}"'
            help = f"every path of the match must lie below {' or '.join(grant.prefixes(outside))}"
            refuse(f"match[{number}].path", message, help)
    if not matches:
        return Claimed((), {})
    return Claimed(tuple(hosts), matches, frozenset(host for host in hosts if not grant.whole(host)))


def within(prefix: str, path: PathMatch) -> bool:
    """Whether every path that the match takes is the prefix, or lies below it."""
    base = prefix.rstrip("/")
    if not base:
        return True
    if path.regex is not None:
        literal, whole = regex.literal(path.regex)
        return literal.startswith(f"{base}/") or (whole and literal in {base, prefix})
    if path.template is not None:
        literal = re.split(r"[*{]", path.template, maxsplit=1)[0]
        return literal.startswith(f"{base}/") or path.template == base
    text = path.exact or path.prefix or ""
    return text.startswith(f"{base}/") or (text == base and not prefix.endswith("/")) or text == prefix


def refusals_of_backend(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ElementKey, bool]]:
    """A row for a backend of another namespace that leads where it was not granted to; nothing is compiled for it."""
    assert isinstance(element.part, Backend)
    namespace = key.object.namespace
    grant = limits_of_backend(read, tables, key, element.gateway)
    if grant is None:
        return
    refused = False
    for index, member in enumerate(element.part.members):
        if outside := _outside(grant, member):
            refused = True
            message = f'{outside[1]} is not granted to namespace "{namespace}" by gateway {element.gateway}'
            help = f"its owner can grant it: spec.delegates[].{outside[2]}"
            path = f"members[{index}].{outside[0]}"
            read.note(Issue(key, path, codes.NOT_GRANTED, message, help, section="backends"))
    if refused:
        yield key, True


def _outside(grant: Grant, member: Member) -> tuple[str, str, str] | None:
    """Where a member leads though it may not: the field, the place in words, and the grant that is missing."""
    if member.static is not None and not grant.address(member.static.address):
        return "static.address", f"address {member.static.address}", "addresses"
    if member.dns is not None and not grant.dns(member.dns.host):
        missing = "addresses" if _is_canonical(member.dns.host) else "dnsHosts"
        return "dns.host", f'DNS name "{member.dns.host}"', missing
    if (kubernetes := member.kubernetes) is not None:
        namespace, _, service = kubernetes.service.partition("/")
        if not grant.kubernetes(kubernetes.cluster, namespace, service):
            place = f'service "{kubernetes.service}" of cluster "{kubernetes.cluster}"'
            return "kubernetes.service", place, "services"
    if (consul := member.consul) is not None and not grant.consul(consul.datacenter, consul.service):
        return "consul.service", f'service "{consul.service}" of datacenter "{consul.datacenter}"', "services"
    return None


def limits_of_backend(read: Read, tables: Tables, key: ElementKey, gateway: GatewayName) -> Grant | None:
    """What a backend of another namespace may lead to; None for the gateway's own, which may lead anywhere."""
    namespace = key.object.namespace
    if namespace == gateway.partition("/")[0]:
        return None
    return read.get(tables.grants, (gateway, namespace)) or Grant(namespace, ())


def grants_of_gateway(_: Read, gateway: GatewayName, row: GatewayRow) -> Iterator[tuple[GrantKey, Grant]]:
    """One row for each namespace that a gateway grants something to."""
    namespaces = sorted({namespace for delegate in row.delegates for namespace in delegate.namespaces})
    for namespace in namespaces:
        granted = tuple(delegate for delegate in row.delegates if namespace in delegate.namespaces)
        yield (gateway, namespace), Grant(namespace, granted)
