"""What sources say becomes edits of the compiler; what was in force before fills the gaps they leave.

Implements `Sink`; what is special about secrets is in `secrets`. Sources' ages and failures are kept here for whoever asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import structlog

from controlplane.app.loop import CommitLoop
from controlplane.app.problems import Problems
from controlplane.app.secrets import SOURCE as SECRETS
from controlplane.app.secrets import Secrets, source_of
from controlplane.app.services import Services
from controlplane.app.source_status import SourceStatus
from controlplane.compile.compiler import Compiler
from controlplane.errors import Diagnostic, Severity
from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.base import SpecObject
from controlplane.sources.belief import restored
from controlplane.sources.guard import Limits, ObjectGuard, held_sentence
from controlplane.spec.codes import Code
from controlplane.spec.rows import Row, RowKey

log = structlog.get_logger(__name__)

SERVICE_WAIT = 2.0
"""Seconds that a change of the configuration waits for services that it names first, from a source that works."""


class Intake:
    """The sink of every source."""

    def __init__(
        self,
        sources: Mapping[str, SourceStatus],
        *,
        keep: Callable[[SpecObject | ObjectRef], None],
        keep_secret: Callable[[SecretRef, Secret | None], None],
        services: Services,
        register: Problems,
        limits: Limits = Limits(),  # noqa: B008  frozen
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        waited_for: Iterable[str] | None = None,
        objects_before: Mapping[ObjectRef, str],
        objects_former: Mapping[ObjectRef, str] = MappingProxyType({}),
        secrets_before: Mapping[SecretRef, Secret],
        may_declare: Callable[[ObjectRef], bool] = lambda _: True,
    ) -> None:
        """`keep` and `keep_secret` write behind to the state on disk, which holds what was in force before.

        Nothing is committed before the sources `waited_for` (None: all) have said everything, or that they cannot.
        `objects_former` is what some of the objects said before they were edited to what was in force: proxies may have that.
        `may_declare`: whether the configuration still has a source that could say this object.
        """
        self.objects: dict[ObjectRef, SpecObject] = {}
        self.register = register
        self.register.object_of = self.objects.get
        self.sources = sources
        self.changed: Callable[[], None] = lambda: None
        """Called when a source answers or fails."""
        self.services = services
        self.waited_for = frozenset(self.sources) if waited_for is None else frozenset(waited_for)
        self._loop: CommitLoop
        self._keep = keep
        self._secrets = Secrets(
            secrets_before, keep=keep_secret, services=services, register=register, wall_clock=wall_clock
        )
        self._clock = clock
        self._guard: ObjectGuard[ObjectRef] = ObjectGuard(limits)
        self._limits = limits
        self._gone: dict[ObjectRef, bool] = {}
        self._texts = dict(objects_before)
        self._former = objects_former
        self._may_declare = may_declare
        self._waited = False
        self._holding = True  # a gateway without its secrets is no error as long as nobody has looked for them
        self._unconfirmed = set(objects_before)
        self._unusable: set[ObjectRef] = set()  # of these: in force before, and not valid here
        self._uncompiled = set(objects_before)  # proxies have what followed from these, and this process nothing yet

    def attach(self, loop: CommitLoop) -> None:
        """Where edits go. Secrets that were in force before come first, so that they are the last good ones."""
        self._loop = loop
        self._secrets.attach(loop)

    def put(self, spec: SpecObject) -> None:
        """An object as it is now."""
        self._spoke(spec.ref.source)
        self._gone.pop(spec.ref, None)
        if spec.ref in self._guard.held:
            self._guard.back(spec.ref)
            self._say_held(spec.ref.source)
        self._put(spec)

    def _put(self, spec: SpecObject) -> None:
        self._in_force(spec, keep=True)
        self._confirmed(spec.ref)

    def _in_force(self, spec: SpecObject, *, keep: bool) -> None:
        self.objects[spec.ref] = spec
        self.services.refer(spec.ref, spec.rows)
        self._edit_object(spec.ref, spec, keep=keep)

    def _edit_object(self, ref: ObjectRef, spec: SpecObject | None, *, keep: bool) -> None:
        """The object is so from now on (None: not there). If it was another before this process began, that comes first.

        It is kept when a commit takes it, not before: what is on disk is what proxies were offered.
        """
        rows = spec.rows if spec is not None else None
        before = self._before_now(ref, spec) if ref in self._uncompiled else []

        def edit(compiler: Compiler) -> Iterable[None]:
            self._uncompiled.discard(ref)
            if keep:
                self._keep(ref if spec is None else spec)
            if before:
                return compiler.succeeding(ref, before, rows)
            return compiler.removing(ref) if rows is None else compiler.putting(ref, rows)

        self._loop.edit(ref, edit)

    def _before_now(self, ref: ObjectRef, now: SpecObject | None) -> list[Mapping[RowKey, Row]]:
        """The object as it was when proxies got what they have, if it was another: the oldest first."""
        texts = [self._former.get(ref), self._texts[ref]]
        if now is not None and now.text == texts[-1]:
            texts.pop()
        found = (restored(ref, text) for text in texts if text is not None)
        return [one.rows for one in found if one is not None]

    def remove(self, ref: ObjectRef, *, sure: bool = False) -> None:
        """An object is gone; what is not sure may be held. Takes effect with `flush`."""
        self._spoke(ref.source)
        self._gone[ref] = sure

    def _judge_removals(self) -> None:
        """Of what sources removed since the last batch, take out what is to be believed."""
        gone = {ref: sure for ref, sure in self._gone.items() if sure or not self._is_early(ref)}
        self._gone = {ref: sure for ref, sure in self._gone.items() if ref not in gone}
        for source in sorted({ref.source for ref in gone}):
            # Of what is not in force and cannot be (its text is not valid any more), there is nothing to hold.
            of_source = {ref: sure or ref not in self.objects for ref, sure in gone.items() if ref.source == source}
            count = sum(ref.source == source for ref in self.objects)
            for ref in self._guard.judge(source, of_source, count, self._clock()):
                self._remove(ref)
            self._say_held(source)

    def _is_early(self, ref: ObjectRef) -> bool:
        """Whether more removals since the last process may come: they are judged together, once the source has answered."""
        return ref in self._unconfirmed and not self.sources[ref.source].answered

    def _remove(self, ref: ObjectRef) -> None:
        self.objects.pop(ref, None)
        self.services.refer(ref, None)
        self._confirmed(ref)
        self._edit_object(ref, None, keep=True)

    def put_secret(self, ref: SecretRef, secret: Secret) -> None:
        """A secret as it is now."""
        self._spoke(source_of(ref))
        self._secrets.put(ref, secret)

    def remove_secret(self, ref: SecretRef) -> None:
        """A secret is gone."""
        self._spoke(source_of(ref))
        self._secrets.remove(ref)

    @property
    def secrets(self) -> Mapping[SecretRef, Secret]:
        """Those that are in force."""
        return self._secrets.in_force

    def forget_secrets(self, is_used: Callable[[SecretRef], bool]) -> None:
        """Secrets that nothing refers to any more go, unless what is not read yet may refer to them."""
        if all(status.synced for status in self.sources.values()):
            self._secrets.forget_unused(is_used)

    def _spoke(self, source: str) -> None:
        if (status := self.sources.get(source)) is not None:
            status.spoke = self._clock()

    def put_service(self, ref: ServiceRef, service: Service, *, sure: bool = False) -> None:
        """A service as it is now."""
        self._spoke(ref.source)
        self.services.put(ref, service, sure=sure)

    def remove_service(self, ref: ServiceRef, *, sure: bool = False) -> None:
        """There is no such service."""
        self._spoke(ref.source)
        self.services.put(ref, None, sure=sure)

    def problems(self, source: str, subject: str, diagnostics: Sequence[Diagnostic]) -> None:
        """What is wrong with something that a source reads."""
        self.register.say((source, subject), diagnostics)

    def synced(self, source: str) -> None:
        """The source has said everything: what was in force before and is not now was removed in the meantime."""
        status = self.sources[source]
        if not status.synced:
            self._forget_unconfirmed(source)
        status.has_synced(self._clock())
        self.changed()

    def failed(
        self,
        source: str,
        reason: str,
        *,
        endpoints: bool = True,
        namespaces: frozenset[str] = frozenset(),
        specs: bool = True,
    ) -> None:
        """The source, or a part of it, cannot be read."""
        status = self.sources[source]
        if status.failure != reason:
            log.error("source failed", source=source, reason=reason)
        status.has_failed(reason, self._clock(), endpoints=endpoints, namespaces=namespaces, specs=specs)
        self._restore(status)
        self._hold_for_services()
        self.changed()

    def flush(self, event_time: float) -> None:
        """A batch ends."""
        self._judge_removals()
        self.services.ask()
        self.services.flush(event_time)
        if self._holding and all(map(self.has_all, self.waited_for)):
            self._stop_holding()
        if not self._holding:
            self._hold_for_services()
            self._loop.flush(event_time)
        self.changed()

    def tick(self) -> None:
        """Time passes: what was held long enough is believed."""
        self.services.tick(self._is_heard)
        if self._secrets.take_early():
            self.flush(self._clock())
        if due := self._guard.due(self._clock(), self._is_heard):
            for ref in due:
                self._remove(ref)
            for source in {ref.source for ref in due}:
                self._say_held(source)
            self.flush(self._clock())

    def _is_heard(self, ref: ObjectRef | ServiceRef) -> bool:
        status = self.sources[ref.source]
        return status.is_heard and not (isinstance(ref, ServiceRef) and ref.namespace in status.namespaces_lost)

    def held(self, source: str) -> int:
        """How many objects of a source stay in force only because their removal is not believed yet."""
        return sum(ref.source == source for ref in self._guard.held) + self.services.held_objects(source)

    def release(self, event_time: float) -> None:
        """Commit what there is, and from now on whatever comes, though a source may not have answered."""
        self._stop_holding()
        self._loop.flush(event_time)

    def _stop_holding(self) -> None:
        self._holding = False
        for status in self.sources.values():
            self._restore(status)
        self.services.ask()

    @property
    def has_objects(self) -> bool:
        """Whether there is something to serve: of what sources have said, or of what was in force before."""
        return bool(self.objects) or any(map(self._before, self.sources.values()))

    def _before(self, status: SourceStatus) -> list[ObjectRef]:
        """What was in force before, of which a source that has not said everything may still speak."""
        unsaid = () if status.synced else self._unconfirmed
        of_source = (ref for ref in unsaid if ref.source == status.name)
        return sorted(filter(self._may_declare, of_source))

    def _restore(self, status: SourceStatus) -> None:
        """A source that has not said everything proves nothing gone: what it has not spoken of is in force as it was.

        It counts until the source speaks of it, or has said everything without it.
        """
        for ref in self._before(status):
            if ref in self.objects or ref in self._unusable:
                continue
            if (spec := restored(ref, self._texts[ref])) is not None:
                self._in_force(spec, keep=False)
            else:
                self._unusable.add(ref)
                status.remembered = False
                self._say_unusable(ref)

    def _say_unusable(self, ref: ObjectRef) -> None:
        """What was in force before is nothing that this version of the program would accept."""
        message = (
            f"the last good version of {ref} is not valid here, and its source has not said it; nothing of it is served"
        )
        help = f"let {ref.source} be read again; or start the version of this program again that accepted it"
        self.register.say(("stored", ref), [Diagnostic(Code.STORED_UNUSABLE, message, help=help, subject=ref.subject)])

    def _confirmed(self, ref: ObjectRef) -> None:
        """Its source has spoken of it: from now on that counts, not what was before."""
        self._unconfirmed.discard(ref)
        if ref in self._unusable:
            self._unusable.discard(ref)
            self.register.say(("stored", ref), ())

    def missing(self) -> list[str]:
        """The sources that the start waits for still: without what they declare, less would be served than before."""
        return sorted(name for name in self.waited_for if not self.has_all(name) or self.sources[name].is_unknown)

    def has_all(self, source: str) -> bool:
        """Whether a source has said all that is wanted of it, as far as it can."""
        return self.sources[source].answered and self.services.caught_up(source)

    def _hold_for_services(self) -> None:
        """A document that names a new service waits a moment until that is known: its routes need endpoints."""
        if self.services.unheard(lambda source: self.sources[source].works()):
            if not self._waited:
                self._waited = True
                self._loop.hold(time.monotonic() + SERVICE_WAIT)
        elif self._waited:
            self._waited = False
            self._loop.release()

    def _forget_unconfirmed(self, source: str) -> None:
        missing = [ref for ref in self._unconfirmed if ref.source == source]
        known = len({*missing, *(ref for ref in self.objects if ref.source == source)})
        gone = {ref: self._gone.pop(ref, False) for ref in missing}
        believed = self._guard.judge(source, gone, known, self._clock())
        for ref in missing:
            if ref in believed or (spec := self.objects.get(ref) or restored(ref, self._texts[ref])) is None:
                self._guard.back(ref)
                self._remove(ref)
            else:
                self._put(spec)
        self._say_held(source)
        if source == SECRETS:
            self._secrets.remove_unconfirmed()

    def _say_held(self, source: str) -> None:
        held = {ref: one for ref, one in self._guard.held.items() if ref.source == source}
        said = []
        if held:
            message = held_sentence(held.values(), map(str, held), "objects", self._limits)
            help = "put them back if that was a mistake; else they go when the time is over"
            said = [Diagnostic(Code.MASS_REMOVAL, message, help=help, severity=Severity.WARNING, subject=source)]
        self.register.say(("held", source), said)
