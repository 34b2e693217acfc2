"""Backends: what routes send requests to. A backend's name is its identity in Envoy."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from controlplane.filters.jwt.spec import SecretKey
from controlplane.model.written import FieldError, Name, OneHost, Percent, PositiveCount, PositiveDuration, Written
from controlplane.spec.listener import SecretName
from controlplane.spec.member import Dns, Member, Static

__all__ = ["Backend", "BackendProtocol", "BackendTls", "Dns", "Failover", "LoadBalancer", "Member", "Static"]


class BackendProtocol(StrEnum):
    """What a backend speaks."""

    HTTP1 = "HTTP1"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"


Alpn = Annotated[str, Field(pattern=r"^[!-~]{1,255}$", examples=["istio"])]
"""The name of a protocol in a TLS handshake."""


def _certified_name(text: str) -> str:
    """A name of a certificate, as Envoy reads it there. Raises ValueError for one that no certificate has."""
    if "://" in text:
        return text
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not text or re.search(r"[^!-~]|[*/@:]", text.removeprefix("*.")):
        raise ValueError(
            'a name is that of a host such as "orders.internal" or "*.internal", an address, or a URI such as '
            '"spiffe://cluster.local/ns/shop/sa/orders"'
        )
    return text.lower()


CertifiedName = Annotated[str, AfterValidator(_certified_name)]


class BackendTls(Written):
    """TLS to the backend. Its certificate is always verified: chain and name.

    `alpn`: what is offered instead of the protocol that the backend speaks; which that is remains with `protocol`.
    """

    mode: Literal["simple", "mutual"] = "simple"
    sni: OneHost | None = None
    ca: SecretKey | None = None
    client_certificate: SecretName | None = None
    san_match: tuple[CertifiedName, ...] = ()
    alpn: Annotated[tuple[Alpn, ...], Field(max_length=8)] = ()

    @model_validator(mode="after")
    def _mutual_has_a_certificate(self) -> BackendTls:
        if (self.mode == "mutual") != (self.client_certificate is not None):
            raise ValueError("mode: mutual and clientCertificate belong together")
        return self


class LoadBalancer(Written):
    """How an endpoint is chosen."""

    policy: Literal["roundRobin", "leastRequest", "random"] = "leastRequest"


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0%")
    return value


def _from_near_to_far(within: tuple[str, ...]) -> tuple[str, ...]:
    if within not in {("zone",), ("region",), ("zone", "region")}:
        raise ValueError("is [zone, region], [zone] or [region]: from near to far")
    return within


class Failover(Written):
    """When requests go to the next endpoints in order.

    `within`: endpoints in the proxy's own zone or region come before others of the same priority.
    `shiftBelowHealthy`: requests begin to shift when less of a priority's endpoints are healthy.
    `panicBelowHealthy`: when less of all endpoints are healthy, health is not believed, and all of them are used.
    """

    within: (
        Annotated[
            tuple[Literal["zone", "region"], ...], Field(min_length=1, max_length=2), AfterValidator(_from_near_to_far)
        ]
        | None
    ) = None
    shift_below_healthy: Annotated[Percent, AfterValidator(_above_zero)] | None = None
    panic_below_healthy: Percent | None = None


class OnSourceLost(Written):
    """What becomes of discovered endpoints whose source cannot be read any more.

    They are kept as they were. After `keepFor`: `keep` goes on so, `next` uses them only when nothing else of the
    backend is left, `empty` drops them.
    """

    keep_for: PositiveDuration
    then: Literal["keep", "next", "empty"] = "keep"


Limit = Annotated[PositiveCount, Field(le=1_000_000)]


class Limits(Written):
    """How much of one proxy a backend gets at a time: requests in flight, connections, and requests that wait for one.

    A request of HTTP/1.1 has a connection to itself, so `requests` above the usual is as many connections too, and the
    reverse, unless both are said.
    """

    requests: Limit | None = None
    connections: Limit | None = None
    pending: Limit | None = None


class Backend(Written):
    """A named set of endpoints."""

    name: Name
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=4096)]
    protocol: BackendProtocol = BackendProtocol.HTTP1
    connect_timeout: PositiveDuration | None = None
    idle_timeout: PositiveDuration | None = None
    load_balancer: LoadBalancer = LoadBalancer()
    failover: Failover = Failover()
    on_source_lost: OnSourceLost | None = None
    limits: Limits = Limits()
    tls: BackendTls | None = None

    @property
    def is_discovered(self) -> bool:
        """Whether some of its endpoints come from a source of services."""
        return any(member.service is not None for member in self.members)

    @model_validator(mode="after")
    def _consistent(self) -> Backend:
        seen: set[tuple[object, ...]] = set()
        for member in self.members:
            if (identity := member.identity) in seen:
                raise ValueError(f"{member} is a member twice")
            seen.add(identity)
        priorities = {member.priority for member in self.members}
        if priorities != set(range(len(priorities))):
            raise ValueError("priorities begin at 0 and leave no gap")
        for priority in {member.priority for member in self.members if member.service is not None}:
            if any(member.dns and member.priority == priority for member in self.members):
                raise ValueError(
                    f"priority {priority} holds a DNS name and a discovered service, which cannot share requests: "
                    "give them different priorities"
                )
        if self.tls and not self.tls.sni and not self.tls.san_match and any(m.dns is None for m in self.members):
            raise ValueError("tls to an address needs sni or sanMatch: there is no name to verify")
        if self.on_source_lost is not None and not self.is_discovered:
            raise ValueError("onSourceLost is for kubernetes and consul members, and there is none")
        if self.failover.within and not self.is_discovered:
            raise FieldError(
                ("failover", "within"),
                "only kubernetes and consul members have a zone and a region, and there is none: give the others priorities",
            )
        return self
