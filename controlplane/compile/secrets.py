"""Secrets: which of them a gateway refers to, whether they are usable, and their SDS resources.

A gateway's proxies get the secrets it refers to, and no others. A rotation that brings an unusable pair keeps the
former one: the row fails, and a row that fails keeps its last good value.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from controlplane.compile import codes
from controlplane.compile.checks import checked
from controlplane.compile.rows import CertificateStatus, Chain, ResourceKey, SecretUse
from controlplane.compile.tls import certificate, trust
from controlplane.compile.xds_types import SECRET
from controlplane.errors import Diagnostic, InvalidInput
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.graph.engine import Read
from controlplane.model.secret import Secret
from controlplane.names import ElementKey, SecretRef, certificate_name, trust_name
from controlplane.resources import Resource
from controlplane.spec.backend import Backend
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

CERTIFICATE = ""
"""The key of a use as a certificate, in contrast to a file of authorities."""


def certificate_state(_: Read, ref: SecretRef, secret: Secret) -> Iterator[tuple[SecretRef, CertificateStatus]]:
    """Whether the secret is a usable certificate."""
    from controlplane.compile.certificates import certificate_status

    yield ref, certificate_status(secret)


def uses_of_chain(_: Read, __: tuple[ElementKey, str], chain: Chain) -> Iterator[tuple[SecretUse, bool]]:
    """The certificate of a filter chain."""
    if chain.certificate is not None:
        yield SecretUse(chain.gateway, chain.certificate, CERTIFICATE), True


def uses_of_backend(_: Read, key: ElementKey, element: Element) -> Iterator[tuple[SecretUse, bool]]:
    """The client certificate and the authorities of a backend."""
    assert isinstance(element.part, Backend)
    tls = element.part.tls
    if tls is None:
        return
    if tls.client_certificate is not None:
        ref = SecretRef(key.object.source, key.object.namespace, tls.client_certificate.secret_ref)
        yield SecretUse(element.gateway, ref, CERTIFICATE), True
    if tls.ca is not None:
        ref = SecretRef(key.object.source, key.object.namespace, tls.ca.secret_ref)
        yield SecretUse(element.gateway, ref, tls.ca.key or "ca.crt"), True


def uses_of_provider(_: Read, key: ElementKey, element: Element) -> Iterator[tuple[SecretUse, bool]]:
    """The authorities that vouch for a key-set server."""
    assert isinstance(element.part, JwtProvider)
    if element.part.jwks.ca is not None:
        ref = SecretRef(key.object.source, key.object.namespace, element.part.jwks.ca.secret_ref)
        yield SecretUse(element.gateway, ref, element.part.jwks.ca.key or "ca.crt"), True


def served(read: Read, tables: Tables, use: SecretUse, _: bool) -> Iterator[tuple[ResourceKey, Resource]]:
    """The SDS resource of one use. Raises InvalidInput when the secret cannot be used as it is."""
    from controlplane.compile.certificates import certificate_status, trust_problem

    secret = read.get(tables.secrets, use.secret)
    if secret is None:
        return
    if use.key == CERTIFICATE:
        name = certificate_name(use.secret)
        problem, message = certificate_status(secret).problem, certificate(secret, name)
    else:
        name = trust_name(use.secret, use.key)
        problem, message = trust_problem(secret, use.key), trust(secret, use.key, name)
    if problem:
        raise InvalidInput(
            [Diagnostic(codes.UNUSABLE_SECRET, f'secret "{use.secret.subject}" {problem}', subject=use.secret.subject)]
        )
    body = checked(message, use.secret.subject)
    yield ResourceKey((use.gateway,), SECRET, name), Resource(SECRET, name, body, origin=use.secret)


def not_after(resource: Resource) -> str | None:
    """When the certificate in an SDS resource ends, `2026-03-01T10:00:00+00:00`; None: it holds authorities."""
    from controlplane.compile.certificates import period

    message = secret_pb2.Secret.FromString(resource.body)
    if not message.HasField("tls_certificate"):
        return None
    leaf = Secret.of({"tls.crt": message.tls_certificate.certificate_chain.inline_bytes})
    return datetime.fromtimestamp(period(leaf).ends, UTC).isoformat()
