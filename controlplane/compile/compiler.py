"""The compiler as the rest of the process sees it: objects and secrets in, publications and issues out.

It splits nothing and decides nothing: it writes the rows of objects into the input tables (only those that differ),
commits, and gathers what changed by part of a snapshot. `app` and the offline commands use it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from controlplane.compile.chains import keep_chain, ways_in
from controlplane.compile.changes import merged, replaced, touched
from controlplane.compile.codes import FAILED
from controlplane.compile.endpoints import Endpoints, EndpointTables, Touched
from controlplane.compile.heirs import Heirs
from controlplane.compile.namesakes import Namesakes
from controlplane.compile.pipeline import Tables
from controlplane.compile.proxyless.tables import Followed
from controlplane.compile.rows import Issue, LimitKey, ResourceKey
from controlplane.errors import Diagnostic, InvalidInput, Severity
from controlplane.filters.jwt import compile as jwt
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.graph.engine import Changes, Graph
from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import ElementKey, Family, GatewayName, ObjectRef, SecretRef, ServiceRef, View, parts_of
from controlplane.resources import Resource
from controlplane.spec.rows import Element, GatewayRow, Kind, Row, RowKey

Publication = dict[Hashable, list[tuple[str, str, Resource | None]]]
"""By part: type URL, name, and the resource as it is now (None: gone)."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit changed."""

    publication: Publication
    issues: Mapping[Hashable, tuple[Diagnostic, ...]]
    """By table and row: what is wrong with it now; empty when it was put right."""
    requirements: frozenset[tuple[GatewayName, str]]
    """The JWT requirements that routes began or ceased to name."""
    limits: frozenset[LimitKey]
    """The same of rate limits whose buckets routes share."""
    fleet_changed: bool
    """Whether gateways, their selectors, or the views that are compiled may be others now."""
    former: Mapping[ResourceKey, Resource | None] | None
    """What stood (None: nothing did) before this process began where objects have changed since; None when none has."""


_BATCH = 512
"""Rows that are written, or gathered, in one step: the endpoint lane commits between any two."""


@dataclass(slots=True)
class Compiler:
    """Holds the tables of both lanes, and the rows of each object, to compare the next version with."""

    tables: Tables = field(default_factory=Tables)
    endpoints: Endpoints = field(default_factory=lambda: Endpoints(EndpointTables(None)))
    declared: Namesakes = field(default_factory=Namesakes)
    successors: dict[ObjectRef, Sequence[Mapping[RowKey, Row] | None]] = field(default_factory=dict)
    """What becomes of objects once they have been compiled as they were."""
    heirs: Heirs = field(default_factory=Heirs)
    grpc: Followed | None = None
    """What gRPC nodes get; None while none has asked."""
    wanted: Callable[[], Iterable[tuple[View, Family]]] = tuple
    """The views that nodes have now that the gateways are others: compiled in the commit that changes them, so that what
    a node loses and what it gains are one publication."""

    def put(self, ref: ObjectRef, rows: Mapping[RowKey, Row]) -> None:
        """The object as it is now."""
        for _ in self.putting(ref, rows):
            pass

    def putting(self, ref: ObjectRef, rows: Mapping[RowKey, Row]) -> Generator[None]:
        """The same in steps: an object may have 20,000 rows."""
        if self.declared.rows(ref) is not rows:
            yield from self._declare(ref, rows)

    def succeeding(
        self, ref: ObjectRef, before: Sequence[Mapping[RowKey, Row]], rows: Mapping[RowKey, Row] | None
    ) -> Generator[None]:
        """The object as it was when proxies got what they have, before this process began; and as it is (None: gone).

        The next commit compiles one after the other, so that what proxies still use is kept as on any edit.
        """
        yield from self.putting(ref, before[0])
        self.successors[ref] = *before[1:], rows

    def remove(self, ref: ObjectRef) -> None:
        """The object is gone."""
        for _ in self.removing(ref):
            pass

    def removing(self, ref: ObjectRef) -> Generator[None]:
        """The same in steps: another source may have one of the same name, which takes its place."""
        return self._declare(ref, None)

    def in_force(self, name: ObjectRef) -> ObjectRef:
        """The object of this kind and name that is compiled, whichever source it is from; `name` itself when none is."""
        return self.declared.in_force(name) or name

    def _declare(self, ref: ObjectRef, rows: Mapping[RowKey, Row] | None) -> Generator[None]:
        """A source says this of its object: what that changes of the rows that are in force under its name."""
        former = self.declared.in_force(ref)
        before = (self.declared.rows(former) if former else None) or {}
        self.declared.put(ref, rows)
        successor = self.declared.in_force(ref)
        now = (self.declared.rows(successor) if successor else None) or {}
        if now is before:
            return
        gone = before.keys() - now.keys()
        self.heirs.go(self.tables, before, gone)
        for key in gone:
            if key[0] is not Kind.GATEWAY or not now:  # of a gateway that another source has too, the row is replaced
                self._delete(key)
        for number, (key, row) in enumerate(now.items()):
            if before.get(key) != row:
                self._set(key, row)
            if number % _BATCH == _BATCH - 1:
                yield

    def put_secret(self, ref: SecretRef, secret: Secret) -> None:
        """The secret as it is now."""
        self.tables.graph.set(self.tables.secrets, ref, secret)

    def remove_secret(self, ref: SecretRef) -> None:
        """The secret is gone."""
        self.tables.graph.delete(self.tables.secrets, ref)

    def uses_secret(self, ref: SecretRef) -> bool:
        """Whether a certificate or the authorities in this secret are referred to."""
        tables = self.tables
        uses = (tables.chain_secrets.rows, tables.backend_secrets.rows, tables.provider_secrets.rows)
        return any(use.secret == ref for rows in uses for use in rows)

    def put_external(self, ref: ServiceRef, service: Service | None) -> None:
        """A service that stands for a DNS name; None when it does not (any more)."""
        if service is None:
            self.tables.graph.delete(self.tables.externals, ref)
        else:
            self.tables.graph.set(self.tables.externals, ref, service)

    def add_view(self, view: View, family: Family = Family.ENVOY) -> None:
        """Compile what belongs to this set of gateways as a whole, or all of it for nodes that are no Envoys."""
        if family is Family.ENVOY:
            self.tables.graph.set(self.tables.views, view, True)
        else:
            self.grpc = self.grpc or Followed(self.tables)
            self.grpc.add_view(view)
            self.endpoints.follow(view)

    def views(self) -> Iterator[tuple[View, Family]]:
        """The views that are compiled."""
        yield from ((view, Family.ENVOY) for view in self.tables.views.rows)
        if self.grpc is not None:
            yield from ((view, Family.GRPC) for view in self.grpc.tables.views.rows)

    def keep_requirement(self, key: tuple[GatewayName, str]) -> None:
        """Keep a JWT requirement in the filter while routes on some proxy may still name it."""
        self.tables.graph.set(self.tables.kept_requirements, key, True)

    def release_requirement(self, key: tuple[GatewayName, str]) -> None:
        """No proxy names it any more, nor what only it needs."""
        tables = self.tables
        tables.graph.delete(tables.kept_requirements, key)
        for name in [name for name in tables.kept_providers.rows if not self._named_by_kept(name)]:
            tables.graph.delete(tables.kept_providers, name)
        if not tables.is_named(key[0]):
            tables.graph.delete(tables.kept_gateways, key[0])

    def release_limit(self, key: LimitKey) -> None:
        """No proxy names this rate limit any more."""
        tables = self.tables
        tables.graph.delete(tables.kept_limits, key)
        if not tables.is_named(key[0]):
            tables.graph.delete(tables.kept_gateways, key[0])

    def _keep_limits(self, changes: Changes) -> bool:
        """Rate limits that routes have just ceased to name stay in the filter, for those on some proxy still do; whether any."""
        tables, moved = self.tables, False
        for key, (former, limit) in changes.get(tables.limits.name, {}).items():
            if limit is not None and key in tables.kept_limits.rows:
                self.release_limit(key)
                moved = True
            elif limit is None and former is not None:
                tables.graph.set(tables.kept_limits, key, former)
                moved = True
        return moved

    def _keep_chains(self, listener: ElementKey, before: Element, after: Element) -> None:
        """A listener is about to change: connections of the chains that it loses are open for a while."""
        has = ways_in(listener, after)
        for key in has:
            self.release_chain(key)  # it is back
        for key, chain in ways_in(listener, before).items():
            if key not in has:
                keep_chain(self.tables, replace(chain, draining=True))

    def release_chain(self, key: tuple[ElementKey, str]) -> None:
        """The connections of a chain have ended."""
        self.tables.graph.delete(self.tables.kept_chains, key)

    def _named_by_kept(self, provider: str) -> bool:
        return any(provider in jwt.providers_of(name) for _, name in self.tables.kept_requirements.rows)

    def _keep_provider(self, element: ElementKey) -> None:
        """A provider is about to go: routes on some proxy may still need it."""
        tables = self.tables
        row, state = tables.providers.rows.get(element), tables.provider_states.rows.get(element)
        if row is None or state is None or state.problem is not None:
            return
        assert isinstance(row.part, JwtProvider)
        name = jwt.provider_name(row.gateway, row.part.name)
        if self._named_by_kept(name):
            tables.graph.set(tables.kept_providers, name, (row.part, state.key_set))

    def commit(self) -> Generator[None, None, Commit]:
        """Sweep, yielding between rows; returns what changed, load assignments included.

        Endpoints may be committed at every step: they concern the pools that are taken over already.
        """
        graph = self.tables.graph
        changes = yield from self._sweep()
        former: dict[ResourceKey, Resource | None] | None = {} if self.successors else None
        assigned: Touched = {}
        if former is not None:
            changes = yield from self._succeed(changes, former, assigned)
        noted = self.declared.take_noted() | issues_of(graph)
        if self.tables.gateways.name in changes and (missing := set(self.wanted()).difference(self.views())):
            for view, family in sorted(missing):
                self.add_view(view, family)
            changes = merged(changes, (yield from graph.commit()))
            noted |= issues_of(graph)
        found = touched(self.tables.resources, changes)
        fleet_changed = self.tables.gateways.name in changes or self.tables.views.name in changes
        if self.grpc is not None:
            second = self.grpc.tables
            yield from self.grpc.follow(changes)
            followed = yield from second.graph.commit()
            noted |= issues_of(second.graph)
            found |= touched(second.resources, followed)
            fleet_changed |= second.views.name in followed
        publication = yield from self._publication(found)
        assigned |= yield from self.endpoints.take_over(changes.get(self.tables.pools.name, {}))
        for part, of_part in self.endpoints.publication(assigned).items():
            publication.setdefault(part, []).extend(of_part)
        return Commit(
            publication,
            noted | issues_of(self.endpoints.tables.graph),
            frozenset(changes.get(self.tables.requirements.name, ())),
            frozenset(changes.get(self.tables.limits.name, ())),
            fleet_changed,
            former,
        )

    def _succeed(
        self, changes: Changes, former: dict[ResourceKey, Resource | None], assigned: Touched
    ) -> Generator[None, None, Changes]:
        """Sweep again, now that what was there before has been compiled, as often as it has changed: all changes.

        `former` gets what stood first where something else follows, `assigned` the load assignments that were touched.
        """
        successors, self.successors = self.successors, {}
        later, pools = changes, self.tables.pools.name
        for left in range(max(map(len, successors.values())), 0, -1):
            for requirement in changes.get(self.tables.requirements.name, ()):
                self.keep_requirement(requirement)
            assigned |= yield from self.endpoints.take_over(later.get(pools, {}))
            for ref, stages in successors.items():
                if len(stages) >= left:
                    rows = stages[-left]
                    yield from self.removing(ref) if rows is None else self.putting(ref, rows)
            later = yield from self._sweep()
            changes = merged(changes, later)
            for found in (replaced(self.tables.resources, later), self.endpoints.of_pools(later.get(pools, ()))):
                for key, resource in found:
                    former.setdefault(key, resource)
        return changes

    def _sweep(self) -> Generator[None, None, Changes]:
        """Sweep, and keep what routes named until now."""
        self.heirs.settle(self.tables)
        changes = yield from self.tables.graph.commit()
        if self._keep_limits(changes):
            changes = merged(changes, (yield from self.tables.graph.commit()))
        return changes

    def commit_now(self) -> Commit:
        """Sweep to the end in one go."""
        steps = self.commit()
        while True:
            try:
                next(steps)
            except StopIteration as done:
                commit: Commit = done.value
                return commit

    def resources(self, view: View, family: Family = Family.ENVOY) -> list[Resource]:
        """Everything that a node of this view gets, sorted by type and name."""
        parts = parts_of(view, family)
        found: dict[tuple[str, ...], dict[tuple[str, str], Resource]] = {part: {} for part in parts}
        for table in (*self._resources(), *self.endpoints.tables.resources):
            for key, resource in table.rows.items():
                if key.part in found:
                    found[key.part].setdefault((key.type_url, key.name), resource)
        # Gateways on one port both say what becomes of unknown hosts: the first part counts, as in the snapshot store.
        merged = {name: resource for part in reversed(parts) for name, resource in found[part].items()}
        return [merged[name] for name in sorted(merged)]

    def _set(self, key: RowKey, row: Row) -> None:
        kind, element = key
        if isinstance(row, GatewayRow):
            gateway = GatewayName(element.object.full_name)
            self.tables.graph.set(self.tables.gateways, gateway, row)
            self.tables.graph.delete(self.tables.kept_gateways, gateway)
            self.add_view((gateway,))
        else:
            if kind is Kind.LISTENER and (before := self.tables.listeners.rows.get(element)) is not None:
                self._keep_chains(element, before, row)
            elif kind is Kind.LISTENER:
                self.heirs.come(element)
            self.tables.graph.set(self.tables.input(kind), element, row)

    def _delete(self, key: RowKey) -> None:
        kind, element = key
        if kind is Kind.GATEWAY:
            gateway = GatewayName(element.object.full_name)
            row = self.tables.gateways.rows.get(gateway)
            if row is not None and self.tables.is_named(gateway):
                self.tables.graph.set(self.tables.kept_gateways, gateway, row.labels)
            self.tables.graph.delete(self.tables.gateways, gateway)
            for view in [view for view in self.tables.views.rows if gateway in view]:
                self.tables.graph.delete(self.tables.views, view)
        else:
            if kind is Kind.PROVIDER:
                self._keep_provider(element)
            elif kind is Kind.LISTENER:
                for chain in [chain for chain in self.tables.kept_chains.rows if chain[0] == element]:
                    self.release_chain(chain)
            self.tables.graph.delete(self.tables.input(kind), element)

    def _resources(self) -> tuple[Any, ...]:
        """The tables of the configuration graphs whose rows are resources."""
        return self.tables.resources if self.grpc is None else (*self.tables.resources, *self.grpc.tables.resources)

    def _publication(self, touched: Iterable[ResourceKey]) -> Generator[None, None, Publication]:
        publication: Publication = {}
        tables = self._resources()
        for number, key in enumerate(touched):
            if number % _BATCH == _BATCH - 1:
                yield
            # Several tables may give one resource (a secret that a listener and a backend use): gone is gone from all.
            rows = (table.rows.get(key) for table in tables)
            resource = next((row for row in rows if row is not None), None)
            publication.setdefault(key.part, []).append((key.type_url, key.name, resource))
        return publication


def issues_of(graph: Graph) -> dict[Hashable, tuple[Diagnostic, ...]]:
    """What is wrong with rows that ran since this was asked last, by table and row; () when it was put right."""
    return {
        (table, key): tuple(dict.fromkeys(_diagnostics(table, key, notes, failure)))
        for (table, key), (notes, failure) in graph.take_noted().items()
    }


def diagnostic(issue: Issue) -> Diagnostic:
    """An issue in the words of the spec; its place in a file is added where files are known."""
    return Diagnostic(
        issue.code,
        issue.message,
        issue.full_path,
        issue.help,
        Severity.ERROR if issue.error else Severity.WARNING,
        issue.element.object.subject,
    )


def subject_of(row_key: object) -> str:
    """The object that a row belongs to, when its key says so."""
    return row_key.object.subject if isinstance(row_key, ElementKey) else str(row_key)


def _diagnostics(table: str, key: object, notes: Iterable[object], failure: Exception | None) -> Iterable[Diagnostic]:
    for note in notes:
        assert isinstance(note, Issue)
        yield diagnostic(note)
    if isinstance(failure, InvalidInput):
        yield from failure.diagnostics
    elif failure is not None:
        yield Diagnostic(FAILED, f"{table}: {type(failure).__name__}: {failure}", subject=subject_of(key))
