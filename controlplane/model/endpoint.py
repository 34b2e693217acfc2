"""Discovered endpoints as sources deliver them: normalised, sorted, without a trace of where they were read.

They arrive by the ten thousand, so these are frozen msgspec structs, compared as values. Sources build them; the
compiler merges them. Nothing here knows Kubernetes, Consul or Envoy.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Health(IntEnum):
    """What its source says of an endpoint; smaller is better."""

    HEALTHY = 0
    DEGRADED = 1
    """Works, but others are to be preferred (a warning in Consul)."""
    DRAINING = 2
    """Ends: used only where nothing better is left."""
    UNHEALTHY = 3


class Locality(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where an endpoint is; "" where nobody says."""

    region: str = ""
    zone: str = ""


NOWHERE = Locality()


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """One address of a service.

    `ports` are its port numbers by port name ("" for the only one), sorted by name. `tags` and `meta` are what members
    of a backend may choose by, sorted. `weight` counts among the endpoints of the service, from 1.
    """

    address: str
    ports: tuple[tuple[str, int], ...]
    health: Health = Health.HEALTHY
    locality: Locality = NOWHERE
    weight: int = 1
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()


class ServicePort(msgspec.Struct, frozen=True, order=True, gc=False):
    """A port that a service declares: `name` is how its endpoints call it, `number` how callers may."""

    name: str
    number: int


class Service(msgspec.Struct, frozen=True):
    """A service as its source knows it now; a service without endpoints is a fact, not a failure.

    `endpoints` are sorted and without duplicates. `external_name` is the DNS name of a service that has no endpoints of
    its own (`type: ExternalName`).
    """

    ports: tuple[ServicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    external_name: str | None = None
