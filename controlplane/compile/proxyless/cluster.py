"""Clusters and load assignments of Envoy as gRPC clients understand them.

What gRPC supports: https://github.com/grpc/proposal/blob/master/A27-xds-global-load-balancing.md (endpoints), A29
(certificates), A32 (limits of requests), A37 (one DNS name). It refuses a cluster with a policy or a certificate source
that it does not know, and a whole load assignment for one endpoint that stands in it twice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import msgspec
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_cluster_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from controlplane.filters.envoy import packed, serialised
from controlplane.names import GRPC_PROVIDER

_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Usable(msgspec.Struct, frozen=True):
    """The cluster of a backend for gRPC; `problem` says why there is none, `path` where in the backend.

    `parts` are the clusters that this one chooses among: it can be used if they can.
    """

    body: bytes = b""
    path: str = ""
    problem: str = ""
    parts: tuple[str, ...] = ()


def cluster(body: bytes) -> Usable:
    """The gRPC form of an Envoy cluster."""
    envoy = cluster_pb2.Cluster.FromString(body)
    # Clients that have no proxy do not agree on more: least requests is an option of their environment.
    made = cluster_pb2.Cluster(name=envoy.name, lb_policy=cluster_pb2.Cluster.ROUND_ROBIN)
    for threshold in envoy.circuit_breakers.thresholds:
        if threshold.HasField("max_requests"):
            made.circuit_breakers.thresholds.add(priority=threshold.priority, max_requests=threshold.max_requests)
    config = aggregate_cluster_pb2.ClusterConfig()
    if envoy.cluster_type.typed_config.Unpack(config):
        made.cluster_type.CopyFrom(envoy.cluster_type)
        return Usable(serialised(made), parts=tuple(config.clusters))
    if not _speaks_http2(envoy):
        return Usable(path="protocol", problem="speaks HTTP1, and gRPC needs protocol: GRPC or HTTP2")
    if envoy.type == cluster_pb2.Cluster.EDS and not envoy.HasField("cluster_type"):
        made.type = cluster_pb2.Cluster.EDS
        made.eds_cluster_config.CopyFrom(envoy.eds_cluster_config)
    else:
        endpoints = [one for locality in envoy.load_assignment.endpoints for one in locality.lb_endpoints]
        if len(endpoints) != 1:
            return Usable(path="members", problem="has several DNS names, and gRPC resolves one")
        made.type = cluster_pb2.Cluster.LOGICAL_DNS
        made.load_assignment.cluster_name = envoy.name
        made.load_assignment.endpoints.add(lb_endpoints=endpoints)
    if envoy.HasField("transport_socket"):
        context = tls_pb2.UpstreamTlsContext()
        if not envoy.transport_socket.typed_config.Unpack(context):
            return Usable(path="tls", problem=f"needs {envoy.transport_socket.name}, which gRPC has not")
        made.transport_socket.CopyFrom(_upstream(context))
    return Usable(serialised(made))


def _speaks_http2(envoy: Any) -> bool:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    envoy.typed_extension_protocol_options[_PROTOCOL].Unpack(options)
    return bool(options.explicit_http_config.HasField("http2_protocol_options"))


def _upstream(envoy: Any) -> Any:
    """Chain and names of the backend are verified, by the authorities of the client's own bootstrap."""
    common = tls_pb2.CommonTlsContext()
    envoys = envoy.common_tls_context
    names = (
        envoys.combined_validation_context.default_validation_context
        if envoys.HasField("combined_validation_context")
        else envoys.validation_context
    ).match_typed_subject_alt_names
    common.validation_context.ca_certificate_provider_instance.instance_name = GRPC_PROVIDER
    # The form that is deprecated for Envoy is the only one that gRPC reads: the other leaves names unverified.
    common.validation_context.match_subject_alt_names.extend(name.matcher for name in names)
    if envoys.tls_certificate_sds_secret_configs:
        common.tls_certificate_provider_instance.instance_name = GRPC_PROVIDER
    context = tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=envoy.sni)
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


_USED = {health_check_pb2.UNKNOWN: False, health_check_pb2.HEALTHY: False, health_check_pb2.DEGRADED: True}
"""The states in which an endpoint gets calls, and whether only when no better one does."""


def load_assignment(body: bytes) -> bytes:
    """The gRPC form of a load assignment: a named and weighted locality for the endpoints of each weight.

    gRPC looks at the weights of localities, not of endpoints, and at no locality without one. It knows no degraded
    endpoints, so they are a priority of their own behind the others.
    """
    envoy = endpoint_pb2.ClusterLoadAssignment.FromString(body)
    made = endpoint_pb2.ClusterLoadAssignment(cluster_name=envoy.cluster_name)
    seen: set[tuple[str, int]] = set()
    levels: dict[tuple[int, bool], list[Any]] = {}
    for locality in sorted(envoy.endpoints, key=lambda one: one.priority):
        groups: dict[tuple[bool, int], list[Any]] = {}
        for endpoint in _usable(locality.lb_endpoints, seen):
            degraded, weight = _USED[endpoint.health_status], endpoint.load_balancing_weight.value or 1
            endpoint.ClearField("health_status")
            groups.setdefault((degraded, weight), []).append(endpoint)
        total = sum(weight * len(endpoints) for (_, weight), endpoints in groups.items())
        share = locality.load_balancing_weight.value or total
        for (degraded, weight), endpoints in sorted(groups.items(), key=lambda group: group[0]):
            part = endpoint_components_pb2.LocalityLbEndpoints(locality=locality.locality, lb_endpoints=endpoints)
            part.locality.SetInParent()
            if len({each for _, each in groups}) > 1:
                part.locality.sub_zone += f"/weight-{weight}"
            part.load_balancing_weight.CopyFrom(
                UInt32Value(value=max(1, round(share * weight * len(endpoints) / total)))
            )
            levels.setdefault((locality.priority, degraded), []).append(part)
    for rank, level in enumerate(sorted(levels)):
        for part in levels[level]:
            part.priority = rank
            made.endpoints.append(part)
    return serialised(made)


def _usable(endpoints: Any, seen: set[tuple[str, int]]) -> Iterator[Any]:
    """Those that get calls, at addresses that did not come before.

    gRPC refuses all endpoints of a backend for one that is there twice, or is no address.
    """
    for endpoint in endpoints:
        address = endpoint.endpoint.address.socket_address
        place = (address.address, address.port_value)
        if place not in seen and endpoint.health_status in _USED and _is_ip(address.address):
            seen.add(place)
            yield endpoint


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
