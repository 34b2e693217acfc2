"""The files that say who we are to a cluster: what was read of them, and whether they are still as they were then.

Used by `access`, which knows what they hold. They are asked beside the event loop, for a file system may never answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.errors import ControlPlaneError
from controlplane.sources.beside import Beside
from controlplane.sources.reading import Signature

LOOK_SECONDS = 0.1
"""For so long one look at the files is enough: requests come by the thousand when as many objects get a status. To wait for
a look that is under way, and take what it finds, is no substitute: each of few writers still waits for a thread."""


class NoAccess(ControlPlaneError):
    """Where the cluster is, or who we are there, cannot be found out; the message says why."""


@dataclass(slots=True)
class Files:
    """The files that were read, as they were then."""

    beside: Beside
    signatures: dict[str, Signature | None] = field(default_factory=dict)
    looked: float = -1.0

    async def read(self, path: Path) -> bytes:
        """What is in one. Raises NoAccess."""
        self.signatures[str(path)] = None
        try:
            self.signatures[str(path)], content = await self.beside.ask(_read, path)
        except OSError as error:
            raise NoAccess(f"{path} cannot be read: {error.strerror}") from None
        return content

    async def changed(self) -> bool:
        """Whether one of them is another now. Raises NoAccess when that cannot be told."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return False
        try:
            differ = await self.beside.ask(_differ, self.signatures)
        except OSError as error:
            files = ", ".join(self.signatures)
            self.signatures = dict.fromkeys(self.signatures)  # to be read, when it answers
            raise NoAccess(f"{files}: {error.strerror}") from None
        self.looked = time.monotonic()
        return differ


def _read(path: Path) -> tuple[Signature, bytes]:
    return Signature.of(path.stat()), path.read_bytes()


def _differ(signatures: Mapping[str, Signature | None]) -> bool:
    return any(_signature(path) != signature for path, signature in signatures.items())


def _signature(path: str) -> Signature | None:
    try:
        return Signature.of(Path(path).stat())
    except OSError:
        return None
