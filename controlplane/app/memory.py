"""What survives a restart, as the running process uses it: inputs that were in force, written behind.

Reads everything once at the start and only writes afterwards. Failing to write never stops serving: it is said, in the
log and in the status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from pydantic.alias_generators import to_camel

from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.base import SpecObject
from controlplane.state.content import Note, StateChanges, Status, StoredObject
from controlplane.state.store import State

log = structlog.get_logger(__name__)

SHOWN = 20
"""Of what was wrong with the state at the start, that the admin API shows; all of it is in the log."""

BEHIND_SECONDS = 0.02
"""By how much the disk follows what is in force."""


class Memory:
    """The state folder of one process."""

    def __init__(self, state: State) -> None:
        """Take over what the previous process left."""
        self._state = state
        loaded = state.load()
        for problem in loaded.problems:
            log.warning("state", problem=problem)
        self._found = loaded.problems[:SHOWN]
        self.whole = loaded.whole
        """Whether none of the inputs was damaged."""
        self.texts = {ref: stored.text for ref, stored in loaded.objects.items()}
        """The text of every object that was in force."""
        self.secrets = loaded.secrets
        """Every secret that was in force."""
        self.services = loaded.services
        """Every service that was in force."""
        self.seen = loaded.seen
        """When each source could be read last (seconds of the epoch)."""
        self.notes = loaded.history
        """What was noted of proxies."""
        self.gather: Callable[[], object] = lambda: None
        """Called before what was noted is handed over: somebody may have more to note."""
        self._taken: dict[ObjectRef, StoredObject | None] = {}
        self.told = loaded.told
        """By source: the highest version that it has told of something."""
        self._objects: dict[ObjectRef, StoredObject | None] = {}
        self._secrets: dict[SecretRef, Secret | None] = {}
        self._services: dict[ServiceRef, Service | None] = {}
        self._notes: dict[Note, bytes | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.served_before = loaded.served
        """What was served last, by view, and since when."""
        self._served = {name: served.version for name, served in loaded.served.items()}

    @classmethod
    def open(cls, folder: Path, key_file: Path | None, fleet: str = "") -> Memory:
        """The state of a folder, unless another fleet's. Raises ConfigurationError when its key cannot be used."""
        return cls(State.open(folder, key_file, fleet=fleet))

    def keep(self, spec: SpecObject | ObjectRef) -> None:
        """A commit that is under way has taken this object; an ObjectRef: that it is gone."""
        if isinstance(spec, SpecObject):
            self._taken[spec.ref] = StoredObject(spec.text, spec.file, spec.line)
        else:
            self._taken[spec] = None

    def committed(self) -> None:
        """What the commit has taken is in force. Noted for `write`."""
        self._objects |= self._taken
        self._taken = {}

    def note(self, note: Note, content: bytes | None) -> None:
        """Something that proxies have and no input says; None: not any more. Noted for `write`."""
        self._notes[note] = content

    def keep_secret(self, ref: SecretRef, secret: Secret | None) -> None:
        """The secret is in force; None: it is gone. Noted for `write`."""
        self._secrets[ref] = secret

    def write_soon(self) -> None:
        """Hand over what was noted a moment later: the writing thread wants a processor, and so do proxies that change."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BEHIND_SECONDS, self.write)

    def write(self) -> None:
        """Hand over what was noted."""
        self._timer = None
        self.gather()
        if self._objects or self._secrets or self._services or self._notes:
            changes = StateChanges(self._objects, self._secrets, services=self._services, history=self._notes)
            self._state.write(changes)
            self._objects, self._secrets, self._services, self._notes = {}, {}, {}, {}

    def keep_service(self, ref: ServiceRef, service: Service | None) -> None:
        """The service is in force; None: nobody asks for it any more. Noted for `write`."""
        self._services[ref] = service

    def seen_now(self, seen: dict[str, float]) -> None:
        """When sources could be read last (seconds of the epoch)."""
        self._state.write(StateChanges(seen=seen))

    def told_now(self, told: Mapping[str, int]) -> None:
        """The highest versions that sources have told."""
        if changed := {name: version for name, version in told.items() if self.told.get(name) != version}:
            self.told |= changed
            self._state.write(StateChanges(told=changed))

    def served(self, versions: dict[str, str]) -> None:
        """The versions of what is served now, by view."""
        changed: dict[str, str | None] = {
            name: version for name, version in versions.items() if self._served.get(name) != version
        }
        changed |= dict.fromkeys(self._served.keys() - versions.keys())
        self._served = versions
        if changed:
            self._state.write(StateChanges(served=changed))

    def on_disk(self) -> Status:
        """How the state on disk is."""
        return self._state.status()

    def status(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        status = asdict(self.on_disk())
        return {to_camel(key): _plain(value) for key, value in status.items()} | {"foundAtStart": self._found}

    def close(self) -> None:
        """Write what waits."""
        self.write()
        self._state.close()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
