"""Names: of spec objects and their elements, and of every Envoy resource made from them.

A name depends on its inputs alone, never on an order or an index, so that reordering a document changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, NewType

GatewayName = NewType("GatewayName", str)
"""`namespace/name` of a GatewaySpec."""

GATEWAY_KIND = "GatewaySpec"
ROUTE_KIND = "RouteSpec"

FILES = "files"
"""The source of the documents in the folder of specs."""

_SUBJECT = re.compile(
    rf"(?:(?P<source>[^ ]+): )?(?P<kind>{GATEWAY_KIND}|{ROUTE_KIND}) (?P<namespace>[^ /]+)/(?P<name>[^ /]+)"
)


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

    @property
    def subject(self) -> str:
        """What diagnostics call it: `RouteSpec checkout/api` of a file, `kubernetes/aws-eu: RouteSpec checkout/api` elsewhere.

        Two clusters may have objects of one name, and what is wrong with one says nothing of the other.
        """
        return str(self) if self.source == FILES else f"{self.source}: {self}"

    @classmethod
    def of_subject(cls, subject: str) -> ObjectRef | None:
        """The object that a subject names; None when it names something else, such as a secret."""
        found = _SUBJECT.fullmatch(subject)
        return cls(found["source"] or FILES, found["kind"], found["namespace"], found["name"]) if found else None


def document_of(gateway: GatewayName) -> ObjectRef:
    """What the GatewaySpec of a gateway is called, if files say it."""
    return ObjectRef(FILES, GATEWAY_KIND, *gateway.split("/", 1))


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

    @property
    def subject(self) -> str:
        """What diagnostics call it: `platform/shop-tls` of a file, `kubernetes/aws-eu: platform/shop-tls` elsewhere."""
        return str(self) if self.source == FILES else f"{self.source}: {self}"

    @property
    def path(self) -> str:
        """What Envoy's names hold: `platform/shop-tls` of a file, `kubernetes/aws-eu/platform/shop-tls` elsewhere.

        Two clusters may have secrets of one name, and neither's keys and authorities are the other's.
        """
        return str(self) if self.source == FILES else f"{self.source}/{self}"


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


class Family(StrEnum):
    """The kinds of client: what a node gets for its gateways. (ADR 12)"""

    ENVOY = "envoy"
    GRPC = "grpc"
    """gRPC itself, without a proxy: clients of `xds:///…` targets, and servers."""

    @classmethod
    def of(cls, user_agent: str) -> Family:
        """By how a node introduces itself: `gRPC C-core linux`, `gRPC Go`, `gRPC Java`; all else is an Envoy."""
        return cls.GRPC if user_agent.lower().startswith("grpc") else cls.ENVOY


def part_of_gateway(gateway: GatewayName, family: Family = Family.ENVOY) -> tuple[str, ...]:
    """The part of a snapshot that holds what belongs to one gateway."""
    return (gateway,) if family is Family.ENVOY else (gateway, family)


def part_of(view: View, family: Family = Family.ENVOY) -> tuple[str, ...]:
    """The part of a snapshot that holds what belongs to a view as a whole."""
    return ("view", *view) if family is Family.ENVOY else ("view", *view, family)


@lru_cache(maxsize=4096)
def parts_of(view: View, family: Family = Family.ENVOY) -> tuple[tuple[str, ...], ...]:
    """Every part that a node sees. Where parts share a name, the first one counts: what a view says of it, before gateways."""
    return (part_of(view, family), *(part_of_gateway(gateway, family) for gateway in view))


def group_of_port(address: str, port: int) -> str:
    """The listener group of a plain HTTP port: every gateway on the port shares it."""
    return listener_name(address, port)


def group_of_chain(address: str, port: int, secret: SecretRef) -> str:
    """The listener group of one TLS filter chain: its port, and the secret that names the entry, as SDS names it.

    Neither a listener's nor a gateway's name is in it: they may change while connections are open. Gateways that show
    one certificate on one port share its group, as they share a plain HTTP port. Groups begin scope keys: they hold
    neither `/` nor `|`.
    """
    return f"{group_of_port(address, port)}:{secret.path.replace('/', ':')}"


def listener_name(address: str, port: int) -> str:
    """`0.0.0.0:443`, `[::]:443`: what a listener is to Envoy."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def cluster_name(backend: ElementKey) -> str:
    """`gatewayspec/platform/shop/catalog`: the backend, whoever uses it."""
    ref = backend.object
    return f"{ref.kind.lower()}/{ref.namespace}/{ref.name}/{backend.element}"


def backend_of(cluster: str) -> str:
    """The name of the backend in the name of one of its clusters."""
    return cluster.split("/")[3]


def part_name(backend: ElementKey, kind: str, priority: int) -> str:
    """`gatewayspec/platform/shop/catalog/dns-3`: one of several clusters of a backend, by its first priority."""
    return f"{cluster_name(backend)}/{kind}-{priority}"


def aggregate_name(backend: ElementKey, digest: str) -> str:
    """`gatewayspec/platform/shop/catalog/of-1f0a2b3c`: all clusters of a backend in their order, by a hash over them."""
    return f"{cluster_name(backend)}/of-{digest}"


def assignment_name(cluster: str, digest: str) -> str:
    """The load assignment of a cluster: its name, and `/by-1f0a2b3c` by a hash over how endpoints are spoken to, if any."""
    return f"{cluster}/by-{digest}" if digest else cluster


def jwks_cluster_name(gateway: str, provider: str) -> str:
    """`jwks/platform/shop/corp`: where Envoy fetches the keys of one issuer."""
    return f"jwks/{gateway}/{provider}"


def certificate_name(secret: SecretRef) -> str:
    """`certificate/platform/shop-tls`: a certificate with its key."""
    return f"certificate/{secret.path}"


def trust_name(secret: SecretRef, key: str) -> str:
    """`trust/platform/partner-ca/ca.crt`: certificate authorities to verify peers with."""
    return f"trust/{secret.path}/{key}"


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


GRPC_SERVER_TEMPLATE = "grpc/server?xds.resource.listening_address=%s"
"""How gRPC servers name their listener: the template of their bootstrap, with `address:port` in place of `%s`."""


GRPC_PROVIDER = "default"
"""The certificate provider in the bootstrap of a gRPC client or server: its certificate, and authorities.

gRPC has no SDS. A name that a bootstrap lacks is a NACK, so resources use these two alone, which `bootstrap --grpc`
prints.
"""
GRPC_SERVER_PROVIDER = "server"
"""The certificate provider with what a gRPC server shows to its clients."""


def grpc_server_listener(address: str) -> str:
    """The listener of a gRPC server that listens on this address."""
    return GRPC_SERVER_TEMPLATE.replace("%s", address)


def grpc_routes(group: str, host: str) -> str:
    """`grpc/0.0.0.0:8080/shop.example.com`: the routes of a host for gRPC clients."""
    return f"grpc/{group}/{host}"


def grpc_server_routes(address: str) -> str:
    """`grpc/server/0.0.0.0:8080`: the routes of a port for gRPC servers."""
    return f"grpc/server/{address}"
