"""What survives a restart, as the running process uses it: inputs that were in force, written behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.sources.base import SpecObject


class Memory:
    """Nothing is remembered yet."""

    def __init__(self) -> None:
        self.texts: dict[ObjectRef, str] = {}
        self.secrets: dict[SecretRef, Secret] = {}

    @classmethod
    def open(cls, path: Path, key: Path | None) -> Memory:
        return cls()

    def keep(self, spec: SpecObject | ObjectRef) -> None: ...
    def keep_secret(self, ref: SecretRef, secret: Secret | None) -> None: ...
    def status(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...
