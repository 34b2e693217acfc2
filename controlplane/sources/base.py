"""The narrow door: what a source may say, and to whom.

A source pushes what it knows and never reads anything back. A failure is said as a failure (`failed`), never as an
empty result. All calls come from the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from controlplane.errors import Diagnostic
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.spec.rows import Row, RowKey


@dataclass(frozen=True, slots=True)
class SpecObject:
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

    def remove(self, ref: ObjectRef) -> None:
        """The object is certainly gone."""

    def put_secret(self, ref: SecretRef, secret: Secret) -> None:
        """The secret as it is now."""

    def remove_secret(self, ref: SecretRef) -> None:
        """The secret is certainly gone."""

    def problems(self, source: str, subject: str, diagnostics: Sequence[Diagnostic]) -> None:
        """All that is wrong with `subject` (a file, an object); replaces what was said of it before, () clears it."""

    def synced(self, source: str) -> None:
        """Everything that exists has been pushed; also: the source works again after `failed`."""

    def failed(self, source: str, reason: str) -> None:
        """The source cannot be read; what it said last stays in force."""

    def flush(self, event_time: float) -> None:
        """A consistent batch ends here; `event_time` (time.monotonic) is when the oldest of its changes was noticed."""
