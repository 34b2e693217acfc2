"""Listeners and route configurations for gRPC: by host for clients, by address for servers.

https://github.com/grpc/proposal/blob/master/A27-xds-global-load-balancing.md (clients: an API listener that names its
routes), https://github.com/grpc/proposal/blob/master/A36-xds-for-servers.md (servers: one filter chain).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from controlplane.compile.assignment import socket_address
from controlplane.compile.tls import ads
from controlplane.compile.xds_types import LISTENER, ROUTE_CONFIGURATION
from controlplane.filters.envoy import packed, serialised
from controlplane.filters.router import compile as router
from controlplane.names import GRPC_SERVER_PROVIDER, grpc_server_listener, listener_name
from controlplane.resources import Resource, delimited

_HOSTS = route_pb2.RouteConfiguration.DESCRIPTOR.fields_by_name["virtual_hosts"].number


def _manager(routes: str, prefix: str) -> Any:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=prefix,
        rds=hcm_pb2.Rds(route_config_name=routes, config_source=ads()),
        http_filters=[hcm_pb2.HttpFilter(name=router.NAME, typed_config=router.filter_config())],
    )
    return packed(manager)


def client_listener(name: str, routes: str, origin: object) -> Resource:
    """What a client asks for by the name in `xds:///NAME`."""
    message = listener_pb2.Listener(name=name)
    message.api_listener.api_listener.CopyFrom(_manager(routes, "client"))
    return Resource(LISTENER, name, serialised(message), origin=origin)


def server_listener(address: str, port: int, routes: str, origin: object, *, tls: bool) -> Resource:
    """What a server asks for by the address that it listens on; with TLS it shows its own certificate."""
    name = grpc_server_listener(listener_name(address, port))
    chain = listener_components_pb2.FilterChain(
        name="grpc",
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=_manager(routes, "server")
            )
        ],
    )
    if tls:
        context = tls_pb2.DownstreamTlsContext()
        context.common_tls_context.tls_certificate_provider_instance.instance_name = GRPC_SERVER_PROVIDER
        chain.transport_socket.CopyFrom(
            base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))
        )
    message = listener_pb2.Listener(name=name, address=socket_address(address, port), filter_chains=[chain])
    return Resource(LISTENER, name, serialised(message), origin=origin)


def virtual_host(name: str, domains: Iterable[str], routes: bytes) -> bytes:
    """A virtual host with these routes, as a field of a route configuration."""
    host = serialised(route_components_pb2.VirtualHost(name=name, domains=domains))
    return delimited(_HOSTS, host + routes)


def route_configuration(name: str, virtual_hosts: Iterable[bytes]) -> Resource:
    """The routes of one host for clients, or of one port for servers."""
    body = serialised(route_pb2.RouteConfiguration(name=name)) + b"".join(virtual_hosts)
    return Resource(ROUTE_CONFIGURATION, name, body)
