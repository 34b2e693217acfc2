"""Envoy's router filter."""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.http.router.v3 import router_pb2

from controlplane.filters.envoy import packed

NAME = "envoy.filters.http.router"


def filter_config() -> Any:
    """`x-envoy-*` response headers would tell clients about the inside."""
    return packed(router_pb2.Router(suppress_envoy_headers=True))
