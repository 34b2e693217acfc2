"""Names: of spec objects and their elements, and of every Envoy resource made from them.

A name depends on its inputs alone, never on an order or an index, so that reordering a document changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple, NewType

GatewayName = NewType("GatewayName", str)
"""`namespace/name` of a GatewaySpec."""

GATEWAY_KIND = "GatewaySpec"
ROUTE_KIND = "RouteSpec"


class ObjectRef(NamedTuple):
    """A document: which source says it, its kind, namespace and name."""

    source: str
    kind: str
    namespace: str
    name: str

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        """`RouteSpec checkout/api`, for people."""
        return f"{self.kind} {self.namespace}/{self.name}"


class ElementKey(NamedTuple):
    """A named element of a document: a listener, route, backend, policy or provider."""

    object: ObjectRef
    element: str


class SecretRef(NamedTuple):
    """A secret in the source and namespace of the object that refers to it."""

    source: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`namespace/name`, for people."""
        return f"{self.namespace}/{self.name}"


class ServiceRef(NamedTuple):
    """A discovered service: the source that knows it (`kubernetes/aws-eu`), its namespace there ("" in Consul), its name."""

    source: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`kubernetes/aws-eu: shop/catalog`, for people."""
        return f"{self.source}: {self.namespace}/{self.name}" if self.namespace else f"{self.source}: {self.name}"


def kubernetes_source(cluster: str) -> str:
    """`kubernetes/aws-eu`: the source that watches this cluster."""
    return f"kubernetes/{cluster}"


def consul_source(datacenter: str) -> str:
    """`consul/gcp-dc2`: the source that watches this datacenter."""
    return f"consul/{datacenter}"


View = tuple[GatewayName, ...]
"""The gateways that a node sees, sorted and without duplicates; most views hold one."""


def group_of_port(address: str, port: int) -> str:
    """The listener group of a plain HTTP port: every gateway on the port shares it."""
    return listener_name(address, port)


def group_of_chain(listener: ElementKey, entry: str) -> str:
    """The listener group of one TLS filter chain: its listener, and the secret that names the entry.

    Groups begin scope keys: they hold neither `/` nor `|`.
    """
    ref = listener.object
    return f"{ref.namespace}:{ref.name}:{listener.element}:{entry}"


def listener_name(address: str, port: int) -> str:
    """`0.0.0.0:443`, `[::]:443`: what a listener is to Envoy."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def cluster_name(backend: ElementKey) -> str:
    """`gatewayspec/platform/shop/catalog`: the backend, whoever uses it; its load assignment has the same name."""
    ref = backend.object
    return f"{ref.kind.lower()}/{ref.namespace}/{ref.name}/{backend.element}"


def jwks_cluster_name(gateway: str, provider: str) -> str:
    """`jwks/platform/shop/corp`: where Envoy fetches the keys of one issuer."""
    return f"jwks/{gateway}/{provider}"


def certificate_name(secret: SecretRef) -> str:
    """`certificate/platform/shop-tls`: a certificate with its key."""
    return f"certificate/{secret}"


def trust_name(secret: SecretRef, key: str) -> str:
    """`trust/platform/partner-ca/ca.crt`: certificate authorities to verify peers with."""
    return f"trust/{secret}/{key}"


def scope_name(group: str, host: str, segment: str) -> str:
    """The name of a route shard: 128 bits of a hash over its listener group, host and first path segment.

    Envoy 1.40 copies the names of all scopes with every update (`detectUpdateConflictAndCleanupRemoved`). A text of up
    to 22 bytes lies inside its string object; a longer one is an allocation and a cache miss each, which made an edit
    among 20,000 shards five times as slow. People read the name of the route configuration instead (`shard_name`).
    """
    digest = hashlib.blake2b(shard_name(group, host, segment).encode(), digest_size=16).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def shard_name(group: str, host: str, segment: str) -> str:
    """What a route shard is for: listener group, host, first path segment (or the fallback's `?`)."""
    return f"{group}|{host}|{segment}"
