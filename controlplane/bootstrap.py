"""The Envoy bootstrap of one node: where its control plane is, who it is, and limits that hold before any resource.

The `bootstrap` command and the demo call it. The result is one self-contained document with the certificates inline.
It imports no protobuf and no gRPC: the document is plain data, and a test lets a real Envoy judge it. The reasons of
the defaults stand in envoy/README.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from controlplane.envoy_yaml import quote_texts
from controlplane.errors import ConfigurationError
from controlplane.pki import issuing
from controlplane.pki.authority import Authority, Issued
from controlplane.pki.identity import server_uri

XDS_CLUSTER = "xds"

ADMIN_ADDRESS = "127.0.0.1:0"
"""Any free port: several proxies on a machine never collide; `envoy --admin-address-path FILE` says which it was."""

ADMIN_PATHS = (
    "/certs", "/clusters", "/config_dump", "/help", "/init_dump", "/listeners", "/memory", "/ready", "/runtime",
    "/server_info", "/stats", "/stats/prometheus",
)  # fmt: skip
"""What the admin listener answers: all that only reads, with any query."""

MAX_CONNECTIONS = 50_000
"""Downstream connections of one Envoy. https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge"""

XDS_BUFFER_BYTES = 1024 * 1024
"""The xDS connection carries megabytes in a burst, so it gets more than the 32 KiB of a user's connection."""

RUNTIME = {
    "http.max_requests_per_io_cycle": 1,  # one connection's flood waits for the others' requests (CVE-2023-44487)
    "re2.max_program_size.error_level": 1000,  # a regex that costs more is refused instead of run per request
}


class Variant(StrEnum):
    """The protocol that the node speaks, by Envoy's name for it."""

    DELTA = "DELTA_GRPC"
    SOTW = "GRPC"


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address to connect to: a host name or an IP address without brackets, and a port."""

    host: str
    port: int

    @property
    def is_name(self) -> bool:
        """Whether the host must be resolved."""
        return _ip(self.host) is None

    @property
    def is_loopback(self) -> bool:
        """Whether the address is on this machine for certain."""
        ip = _ip(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback

    @property
    def envoy(self) -> dict[str, Any]:
        """Envoy's `Address`."""
        return {"socket_address": {"address": self.host, "port_value": self.port}}


def address(text: str, what: str = "address") -> HostPort:
    """`10.0.0.5:18000`, `[2001:db8::5]:18000` or `xds.example.com:18000`; ConfigurationError says what is wrong."""
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^\[\]:]+)):([0-9]{1,5})", text, re.ASCII)
    if match is None:
        hint = "an IPv6 address stands in brackets: [::1]:18000" if text.count(":") > 1 else "host:port"
        raise ConfigurationError(f"{what} {text!r}: not of the form {hint}")
    bracketed, host, port = match[1], match[2], int(match[3])
    if port > 65535:
        raise ConfigurationError(f"{what} {text!r}: port {port} is above 65535")
    if bracketed is not None:
        if not isinstance(_ip(bracketed), ipaddress.IPv6Address) or "%" in bracketed:
            raise ConfigurationError(f"{what} {text!r}: only an IPv6 address, without a zone, stands in brackets")
        return HostPort(bracketed, port)
    if _ip(host) is None and not _is_host_name(host):
        raise ConfigurationError(f"{what} {text!r}: {host!r} is neither an IP address nor a host name")
    return HostPort(host, port)


def reachable(xds_address: str, *, insecure: bool) -> HostPort:
    """The address of a control plane, if a node can connect to it. Raises ConfigurationError."""
    server = address(xds_address, "xDS address")
    ip = _ip(server.host)
    if ip is not None and ip.is_unspecified:
        raise ConfigurationError(f"xDS address {xds_address!r}: one to listen on; say the one that proxies reach")
    if server.port == 0:
        raise ConfigurationError(f"xDS address {xds_address!r}: port 0 cannot be connected to")
    if insecure and not server.is_loopback:
        raise ConfigurationError(f"xDS address {xds_address!r}: a connection without TLS works on loopback only")
    return server


def bootstrap(
    node_id: str,
    cluster: str,
    labels: Mapping[str, str],
    xds_address: str,
    admin_address: str | None = None,
    authority: Authority | None = None,
    *,
    certificates: Path | None = None,
    lifetime: timedelta = issuing.NODE_LIFETIME,
    variant: Variant = Variant.DELTA,
    memory_limit_bytes: int | None = None,
) -> dict[str, Any]:
    """The bootstrap of a node as plain data; each call issues a certificate that lives up to 90 days.

    With `certificates` none is issued: the document names the files of that folder (see `sds_files`), which may be
    renewed while the proxy runs.
    `authority` None means without TLS, for a control plane on loopback only. `admin_address` is on loopback, or
    `unix:PATH`; None is any free port on loopback. With `memory_limit_bytes` the proxy sheds load before it is killed.
    Raises ConfigurationError.
    """
    server = reachable(xds_address, insecure=authority is None)
    document: dict[str, Any] = {
        "node": {
            "id": _Text(node_id),
            "cluster": _Text(cluster),
            "metadata": {"labels": {_Text(key): _Text(value) for key, value in sorted(labels.items())}},
        },
        "dynamic_resources": _dynamic_resources(variant),
        "static_resources": {"clusters": [_xds_cluster(server)]},
        "admin": _admin(admin_address or ADMIN_ADDRESS),
        **hardening(memory_limit_bytes),
        # No sink is configured: without this Envoy merges every histogram each 5 s on the thread that applies xDS.
        "stats_flush_on_admin": True,
        "stats_config": {"use_all_default_tags": True},
        # Most clusters of a large configuration see no request for hours: their statistics are made with the first.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    if authority is not None:
        if certificates is None:
            context = _inline(authority, authority.issue_node(node_id, cluster, labels, lifetime))
        else:
            context = _from_files(authority, certificates.absolute())
        document["static_resources"]["clusters"][0]["transport_socket"] = _transport_socket(server, context)
    return document


def render(document: Mapping[str, Any]) -> str:
    """The document as YAML: keys in their order, texts of several lines (certificates) as blocks."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _dynamic_resources(variant: Variant) -> dict[str, Any]:
    # Without a timeout Envoy waits for its first listeners and clusters instead of going on with none.
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    retry = {"retry_back_off": {"base_interval": "0.5s", "max_interval": "30s"}}  # exponential, with full jitter
    return {
        "ads_config": {
            "api_type": variant.value,
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": retry}}],
        },
        "lds_config": dict(source),
        "cds_config": dict(source),
    }


def _xds_cluster(server: HostPort) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": server.envoy}}
    http2 = {"connection_keepalive": {"interval": "30s", "timeout": "5s"}}
    protocol = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": http2},
    }
    return {
        "name": XDS_CLUSTER,
        "type": "STRICT_DNS" if server.is_name else "STATIC",
        **({"dns_lookup_family": "ALL"} if server.is_name else {}),
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": XDS_BUFFER_BYTES,
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
        "load_assignment": {"cluster_name": XDS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def sds_files(folder: Path) -> dict[str, str]:
    """What stands in a folder beside `node.crt`, `node.key` and `ca.crt`, for an Envoy that reads them from files.

    A secret from a file is reloaded when a file is moved into the watched folder, which is how they are written.
    https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret#sds-configuration
    """
    watched = {"watched_directory": {"path": str(folder)}}
    pair = {
        "certificate_chain": {"filename": str(folder / "node.crt")},
        "private_key": {"filename": str(folder / "node.key")},
    }
    authorities = {"trusted_ca": {"filename": str(folder / "ca.crt")}}
    secrets = {"node": {"tls_certificate": pair | watched}, "ca": {"validation_context": authorities | watched}}
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    return {
        f"{name}.sds.yaml": render({"resources": [{"@type": kind, "name": name, **secret}]})
        for name, secret in secrets.items()
    }


def _from_files(authority: Authority, folder: Path) -> dict[str, Any]:
    def secret(name: str) -> dict[str, Any]:
        source = {"path": str(folder / f"{name}.sds.yaml"), "watched_directory": {"path": str(folder)}}
        return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}

    return {
        "tls_certificate_sds_secret_configs": [secret("node")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [_expected(authority)]},
            "validation_context_sds_secret_config": secret("ca"),
        },
    }


def _inline(authority: Authority, issued: Issued) -> dict[str, Any]:
    certificate, key = issued.certificate.decode(), issued.key.decode()
    return {
        "tls_certificates": [
            {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
        ],
        "validation_context": {
            "trusted_ca": {"inline_string": authority.trust_bundle.decode()},
            "match_typed_subject_alt_names": [_expected(authority)],
        },
    }


def _expected(authority: Authority) -> dict[str, Any]:
    """The server is known by its SPIFFE ID, so any address or balancer in front of it will do."""
    return {"san_type": "URI", "matcher": {"exact": server_uri(authority.trust_domain)}}


def _transport_socket(server: HostPort, context: Mapping[str, Any]) -> dict[str, Any]:
    """Mutual TLS 1.3."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            **({"sni": server.host} if server.is_name else {}),
            # Every handshake verifies both sides anew: an authority that is trusted no longer ends with the next one.
            "max_session_keys": 0,
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["h2"],
                **context,
            },
        },
    }


def _admin(text: str) -> dict[str, Any]:
    """The admin listener: it has no authentication, so it is on this machine and answers what only reads."""
    if text.startswith("unix:"):
        listen: dict[str, Any] = {"pipe": {"path": text.removeprefix("unix:"), "mode": 0o600}}
    else:
        wanted = address(text, "admin address")
        if not wanted.is_loopback:
            raise ConfigurationError(
                f"admin address {text!r}: Envoy's admin has no authentication; use a loopback address or unix:PATH"
            )
        listen = HostPort("127.0.0.1" if wanted.is_name else wanted.host, wanted.port).envoy
    # Envoy matches the query too, so that `exact` would refuse /stats?filter=x.
    reads = {"safe_regex": {"regex": f"(?:{'|'.join(ADMIN_PATHS)})(?:\\?.*)?"}}
    refused = {"comparison": {"op": "EQ", "value": {"default_value": 403, "runtime_key": "admin.logged_status"}}}
    return {
        "address": listen,
        "ignore_global_conn_limit": True,
        "allow_paths": [reads],
        "access_log": [
            {
                "name": "envoy.access_loggers.stderr",
                "filter": {"status_code_filter": refused},
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog"
                },
            }
        ],
    }


def hardening(memory_limit_bytes: int | None = None) -> dict[str, Any]:
    """What a proxy holds to whatever it is told: bounds for its regexes, its connections and its memory."""
    return {
        "layered_runtime": {"layers": [{"name": "hardening", "static_layer": dict(RUNTIME)}]},
        "overload_manager": _overload_manager(memory_limit_bytes),
    }


def _overload_manager(memory_limit_bytes: int | None) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.resource_monitors"
    connections = {
        "@type": f"{kind}.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": MAX_CONNECTIONS,
    }
    monitors = [{"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections}]
    if memory_limit_bytes is None:
        return {"refresh_interval": "0.25s", "resource_monitors": monitors}
    heap = {
        "@type": f"{kind}.fixed_heap.v3.FixedHeapConfig",
        "max_heap_size_bytes": memory_limit_bytes * 8 // 10,  # the rest is what the allocator does not count
    }
    monitors.append({"name": "envoy.resource_monitors.fixed_heap", "typed_config": heap})
    timers = [
        {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "2s"},
        {"timer": "HTTP_DOWNSTREAM_STREAM_IDLE", "min_timeout": "2s"},
    ]
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": monitors,
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "actions": [
            {
                "name": "envoy.overload_actions.reduce_timeouts",
                "triggers": [_heap_trigger(scaled={"scaling_threshold": 0.85, "saturation_threshold": 0.95})],
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
                    "timer_scale_factors": timers,
                },
            },
            {
                "name": "envoy.overload_actions.reset_high_memory_stream",
                "triggers": [_heap_trigger(scaled={"scaling_threshold": 0.9, "saturation_threshold": 0.98})],
            },
            {"name": "envoy.overload_actions.shrink_heap", "triggers": [_heap_trigger(threshold={"value": 0.95})]},
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [_heap_trigger(threshold={"value": 0.98})],
            },
        ],
    }


def _heap_trigger(**trigger: Mapping[str, float]) -> dict[str, Any]:
    return {"name": "envoy.resource_monitors.fixed_heap", **trigger}


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_host_name(host: str) -> bool:
    """RFC 1123; a name of digits and dots alone would be a mistyped address."""
    labels = host.removesuffix(".").split(".")
    valid = all(re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", label) for label in labels)
    return valid and len(host) <= 253 and not labels[-1].isdigit()


class _Text(str):
    """A text from outside, always quoted, so that people see one; what must be quoted is `envoy_yaml`'s to say."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """YAML for people: blocks for certificates, no anchors, list items indented."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if isinstance(text, _Text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Text, _text)
quote_texts(_Dumper)
