"""What documents refer to, asked of the sources that know it, and what these say of services on its way to the lane.

A part of the intake. A service is asked for as soon as a document names it, before that document is compiled, and until
the last pool that uses it is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from controlplane.app.lane import EndpointLane
from controlplane.model.endpoint import Service
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.base import Discovery
from controlplane.spec.references import References, references
from controlplane.spec.rows import Row, RowKey

_NOTHING = References()


class Services:
    """References of documents, and the services behind them."""

    def __init__(
        self, lane: EndpointLane, sources: Iterable[Discovery], external: Callable[[ServiceRef, Service | None], None]
    ) -> None:
        """`external` is told of services that stand for a DNS name, or cease to (None)."""
        self.sources: Mapping[str, Discovery] = {source.name: source for source in sources}
        self._lane = lane
        self._external = external
        self._externals: set[ServiceRef] = set()
        self._objects: dict[ObjectRef, References] = {}
        self._counts: Counter[ServiceRef | SecretRef] = Counter()
        self._wanted: dict[str, set[ServiceRef]] = {name: set() for name in self.sources}
        self._secrets: dict[str, set[SecretRef]] = {name: set() for name in self.sources}
        self._to_ask: set[str] = set(self.sources)
        self._leaving: set[ServiceRef | SecretRef] = set()
        self._unknown: set[ServiceRef] = set()
        self._batch: dict[ServiceRef, tuple[Service | None, bool]] = {}

    def refer(self, ref: ObjectRef, rows: Mapping[RowKey, Row] | None) -> None:
        """What a document refers to now; None when it is gone."""
        before, now = self._objects.get(ref, _NOTHING), references(rows) if rows is not None else _NOTHING
        if before == now:
            return
        if rows is None:
            del self._objects[ref]
        else:
            self._objects[ref] = now
        old, new = before.services | before.secrets, now.services | now.secrets
        for one in new - old:
            self._counts[one] += 1
            if self._counts[one] == 1:
                self._want(one)
        for one in old - new:
            self._counts[one] -= 1
            if not self._counts[one]:
                del self._counts[one]
                self._leaving.add(one)

    def ask(self) -> None:
        """Tell the sources what is wanted of them, those of which something else is."""
        for name in sorted(self._to_ask):
            self.sources[name].want(frozenset(self._wanted[name]), frozenset(self._secrets[name]))
        self._to_ask.clear()

    def settle(self) -> None:
        """The configuration is committed: what no document names and no pool uses any more is not wanted."""
        if not self._leaving:
            return
        for one in list(self._leaving):
            if one in self._counts:
                self._leaving.discard(one)
            elif not isinstance(one, ServiceRef) or not self._lane.endpoints.is_used(one):
                self._leaving.discard(one)
                self._drop(one)
        self.ask()

    def put(self, ref: ServiceRef, service: Service | None, *, sure: bool) -> None:
        """What a source says of a service; None when there is none. Takes effect with `flush`."""
        if ref in self._wanted.get(ref.source, ()):
            self._batch[ref] = (service, sure)

    def flush(self, event_time: float) -> None:
        """A consistent batch of services ends here."""
        batch, self._batch = self._batch, {}
        for ref, (service, _) in batch.items():
            self._unknown.discard(ref)
            if service is None or service.external_name is None:
                self._lane.put(ref, service)  # of one that turns into a name, the endpoints serve until the name does
            self._tell_external(ref, service)
        if batch:
            self._lane.flush(event_time)

    def unheard(self, works: Callable[[str], bool]) -> bool:
        """Whether something is wanted of which nothing was heard yet, from a source that works."""
        return any(works(ref.source) for ref in self._unknown)

    def caught_up(self, name: str) -> bool:
        """Whether a source has answered all that is wanted of it."""
        source = self.sources.get(name)
        return source is None or source.caught_up

    def _want(self, one: ServiceRef | SecretRef) -> None:
        if one.source not in self.sources:
            return
        self._to_ask.add(one.source)
        if isinstance(one, ServiceRef):
            self._wanted[one.source].add(one)
            if not self._lane.endpoints.knows(one):
                self._unknown.add(one)
        else:
            self._secrets[one.source].add(one)

    def _drop(self, one: ServiceRef | SecretRef) -> None:
        if one.source not in self.sources:
            return
        self._to_ask.add(one.source)
        if isinstance(one, ServiceRef):
            self._wanted[one.source].discard(one)
            self._unknown.discard(one)
            self._tell_external(one, None)
            self._lane.endpoints.forget(one)
        else:
            self._secrets[one.source].discard(one)

    def _tell_external(self, ref: ServiceRef, service: Service | None) -> None:
        external = service if service is not None and service.external_name is not None else None
        if external is not None:
            self._externals.add(ref)
        elif ref not in self._externals:
            return
        else:
            self._externals.discard(ref)
        self._external(ref, external)
