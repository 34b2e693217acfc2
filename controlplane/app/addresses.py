"""Where a running control plane listens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running control plane listens."""

    xds: str
    admin: str
