"""Several streams of one server, without a network."""

from __future__ import annotations

from typing import Any

from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.xds.holds import Family, Holds, family
from tests.protocol.dialogue import PART, Change, Delta, Dialogue


class Fleet:
    """Several streams of one server: what one refuses concerns the others."""

    def __init__(self, *content: Change) -> None:
        self.store = Store()
        self.store.publish({PART: content})
        self.clients: list[Dialogue] = []
        self.holds = Holds(self.changed, self.takers)
        self._due = False

    def changed(self) -> None:
        self._due = True

    def takers(self, resource: Resource) -> set[Family]:
        sessions = [client.session for client in self.clients]
        return {family(session.node) for session in sessions if session.node and session.took(resource)}

    def join(self, kind: type[Any] = Delta, node: str = "node-1", version: str = "1.40.0") -> Any:
        client = kind(store=self.store, holds=self.holds, node=node, version=version)
        self.clients.append(client)
        return client

    def publish(self, *changes: Change) -> None:
        self.store.publish({PART: changes})
        self.settle()

    def settle(self) -> None:
        """As the server does: everybody looks again."""
        self._due = False
        for client in self.clients:
            client.changed()


def bodies(message: Any) -> list[bytes]:
    return [each.resource.value for each in message.resources]
