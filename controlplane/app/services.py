"""What documents refer to, asked of the sources that know it, and what these say of services on its way to the lane.

A part of the intake. A service is asked for as soon as a document names it, before that document is compiled, and until
the last pool that uses it is gone. What is believed of it is kept on disk, and counts at the next start.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from controlplane.app.lane import EndpointLane
from controlplane.errors import Diagnostic, Severity
from controlplane.model.endpoint import Service
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.base import Discovery
from controlplane.sources.guard import EndpointGuard, Limits, held_sentence
from controlplane.spec.codes import Code
from controlplane.spec.references import References, references
from controlplane.spec.rows import Row, RowKey

_NOTHING = References()
R = TypeVar("R", ServiceRef, SecretRef)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one source delivers: how many services and endpoints, and how many of these only because they are held."""

    services: int
    endpoints: int
    held: int


class Services:
    """References of documents, and the services behind them."""

    def __init__(
        self,
        lane: EndpointLane,
        sources: Iterable[Discovery],
        *,
        external: Callable[[ServiceRef, Service | None], None],
        keep: Callable[[ServiceRef, Service | None], None],
        say: Callable[[str, Sequence[Diagnostic]], None],
        limits: Limits = Limits(),  # noqa: B008  frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`external` is told of services that stand for a DNS name, or cease to (None).

        `keep` writes behind to the state on disk, `say` replaces what is held of a source.
        """
        self.sources: Mapping[str, Discovery] = {source.name: source for source in sources}
        self._guard = EndpointGuard(limits)
        self._lane = lane
        self._external = external
        self._keep = keep
        self._say = say
        self._limits = limits
        self._clock = clock
        self._believed: dict[ServiceRef, Service | None] = {}
        self._objects: dict[ObjectRef, References] = {}
        self._services: Counter[ServiceRef] = Counter()
        self._secrets: Counter[SecretRef] = Counter()
        self.unnamed: set[SecretRef] = set()
        """Secrets that no document names, and that were named, or in force before this process began; not those of files."""
        self._to_ask: dict[ServiceRef, None] = {}
        self._secrets_to_ask: dict[SecretRef, None] = {}
        self._asked: set[ServiceRef] = set()
        self._secrets_asked: set[SecretRef] = set()
        self._leaving: set[ServiceRef] = set()  # no document names them; a pool may still use them
        self._unknown: set[ServiceRef] = set()
        self._batch: dict[ServiceRef, tuple[Service | None, bool]] = {}

    def restore(self, services: Mapping[ServiceRef, Service]) -> None:
        """What was in force before this process started: it counts until the sources say otherwise."""
        for ref, service in sorted(services.items()):
            if ref.source in self.sources:
                self._guard.restore(ref, service)
                self._believe(ref, service)
                self._leaving.add(ref)
                self._to_ask[ref] = None
            else:
                self._keep(ref, None)
        self._lane.flush(self._clock())

    # -- what is wanted ------------------------------------------------------------------------------------------

    def refer(self, ref: ObjectRef, rows: Mapping[RowKey, Row] | None) -> None:
        """What a document refers to now; None when it is gone."""
        before, now = self._objects.get(ref, _NOTHING), references(rows) if rows is not None else _NOTHING
        if rows is None:
            self._objects.pop(ref, None)
        else:
            self._objects[ref] = now
        if before == now:
            return
        self._services.update(now.services - before.services)
        self._services.subtract(before.services - now.services)
        self._secrets.update(now.secrets - before.secrets)
        self._secrets.subtract(before.secrets - now.secrets)
        for secret in before.secrets ^ now.secrets:
            if self._secrets[secret]:
                self.unnamed.discard(secret)
            else:
                del self._secrets[secret]
                if secret.source in self.sources:  # others do not give it again when it is named again
                    self.unnamed.add(secret)
            self._secrets_to_ask[secret] = None
        for service in before.services ^ now.services:
            if self._services[service] > 0:
                self._leaving.discard(service)
                if service not in self._believed:
                    self._unknown.add(service)
            else:
                del self._services[service]
                self._leaving.add(service)
            self._to_ask[service] = None

    def ask(self) -> None:
        """Tell the sources what is wanted of them now and was not, and what is not any more."""
        services, self._to_ask = self._to_ask, {}
        secrets, self._secrets_to_ask = self._secrets_to_ask, {}
        wanted = {ref for ref in services if ref in self._services or ref in self._leaving}
        wanted_secrets = {ref for ref in secrets if ref in self._secrets}
        new, new_secrets = wanted - self._asked, wanted_secrets - self._secrets_asked
        gone = self._asked.intersection(services) - wanted
        gone_secrets = self._secrets_asked.intersection(secrets) - wanted_secrets
        self._asked |= new
        self._asked -= gone
        self._secrets_asked |= new_secrets
        self._secrets_asked -= gone_secrets
        for name in self._sources_of(new, new_secrets):
            self.sources[name].want(_of(name, new), _of(name, new_secrets))
        for name in self._sources_of(gone, gone_secrets):
            self.sources[name].forget(_of(name, gone), _of(name, gone_secrets))

    def _sources_of(self, services: Iterable[ServiceRef], secrets: Iterable[SecretRef]) -> list[str]:
        found = {ref.source for ref in services} | {ref.source for ref in secrets}
        return sorted(found & self.sources.keys())

    def settle(self) -> None:
        """The configuration is committed: what no document names and no pool uses any more is not wanted."""
        for ref in [ref for ref in self._leaving if not self._lane.endpoints.is_used(ref)]:
            self._leaving.discard(ref)
            self._unknown.discard(ref)
            self._to_ask[ref] = None
            if ref in self._believed:
                self._tell_external(ref, None)
                del self._believed[ref]
                self._keep(ref, None)
            self._guard.forget(ref)
            self._lane.endpoints.forget(ref)
        self.ask()

    def unheard(self, works: Callable[[str], bool]) -> bool:
        """Whether something is wanted of which nothing was heard yet, from a source that works."""
        return any(ref.source in self.sources and works(ref.source) for ref in self._unknown)

    def caught_up(self, name: str) -> bool:
        """Whether a source has answered all that is wanted of it."""
        source = self.sources.get(name)
        return source is None or source.caught_up

    def held_objects(self, name: str) -> int:
        """How many objects a source itself leaves in force though they seem to be gone."""
        source = self.sources.get(name)
        return 0 if source is None else source.held

    # -- what sources say ----------------------------------------------------------------------------------------

    def put(self, ref: ServiceRef, service: Service | None, *, sure: bool) -> None:
        """What a source says of a service; None when there is none. Takes effect with `flush`."""
        if ref in self._services or ref in self._leaving:
            self._batch[ref] = (service, sure)

    def flush(self, event_time: float) -> None:
        """A consistent batch of services ends here."""
        if not self._batch:
            return
        batch, self._batch = self._batch, {}
        before = set(self._guard.held)
        for ref, service in self._guard.judge(batch, self._clock()).items():
            self._believe(ref, service)
        self._lane.flush(event_time)
        if before or self._guard.held:
            self._say_held({ref.source for ref in batch})
            doubtful = sorted(self._guard.held.keys() - before)
            for name in {ref.source for ref in doubtful}:
                self.sources[name].confirm([ref for ref in doubtful if ref.source == name])

    def tick(self, is_heard: Callable[[ServiceRef], bool]) -> None:
        """Time passes: what was held long enough is believed, of sources that are heard."""
        if due := self._guard.due(self._clock(), is_heard):
            for ref, service in due.items():
                self._believe(ref, service)
            self._lane.flush(self._clock())
            self._say_held({ref.source for ref in due})

    def delivered(self, name: str) -> Delivered:
        """What a source delivers."""
        services = [service for ref, service in self._believed.items() if ref.source == name and service is not None]
        held = sum(held.gone for ref, held in self._guard.held.items() if ref.source == name)
        return Delivered(len(services), sum(len(service.endpoints) for service in services), held)

    def _believe(self, ref: ServiceRef, service: Service | None) -> None:
        self._unknown.discard(ref)
        self._tell_external(ref, service)
        if ref not in self._believed or self._believed[ref] != service:
            self._believed[ref] = service
            self._keep(ref, service)
        if service is None or service.external_name is None:
            self._lane.put(ref, service)  # of one that turns into a name, the endpoints serve until the name does

    def _tell_external(self, ref: ServiceRef, service: Service | None) -> None:
        before = self._believed.get(ref)
        external = service if service is not None and service.external_name is not None else None
        if external is not None or (before is not None and before.external_name is not None):
            self._external(ref, external)

    def _say_held(self, names: Iterable[str]) -> None:
        for name in names:
            held = {ref: one for ref, one in self._guard.held.items() if ref.source == name}
            if not held:
                self._say(name, ())
                continue
            listed = (f"{ref.namespace}/{ref.name}".lstrip("/") for ref in held)
            message = held_sentence(held.values(), listed, "endpoints", self._limits)
            help = "nothing, if the source was wrong; else wait, or delete them where the source sees it"
            self._say(
                name, [Diagnostic(Code.MASS_REMOVAL, message, help=help, severity=Severity.WARNING, subject=name)]
            )


def _of(source: str, refs: Iterable[R]) -> list[R]:
    """Those of a source, sorted."""
    return sorted(ref for ref in refs if ref.source == source)
