"""Objects of the Kubernetes API as far as they are used: partial, typed, decoded straight from the bytes.

A field that is not declared here is skipped, not built. Lists decode their items as raw bytes first, so that what nobody
refers to costs its metadata alone.
"""

from __future__ import annotations

import msgspec

SERVICE_LABEL = "kubernetes.io/service-name"
"""Names the service of an EndpointSlice."""
REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What every object has. `resource_version` grows with every change in the cluster, `generation` with its spec."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str = ""
    generation: int = 0
    labels: dict[str, str] | None = None

    @property
    def version(self) -> int:
        """The resource version as a number; 0 when it is none."""
        return version_number(self.resource_version)


class Object(msgspec.Struct, frozen=True):
    """Any object: its metadata."""

    metadata: Metadata = Metadata()


class ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """Where a list stands, and how it goes on."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct, frozen=True):
    """A part of a list."""

    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None


class Event(msgspec.Struct, frozen=True):
    """One line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True):
    """Why the API server refused."""

    code: int = 0
    reason: str = ""
    message: str = ""


class ServicePort(msgspec.Struct, frozen=True):
    """A port of a service; `name` is empty when it is the only one."""

    port: int
    name: str = ""
    protocol: str = "TCP"


class ServiceSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a service declares."""

    type: str = "ClusterIP"
    ports: list[ServicePort] | None = None
    external_name: str = ""
    ip_families: list[str] | None = None


class Service(msgspec.Struct, frozen=True):
    """A service."""

    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()


class Conditions(msgspec.Struct, frozen=True):
    """Absent means unknown, which counts as ready. https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/"""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel"):
    """One endpoint; only the first address may be used."""

    addresses: list[str]
    conditions: Conditions = Conditions()
    zone: str | None = None
    node_name: str | None = None


class SlicePort(msgspec.Struct, frozen=True):
    """A port of all endpoints of a slice."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """A part of the endpoints of a service, all of one address family and with the same ports."""

    metadata: Metadata
    address_type: str
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class Secret(msgspec.Struct, frozen=True):
    """A secret; its base64 is decoded with it."""

    metadata: Metadata
    data: dict[str, bytes] | None = None


class Node(msgspec.Struct, frozen=True):
    """A node: its labels say where it stands."""

    metadata: Metadata


def version_number(resource_version: str) -> int:
    """Resource versions are numbers that can be compared; 0 for what is none."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else 0
