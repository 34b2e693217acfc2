"""What grpc takes from the environment alone, and reads once, when it is first used.

Called by the command line before anything imports grpc. It must not import grpc itself.
"""

from __future__ import annotations

import os

NO_CIPHER_OF_TLS_1_2 = "ECDHE-PSK-CHACHA20-POLY1305"
"""The one way to have TLS 1.3 alone: grpc's Python API cannot set a minimum version, and this variable names the suites
up to TLS 1.2 only (those of 1.3 are fixed). A list must hold a known suite; this one needs a pre-shared key, which the
server never has, so that no handshake of TLS 1.2 can choose it, whatever kind of key the certificate has."""

WITHOUT_EXPERIMENTS = "-event_engine_listener"
"""Connections are polled by the thread that waits for completions, as before gRPC 1.60, and not handed from thread to
thread: a fifth to a third less CPU for each stream and change. (ADR 19; https://github.com/grpc/grpc/issues/39832)"""


def prepare() -> None:
    """Set it for this process, unless somebody has decided otherwise."""
    os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", NO_CIPHER_OF_TLS_1_2)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said once, by us
    os.environ.setdefault("GRPC_EXPERIMENTS", WITHOUT_EXPERIMENTS)
