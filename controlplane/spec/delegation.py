"""Delegation: what a gateway grants to the documents of other namespaces. Without a grant they get nothing."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from controlplane.model.written import Choice, Host, Name, OneOf, Written
from controlplane.spec.match import literal_path

_PATTERN = r"^(\*|[a-z0-9]([-a-z0-9.]{0,251})\*?)$"


def _pattern(text: str) -> str:
    if not re.fullmatch(_PATTERN, text):
        raise ValueError('a name such as "checkout", one with a star at its end such as "checkout-*", or "*"')
    return text


NamePattern = Annotated[
    str, AfterValidator(_pattern), WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["checkout-*"]})
]
"""A name, or the beginning of names and a star; every other character is literal."""


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(
            'a network is one such as "10.1.0.0/16" or "2001:db8::/32", without bits beyond its length'
        ) from None


Network = Annotated[str, AfterValidator(_network), WithJsonSchema({"type": "string", "examples": ["10.1.0.0/16"]})]


_PREFIX = r"^/([A-Za-z0-9._~-]{1,255}(/.*)?)?$"


def _prefix(text: str) -> str:
    if not re.fullmatch(_PREFIX, literal_path(text)):
        raise ValueError(
            'what is granted begins with a segment of plain characters (letters, digits, ".", "_", "~", "-"), such as '
            '"/checkout"; or it is the whole host: "/"'
        )
    return text


GrantedPrefix = Annotated[
    str, AfterValidator(_prefix), WithJsonSchema({"type": "string", "pattern": _PREFIX, "examples": ["/checkout"]})
]
"""A path prefix with a literal first segment: whoever has it needs no more of a host than this segment. (ADR 9)"""


class KubernetesGrant(Written):
    """Services of a namespace, in one cluster or in every one (`*`)."""

    cluster: NamePattern = "*"
    namespace: Name
    service: NamePattern = "*"


class ConsulGrant(Written):
    """Services of a datacenter."""

    datacenter: NamePattern
    service: NamePattern


class ServiceGrant(OneOf):
    """Discovered services that backends may aim at."""

    choices = (Choice(("kubernetes", "consul")),)

    kubernetes: KubernetesGrant | None = None
    consul: ConsulGrant | None = None


class Delegate(Written):
    """What RouteSpecs of some namespaces may claim, and where their backends may lead.

    Kubernetes services of the RouteSpec's own namespace are always granted, and the Consul service that is called as the
    namespace. `backends` are backends of the gateway.
    """

    name: Name
    namespaces: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1024)]
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=1024)]
    path_prefixes: Annotated[tuple[GrantedPrefix, ...], Field(min_length=1, max_length=1024)] = ("/",)
    backends: Annotated[tuple[Name, ...], Field(max_length=1024)] = ()
    services: Annotated[tuple[ServiceGrant, ...], Field(max_length=1024)] = ()
    addresses: Annotated[tuple[Network, ...], Field(max_length=1024)] = ()
    dns_hosts: Annotated[tuple[Host, ...], Field(max_length=1024)] = ()
