"""A configuration of one Envoy that needs no control plane: `compile --static`.

It holds everything in one file: scopes, filter configurations and load assignments inline. Certificates are referred to
as files of the secrets folder; their bytes are never printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from google.protobuf import json_format

from controlplane.compile.offline import decoded
from controlplane.compile.xds_types import CLUSTER, EXTENSION, LISTENER, LOAD_ASSIGNMENT, SCOPED_ROUTE, SECRET
from controlplane.filters.envoy import packed
from controlplane.resources import Resource


def standalone(resources: Iterable[Resource], secrets_folder: Path | None) -> dict[str, Any]:
    """An Envoy configuration that needs no control plane, in protobuf's JSON form (`static_resources` alone)."""
    by_type: dict[str, dict[str, Any]] = {}
    for resource in resources:
        by_type.setdefault(resource.type_url, {})[resource.name] = decoded(resource)
    bootstrap = bootstrap_pb2.Bootstrap()
    scopes = list(by_type.get(SCOPED_ROUTE, {}).values())
    for listener in by_type.get(LISTENER, {}).values():
        for chain in listener.filter_chains:
            for network_filter in chain.filters:
                if network_filter.typed_config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
                    _inline_manager(network_filter.typed_config, scopes, by_type.get(EXTENSION, {}))
            _inline_secrets(chain.transport_socket)
        bootstrap.static_resources.listeners.append(listener)
    secrets = by_type.get(SECRET, {})
    for cluster in by_type.get(CLUSTER, {}).values():
        if not _secrets_of(cluster.transport_socket) <= secrets.keys():
            continue  # over xDS it would wait for them; here its routes answer 503 as well
        if cluster.type == cluster_pb2.Cluster.EDS:
            named = cluster.eds_cluster_config.service_name or cluster.name
            cluster.ClearField("eds_cluster_config")
            cluster.type = cluster_pb2.Cluster.STATIC
            if (assignment := by_type.get(LOAD_ASSIGNMENT, {}).get(named)) is not None:
                cluster.load_assignment.CopyFrom(assignment)
            else:  # its services are known to a control plane alone
                cluster.load_assignment.cluster_name = cluster.name
        _inline_secrets(cluster.transport_socket)
        bootstrap.static_resources.clusters.append(cluster)
    for name, secret in secrets.items():
        bootstrap.static_resources.secrets.append(_from_files(name, secret, secrets_folder or Path("secrets")))
    found: dict[str, Any] = json_format.MessageToDict(bootstrap, preserving_proto_field_name=True)
    return found


def _inline_manager(config: Any, scopes: list[Any], extensions: Mapping[str, Any]) -> None:
    manager = hcm_pb2.HttpConnectionManager()
    config.Unpack(manager)
    manager.scoped_routes.ClearField("rds_config_source")
    manager.scoped_routes.scoped_route_configurations_list.scoped_route_configurations.extend(scopes)
    for http_filter in manager.http_filters:
        if http_filter.HasField("config_discovery"):
            http_filter.typed_config.CopyFrom(extensions[http_filter.name].typed_config)
    config.CopyFrom(packed(manager))


def _inline_secrets(socket: Any) -> None:
    """Static secrets are referred to by name alone."""
    for reference, repack in _references(socket):
        reference.ClearField("sds_config")
        repack()


def _secrets_of(socket: Any) -> set[str]:
    """The names of the secrets that a transport socket refers to."""
    return {reference.name for reference, _ in _references(socket)}


def _references(socket: Any) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Each reference to a secret, with what puts a change of it back into the socket."""
    for kind in (tls_pb2.DownstreamTlsContext, tls_pb2.UpstreamTlsContext):
        if socket.HasField("typed_config") and socket.typed_config.Is(kind.DESCRIPTOR):
            context = kind()
            socket.typed_config.Unpack(context)
            common = context.common_tls_context

            def repack(context: Any = context) -> None:
                socket.typed_config.CopyFrom(packed(context))

            for certificate in common.tls_certificate_sds_secret_configs:
                yield certificate, repack
            if common.HasField("combined_validation_context"):
                yield common.combined_validation_context.validation_context_sds_secret_config, repack


def _from_files(name: str, secret: Any, folder: Path) -> Any:
    kind, namespace, secret_name, *rest = name.split("/")
    place = folder / namespace / secret_name
    message = secret_pb2.Secret(name=name)
    if kind == "certificate":
        message.tls_certificate.certificate_chain.filename = str(place / "tls.crt")
        message.tls_certificate.private_key.filename = str(place / "tls.key")
    else:
        message.validation_context.trusted_ca.filename = str(place / "/".join(rest))
    return message
