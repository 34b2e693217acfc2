"""Backends: what routes send requests to. A backend's name is its identity in Envoy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from controlplane.filters.jwt.spec import SecretKey
from controlplane.model.written import Address, Choice, Host, Name, OneOf, Port, PositiveDuration, Written
from controlplane.spec.listener import NotEmpty, SecretName


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


class Member(OneOf):
    """One source of endpoints. Priority 0 is used first; weights count within a priority."""

    choices = (Choice(("static", "dns")),)

    static: Static | None = None
    dns: Dns | None = None
    priority: Annotated[int, Field(strict=True, ge=0, le=15)] = 0
    weight: Annotated[int, Field(strict=True, ge=1, le=128)] = 1


class BackendProtocol(StrEnum):
    """What a backend speaks."""

    HTTP1 = "HTTP1"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"


class BackendTls(Written):
    """TLS to the backend. Its certificate is always verified: chain and name."""

    mode: Literal["simple", "mutual"] = "simple"
    sni: Host | None = None
    ca: SecretKey | None = None
    client_certificate: SecretName | None = None
    san_match: tuple[NotEmpty, ...] = ()

    @model_validator(mode="after")
    def _mutual_has_a_certificate(self) -> BackendTls:
        if (self.mode == "mutual") != (self.client_certificate is not None):
            raise ValueError("mode: mutual and clientCertificate belong together")
        return self


class LoadBalancer(Written):
    """How an endpoint is chosen."""

    policy: Literal["roundRobin", "leastRequest", "random"] = "leastRequest"


class Backend(Written):
    """A named set of endpoints."""

    name: Name
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=4096)]
    protocol: BackendProtocol = BackendProtocol.HTTP1
    connect_timeout: PositiveDuration | None = None
    load_balancer: LoadBalancer = LoadBalancer()
    tls: BackendTls | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Backend:
        seen: set[tuple[str, int]] = set()
        for member in self.members:
            place = member.static or member.dns
            assert place is not None
            endpoint = (place.address if isinstance(place, Static) else place.host, place.port)
            if endpoint in seen:
                raise ValueError(f"{endpoint[0]} port {endpoint[1]} is a member twice")
            seen.add(endpoint)
        if sorted({member.priority for member in self.members}) != list(range(len({m.priority for m in self.members}))):
            raise ValueError("priorities begin at 0 and leave no gap")
        if self.tls and not self.tls.sni and not self.tls.san_match and any(member.static for member in self.members):
            raise ValueError("tls to an address needs sni or sanMatch: there is no name to verify")
        return self
