"""Hardened edge defaults: one row for each, emitted without a word from the user. Rows of the bootstrap: its own tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from controlplane.compile.offline import as_dict
from controlplane.compile.xds_types import CLUSTER, EXTENSION, LISTENER, SCOPED_ROUTE
from tests.golden.cases import Case, resources

MANAGER = "filter_chains.0.filters.1.typed_config"
OPTIONS = f"{MANAGER}.common_http_protocol_options"
TLS = "filter_chains.0.transport_socket.typed_config"
UPSTREAM = "transport_socket.typed_config.common_tls_context"
DISCOVERED = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
CIPHERS = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
]

LISTENER_ROWS = [
    ("per_connection_buffer_limit_bytes", 32 * 1024),
    ("max_connections_to_accept_per_socket_event", 1),
    ("filter_chains.0.filters.0.typed_config.max_connections", "10000"),
    (f"{MANAGER}.http2_protocol_options.max_concurrent_streams", 100),
    (f"{MANAGER}.http2_protocol_options.initial_stream_window_size", 64 * 1024),
    (f"{MANAGER}.http2_protocol_options.initial_connection_window_size", 1024 * 1024),
    (f"{MANAGER}.use_remote_address", True),
    (f"{MANAGER}.xff_num_trusted_hops", None),  # 0
    (f"{MANAGER}.normalize_path", True),
    (f"{MANAGER}.merge_slashes", True),
    (f"{MANAGER}.path_with_escaped_slashes_action", "UNESCAPE_AND_REDIRECT"),
    (f"{OPTIONS}.headers_with_underscores_action", "REJECT_REQUEST"),
    (f"{MANAGER}.strip_any_host_port", True),
    (f"{MANAGER}.strip_trailing_host_dot", True),
    (f"{MANAGER}.request_headers_timeout", "10s"),
    (f"{MANAGER}.request_timeout", "300s"),
    (f"{MANAGER}.stream_idle_timeout", "300s"),
    (f"{OPTIONS}.idle_timeout", "3600s"),
    (f"{OPTIONS}.max_connection_duration", None),  # off unless said
    (f"{MANAGER}.max_request_headers_kb", 60),
    (f"{OPTIONS}.max_headers_count", 100),
    (f"{MANAGER}.forward_client_cert_details", None),  # SANITIZE
    (f"{MANAGER}.server_header_transformation", "PASS_THROUGH"),
    (f"{MANAGER}.http_filters.-1.typed_config.suppress_envoy_headers", True),
    (f"{MANAGER}.preserve_external_request_id", None),  # made anew at the edge
    (f"{MANAGER}.generate_request_id", None),  # true
    (f"{MANAGER}.http_protocol_options.accept_http_10", None),  # HTTP/1.0 is refused
    (f"{MANAGER}.scoped_routes.scoped_rds.scoped_rds_config_source", DISCOVERED),
    (f"{MANAGER}.upgrade_configs", [{"upgrade_type": "websocket", "enabled": False}]),
]
HTTPS_ROWS = [
    ("filter_chains.0.transport_socket_connect_timeout", "10s"),
    (f"{TLS}.common_tls_context.tls_params.tls_minimum_protocol_version", "TLSv1_2"),
    (f"{TLS}.common_tls_context.tls_params.tls_maximum_protocol_version", "TLSv1_3"),
    (f"{TLS}.common_tls_context.tls_params.cipher_suites", CIPHERS),
    (f"{TLS}.disable_stateless_session_resumption", True),
    (f"{TLS}.common_tls_context.alpn_protocols", ["h2", "http/1.1"]),
]
CLUSTER_ROWS = [
    ("per_connection_buffer_limit_bytes", 32 * 1024),
    ("connect_timeout", "5s"),
    ("circuit_breakers.thresholds.0.max_connections", 1024),
    ("circuit_breakers.thresholds.0.max_pending_requests", 1024),
    ("circuit_breakers.thresholds.0.max_requests", 1024),
    ("circuit_breakers.thresholds.0.retry_budget.budget_percent.value", 20.0),
    ("circuit_breakers.thresholds.0.retry_budget.min_retry_concurrency", 3),
    ("common_lb_config.healthy_panic_threshold.value", 50.0),
    ("ignore_health_on_host_removal", True),
    ("upstream_connection_options.tcp_keepalive.keepalive_time", 60),
    ("common_lb_config.update_merge_window", "0s"),
    ("eds_cluster_config.eds_config", DISCOVERED),
]
UPSTREAM_TLS_ROWS = [
    (f"{UPSTREAM}.tls_params.tls_minimum_protocol_version", "TLSv1_2"),
    (f"{UPSTREAM}.validation_context.trusted_ca.filename", "/etc/ssl/certs/ca-certificates.crt"),
    (f"{UPSTREAM}.validation_context.match_typed_subject_alt_names.0.matcher.exact", "web.example.net"),
    (f"{UPSTREAM}.validation_context.trust_chain_verification", None),  # VERIFY_TRUST_CHAIN
    (f"{UPSTREAM}.validation_context.allow_expired_certificate", None),
]
JWT_ROWS = [
    ("typed_config.providers.platform/shop/corp.clock_skew_seconds", 60),
    ("typed_config.providers.platform/shop/corp.forward", None),  # false
    ("typed_config.providers.platform/shop/corp.require_expiration", True),
    ("typed_config.providers.platform/shop/address.remote_jwks.cache_duration", "300s"),
    ("typed_config.providers.platform/shop/address.remote_jwks.async_fetch.failed_refetch_duration", "10s"),
    ("typed_config.providers.platform/shop/address.remote_jwks.http_uri.timeout", "5s"),
    ("typed_config.strip_failure_response", True),
]
IDENTITY_ROWS = [("typed_config.mutations.request_mutations.0.remove", "x-real-ip")]

ROWS = [
    *((("gateway/least", LISTENER, "0.0.0.0:8080"), *row) for row in LISTENER_ROWS),
    *((("listener/sni", LISTENER, "0.0.0.0:8443"), *row) for row in HTTPS_ROWS),
    *((("hosts/exact", CLUSTER, "gatewayspec/platform/shop/web"), *row) for row in CLUSTER_ROWS),
    *(
        (("backend/tls_system", CLUSTER, "gatewayspec/platform/shop/web/by-5ffe775c"), *row)
        for row in UPSTREAM_TLS_ROWS
    ),
    *((("jwt/remote", EXTENSION, "gatewayspec/jwt"), *row) for row in JWT_ROWS),
    *((("gateway/least", EXTENSION, "gatewayspec/identity-headers"), *row) for row in IDENTITY_ROWS),
]


@cache
def _resource(case: str, type_url: str, name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        found = resources(Case(case).compile(Path(folder)))
    return next(as_dict(one) for one in found if (one.type_url, one.name) == (type_url, name))


def _at(content: Any, path: str) -> Any:
    for step in path.split("."):
        content = content[int(step)] if isinstance(content, list) else (content or {}).get(step)
    return content


@pytest.mark.parametrize(("where", "path", "value"), ROWS, ids=[f"{row[0][0]}:{row[1]}" for row in ROWS])
def test_default(where: tuple[str, str, str], path: str, value: object) -> None:
    found = _resource(*where)
    if "." in path:
        assert _at(found, path.rpartition(".")[0]) is not None, "the place of the row has moved"
    assert _at(found, path) == value


def test_routes_end_in_time(tmp_path: Path) -> None:
    """15 s unless a spec says otherwise: 0 (no limit) is never a default."""
    for one in resources(Case("hosts/exact").compile(tmp_path)):
        if one.type_url == SCOPED_ROUTE:
            for route in as_dict(one)["route_configuration"]["virtual_hosts"][0]["routes"]:
                assert "route" not in route or route["route"]["timeout"] == "15s"


def test_misdirected_requests_are_told_so(tmp_path: Path) -> None:
    catch_all = [
        as_dict(one)["route_configuration"]["virtual_hosts"][0]["routes"][-1]
        for one in resources(Case("listener/sni").compile(tmp_path))
        if one.type_url == SCOPED_ROUTE and as_dict(one)["key"]["fragments"][0]["string_key"].endswith("|")
    ]
    assert {route["direct_response"]["status"] for route in catch_all} == {421}
