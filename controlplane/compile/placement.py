"""Where a route is reachable: listeners and hosts become the scopes of route shards.

A host with a certificate is served by HTTPS alone, and its plain HTTP requests are redirected, unless the route names
its listeners. (docs/specs.md, "Which routes are on which listener")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from msgspec.structs import replace

from controlplane.compile.rows import Chain, Placement
from controlplane.names import ElementKey
from controlplane.spec.listener import Protocol


def covers(pattern: str, host: str) -> bool:
    """Whether every name that `host` stands for is one that `pattern` stands for."""
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]) and host != "*")


def covering_patterns(host: str) -> Iterator[str]:
    """Every pattern that covers the host, the most specific first: `a.b.c`, `*.b.c`, `*.c`, `*`."""
    yield host
    rest = host.removeprefix("*.") if host != "*" else ""
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    if host != "*":
        yield "*"


def intersection(pattern: str, host: str) -> str | None:
    """The narrower of two host patterns when one covers the other, else None."""
    if covers(pattern, host):
        return host
    return pattern if covers(host, pattern) else None


def _scopes(chains: Iterable[Chain], host: str) -> Iterator[tuple[Chain, str]]:
    """The chains that a client asking for the host can arrive on, each with the host cut to what the chain is for."""
    by_listener = sorted(chains, key=lambda chain: (_entrance(chain), chain.group))
    for _, group in groupby(by_listener, key=_entrance):
        listener_chains = list(group)
        patterns = {pattern: chain for chain in listener_chains for pattern in chain.hosts}
        # A client that asks for the host is served by the chain with its most specific pattern (SNI) ...
        best = next((pattern for pattern in covering_patterns(host) if pattern in patterns), None)
        if best is not None:
            yield patterns[best], host
        # ... and a wildcard host also stands for the narrower names that have a chain of their own.
        if host.startswith("*"):
            for pattern, chain in sorted(patterns.items()):
                if pattern not in {host, best} and covers(host, pattern):
                    yield chain, pattern


def _entrance(chain: Chain) -> tuple[ElementKey, str]:
    """Chains that a new connection chooses between; one that drains has none but its old ones."""
    return chain.listener, chain.group if chain.draining else ""


def placements(
    hosts: Iterable[str],
    chains: tuple[Chain, ...],
    named: frozenset[ElementKey] | None,
    limited: frozenset[str] = frozenset(),
) -> tuple[Placement, ...]:
    """Every scope of these hosts on the chains of their gateway, sorted.

    `named` are the listeners the route names, `limited` the hosts that it has not been granted as a whole.
    """
    found: set[Placement] = set()
    https = [chain for chain in chains if chain.protocol is Protocol.HTTPS]
    plain = [chain for chain in chains if chain.protocol is Protocol.HTTP and chain.redirect is None]
    for host in hosts:
        if named is not None:
            for chain, scope in _scopes((chain for chain in chains if chain.listener in named), host):
                found.add(Placement(chain.group, scope, host))
            continue
        secure = list(_scopes(https, host))
        for chain, scope in secure:
            found.add(Placement(chain.group, scope, host))
        whole = any(scope == host for _, scope in secure)
        for chain in plain:
            found.add(Placement(chain.group, host, host, redirect=whole))
            for _, scope in () if whole else secure:
                found.add(Placement(chain.group, scope, host, redirect=True))
    placed = (replace(place, limited=True) if place.declared in limited else place for place in found)
    return tuple(sorted(placed, key=lambda place: (place.group, place.host, place.declared)))


def https_port(chains: Iterable[Chain], hosts: Iterable[str]) -> int | None:
    """Where a redirect to HTTPS leads: the listener with a certificate for one of the hosts, else any; 443 if it can."""
    secure = [chain for chain in chains if chain.protocol is Protocol.HTTPS and not chain.draining]
    names = list(hosts)
    theirs = [
        chain for chain in secure if any(intersection(pattern, host) for pattern in chain.hosts for host in names)
    ]
    return min((chain.port for chain in theirs or secure), key=lambda port: (port != 443, port), default=None)
