"""One cluster as a source: what is watched in it, and the sum of how that is doing.

`KubernetesSource` is a `Discovery`: it watches gateway specs if it is told to, and services, EndpointSlices and secrets as
soon as somebody refers to any. Each kind lives and fails by itself: one that is refused keeps what it said last, and the
others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from controlplane.errors import Diagnostic, Severity
from controlplane.model.conduct import HOLD
from controlplane.model.endpoint import Service
from controlplane.names import ObjectRef, SecretRef, ServiceRef, kubernetes_source
from controlplane.sources.base import Sink
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.catalog import Catalog
from controlplane.sources.kubernetes.client import Client
from controlplane.sources.kubernetes.definitions import SpecWatch
from controlplane.sources.kubernetes.reflector import Health
from controlplane.sources.kubernetes.secrets import SecretWatch
from controlplane.sources.kubernetes.services import ServiceWatch
from controlplane.sources.kubernetes.setback import Setback
from controlplane.sources.kubernetes.slices import Regions
from controlplane.sources.kubernetes.specs import Seen
from controlplane.sources.kubernetes.watches import Watches
from controlplane.spec.codes import Code

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched in a cluster. `namespaces` None: all of them. `region` "": as the labels of nodes say."""

    specs: bool = False
    endpoints: bool = True
    namespaces: tuple[str, ...] | None = None
    secrets_by_namespace: bool = False
    region: str = ""


@dataclass(frozen=True, slots=True)
class Before:
    """What was in force before this process began: the texts of objects of any source, the services of this cluster.

    `told`: the highest version that it had told. If it is behind that, it has lost its data.
    """

    texts: Mapping[ObjectRef, str] = field(default_factory=dict)
    services: Mapping[ServiceRef, Service] = field(default_factory=dict)
    told: int = 0


_NOTHING = Before()


class KubernetesSource:
    """Watches one cluster until it is cancelled; no fault of the cluster ends it."""

    def __init__(
        self,
        cluster: str,
        access: Access,
        watched: Watched,
        *,
        before: Before = _NOTHING,
        hold_seconds: float = HOLD.total_seconds(),
    ) -> None:
        """`before` is for when the cluster cannot be read at the start, or is not what it was.

        `hold_seconds`: how long specs stay whose definition was removed, and services that the cluster lost.
        """
        self.name = kubernetes_source(cluster)
        self._access = access
        self._watched = watched
        self._last_good = dict(before.texts)
        self._told_before = before.told
        self.hold_seconds = hold_seconds
        self.noticed: Callable[[ObjectRef], None] = lambda _: None
        """Called when a custom resource is there, or has another generation or status than before."""
        self._regions = Regions(watched.region)
        services = {(ref.namespace, ref.name): service for ref, service in before.services.items()}
        self._catalog = Catalog(self.name, self._regions, Setback(hold_seconds, services))
        self._to_take: dict[ServiceRef, bool] = {}
        """Services that are referred to from now on (True), or no longer."""
        self._secrets_to_take: dict[SecretRef, bool] = {}
        self._names: dict[str, set[str]] = {}
        """The secrets that are referred to, by namespace."""
        self._outside: dict[str, set[tuple[type, str]]] = {}
        """What is referred to in namespaces that are not watched: services and secrets by name."""
        self._unsure: set[ServiceRef] = set()
        self._wake = asyncio.Event()
        self._catalog.setback.changed = self._wake.set
        self._access.noticed = self._wake.set
        self._started = False
        self._said: tuple[str | None, bool, frozenset[str], bool] = (None, False, frozenset(), False)
        """What failed, whether services could not be read, and those of which namespaces; whether there may be other specs."""
        self._told = False
        self._said_stale = ""
        self._watches: Watches
        self._secrets: SecretWatch
        self._services: ServiceWatch
        self._specs: SpecWatch | None = None

    # -- Discovery -----------------------------------------------------------------------------------------------

    @property
    def caught_up(self) -> bool:
        """Whether everything wanted has been pushed or said to be absent, but for what cannot be read."""
        if not (self._started and self._told and self._answered):
            return False
        return self._services.caught_up and self._secrets.caught_up

    @property
    def held(self) -> int:
        """How many custom resources stay in force though their definition is gone, or was."""
        return self._specs.held if self._specs is not None else 0

    def want(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        """These are referred to as well, from now on."""
        self._to_take |= {ref: True for ref in services if ref.source == self.name}
        self._secrets_to_take |= {ref: True for ref in secrets if ref.source == self.name}
        self._wake.set()

    def forget(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        """Nobody refers to these any more: at once, so that what is wanted again in this very turn is pushed again."""
        ours = [ref for ref in services if ref.source == self.name]
        (self._services if self._started else self._catalog).forget([(ref.namespace, ref.name) for ref in ours])
        self._to_take |= dict.fromkeys(ours, False)
        for secret in secrets:
            if secret.source == self.name:
                self._secrets_to_take[secret] = False
                if self._started:
                    self._secrets.forget(secret.namespace, secret.name)
        self._wake.set()

    def confirm(self, services: Collection[ServiceRef]) -> None:
        """Read these once more, and push them again as `sure`."""
        self._unsure.update(ref for ref in services if ref.source == self.name)
        self._wake.set()

    @property
    def kinds(self) -> dict[str, Health]:
        """How each kind that is watched is doing."""
        return self._watches.health if self._started else {}

    @property
    def told(self) -> int:
        """The highest version that the cluster has told; 0 when it has told none, or lacks what it told."""
        lacks = self._catalog.setback.reason is not None or (self._specs is not None and self._specs.held)
        return self._watches.told if self._started and not lacks else 0

    # -- custom resources ----------------------------------------------------------------------------------------

    def seen(self, ref: ObjectRef) -> Seen | None:
        """A custom resource as the API server has it now, or None."""
        return self._specs.seen(ref) if self._specs is not None else None

    def refs(self) -> list[ObjectRef]:
        """Every custom resource that exists."""
        return list(self._specs.refs()) if self._specs is not None else []

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self, sink: Sink) -> None:
        """Push into the sink until cancelled."""
        self._catalog.sink = sink
        watched = self._watched
        async with Client(self._access) as client:
            self._watches = watches = Watches(self.name, client, self._wake.set)
            self._secrets = SecretWatch(self.name, watches, sink, by_namespace=watched.secrets_by_namespace)
            self._services = ServiceWatch(self._catalog, self._regions, watches, watched.namespaces, self._told_before)
            if watched.specs:
                self._specs = SpecWatch(
                    self.name,
                    watches,
                    sink,
                    watched.namespaces,
                    self._last_good,
                    self.hold_seconds,
                    self.noticed,
                    self._told_before,
                )
            self._started = True
            self._told = False
            try:
                while True:
                    self._attend(sink)
                    self._report(sink)
                    await self._wake.wait()
                    self._wake.clear()
            finally:
                self._started = False
                await watches.close()

    def _attend(self, sink: Sink) -> None:
        """Do what was asked for, and what a change of health makes possible."""
        if self._to_take or self._secrets_to_take:
            self._take(sink)
        if self._unsure:
            unsure, self._unsure = self._unsure, set()
            self._services.confirm([(ref.namespace, ref.name) for ref in unsure])
        if self._specs is not None:
            self._specs.attend()
        self._services.attend()

    def _take(self, sink: Sink) -> None:
        """What is referred to has changed. It costs what has: there may be thousands of others."""
        outside = set(self._outside)
        services, self._to_take = self._to_take, {}
        for ref, wanted in sorted(services.items()):
            if self._watched.endpoints and self._is_watched(ref.namespace):
                if wanted:
                    self._catalog.want([(ref.namespace, ref.name)])
            else:
                _note(self._outside, ref.namespace, (ServiceRef, ref.name), wanted=wanted)
                if wanted:
                    sink.remove_service(ref, sure=True)
        secrets, self._secrets_to_take = self._secrets_to_take, {}
        for secret, wanted in sorted(secrets.items()):
            if self._is_watched(secret.namespace):
                _note(self._names, secret.namespace, secret.name, wanted=wanted)
            else:
                _note(self._outside, secret.namespace, (SecretRef, secret.name), wanted=wanted)
                if wanted:
                    sink.remove_secret(secret)
        if secrets:
            self._secrets.want({namespace: set(names) for namespace, names in self._names.items()})
        if outside != self._outside.keys():
            self._say_outside(sink)
        sink.flush(time.monotonic())

    def _say_outside(self, sink: Sink) -> None:
        said = [
            Diagnostic(
                Code.NOT_WATCHED,
                f'{self.name}: something in namespace "{namespace}" is referred to, which the configuration leaves out',
                help="add it to namespaces of this cluster" if self._watched.endpoints else "set endpoints: true",
                severity=Severity.WARNING,
            )
            for namespace in sorted(self._outside)
        ]
        sink.problems(self.name, "namespaces", said)

    def _is_watched(self, namespace: str) -> bool:
        return self._watched.namespaces is None or namespace in self._watched.namespaces

    @property
    def _answered(self) -> bool:
        """Whether each kind that is wanted has been listed, or has failed."""
        asked = not (self._to_take or self._secrets_to_take or self._services.waits)
        return self._watches.answered and asked

    def _report(self, sink: Sink) -> None:
        """Tell the sink what the sum of all kinds is, when that has changed."""
        self._say_stale(sink)
        failure = "; ".join(filter(None, (self._watches.failure, self._catalog.setback.reason))) or None
        unread = self._specs is not None and not self._specs.listed
        said = (failure, self._services.lost, self._services.lost_namespaces, unread)
        if not self._answered and (failure is None or not self._told):
            return
        if self._told and said == self._said:
            return
        self._said, self._told = said, True
        if failure is None:
            sink.synced(self.name)
        else:
            sink.failed(self.name, failure, endpoints=said[1], namespaces=said[2], specs=unread)
        sink.flush(time.monotonic())

    def _say_stale(self, sink: Sink) -> None:
        """Credentials that work, and are not those of the files any more: the next start has no others."""
        if (stale := self._access.stale) == self._said_stale:
            return
        self._said_stale = stale
        message = f"{self.name}: {stale}; the credentials of before are used"
        help = "put it right before they end, or this process does"
        said = Diagnostic(Code.CREDENTIALS_STALE, message, help=help, severity=Severity.WARNING)
        sink.problems(self.name, "credentials", (said,) if stale else ())
        sink.flush(time.monotonic())


def _note(found: dict[str, set[T]], namespace: str, what: T, *, wanted: bool) -> None:
    """Add it to what is found in a namespace, or take it out."""
    if wanted:
        found.setdefault(namespace, set()).add(what)
    elif (there := found.get(namespace)) is not None:
        there.discard(what)
        if not there:
            del found[namespace]
