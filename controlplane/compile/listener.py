"""Envoy listeners: ports, TLS by SNI, and the HTTP connection manager with hardened edge defaults.

A listener's bytes change with its port, its TLS set or the chain itself, and with nothing else: whatever changes in
daily work comes by SRDS, SDS and ECDS, so that open connections live on. The defaults are those of
docs/security.md; no spec can loosen them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from envoy.config.core.v3 import config_source_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2 as common_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.connection_limit.v3 import connection_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value, UInt64Value

from controlplane.compile.access_log import access_log
from controlplane.compile.assignment import socket_address
from controlplane.compile.cluster import BUFFER_LIMIT
from controlplane.compile.rows import DEFAULT_IDLE_TIMEOUT
from controlplane.compile.shard import SERVER_NAME
from controlplane.compile.tls import ads, downstream
from controlplane.filters.chain import HttpFilter, http_filters
from controlplane.filters.envoy import duration, packed
from controlplane.filters.shard_lua import compile as shard_lua
from controlplane.names import SecretRef, listener_name
from controlplane.spec.listener import ClientIP

MAX_CONNECTIONS = 10_000
"""Connections of one filter chain unless its listener says otherwise."""

REQUEST_RECEIVED = timedelta(seconds=300)
"""Within what a request is complete unless a listener says otherwise: who sends slowly must not hold a backend for ever."""

OF_PROXIES = (
    "forwarded",
    *(f"x-forwarded-{what}" for what in ("host", "port", "prefix", "scheme", "server", "ssl")),
    "x-original-url",
    "x-rewrite-url",
)
"""In what a proxy in front says how a request came to it. Frameworks believe it (Rack takes client and host from `forwarded`
before all else, Symfony and others the path from `x-original-url`), so where there is no such proxy nobody may say it."""

IGNORED_UPGRADES = string_pb2.StringMatcher(prefix="TLS/", ignore_case=True)
"""Offers of a client that ask for nothing: it goes on in clear when nobody takes them up (RFC 2817). Apache HttpClient, and
so many a Java program, makes this one with every request in clear, and would be refused as one that wants to upgrade."""


@dataclass(frozen=True, slots=True)
class FilterChain:
    """One way in: a listener group, the hosts (SNI) it is for, and its certificate (None: plain HTTP).

    `request_received` is the limit for requests that are not complete; 0 is none. `connections` at a time are taken.
    """

    group: str
    hosts: tuple[str, ...]
    certificate: SecretRef | None
    min_tls: str
    client_ip: ClientIP | None
    request_received: timedelta = REQUEST_RECEIVED
    connections: int = MAX_CONNECTIONS

    def beside(self, other: FilterChain | None) -> FilterChain:
        """The way in that two listeners share: for the hosts of both, with TLS as strict as the stricter of them.

        Requests get the longer time, and there are as many connections as the more patient of them takes: the stricter
        limit would refuse what the other listener is there for.
        """
        if other is None:
            return self
        hosts = tuple(sorted({*self.hosts, *other.hosts}))
        received = max(self.request_received, other.request_received, key=lambda limit: limit or timedelta.max)
        connections = max(self.connections, other.connections)
        min_tls = max(self.min_tls, other.min_tls)
        return replace(other, hosts=hosts, min_tls=min_tls, request_received=received, connections=connections)


def listener(address: str, port: int, chains: Iterable[FilterChain], *, proxy_protocol: bool) -> Any:
    """One listener with its filter chains, sorted by group."""
    name = listener_name(address, port)
    ways_in = sorted(chains, key=lambda chain: chain.group)
    message = listener_pb2.Listener(
        name=name,
        address=socket_address(address, port),
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        max_connections_to_accept_per_socket_event=UInt32Value(value=1),
        filter_chains=[message for chain in ways_in for message in _filter_chains(name, chain)],
    )
    if proxy_protocol:
        message.listener_filters.add(
            name="envoy.filters.listener.proxy_protocol", typed_config=packed(proxy_protocol_pb2.ProxyProtocol())
        )
    if any(chain.certificate for chain in ways_in):
        message.listener_filters.add(
            name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
        )
    return message


def _filter_chains(listener: str, chain: FilterChain) -> Iterator[Any]:
    """A way in for some names, for every name (`*`), or for both.

    Envoy cannot say "any" beside names, and one that is left out would go to a wildcard of another certificate.
    """
    names = sorted({*chain.hosts} - {"*"}) if chain.certificate is not None else []
    if not names or "*" in chain.hosts:
        yield _filter_chain(listener, chain, chain.group)
    if names:
        message = _filter_chain(listener, chain, f"{chain.group}/names" if "*" in chain.hosts else chain.group)
        message.filter_chain_match.server_names.extend(names)
        yield message


def _filter_chain(listener: str, chain: FilterChain, name: str) -> Any:
    message = listener_components_pb2.FilterChain(name=name)
    if chain.certificate is not None:
        message.transport_socket.CopyFrom(downstream(chain.certificate, chain.min_tls))
        message.transport_socket_connect_timeout.CopyFrom(duration(timedelta(seconds=10)))
        message.filters.add(name=SERVER_NAME, typed_config=packed(_server_name()))
    message.filters.add(
        name="envoy.filters.network.connection_limit",
        typed_config=packed(
            connection_limit_pb2.ConnectionLimit(
                stat_prefix=chain.group, max_connections=UInt64Value(value=chain.connections)
            )
        ),
    )
    message.filters.add(
        name="envoy.filters.network.http_connection_manager",
        typed_config=packed(connection_manager(listener, chain)),
    )
    return message


def _server_name() -> Any:
    """Keeps the name that a client opened the connection for (SNI), for routes to ask."""
    value = common_pb2.FilterStateValue(object_key=SERVER_NAME, factory_key="envoy.string")
    value.format_string.text_format_source.inline_string = "%REQUESTED_SERVER_NAME%"
    return set_filter_state_pb2.Config(on_new_connection=[value])


def _filter(group: str, http_filter: HttpFilter) -> Any:
    message = hcm_pb2.HttpFilter(name=http_filter.name, disabled=http_filter.by_route)
    if http_filter.config is not None:
        message.typed_config.CopyFrom(http_filter.config())
    else:
        message.name = http_filter.resource_name(group)
        message.config_discovery.CopyFrom(
            config_source_pb2.ExtensionConfigSource(config_source=ads(), type_urls=http_filter.type_urls)
        )
    return message


def connection_manager(listener: str, chain: FilterChain) -> Any:
    """The HTTP connection manager of a filter chain."""
    hops = chain.client_ip.trusted_hops if chain.client_ip and chain.client_ip.trusted_hops else 0
    manager = hcm_pb2.HttpConnectionManager
    return manager(
        stat_prefix=listener,
        codec_type=manager.AUTO,
        scoped_routes=hcm_pb2.ScopedRoutes(
            name="gatewayspec",
            scope_key_builder=shard_lua.scope_key_builder(),
            rds_config_source=ads(),
            scoped_rds=hcm_pb2.ScopedRds(scoped_rds_config_source=ads()),
        ),
        early_header_mutation_extensions=[shard_lua.early_header_mutation(chain.group, () if hops else OF_PROXIES)],
        http_filters=[_filter(chain.group, http_filter) for http_filter in http_filters()],
        access_log=[access_log()],
        use_remote_address=BoolValue(value=True),
        xff_num_trusted_hops=hops,
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=manager.UNESCAPE_AND_REDIRECT,
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            idle_timeout=duration(timedelta(hours=1)),
            max_headers_count=UInt32Value(value=100),
            headers_with_underscores_action=protocol_pb2.HttpProtocolOptions.REJECT_REQUEST,
        ),
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(ignore_http_11_upgrade=[IGNORED_UPGRADES]),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams=UInt32Value(value=100),
            initial_stream_window_size=UInt32Value(value=64 * 1024),
            initial_connection_window_size=UInt32Value(value=1024 * 1024),
        ),
        max_request_headers_kb=UInt32Value(value=60),
        request_headers_timeout=duration(timedelta(seconds=10)),
        request_timeout=duration(chain.request_received),
        stream_idle_timeout=duration(DEFAULT_IDLE_TIMEOUT),
        server_header_transformation=manager.PASS_THROUGH,
        forward_client_cert_details=manager.SANITIZE,
        upgrade_configs=[manager.UpgradeConfig(upgrade_type="websocket", enabled=BoolValue(value=False))],
    )
