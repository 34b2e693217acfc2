"""A compiler through a history of edits, with what it said and published."""

from __future__ import annotations

from typing import Any

from controlplane.compile.compiler import Compiler
from controlplane.errors import Diagnostic
from controlplane.model.secret import Secret
from controlplane.names import Family, GatewayName, SecretRef
from controlplane.resources import Resource
from tests.compile import worlds

VIEWS = tuple(
    tuple(map(GatewayName, names))
    for names in (("platform/edge",), ("platform/inner",), ("platform/edge", "platform/inner"))
)
CERTIFICATES: dict[str, tuple[SecretRef, Secret]] = {name: worlds.secret(name) for name in worlds.SECRETS}


class Lived:
    """A compiler, with what it said is wrong, and what it published."""

    def __init__(self) -> None:
        self.compiler = Compiler()
        self.issues: dict[tuple[str, Any], tuple[Diagnostic, ...]] = {}
        self.published: dict[tuple[tuple[str, ...], str, str], Resource] = {}

    def commit(self) -> int:
        """The number of resources that were published."""
        commit = self.compiler.commit_now()
        self.issues |= commit.issues
        self.issues = {place: found for place, found in self.issues.items() if found}
        count = 0
        for part, entries in commit.publication.items():
            for type_url, name, resource in entries:
                count += 1
                if resource is None:
                    self.published.pop((part, type_url, name), None)
                else:
                    self.published[part, type_url, name] = resource
        return count


def add_views(compiler: Compiler, objects: dict[Any, worlds.Said], *, grpc: bool) -> None:
    """What nodes that see both gateways ask for, and nodes that are no Envoys."""
    there = {f"platform/{said['metadata']['name']}" for said in objects.values() if said["kind"] == "GatewaySpec"}
    for view in VIEWS:
        if there.issuperset(view):
            compiler.add_view(view)
            if grpc:
                compiler.add_view(view, Family.GRPC)
