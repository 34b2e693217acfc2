"""What the tests of the state store keep: documents, secrets with a recognisable content, and a store to close."""

from __future__ import annotations

from pathlib import Path

from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.state.content import StateChanges, StoredObject
from controlplane.state.store import State
from tests.support.waiting import PATIENCE

CANARY = b"canary-bird-7f3a"


def ref(name: str) -> ObjectRef:
    return ObjectRef("files", "RouteSpec", "shop", name)


def secret_ref(name: str) -> SecretRef:
    return SecretRef("files", "shop", name)


def stored(text: str, line: int = 1) -> StoredObject:
    return StoredObject(text, "/specs/shop.yaml", line)


def secret(number: int = 0) -> Secret:
    return Secret.of({"tls.crt": b"public", "tls.key": CANARY + b"-%d-" % number * 50})


def objects(**texts: str | None) -> StateChanges:
    return StateChanges(
        objects={ref(name): None if text is None else stored(text) for name, text in texts.items()},
    )


def fill(folder: Path, count: int = 40) -> tuple[dict[ObjectRef, StoredObject], dict[SecretRef, Secret]]:
    """A closed state with this many documents and as many secrets."""
    documents = {ref(f"route-{n}"): stored(f"number: {n}\n" * 40, n + 1) for n in range(count)}
    secrets = {secret_ref(f"tls-{n}"): secret(n) for n in range(count)}
    state = State.open(folder)
    state.write(StateChanges(documents, secrets, {"shop/edge": "v1"}))
    assert state.flush(PATIENCE)
    state.close()
    return documents, secrets
