"""What sources say becomes edits of the compiler; what was in force before fills the gaps they leave.

Implements `Sink`. A lost certificate keeps the previous pair (decisions.md 2); keys of issuers are gone at once, since
authentication fails closed. Sources' ages and failures are kept here for whoever asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from controlplane.app.loop import CommitLoop
from controlplane.app.problems import Problems
from controlplane.compile.codes import SECRET_LOST
from controlplane.compile.tls import certificate_status
from controlplane.errors import Diagnostic
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.sources.base import SpecObject

log = structlog.get_logger(__name__)

_KEPT_FILES = ("tls.crt", "tls.key", "ca.crt")
"""The files of a secret that outlive it: traffic goes on with the previous certificate."""


@dataclass(slots=True)
class SourceStatus:
    """Whether a source can be read, since when, and when it spoke last (time.monotonic)."""

    name: str
    synced: bool = False
    failure: str | None = None
    spoke: float = field(default_factory=time.monotonic)

    def age(self) -> float:
        """Seconds since it spoke."""
        return time.monotonic() - self.spoke

    def works(self) -> bool:
        """It said everything, and can be read."""
        return self.synced and self.failure is None

    @property
    def answered(self) -> bool:
        """It said everything once, or said that it cannot."""
        return self.synced or self.failure is not None


class Intake:
    """The sink of every source."""

    def __init__(
        self,
        sources: Sequence[str],
        *,
        keep: Callable[[SpecObject | ObjectRef], None],
        keep_secret: Callable[[SecretRef, Secret | None], None],
        objects_before: Iterable[ObjectRef],
        secrets_before: Mapping[SecretRef, Secret],
    ) -> None:
        """`keep` and `keep_secret` write behind to the state on disk, which holds what was in force before."""
        self.objects: dict[ObjectRef, SpecObject] = {}
        self.register = Problems(self.objects.get)
        self.sources = {name: SourceStatus(name) for name in sources}
        self.changed: Callable[[], None] = lambda: None
        """Called when a source answers or fails."""
        self._loop: CommitLoop
        self._keep = keep
        self._keep_secret = keep_secret
        self._secrets: dict[SecretRef, Secret] = dict(secrets_before)
        self._unconfirmed: set[ObjectRef | SecretRef] = {*objects_before, *secrets_before}

    def attach(self, loop: CommitLoop) -> None:
        """Where edits go. Secrets that were in force before come first, so that they are the last good ones."""
        self._loop = loop
        for ref, secret in self._secrets.items():
            self._edit_secret(ref, secret)

    def put(self, spec: SpecObject) -> None:
        """An object as it is now."""
        self.objects[spec.ref] = spec
        self._unconfirmed.discard(spec.ref)
        self.register.know(spec.ref)
        self._loop.edit(spec.ref, lambda compiler: compiler.put(spec.ref, spec.rows))
        self._keep(spec)

    def remove(self, ref: ObjectRef) -> None:
        """An object is gone."""
        self.objects.pop(ref, None)
        self.register.forget(ref)
        self._loop.edit(ref, lambda compiler: compiler.remove(ref))
        self._keep(ref)

    def put_secret(self, ref: SecretRef, secret: Secret) -> None:
        """A secret as it is now. A pair that cannot be used does not replace one that can."""
        self._unconfirmed.discard(ref)
        self._secrets[ref] = secret
        self._edit_secret(ref, secret)
        problem = certificate_status(secret).problem if secret.get("tls.crt") is not None else None
        if problem is None:
            self._keep_secret(ref, secret)
        self._say_lost(ref, ())

    def remove_secret(self, ref: SecretRef) -> None:
        """A secret is gone."""
        before = self._secrets.pop(ref, None)
        kept = {name: value for name in _KEPT_FILES if before and (value := before.get(name)) is not None}
        if kept and before is not None:
            self._edit_secret(ref, Secret.of(kept))
            message = f'secret "{ref}" is gone; its certificate stays in force'
            self._say_lost(ref, [Diagnostic(SECRET_LOST, message, help="put it back, or remove what refers to it")])
        else:
            self._loop.edit(ref, lambda compiler: compiler.remove_secret(ref))
            self._keep_secret(ref, None)

    def problems(self, source: str, subject: str, diagnostics: Sequence[Diagnostic]) -> None:
        """What is wrong with something that a source reads."""
        self.register.say((source, subject), diagnostics)

    def synced(self, source: str) -> None:
        """The source has said everything: what was in force before and is not now was removed in the meantime."""
        status = self.sources[source]
        if not status.synced:
            self._forget_unconfirmed(ObjectRef if source == "files" else SecretRef)
        status.synced, status.failure, status.spoke = True, None, time.monotonic()
        self.changed()

    def failed(self, source: str, reason: str) -> None:
        """The source cannot be read."""
        status = self.sources[source]
        if status.failure != reason:
            log.error("source failed", source=source, reason=reason)
        status.failure = reason
        self.changed()

    def flush(self, event_time: float) -> None:
        """A batch ends."""
        for status in self.sources.values():
            if status.failure is None:
                status.spoke = time.monotonic()
        self._loop.flush(event_time)

    def _forget_unconfirmed(self, kind: type[ObjectRef | SecretRef]) -> None:
        for ref in [ref for ref in self._unconfirmed if isinstance(ref, kind)]:
            self._unconfirmed.discard(ref)
            if isinstance(ref, SecretRef):
                self.remove_secret(ref)
            else:
                self._keep(ref)

    def _edit_secret(self, ref: SecretRef, secret: Secret) -> None:
        self._loop.edit(ref, lambda compiler: compiler.put_secret(ref, secret))

    def _say_lost(self, ref: SecretRef, diagnostics: Sequence[Diagnostic]) -> None:
        self.register.say(("lost", ref), diagnostics)
