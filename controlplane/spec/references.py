"""What a document refers to outside of itself: services and secrets, which sources deliver when they are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from controlplane.filters.jwt.spec import JwtProvider
from controlplane.names import ElementKey, SecretRef, ServiceRef
from controlplane.spec.backend import Backend
from controlplane.spec.listener import Listener
from controlplane.spec.rows import Element, Row, RowKey


class References(msgspec.Struct, frozen=True):
    """The services and secrets of one document. A secret is in the source and namespace of its document."""

    services: frozenset[ServiceRef] = frozenset()
    secrets: frozenset[SecretRef] = frozenset()


def references(rows: Mapping[RowKey, Row]) -> References:
    """What the rows of a document refer to."""
    services: set[ServiceRef] = set()
    secrets: set[SecretRef] = set()
    for (_, key), row in rows.items():
        if isinstance(row, Element):
            if isinstance(row.part, Backend):
                services.update(ref for member in row.part.members if (ref := member.service) is not None)
            secrets.update(_secrets(key, row.part))
    return References(frozenset(services), frozenset(secrets))


def _secrets(key: ElementKey, part: object) -> Iterator[SecretRef]:
    for name in _names(part):
        if name is not None:
            yield SecretRef(key.object.source, key.object.namespace, name)


def _names(part: object) -> Iterator[str | None]:
    if isinstance(part, Listener):
        yield from (entry.certificate.secret_ref for entry in part.tls)
    elif isinstance(part, Backend) and part.tls is not None:
        yield part.tls.ca.secret_ref if part.tls.ca else None
        yield part.tls.client_certificate.secret_ref if part.tls.client_certificate else None
    elif isinstance(part, JwtProvider):
        yield part.jwks.secret_ref
        yield part.jwks.ca.secret_ref if part.jwks.ca else None
