"""The Consul datacenters of the configuration as sources. Loaded only when there are any: it brings an HTTP client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane import config
from controlplane.model.endpoint import Locality
from controlplane.names import ObjectRef, consul_source
from controlplane.sources.consul.client import Settings
from controlplane.sources.consul.source import ConsulSource


def consul_sources(
    datacenters: Iterable[config.ConsulSource], last_good: Mapping[ObjectRef, str], hold_seconds: float
) -> list[ConsulSource]:
    """One source a datacenter. `last_good`: texts of objects that were in force before, of any source.

    `hold_seconds`: how long objects stay whose removal is doubted.
    """
    found = []
    for datacenter in datacenters:
        name = consul_source(datacenter.name)
        texts = {ref: text for ref, text in last_good.items() if ref.source == name}
        found.append(ConsulSource(_settings(datacenter), last_good=texts, hold_seconds=hold_seconds))
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
