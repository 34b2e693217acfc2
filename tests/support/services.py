"""Services as a source would deliver them, written short.

A document of a test: `kind: Services` with `services`, by source and name:

    kubernetes/aws-eu:
      shop/catalog: {ports: {http: 8080}, endpoints: [10.0.0.1, {address: 10.0.0.2, health: draining, zone: a}]}

An endpoint listens on the ports that the service declares unless it says `ports`; `external` stands for a DNS name,
`null` for a service that its source says does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from controlplane.compile.endpoints import ABSENT
from controlplane.model.endpoint import Endpoint, Health, Locality, Service, ServicePort
from controlplane.names import ServiceRef


def ref(source: str, name: str) -> ServiceRef:
    """`shop/catalog` of a Kubernetes source, `catalog` of a Consul source."""
    namespace, _, short = name.rpartition("/")
    return ServiceRef(source, namespace, short)


def service(said: Mapping[str, Any] | None) -> Service:
    """A service from what a test says of it."""
    if said is None:
        return ABSENT
    ports: dict[str, int] = said.get("ports", {})
    endpoints = tuple(sorted({_endpoint(one, ports) for one in said.get("endpoints", ())}))
    declared = tuple(sorted(ServicePort(name, number) for name, number in ports.items()))
    return Service(declared, endpoints, said.get("external"))


def _endpoint(said: str | Mapping[str, Any], ports: Mapping[str, int]) -> Endpoint:
    if isinstance(said, str):
        said = {"address": said}
    return Endpoint(
        said["address"],
        tuple(sorted(said.get("ports", ports).items())),
        Health[said.get("health", "healthy").upper()],
        Locality(said.get("region", ""), said.get("zone", "")),
        said.get("weight", 1),
        tuple(sorted(said.get("tags", ()))),
        tuple(sorted(said.get("meta", {}).items())),
    )


def without_services(text: str) -> tuple[str, dict[ServiceRef, Service]]:
    """The text without its documents of services, and these."""
    kept, services = [], {}
    for document in re.split(r"^---\n", text, flags=re.MULTILINE):
        if re.search(r"^kind: Services$", document, re.MULTILINE):
            for source, found in yaml.safe_load(document)["services"].items():
                services |= {ref(source, name): service(said) for name, said in found.items()}
        else:
            kept.append(document)
    return "---\n".join(kept), services
