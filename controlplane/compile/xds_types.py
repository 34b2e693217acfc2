"""The type URLs of the resources that compile makes."""

from __future__ import annotations

from typing import Final

LISTENER: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE_CONFIGURATION: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTE: Final = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
CLUSTER: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LOAD_ASSIGNMENT: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION: Final = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
