"""Backends and key-set addresses as clusters; their endpoints are made apart, in endpoints.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile import codes
from controlplane.compile.checks import checked
from controlplane.compile.cluster import aggregate, cluster, jwks_cluster
from controlplane.compile.rows import Issue, ResourceKey
from controlplane.compile.xds_types import CLUSTER
from controlplane.filters.jwt.spec import JwtProvider, SecretKey
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, SecretRef, jwks_cluster_name
from controlplane.resources import Resource
from controlplane.spec.backend import Backend
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


def cluster_of_backend(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ResourceKey, Resource]]:
    """The clusters of one backend: one for each part, and what chooses among several."""
    assert isinstance(element.part, Backend)
    settings = read.get(tables.settings, element.gateway)
    shape = read.get(tables.shapes, key)
    if settings is None or shape is None or read.get(tables.refused_backends, key):
        return
    if tls := element.part.tls:
        if tls.client_certificate is not None:
            client = SecretRef(key.object.source, key.object.namespace, tls.client_certificate.secret_ref)
            state = read.get(tables.certificate_states, client)
            problem = state.problem if state else None
            _check(read, key, "backends", "tls.clientCertificate.secretRef", client, state is not None, problem)
        if tls.ca is not None:
            _check_trust(read, tables, key, "backends", "tls.ca", tls.ca)
    namespace, budget = (key.object.source, key.object.namespace), settings.defaults.retry.budget
    messages = [cluster(part, element.part, budget, namespace) for part in shape.parts]
    if shape.is_aggregate:
        messages.append(aggregate(shape, element.part, budget))
    for message in messages:
        body = checked(message, key.object.subject, f"spec.backends[{key.element}]")
        found = Resource(CLUSTER, message.name, body, origin=key)
        yield ResourceKey((element.gateway,), CLUSTER, found.name), found


def _check_trust(read: Read, tables: Tables, key: ElementKey, section: str, path: str, ca: SecretKey) -> None:
    """Say what is wrong with authorities; a peer whose certificate cannot be verified gets no request."""
    from controlplane.compile.certificates import trust_problem

    ref, file = SecretRef(key.object.source, key.object.namespace, ca.secret_ref), ca.key or "ca.crt"
    secret = read.get(tables.secrets, ref)
    problem = trust_problem(secret, file) if secret else None
    _check(read, key, section, f"{path}.secretRef", ref, secret is not None, problem)


def _check(
    read: Read, key: ElementKey, section: str, path: str, ref: SecretRef, there: bool, problem: str | None
) -> None:
    help = "its requests are answered 503 until it is there" if section == "backends" else "its keys cannot be fetched"
    if not there:
        read.note(Issue(key, path, codes.UNKNOWN_SECRET, f'no secret "{ref}"', help, section=section))
    elif problem:
        read.note(Issue(key, path, codes.UNUSABLE_SECRET, f'secret "{ref}" {problem}', help, section=section))


def cluster_of_provider(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ResourceKey, Resource]]:
    """The cluster that fetches an issuer's keys, when Envoy fetches them."""
    assert isinstance(element.part, JwtProvider)
    if element.part.jwks.uri is not None:
        if element.part.jwks.ca is not None:
            _check_trust(read, tables, key, "identity.jwt", "jwks.ca", element.part.jwks.ca)
        name = jwks_cluster_name(element.gateway, element.part.name)
        message = jwks_cluster(name, element.part, (key.object.source, key.object.namespace))
        body = checked(message, key.object.subject, f"spec.identity.jwt[{key.element}]")
        yield ResourceKey((element.gateway,), CLUSTER, name), Resource(CLUSTER, name, body, origin=key)
