"""An Envoy configuration as a person would write it for one machine: plain virtual hosts, nothing from a control plane.

It does what the compiled configuration of `dataplane` does (same filters, limits, timeouts, access log), so that the
difference in cost is that of shards and of filters that are delivered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

_TYPE = "type.googleapis.com/envoy."
_HTTP = "extensions.filters.http"
_ACCESS_LOG = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "durationMs": "%DURATION%",
    "bytesIn": "%BYTES_RECEIVED%",
    "bytesOut": "%BYTES_SENT%",
    "clientIP": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "requestId": "%REQ(X-REQUEST-ID)%",
    "route": "%METADATA(ROUTE:gatewayspec:route)%",
    "spec": "%METADATA(ROUTE:gatewayspec:spec)%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
}
_OF_PROXIES = (
    "forwarded",
    *(f"x-forwarded-{what}" for what in ("host", "port", "prefix", "scheme", "server", "ssl")),
    "x-original-url",
    "x-rewrite-url",
)
"""What no client may say, for no proxy stands before this one."""


def configuration(port: int, backend_port: int, hosts: Iterable[str], key_set: str) -> str:
    """The whole of it; each host has a route for /api and one for everything else."""
    connections = _any(
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=50_000,
    )
    monitor = {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections}
    hardening = {"http.max_requests_per_io_cycle": 1, "re2.max_program_size.error_level": 1000}
    document = {
        "static_resources": {"listeners": [_listener(port, hosts, key_set)], "clusters": [_cluster(backend_port)]},
        "layered_runtime": {"layers": [{"name": "hardening", "static_layer": hardening}]},
        "overload_manager": {"refresh_interval": "0.25s", "resource_monitors": [monitor]},
        "stats_flush_on_admin": True,
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    return json.dumps(document)


def _any(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": _TYPE + kind, **fields}


def _listener(port: int, hosts: Iterable[str], key_set: str) -> dict[str, Any]:
    limit = {
        "name": "envoy.filters.network.connection_limit",
        "typed_config": _any(
            "extensions.filters.network.connection_limit.v3.ConnectionLimit", stat_prefix="all", max_connections=10_000
        ),
    }
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _manager(hosts, key_set),
    }
    return {
        "name": "all",
        "address": _address(port),
        "per_connection_buffer_limit_bytes": 32768,
        "max_connections_to_accept_per_socket_event": 1,
        "filter_chains": [{"filters": [limit, manager]}],
    }


def _manager(hosts: Iterable[str], key_set: str) -> dict[str, Any]:
    virtual_hosts = [{"name": host, "domains": [host], "routes": _routes()} for host in hosts]
    return _any(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="all",
        route_config={"virtual_hosts": virtual_hosts, "ignore_port_in_host_matching": True},
        http_filters=_filters(key_set),
        access_log=[
            {
                "name": "envoy.access_loggers.stdout",
                "typed_config": _any(
                    "extensions.access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": _ACCESS_LOG}
                ),
            }
        ],
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        early_header_mutation_extensions=[
            {
                "name": "of_proxies",
                "typed_config": _any(
                    "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    mutations=[{"remove": name} for name in _OF_PROXIES],
                ),
            }
        ],
        common_http_protocol_options={
            "idle_timeout": "3600s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        max_request_headers_kb=60,
        request_headers_timeout="10s",
        request_timeout="300s",
        stream_idle_timeout="300s",
        server_header_transformation="PASS_THROUGH",
        upgrade_configs=[{"upgrade_type": "websocket", "enabled": False}],
    )


def _filters(key_set: str) -> list[dict[str, Any]]:
    provider = {
        "issuer": "https://id.example.com/",
        "audiences": ["app"],
        "local_jwks": {"inline_string": key_set},
        "claim_to_headers": [{"claim_name": "sub", "header_name": "x-user-id"}],
        "clock_skew_seconds": 60,
        "require_expiration": True,
    }
    rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "corp"}}]
    removed = {"request_mutations": [{"remove": "x-real-ip"}, {"remove": "x-user-id"}]}
    configurations = {
        "identity": _any(f"{_HTTP}.header_mutation.v3.HeaderMutation", mutations=removed),
        "cors": _any(f"{_HTTP}.cors.v3.Cors"),
        "jwt": _any(f"{_HTTP}.jwt_authn.v3.JwtAuthentication", providers={"corp": provider}, rules=rules),
        "limit": _any(f"{_HTTP}.local_ratelimit.v3.LocalRateLimit", stat_prefix="limit"),
        "headers": _any(f"{_HTTP}.header_mutation.v3.HeaderMutation"),
        "router": _any(f"{_HTTP}.router.v3.Router", suppress_envoy_headers=True),
    }
    return [{"name": name, "typed_config": configured} for name, configured in configurations.items()]


def _routes() -> list[dict[str, Any]]:
    edge = {"append": {"header": {"key": "x-edge", "value": "one"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    own = [
        *({"remove": f"access-control-{name}"} for name in ("allow-credentials", "allow-origin")),
        {"append": {"header": {"key": "vary", "value": "origin"}}},
    ]
    always = {"default_value": {"numerator": 100}}
    each = {
        "cors": _any(
            f"{_HTTP}.cors.v3.CorsPolicy",
            allow_origin_string_match=[{"exact": "https://app.example.com"}],
            allow_methods="GET",
        ),
        "jwt": _any(f"{_HTTP}.jwt_authn.v3.PerRouteConfig", disabled=True),
        "limit": _any(
            f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="limit",
            token_bucket={"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s"},
            filter_enabled=always,
            filter_enforced=always,
        ),
        "headers": _any(
            f"{_HTTP}.header_mutation.v3.HeaderMutationPerRoute",
            mutations={"request_mutations": [edge], "response_mutations": own},
        ),
    }
    gets = {"name": ":method", "string_match": {"exact": "GET"}}
    # What a browser asks before it sends a request; the CORS filter answers. A request that is none never gets here.
    preflights = [
        {"name": ":method", "string_match": {"exact": "OPTIONS"}},
        {"name": "access-control-request-method", "string_match": {"exact": "GET"}},
        {"name": "origin", "present_match": True},
    ]
    return [
        {
            "name": name,
            "match": {**path, "headers": headers},
            "metadata": {"filter_metadata": {"gatewayspec": {"route": name, "spec": "GatewaySpec bench/bench"}}},
            "route": {"cluster": "app", "timeout": "15s"},
            "typed_per_filter_config": {name: each[name] for name in configured},
        }
        for name, path in (("api", {"path_separated_prefix": "/api"}), ("all", {"prefix": "/"}))
        for headers, configured in (([gets], tuple(each)), (preflights, ("cors", "jwt")))
    ]


def _cluster(port: int) -> dict[str, Any]:
    return {
        "name": "app",
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "ignore_health_on_host_removal": True,
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            **{f"enforcing_{what}": 0 for what in ("consecutive_5xx", "consecutive_gateway_failure", "success_rate")},
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 20}}}]},
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {
            "cluster_name": "app",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
