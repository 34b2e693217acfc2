"""The narrow door: what a source may say, and to whom.

A source pushes what it knows and never reads anything back. A failure is said as a failure (`failed`), never as an
empty result. All calls come from the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from controlplane.errors import Diagnostic
from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.spec.rows import Row, RowKey


class SpecObject(msgspec.Struct, frozen=True):
    """One valid document. `text` is its YAML; `line` is the line of `file` on which the text begins, from 1."""

    ref: ObjectRef
    rows: Mapping[RowKey, Row]
    text: str
    file: str
    line: int


class Sink(Protocol):
    """What a source pushes into. Nothing takes effect before `flush`."""

    def put(self, spec: SpecObject) -> None:
        """The object as it is now; an equal one changes nothing."""

    def remove(self, ref: ObjectRef, *, sure: bool = False) -> None:
        """The object is gone, or one that was in force before the process started is not there any more.

        `sure` when its own deletion was seen, or a second read agrees: that is never held back.
        """

    def put_secret(self, ref: SecretRef, secret: Secret) -> None:
        """The secret as it is now."""

    def remove_secret(self, ref: SecretRef) -> None:
        """The secret is certainly gone."""

    def put_service(self, ref: ServiceRef, service: Service, *, sure: bool = False) -> None:
        """The service as it is now.

        `sure`: endpoints that it lacks are certainly gone: their deletion was seen in a healthy watch, or a second read
        agrees. What is not sure may be held back by the guard against mass removal, which then asks for `confirm`.
        """

    def remove_service(self, ref: ServiceRef, *, sure: bool = False) -> None:
        """There is no such service (any more); `sure` as for `put_service`."""

    def problems(self, source: str, subject: str, diagnostics: Sequence[Diagnostic]) -> None:
        """All that is wrong with `subject` (a file, an object); replaces what was said of it before, () clears it."""

    def synced(self, source: str) -> None:
        """Everything that exists has been pushed; also: the source works again after `failed`."""

    def failed(
        self,
        source: str,
        reason: str,
        *,
        endpoints: bool = True,
        namespaces: frozenset[str] = frozenset(),
        specs: bool = True,
    ) -> None:
        """The source, or a part of it, cannot be read; what it said last stays in force.

        `endpoints`: nothing is read of services, either; or else of those in `namespaces`. Whoever keeps them for a time
        only counts from then. `specs`: not all that it declares has been read yet.
        At the start this is said when each part has been read or has failed: others wait no longer for what is not said yet.
        """

    def flush(self, event_time: float) -> None:
        """A consistent batch ends here; `event_time` (time.monotonic) is when the oldest of its changes was noticed."""


class Discovery(Protocol):
    """A source that delivers only what is referred to. The application calls these; they return at once."""

    name: str

    @property
    def caught_up(self) -> bool:
        """Whether everything wanted has been pushed or said to be absent, but for what the source cannot read."""

    @property
    def held(self) -> int:
        """How many objects the source itself leaves in force, though it does not find them any more."""

    def want(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        """These are referred to as well, from now on. What is wanted and does not exist is pushed as removed."""

    def forget(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        """Nobody refers to these any more."""

    def confirm(self, services: Collection[ServiceRef]) -> None:
        """Read these once more, consistently, and push them again as `sure`, whether they changed or not."""
