"""The rows of the derived tables: what lies between a spec and its Envoy resources."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import msgspec

from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.names import ElementKey, GatewayName, ObjectRef, SecretRef
from controlplane.spec.gateway import Defaults, Guardrails
from controlplane.spec.listener import ListenerRedirect, Protocol


class Settings(msgspec.Struct, frozen=True):
    """The two outer layers of a gateway, apart from its selector."""

    guardrails: Guardrails
    defaults: Defaults


class Chain(msgspec.Struct, frozen=True):
    """One way into a gateway: a plain HTTP port, or one TLS filter chain. `group` begins the scope key of its routes."""

    gateway: GatewayName
    listener: ElementKey
    group: str
    protocol: Protocol
    port: int
    hosts: tuple[str, ...]
    redirect: ListenerRedirect | None
    certificate: SecretRef | None = None
    draining: bool = False
    """In no spec any more: only connections that were open before still use it."""


class Placement(msgspec.Struct, frozen=True):
    """A host under which a route is reachable in a listener group.

    `host` is the scope's host: what the route declares, cut to what the filter chain is for; `declared` is what the
    route declares. `redirect` stands for the redirect to HTTPS of a host that has a certificate.
    """

    group: str
    host: str
    declared: str
    redirect: bool = False
    limited: bool = False
    """The route's document was granted some paths of the declared host, not the host."""

    @property
    def serves(self) -> bool:
        """Whether the route stands in shards here; a redirect of a whole host is what happens at their end."""
        return self.limited or not self.redirect


MatchKey = tuple[ElementKey, int, str]
"""A match of a route by its number, and the host that it is declared for."""


class Order(NamedTuple):
    """The precedence of a match: exact > template > regex > longest prefix, then method, headers, query, then name.

    Before the name, the older claim. (`spec.rows.rows`)
    """

    kind: int
    specificity: int
    no_methods: bool
    headers: int
    query: int
    claim: str
    route: ElementKey
    number: int

    def match(self, host: str) -> MatchKey:
        """The match, as declared for a host."""
        return self.route, self.number, host


SaidPath = tuple[str, str]
"""A way to match the path, and its text. (`PathMatch.said`)"""


class Signature(NamedTuple):
    """What a match takes: equal for two that take the same requests, in whatever order they are written."""

    path: SaidPath
    methods: tuple[str, ...]
    conditions: tuple[str, ...]
    preflight: bool = False

    def covers(self, other: Signature) -> bool:
        """Whether every request that the other takes is certainly taken by this one."""
        return (
            self.preflight == other.preflight
            and self.path in {other.path, *EVERY_PATH}
            and (not self.methods or (bool(other.methods) and set(other.methods) <= set(self.methods)))
            and set(self.conditions) <= set(other.conditions)
        )


EVERY_PATH: tuple[SaidPath, ...] = (("regex", ".*"), ("regex", "/.*"))
"""How matches say "every path" that rank above prefixes."""


class Entry(msgspec.Struct, frozen=True):
    """One match of a route, as Envoy's bytes. `segment` is None when the path has no literal first segment."""

    order: Order
    segment: str | None
    signature: Signature
    body: bytes
    websocket: bool = False
    cors: bool = False
    """Whether a policy says which other origins may call."""


class CompiledRoute(msgspec.Struct, frozen=True):
    """Everything that one route of a spec gives, before it is put into shards."""

    gateway: GatewayName
    placements: tuple[Placement, ...]
    entries: tuple[Entry, ...]
    requirement: str | None = None
    limits: tuple[tuple[str, str, LocalLimit], ...] = ()
    """Slot, identity and limit of what is counted for all copies of the route together."""


Scope = tuple[GatewayName, str, str]
"""Gateway, listener group, host."""


class HostKey(NamedTuple):
    """A host of a listener group, as a gateway declares it, or (`team`: with this age) a document of another namespace.

    `limited`: only some paths of it were granted.
    """

    group: str
    host: str
    gateway: GatewayName
    declared: str
    redirect: bool
    limited: bool
    team: tuple[()] | tuple[str, ObjectRef] = ()


class Claim(msgspec.Struct, frozen=True):
    """What becomes of a host that a gateway declares in a listener group.

    `owner` is the gateway that has it: this one, or the incumbent. `declared` are the declarations that count, the
    narrowest first. `redirect`: some routes are only reachable by HTTPS. `open`: what no route takes is for the wildcard
    that covers the host.
    """

    owner: GatewayName
    declared: tuple[str, ...] = ()
    redirect: bool = False
    open: bool = False


LimitKey = tuple[GatewayName, str, str]
"""A rate limit that copies of a route share: the slot in which the route names it, and its identity there."""


class ShardKey(NamedTuple):
    """One route shard of a gateway."""

    gateway: GatewayName
    group: str
    host: str
    segment: str


class CertificateStatus(msgspec.Struct, frozen=True):
    """Whether a certificate can be served; the bytes are not here, so that a rotation changes no listener."""

    problem: str | None


class ProviderStatus(msgspec.Struct, frozen=True):
    """Whether the keys of an issuer can be had; `key_set` is None when Envoy fetches them."""

    problem: str | None
    key_set: str | None = None


class SecretUse(NamedTuple):
    """A gateway refers to a secret: as a certificate (`key` empty), or to the authorities in one of its files."""

    gateway: GatewayName
    secret: SecretRef
    key: str


class ResourceKey(NamedTuple):
    """Where a resource belongs (a gateway, or the view of several), and what names it."""

    part: tuple[str, ...]
    type_url: str
    name: str


class Issue(NamedTuple):
    """A remark of a compile function about an element of a spec.

    `section` is the list of the spec that holds the element; `path` is relative to the element.
    """

    element: ElementKey
    path: str
    code: str
    message: str
    help: str = ""
    error: bool = True
    section: str = "routes"

    @property
    def full_path(self) -> str:
        """`spec.routes[web].to[0].backend`; a path that begins with `spec.` is whole already."""
        if self.path.startswith("spec."):
            return self.path
        return f"spec.{self.section}[{self.element.element}]" + (f".{self.path}" if self.path else "")


DEFAULT_REQUEST_TIMEOUT = timedelta(seconds=15)
DEFAULT_IDLE_TIMEOUT = timedelta(seconds=300)
"""Of a route that says nothing, and that no guardrail cuts shorter: the listener's own."""


def excluded(ours: tuple[tuple[str, str], ...], theirs: tuple[tuple[str, str], ...]) -> bool:
    """Whether no node can carry the labels of both selectors."""
    other = dict(theirs)
    return any(other.get(key, value) != value for key, value in ours)
