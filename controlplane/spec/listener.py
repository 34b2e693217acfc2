"""Listeners: where proxies accept connections."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from controlplane.model.written import (
    Address,
    Choice,
    Duration,
    FieldError,
    Flag,
    Host,
    Name,
    OneOf,
    Port,
    PositiveCount,
    Written,
)


class Protocol(StrEnum):
    """What a listener speaks to clients; HTTPS means TLS with HTTP/1.1 and HTTP/2."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"


class SecretName(Written):
    """A secret in the namespace of the document."""

    secret_ref: Name


class Certificate(Written):
    """A certificate, and the hosts it is shown for (by SNI)."""

    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]
    certificate: SecretName

    @property
    def identity(self) -> str:
        """What names this entry: its secret."""
        return self.certificate.secret_ref


class ClientIP(OneOf):
    """Where the address of the client comes from; without this it is the peer of the connection."""

    choices = (Choice(("trusted_hops", "proxy_protocol")),)

    trusted_hops: Annotated[int, Field(strict=True, ge=1, le=16)] | None = None
    proxy_protocol: Flag | None = None


class ListenerRedirect(Written):
    """Everything on this listener is sent elsewhere, except routes that name the listener."""

    scheme: Literal["https"] = "https"
    port: Port | None = None
    code: Literal[301, 302, 303, 307, 308] = 308


class ListenerTimeouts(Written):
    """`requestReceived`: a request is complete by then, or its response has begun; `0s` switches it off."""

    request_received: Duration | None = None


NEEDS_TLS = "an HTTPS listener needs tls: at least one certificate"


class ListenerLimits(Written):
    """What a listener takes at a time on each proxy."""

    connections: Annotated[PositiveCount, Field(le=1_000_000)] | None = None


class Listener(Written):
    """One port. Gateways that select the same proxy share a port when the protocol is the same."""

    name: Name
    address: Address = "0.0.0.0"  # noqa: S104  a gateway listens on all addresses unless told otherwise
    port: Port
    protocol: Protocol
    client_ip: Annotated[ClientIP | None, Field(alias="clientIP")] = None
    tls: Annotated[tuple[Certificate, ...], Field(max_length=1000)] = ()
    timeouts: ListenerTimeouts = ListenerTimeouts()
    limits: ListenerLimits = ListenerLimits()
    redirect: ListenerRedirect | None = None
    use: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _tls_matches_protocol(self) -> Listener:
        if self.protocol is Protocol.HTTPS and not self.tls:
            raise ValueError(NEEDS_TLS)
        if self.protocol is Protocol.HTTP and self.tls:
            raise ValueError("an HTTP listener has no tls; use protocol: HTTPS")
        if self.protocol is Protocol.HTTPS and self.redirect is not None:
            raise FieldError(
                ("redirect",),
                "only an HTTP listener redirects everything, to HTTPS; here, give the hosts a route with redirect",
            )
        seen: set[str] = set()
        for entry in self.tls:
            for host in entry.hosts:
                if host in seen:
                    raise ValueError(f'host "{host}" stands in two tls entries')
                seen.add(host)
        return self


def _no_empty(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


NotEmpty = Annotated[str, AfterValidator(_no_empty)]
