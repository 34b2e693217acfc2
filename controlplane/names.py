"""Names: of spec objects and their elements, and of every Envoy resource made from them.

A name depends on its inputs alone, never on an order or an index, so that reordering a document changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

GatewayName = NewType("GatewayName", str)
"""`namespace/name` of a GatewaySpec."""

GATEWAY_KIND = "GatewaySpec"
ROUTE_KIND = "RouteSpec"


class ObjectRef(NamedTuple):
    """A document: which source says it, its kind, namespace and name."""

    source: str
    kind: str
    namespace: str
    name: str

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        """`RouteSpec checkout/api`, for people."""
        return f"{self.kind} {self.namespace}/{self.name}"


class ElementKey(NamedTuple):
    """A named element of a document: a listener, route, backend, policy or provider."""

    object: ObjectRef
    element: str


class SecretRef(NamedTuple):
    """A secret in the source and namespace of the object that refers to it."""

    source: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`namespace/name`, for people."""
        return f"{self.namespace}/{self.name}"


View = tuple[GatewayName, ...]
"""The gateways that a node sees, sorted and without duplicates; most views hold one."""
