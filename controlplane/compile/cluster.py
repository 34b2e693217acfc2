"""The Envoy clusters of a backend, and the clusters that fetch key sets."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import address_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_cluster_pb2
from envoy.extensions.clusters.common.dns.v3 import dns_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from controlplane.compile.assignment import socket_address
from controlplane.compile.pool import Part, Shape, shift_factor
from controlplane.compile.tls import ads, upstream
from controlplane.filters.envoy import duration, packed
from controlplane.filters.jwt.compile import jwks_address
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.spec.backend import Backend, BackendProtocol, BackendTls, Limits

CONNECT_TIMEOUT = timedelta(seconds=5)
BUFFER_LIMIT = 32 * 1024
AT_A_TIME = 1024
"""Requests, connections and waiting requests of a backend on one proxy: one that hangs must not take all there is."""
RETRY_BUDGET_PERCENT = 20.0
"""Retries in flight, as a share of requests in flight: a failing backend is not buried under retries."""

KEEPALIVE = address_pb2.TcpKeepalive(
    keepalive_time=UInt32Value(value=60),
    keepalive_interval=UInt32Value(value=10),
    keepalive_probes=UInt32Value(value=3),
)
"""Load balancers and NAT of clouds forget a connection that says nothing for 4 to 10 minutes, and the request that comes on it
next is lost. Probes of TCP keep it known, and end one whose other end is gone."""

PING = protocol_pb2.KeepaliveSettings(
    connection_idle_interval=duration(timedelta(seconds=15)), timeout=duration(timedelta(seconds=10))
)
"""A request over HTTP/2 that meets a connection on which nothing came for so long brings a ping along, and the connection ends
when no frame follows: a path that died in silence would otherwise take every request until TCP gives up, in a quarter of an
hour or never. Not from time to time: gRPC servers close a connection that pings without asking for something."""

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_POLICIES = {
    "roundRobin": cluster_pb2.Cluster.ROUND_ROBIN,
    "leastRequest": cluster_pb2.Cluster.LEAST_REQUEST,
    "random": cluster_pb2.Cluster.RANDOM,
}


def cluster(part: Part, backend: Backend, retry_budget: float | None, namespace: tuple[str, str]) -> Any:
    """One part of a backend; `retry_budget` is the gateway's (in percent), `namespace` where its secrets are."""
    message = _configured(part.name, backend, retry_budget)
    message.lb_policy = _POLICIES[backend.load_balancer.policy]
    if part.pool is not None:
        message.type = cluster_pb2.Cluster.EDS
        message.eds_cluster_config.eds_config.CopyFrom(ads())
        if part.assignment != part.name:
            message.eds_cluster_config.service_name = part.assignment
        if part.pool.shares:
            message.common_lb_config.locality_weighted_lb_config.SetInParent()
    else:
        _resolved_by_envoy(message)
        message.load_assignment.CopyFrom(_resolved_assignment(part, backend))
    ordered = bool(backend.failover.within or max(member.priority for member in backend.members))
    if ordered or not backend.is_discovered:
        message.outlier_detection.CopyFrom(_left_out(ordered=ordered))
    message.typed_extension_protocol_options[_OPTIONS].CopyFrom(_protocol(backend.protocol, backend.idle_timeout))
    if backend.tls is not None:
        message.transport_socket.CopyFrom(upstream(backend, namespace))
    return message


def aggregate(shape: Shape, backend: Backend, retry_budget: float | None) -> Any:
    """What chooses among the parts of a backend: the next one takes what the former cannot."""
    message = _configured(shape.entry, backend, retry_budget)
    message.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
    config = aggregate_cluster_pb2.ClusterConfig(clusters=[part.name for part in shape.parts])
    message.cluster_type.CopyFrom(
        cluster_pb2.Cluster.CustomClusterType(name="envoy.clusters.aggregate", typed_config=packed(config))
    )
    return message


def _configured(name: str, backend: Backend, retry_budget: float | None) -> Any:
    budget = RETRY_BUDGET_PERCENT if retry_budget is None else retry_budget
    message = _base(name, backend.connect_timeout or CONNECT_TIMEOUT, budget, backend.limits)
    panic = backend.failover.panic_below_healthy
    if panic is None and backend.is_discovered:
        panic = 0.0  # sources know what is not ready: requests to it would fail
    if panic is not None:
        message.common_lb_config.healthy_panic_threshold.value = panic
    return message


def jwks_cluster(name: str, provider: JwtProvider, namespace: tuple[str, str]) -> Any:
    """Where Envoy fetches the keys of an issuer."""
    scheme, host, port = jwks_address(provider.jwks.uri or "")
    try:
        address, is_name = str(ipaddress.ip_address(host)), False
    except ValueError:
        address, is_name = host, True
    tls = BackendTls.model_construct(sni=host if is_name else None, ca=provider.jwks.ca, san_match=(address,))
    backend = Backend.model_construct(name=name, members=(), tls=tls if scheme == "https" else None)
    message = _base(name, CONNECT_TIMEOUT, RETRY_BUDGET_PERCENT, Limits())
    endpoints = [endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[_named(address, port, 1)])]
    message.load_assignment.CopyFrom(endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=endpoints))
    if is_name:
        _resolved_by_envoy(message)
    else:
        message.type = cluster_pb2.Cluster.STATIC
    if backend.tls is not None:
        message.transport_socket.CopyFrom(upstream(backend, namespace))
    return message


def _base(name: str, connect_timeout: timedelta, retry_budget: float, limits: Limits) -> Any:
    message = cluster_pb2.Cluster(name=name)
    message.MergeFrom(_nameless(connect_timeout, retry_budget, limits))
    return message


@lru_cache(maxsize=64)
def _nameless(connect_timeout: timedelta, retry_budget: float, limits: Limits) -> Any:
    """What thousands of clusters have in common. To be copied."""
    requests = limits.requests or max(AT_A_TIME, limits.connections or 0)
    connections = limits.connections or max(AT_A_TIME, limits.requests or 0)
    thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds
    return cluster_pb2.Cluster(
        connect_timeout=duration(connect_timeout),
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        ignore_health_on_host_removal=True,
        upstream_connection_options=cluster_pb2.UpstreamConnectionOptions(tcp_keepalive=KEEPALIVE),
        common_lb_config=cluster_pb2.Cluster.CommonLbConfig(
            healthy_panic_threshold=percent_pb2.Percent(value=50.0),
            # Of changes of health that follow one another Envoy would merge those of a second: an endpoint that begins to
            # drain, or fails again after another chance, would go on getting requests until then.
            update_merge_window=duration(timedelta()),
        ),
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[
                thresholds(
                    max_connections=UInt32Value(value=connections),
                    max_pending_requests=UInt32Value(value=limits.pending or AT_A_TIME),
                    max_requests=UInt32Value(value=requests),
                    retry_budget=thresholds.RetryBudget(
                        budget_percent=percent_pb2.Percent(value=retry_budget),
                        min_retry_concurrency=UInt32Value(value=3),
                    ),
                )
            ]
        ),
    )


def _resolved_by_envoy(message: Any) -> None:
    # Not both families: where one of them has no way out, a part of the requests would fail.
    dns = dns_cluster_pb2.DnsCluster(respect_dns_ttl=True, dns_lookup_family=dns_pb2.V4_PREFERRED)
    message.cluster_type.CopyFrom(
        cluster_pb2.Cluster.CustomClusterType(name="envoy.cluster.dns", typed_config=packed(dns))
    )
    # A name that does not resolve must not hold back the rest of the configuration.
    message.wait_for_warm_on_init.CopyFrom(BoolValue(value=False))


@lru_cache(maxsize=2)
def _left_out(*, ordered: bool) -> Any:
    """Endpoints that cannot be connected to are left out for a while. To be copied.

    Where there is an order, so that the next priority takes over without health checks. Where there is none and no source
    knows who is well, so that the others take the requests, of which one that fails at once would get the most; but then at
    most half of them, and never one alone: it may be back in a moment.
    """
    return outlier_detection_pb2.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=UInt32Value(value=3),
        enforcing_consecutive_local_origin_failure=UInt32Value(value=100),
        enforcing_local_origin_success_rate=UInt32Value(value=0),
        enforcing_consecutive_5xx=UInt32Value(value=0),
        enforcing_consecutive_gateway_failure=UInt32Value(value=0),
        enforcing_success_rate=UInt32Value(value=0),
        interval=duration(timedelta(seconds=1)),
        base_ejection_time=duration(timedelta(seconds=10)),
        max_ejection_time=duration(timedelta(seconds=60)),
        max_ejection_percent=UInt32Value(value=100 if ordered else 50),
    )


@lru_cache(maxsize=64)
def _protocol(protocol: BackendProtocol, idle_timeout: timedelta | None) -> Any:
    """How a backend is spoken to. To be copied."""
    explicit = http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig
    if protocol is BackendProtocol.HTTP1:
        spoken = explicit(http_protocol_options=protocol_pb2.Http1ProtocolOptions())
    else:
        spoken = explicit(http2_protocol_options=protocol_pb2.Http2ProtocolOptions(connection_keepalive=PING))
    options = http_protocol_options_pb2.HttpProtocolOptions(explicit_http_config=spoken)
    if idle_timeout is not None:
        options.common_http_protocol_options.idle_timeout.CopyFrom(duration(idle_timeout))
    return packed(options)


def _resolved_assignment(part: Part, backend: Backend) -> Any:
    """The names of a part, one group per priority; `resolved` is sorted by priority."""
    endpoints = [
        endpoint_components_pb2.LocalityLbEndpoints(
            priority=priority,
            lb_endpoints=[_named(one.host, one.port, one.weight) for one in of_priority],
        )
        for priority, of_priority in groupby(part.resolved, key=lambda one: one.priority)
    ]
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=part.name, endpoints=endpoints)
    if (shift := shift_factor(backend.failover)) is not None:
        message.policy.overprovisioning_factor.CopyFrom(UInt32Value(value=shift))
    return message


def _named(host: str, port: int, weight: int) -> Any:
    return endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=socket_address(host, port)),
        load_balancing_weight=UInt32Value(value=weight),
    )
