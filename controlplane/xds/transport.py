"""What grpc is told about connections: their bounds, their keys, and who the handshake proved to be at the other end.

Used by the server only; nothing here knows a stream or a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import structlog

from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Peer
from controlplane.xds.peers import certificate_uris

log = structlog.get_logger(__name__)

ServerKeys = tuple[bytes, bytes, bytes]
"""PEM: the server's certificate chain, its private key, and the CA certificates that client certificates need."""

_READ_BYTES = 1 << 16
"""Read from a connection at once. Unless it is told, grpc takes up to 4 MB, and may keep that of a peer who sent much."""

_CONNECTION_SHARE = 0.75
"""Of the age of a stream, at which its connection takes no new ones: the client that comes back opens another."""


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def channel_options(limits: Limits) -> list[tuple[str, int]]:
    """Channel options. Dead peers are found within about a minute; a peer may ping, but not flood."""
    age: list[tuple[str, int]] = []
    if limits.stream_age_seconds is not None:  # GOAWAY first (grpc varies it by 10 % itself), the streams end later
        age = [("grpc.max_connection_age_ms", _milliseconds(limits.stream_age_seconds * _CONNECTION_SHARE))]
    return [
        *age,
        ("grpc.max_connection_idle_ms", _milliseconds(limits.idle_seconds)),
        ("grpc.keepalive_time_ms", _milliseconds(limits.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.keepalive_timeout_seconds)),
        ("grpc.http2.ping_timeout_ms", _milliseconds(limits.keepalive_timeout_seconds)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.handshake_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.experimental.tcp_max_read_chunk_size", _READ_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.connection_streams),
        ("grpc.so_reuseport", 0),
    ]


def dynamic_credentials(load: Callable[[], ServerKeys]) -> Any:
    """Server credentials that require and verify a client certificate, and read the keys anew for each handshake.

    Streams that are open stay when the keys rotate. `load` is called on threads of grpc; when it fails, or gives what
    it gave before, the keys in use stay.
    """
    current = load()

    def configuration(keys: ServerKeys) -> Any:
        chain, key, client_ca = keys
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=client_ca)

    def fetch() -> Any:
        nonlocal current
        try:
            keys = load()
        except Exception as error:  # noqa: BLE001 - whatever it is, handshakes go on with the keys in use
            log.error("server keys not reloaded", error=type(error).__name__)
            return None
        if keys == current:
            return None
        current = keys
        return configuration(keys)

    return grpc.dynamic_ssl_server_credentials(configuration(current), fetch, require_client_authentication=True)


def peer_of(context: Any) -> Peer:
    """Who the handshake proved. grpc lists names of all kinds together, so the certificate itself is read."""
    proven = context.auth_context()
    certificate = b"".join(proven.get("x509_pem_cert", ()))
    if not certificate:
        return Peer(address=context.peer())
    chain = b"".join(proven.get("x509_pem_cert_chain", ()))
    return Peer(context.peer(), certificate_uris(certificate), authenticated=True, certificate=certificate, chain=chain)
