"""Compiling without a server: for `validate`, `compile` and golden files; and resources in a form that people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2, scoped_route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import json_format

from controlplane.compile.compiler import Compiler
from controlplane.compile.xds_types import (
    CLUSTER,
    EXTENSION,
    LISTENER,
    LOAD_ASSIGNMENT,
    ROUTE_CONFIGURATION,
    SCOPED_ROUTE,
    SECRET,
)
from controlplane.errors import Diagnostic
from controlplane.model.endpoint import Service
from controlplane.model.secret import REDACTED, Secret
from controlplane.names import Family, GatewayName, ObjectRef, SecretRef, ServiceRef, View
from controlplane.resources import Resource
from controlplane.spec.rows import Row, RowKey

MESSAGES = {
    LISTENER: listener_pb2.Listener,
    ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    SCOPED_ROUTE: scoped_route_pb2.ScopedRouteConfiguration,
    CLUSTER: cluster_pb2.Cluster,
    LOAD_ASSIGNMENT: endpoint_pb2.ClusterLoadAssignment,
    SECRET: secret_pb2.Secret,
    EXTENSION: extension_pb2.TypedExtensionConfig,
}

SHORT_NAMES = {
    "lds": LISTENER,
    "rds": ROUTE_CONFIGURATION,
    "srds": SCOPED_ROUTE,
    "cds": CLUSTER,
    "eds": LOAD_ASSIGNMENT,
    "sds": SECRET,
    "ecds": EXTENSION,
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """The gateways found, and what is wrong with them; positions are added where files are known."""

    compiler: Compiler
    diagnostics: tuple[Diagnostic, ...]

    @property
    def gateways(self) -> list[GatewayName]:
        """Every gateway, sorted."""
        return sorted(self.compiler.tables.gateways.rows)

    def resources(self, view: View, family: Family = Family.ENVOY) -> list[Resource]:
        """What a node of this view gets."""
        return self.compiler.resources(view, family)


def compile_objects(
    objects: Mapping[ObjectRef, Mapping[RowKey, Row]],
    secrets: Mapping[SecretRef, Secret],
    view: View | None = None,
    family: Family = Family.ENVOY,
    services: Mapping[ServiceRef, Service] | None = None,
) -> Compiled:
    """Compile everything from scratch. `view` names the gateways to merge as one node of a family would see them."""
    compiler = Compiler()
    for ref, rows in objects.items():
        compiler.put(ref, rows)
    for secret_ref, secret in secrets.items():
        compiler.put_secret(secret_ref, secret)
    for service_ref, service in (services or {}).items():
        compiler.endpoints.put(service_ref, service)
        compiler.put_external(service_ref, service if service.external_name else None)
    if view is not None and (len(view) > 1 or family is not Family.ENVOY):
        compiler.add_view(view, family)
    commit = compiler.commit_now()
    found = {diagnostic for diagnostics in commit.issues.values() for diagnostic in diagnostics}
    return Compiled(compiler, tuple(sorted(found, key=lambda one: (one.subject, one.path, one.code, one.message))))


def decoded(resource: Resource) -> Any:
    """The message of a resource."""
    return MESSAGES[resource.type_url].FromString(resource.body)


def as_dict(resource: Resource) -> dict[str, Any]:
    """The resource in protobuf's JSON form, without the bytes of secrets."""
    message = decoded(resource)
    if resource.type_url == SECRET:
        redact(message)
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def redact(secret: Any) -> None:
    """Replace the private bytes of an SDS secret."""
    if secret.HasField("tls_certificate"):
        secret.tls_certificate.private_key.CopyFrom(base_pb2.DataSource(inline_string=REDACTED))
