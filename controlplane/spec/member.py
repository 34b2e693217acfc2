"""Members of a backend: where its endpoints come from. Kubernetes and Consul members are discovered while we run."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from controlplane.model.written import Address, Choice, Host, Name, OneOf, Port, Written
from controlplane.names import ServiceRef, consul_source, kubernetes_source
from controlplane.spec.listener import NotEmpty

_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SERVICE = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def _port(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    if isinstance(value, str) and _PORT_NAME.fullmatch(value):
        return value
    raise ValueError('a port is a number such as 8080 or the name of a port of the service, such as "http"')


PortOrName = Annotated[
    int | str,
    BeforeValidator(_port),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string", "maxLength": 63}],
            "examples": [8080, "http"],
        }
    ),
]


def _service(text: str) -> str:
    if len(text) > 317 or not re.fullmatch(_SERVICE, text):
        raise ValueError('a service is named "namespace/name", such as "shop/catalog"')
    return text


class Static(Written):
    """An address."""

    address: Address
    port: Port


class Dns(Written):
    """A name that Envoy resolves; every IPv4 address it gives is an endpoint, or every IPv6 address if it has no other."""

    host: Host
    port: Port

    @model_validator(mode="after")
    def _exact(self) -> Dns:
        if "*" in self.host:
            raise ValueError("a DNS member needs an exact host")
        return self


class Kubernetes(Written):
    """The endpoints of a Kubernetes Service. `port` is a port of the Service, by number or name."""

    cluster: Name
    service: Annotated[
        str, AfterValidator(_service), WithJsonSchema({"type": "string", "pattern": _SERVICE, "maxLength": 317})
    ]
    port: PortOrName

    @property
    def ref(self) -> ServiceRef:
        """The service in its source."""
        namespace, _, name = self.service.partition("/")
        return ServiceRef(kubernetes_source(self.cluster), namespace, name)


class Consul(Written):
    """The instances of a Consul service that carry all of `tags` and all of `meta`.

    `port` stands for the registered port, when requests must go to another one of the same address.
    """

    datacenter: Name
    service: Annotated[str, Field(min_length=1, max_length=253)]
    tags: Annotated[tuple[NotEmpty, ...], Field(max_length=32)] = ()
    meta: Annotated[dict[NotEmpty, str], Field(max_length=32)] = Field(default_factory=dict)
    port: Port | None = None

    @property
    def ref(self) -> ServiceRef:
        """The service in its source."""
        return ServiceRef(consul_source(self.datacenter), "", self.service)


class Member(OneOf):
    """One source of endpoints. Priority 0 is used first; weights count within a priority."""

    choices = (Choice(("static", "dns", "kubernetes", "consul")),)

    static: Static | None = None
    dns: Dns | None = None
    kubernetes: Kubernetes | None = None
    consul: Consul | None = None
    priority: Annotated[int, Field(strict=True, ge=0, le=15)] = 0
    weight: Annotated[int, Field(strict=True, ge=1, le=128)] = 1

    @property
    def service(self) -> ServiceRef | None:
        """The discovered service, unless its endpoints stand in the spec."""
        discovered = self.kubernetes or self.consul
        return discovered.ref if discovered else None

    @property
    def identity(self) -> tuple[object, ...]:
        """What no other member of the backend may be."""
        if self.kubernetes:
            return (*self.kubernetes.ref, self.kubernetes.port)
        if self.consul:
            tags, meta = tuple(sorted(set(self.consul.tags))), tuple(sorted(self.consul.meta.items()))
            return (*self.consul.ref, self.consul.port, tags, meta)
        if self.static:
            return (self.static.address, self.static.port)
        assert self.dns is not None
        return (self.dns.host, self.dns.port)

    def __str__(self) -> str:
        """What it is, in a few words."""
        if (service := self.service) is not None:
            return f"service {service}"
        place = self.static or self.dns
        assert place is not None
        return f"{place.address if isinstance(place, Static) else place.host} port {place.port}"
