"""Documents split into rows: small, comparable pieces, so that an edit of one route touches one row.

`rows(ref, document)` gives everything that a document says. Sources push it whole; the sink compares it with what was
there. Positions are no part of a row: an inserted line changes no row.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from controlplane.filters.jwt.spec import JwtProvider
from controlplane.names import ElementKey, GatewayName, ObjectRef
from controlplane.spec.backend import Backend
from controlplane.spec.delegation import Delegate
from controlplane.spec.gateway import Defaults, Document, GatewaySpec, Guardrails
from controlplane.spec.listener import Listener
from controlplane.spec.policy import Policy
from controlplane.spec.route import Route


class Kind(StrEnum):
    """Which table a row belongs to."""

    GATEWAY = "gateways"
    LISTENER = "listeners"
    ROUTE = "routes"
    BACKEND = "backends"
    POLICY = "policies"
    PROVIDER = "providers"


class GatewayRow(msgspec.Struct, frozen=True):
    """What a gateway says about itself. `claim` is how old its claims are: smaller keeps what both want."""

    labels: tuple[tuple[str, str], ...]
    guardrails: Guardrails
    defaults: Defaults
    delegates: tuple[Delegate, ...] = ()
    claim: str = ""


Part = Listener | Route | Backend | Policy | JwtProvider


class Element(msgspec.Struct, frozen=True):
    """A named part of a document, and the gateway it belongs to. `claim` is how old its document's claims are."""

    gateway: GatewayName
    part: Part
    claim: str = ""


Row = GatewayRow | Element
RowKey = tuple[Kind, ElementKey]


def rows(ref: ObjectRef, document: Document, claim: str = "") -> dict[RowKey, Row]:
    """Every row of a document. The gateway's own row has the empty element name.

    `claim` decides between documents that want the same: the smaller keeps it. Custom resources say when they were
    created and their uid; files say nothing, and their names decide. (ADR 9)
    """
    found: dict[RowKey, Row] = {}
    if isinstance(document, GatewaySpec):
        gateway = GatewayName(ref.full_name)
        body = document.spec
        found[Kind.GATEWAY, ElementKey(ref, "")] = GatewayRow(
            tuple(sorted(body.fleet.selector.match_labels.items())),
            body.guardrails,
            body.defaults,
            body.delegates,
            claim,
        )
        for kind, parts in (
            (Kind.LISTENER, body.listeners),
            (Kind.POLICY, body.policies),
            (Kind.PROVIDER, body.identity.jwt),
        ):
            for part in parts:
                found[kind, ElementKey(ref, part.name)] = Element(gateway, part, claim)
    else:
        gateway = GatewayName(document.spec.gateway)
    for backend in document.spec.backends:
        found[Kind.BACKEND, ElementKey(ref, backend.name)] = Element(gateway, backend, claim)
    for route in document.spec.routes:
        found[Kind.ROUTE, ElementKey(ref, route.name)] = Element(gateway, route, claim)
    return found
