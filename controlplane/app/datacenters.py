"""The Consul datacenters of the configuration as sources. Loaded only when there are any: it brings an HTTP client."""

from __future__ import annotations

from collections.abc import Iterable

from controlplane import config
from controlplane.app.memory import Memory
from controlplane.model.endpoint import Locality
from controlplane.names import consul_source
from controlplane.sources.consul.client import Settings
from controlplane.sources.consul.source import ConsulSource


def consul_sources(
    datacenters: Iterable[config.ConsulSource], memory: Memory, hold_seconds: float
) -> list[ConsulSource]:
    """One source a datacenter, with what was in force before.

    `hold_seconds`: how long objects stay whose removal is doubted.
    """
    found = []
    for datacenter in datacenters:
        name = consul_source(datacenter.name)
        source = ConsulSource(
            _settings(datacenter),
            last_good={ref: text for ref, text in memory.texts.items() if ref.source == name},
            services_before=memory.services,
            told_before=memory.told.get(name, 0),
            hold_seconds=hold_seconds,
        )
        found.append(source)
    return found


def _settings(written: config.ConsulSource) -> Settings:
    return Settings(
        name=written.name,
        address=written.address,
        datacenter=written.datacenter,
        token_file=written.token_file,
        ca=written.ca,
        client_certificate=written.client_certificate,
        client_key=written.client_key,
        max_stale=written.max_stale.total_seconds() if written.max_stale is not None else None,
        locality=Locality(written.locality.region, written.locality.zone),
        tagged_address=written.tagged_address,
        requests_per_second=written.max_requests_per_second,
        specs=written.specs,
    )
