"""Backends and key-set addresses as clusters and load assignments; endpoints are rows of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile.cluster import cluster, is_discovered, jwks_cluster, load_assignment
from controlplane.compile.rows import ResourceKey
from controlplane.compile.xds_types import CLUSTER, LOAD_ASSIGNMENT
from controlplane.filters.envoy import serialised
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, cluster_name, jwks_cluster_name
from controlplane.resources import Resource
from controlplane.spec.backend import Backend
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


def cluster_of_backend(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ResourceKey, Resource]]:
    """The cluster of one backend."""
    assert isinstance(element.part, Backend)
    settings = read.get(tables.settings, element.gateway)
    if settings is None:
        return
    name = cluster_name(key)
    namespace = (key.object.source, key.object.namespace)
    message = cluster(name, element.part, settings.defaults.retry.budget, namespace)
    yield ResourceKey((element.gateway,), CLUSTER, name), Resource(CLUSTER, name, serialised(message), origin=key)


def assignment_of_backend(_: Read, key: ElementKey, element: Element) -> Iterator[tuple[ResourceKey, Resource]]:
    """The load assignment of a backend whose endpoints are all known here."""
    assert isinstance(element.part, Backend)
    if is_discovered(element.part):
        name = cluster_name(key)
        body = serialised(load_assignment(name, element.part))
        yield ResourceKey((element.gateway,), LOAD_ASSIGNMENT, name), Resource(LOAD_ASSIGNMENT, name, body, origin=key)


def cluster_of_provider(_: Read, key: ElementKey, element: Element) -> Iterator[tuple[ResourceKey, Resource]]:
    """The cluster that fetches an issuer's keys, when Envoy fetches them."""
    assert isinstance(element.part, JwtProvider)
    if element.part.jwks.uri is not None:
        name = jwks_cluster_name(element.gateway, element.part.name)
        body = serialised(jwks_cluster(name, element.part, (key.object.source, key.object.namespace)))
        yield ResourceKey((element.gateway,), CLUSTER, name), Resource(CLUSTER, name, body, origin=key)
