"""One Consul datacenter: noticing changes with three held queries, and reading again only what may have changed.

How a change is noticed (ADR 14 has the reasons and what it costs):

- the lists of critical and of warning checks are watched; a check that enters or leaves one names its service or node.
  Both lists are short where all is well, and Consul finds them by an index, unlike the list of all checks;
- the catalog's list of services with their tags is watched; a service whose tags changed, or which appeared or
  vanished, is read at once. Its index moves with every registration, but it does not say which: then the index of each
  wanted service is probed, those first that changed last;
- everything is probed once a minute, for what no list tells (an address of a node that changed).

A failure is said as a failure, and what was known stays. When an index went back, Consul has other data than before (an
old snapshot, an empty disk): agents register again within minutes, and so long nothing that is missing is gone. Whether it
did while no process looked is asked before anything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from urllib.parse import quote

import structlog

from controlplane.errors import Diagnostic, Severity
from controlplane.model.conduct import HOLD
from controlplane.model.endpoint import Service
from controlplane.names import ObjectRef, SecretRef, ServiceRef, consul_source
from controlplane.sources.base import Sink
from controlplane.sources.consul.answers import Check, checks, entries, names
from controlplane.sources.consul.client import READERS, Client, Consistency, Failure, Settings
from controlplane.sources.consul.pace import Backoff
from controlplane.sources.consul.services import Services
from controlplane.sources.consul.specs import Specs
from controlplane.sources.consul.watch import WAIT_SECONDS, Step, watch
from controlplane.spec.codes import Code

log = structlog.get_logger(__name__)

EVERYTHING_SECONDS = 60.0
"""How often all wanted services are probed without a reason."""
DOUBT_SECONDS = 300.0
"""How long missing data is not gone after an index went back. Agents compare what they registered with the servers every
minute, every five minutes among 2,000 nodes. https://developer.hashicorp.com/consul/docs/architecture/anti-entropy"""
_CATALOG = "/v1/catalog/services"
_REGISTERED = frozenset({"the catalog", "critical checks", "warning checks"})
"""The queries that show whether agents could register again."""


class ConsulSource:
    """Watches a datacenter. Implements `Discovery`."""

    def __init__(
        self,
        settings: Settings,
        *,
        last_good: Mapping[ObjectRef, str] | None = None,
        services_before: Mapping[ServiceRef, Service] | None = None,
        told_before: int = 0,
        doubt_seconds: float = DOUBT_SECONDS,
        hold_seconds: float = HOLD.total_seconds(),
    ) -> None:
        """`last_good`: texts of the objects of this source that were in force before, for what is broken at the start.

        `services_before`: those that were in force before; `told_before`: what `told` was when another process ended.
        `hold_seconds`: how long specs stay after their prefix was emptied at once.
        """
        self.name = consul_source(settings.name)
        self._settings = settings
        self._client = Client(settings)
        self._client.complained = self._say_stale
        self._doubt_seconds = doubt_seconds
        self.hold_seconds = hold_seconds
        before = {ref.name: service for ref, service in (services_before or {}).items() if ref.source == self.name}
        self._services = Services(settings, self._client, self._trouble, self._went_back, before)
        self._specs = Specs(self.name, settings.specs, last_good) if settings.specs is not None else None
        self._troubles: dict[str, str] = {}
        self._said: tuple[str, bool, bool] | None = None
        """What failed, and whether services could not be read."""
        self._synced = False
        self._unseen = set(_REGISTERED) | ({"specs"} if self._specs else set())
        self._doubt_until: float | None = None
        self._told_before = told_before
        self._index = 0  # of the catalog
        self._sink: Sink | None = None

    @property
    def caught_up(self) -> bool:
        """Whether everything wanted was pushed or said to be absent, but for what cannot be read."""
        return self._answered and (self._doubt_until is not None or self._services.answered)

    @property
    def held(self) -> int:
        """How many objects stay in force though their keys are gone."""
        return self._specs.held_objects if self._specs is not None else 0

    def want(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        """These services, too. Consul has no secrets."""
        self._services.want(services)

    def forget(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        """These services no longer."""
        self._services.forget(services)

    def confirm(self, services: Collection[ServiceRef]) -> None:
        """Read these once more; after an index went back, only when the doubt is over."""
        self._services.confirm(ref.name for ref in services)

    @property
    def told(self) -> int:
        """The index of the catalog, for the next process to compare; 0 when it is not known, or lacks what was told."""
        return self._index if self._doubt_until is None else 0

    async def run(self, sink: Sink) -> None:
        """Push what is wanted, then what changes, until cancelled."""
        self._sink = sink
        try:
            await self._look_back(sink)
            await self._watch(sink)
        finally:
            await self._client.close()

    async def _look_back(self, sink: Sink) -> None:
        """Whether Consul is behind what it told the process before this one; until it answers, nothing is read.

        Not even if access is denied: with its data it lost its tokens.
        """
        backoff = Backoff()
        while self._told_before:
            try:
                answer = await self._client.read(_CATALOG, {}, consistency=Consistency.CONSISTENT)
            except Failure as failure:
                if self._specs is not None:
                    self._specs.unreadable(sink)
                for what in self._unseen:
                    self._trouble(what, str(failure))
                await asyncio.sleep(backoff.failed(failure.after))
                continue
            if answer.index < self._told_before:
                self._went_back()
            self._told_before = 0

    async def _watch(self, sink: Sink) -> None:
        parts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("the catalog", self._watch_catalog),
            ("critical checks", lambda: self._watch_checks("critical")),
            ("warning checks", lambda: self._watch_checks("warning")),
        ]
        if self._specs is not None:
            parts.append(("specs", lambda: self._watch_specs(sink)))
        tasks = [asyncio.create_task(self._keep(what, part), name=f"{self.name}: {what}") for what, part in parts]
        tasks += [asyncio.create_task(self._services.work(sink), name=f"{self.name}: reader") for _ in range(READERS)]
        tasks.append(asyncio.create_task(self._end_doubt(), name=f"{self.name}: doubt"))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, what: str, part: Callable[[], Awaitable[None]]) -> None:
        """Begin again after whatever an answer may hold (R7)."""
        backoff = Backoff()
        while True:
            try:
                await part()
            except Failure as failure:
                self._trouble(what, str(failure))
            except ValueError as error:
                self._trouble(what, f"its answer cannot be read: {error}")
            except Exception:
                log.exception("watching consul failed", source=self.name, what=what)
                self._trouble(what, "an unexpected error; see the log")
            await asyncio.sleep(backoff.failed())

    # -- what changed ----------------------------------------------------------------------------------------------

    async def _steps(
        self,
        what: str,
        path: str,
        query: Mapping[str, str],
        failed: Callable[[Failure, int], None] | None = None,
        *,
        reaped: bool = False,
    ) -> AsyncGenerator[Step, None]:
        """The answers of a held query, which only here may be stale.

        Reads ask the leader: what made somebody notice a change may not have arrived at a follower yet. `reaped`: the
        index goes back by itself, too, when Consul forgets that something was deleted; then the answer is the same.
        """
        consistency = Consistency.LEADER if self._settings.max_stale is None else Consistency.STALE
        answers = watch(self._client, path, query, consistency, failed or self._told(what), wait=WAIT_SECONDS)
        async with aclosing(answers) as steps:
            async for step in steps:
                if step.reset and (step.changed or not reaped):
                    self._went_back()
                yield step
                self._works(what)

    async def _watch_catalog(self) -> None:
        known: dict[str, tuple[str, ...]] = {}
        small: frozenset[str] = frozenset()
        looked = 0.0
        async with aclosing(self._steps("the catalog", _CATALOG, {})) as steps:
            async for step in steps:
                self._index = step.answer.index
                if step.changed:
                    now = names(step.answer.body)
                    differs = [name for name in now.keys() | known.keys() if now.get(name) != known.get(name)]
                    known, small = now, frozenset(map(str.lower, now))
                    self._services.hint(differs, step.at)
                if step.moved or step.at - looked >= EVERYTHING_SECONDS:
                    looked = step.at
                    self._services.look(step.at, small.__contains__)

    async def _watch_checks(self, state: str) -> None:
        known: frozenset[Check] = frozenset()
        async with aclosing(self._steps(f"{state} checks", f"/v1/health/state/{state}", {})) as steps:
            async for step in steps:
                if step.changed:
                    now = checks(step.answer.body)
                    for check in now ^ known:
                        if check.service_name:
                            self._services.hint((check.service_name,), step.at)
                        else:
                            self._services.hint_node(check.node, step.at)
                    known = now
                self._services.listed(state, step.answer.index, step.at)

    async def _watch_specs(self, sink: Sink) -> None:
        specs = self._specs
        assert specs is not None
        path, query = f"/v1/kv/{quote(specs.prefix)}", {"recurse": ""}
        told = self._told("specs")
        held_since, again = 0.0, True

        def failed(failure: Failure, in_a_row: int) -> None:
            if "specs" in self._unseen:
                specs.unreadable(sink)
            told(failure, in_a_row)

        async with aclosing(self._steps("specs", path, query, failed, reaped=True)) as steps:
            async for step in steps:
                answer, was_held, sure = step.answer, specs.held, False
                if was_held and step.at - held_since >= self.hold_seconds:
                    answer = await self._client.read(path, query, consistency=Consistency.CONSISTENT)
                    sure = True
                if answer.hidden or (answer.unproven and not answer.found):
                    why = f"access denied: rules hide keys (needed: key_prefix read for {specs.prefix})"
                    failed(Failure(why, denied=True), 1)
                    raise Failure(why)  # and ask again from the beginning: nothing tells when a rule changes
                doubt = self._doubt_until is not None
                if step.changed or was_held or doubt or again:
                    if await specs.update(entries(answer.body), sink, sure=sure and not doubt, doubt=doubt):
                        sink.flush(step.at)
                    if specs.held and not was_held:
                        held_since = step.at
                again = doubt

    def _went_back(self) -> None:
        """An index went back: Consul lost data, or was given older data."""
        if self._doubt_until is None:
            log.warning("consul's data went back", source=self.name, doubt_seconds=self._doubt_seconds)
            self._doubt_until = time.monotonic() + self._doubt_seconds
            self._trouble("data", "its data went back; what is missing stays until agents have registered again")
            self._services.doubt(on=True)

    async def _end_doubt(self) -> None:
        """When the time is over and the datacenter says what is registered and how that is, what is missing is gone.

        Whatever else may be wrong for long (specs that may not be read, a service that is broken) lets nothing return.
        """
        while True:
            until = self._doubt_until
            left = 1.0 if until is None else until - time.monotonic()
            if until is not None and left <= 0 and self._troubles.keys().isdisjoint(_REGISTERED):
                self._doubt_until = None
                self._services.doubt(on=False)
                self._trouble("data", None)
            await asyncio.sleep(min(max(left, 0.05), 1.0))

    # -- what is said of the source --------------------------------------------------------------------------------

    def _told(self, what: str) -> Callable[[Failure, int], None]:
        """Failures of a query. A connection that breaks once is no failure: the next attempt follows at once."""

        def failed(failure: Failure, in_a_row: int) -> None:
            if in_a_row > 1 or failure.denied or what in self._unseen:
                self._trouble(what, str(failure))

        return failed

    def _say_stale(self, what: str, why: str | None) -> None:
        """Credentials that work, and are not those of the files any more: the next start has no others."""
        if self._sink is not None:
            message = f"{self.name}: the {what} cannot be used as on disk ({why}); what was before is used"
            help = "put it right before it ends, or this process does"
            said = Diagnostic(Code.CREDENTIALS_STALE, message, help=help, severity=Severity.WARNING)
            self._sink.problems(self.name, what, (said,) if why is not None else ())
            self._sink.flush(time.monotonic())

    @property
    def _answered(self) -> bool:
        """Whether each part has been read once, or has failed."""
        return self._unseen <= self._troubles.keys()

    def _works(self, what: str) -> None:
        self._unseen.discard(what)
        self._trouble(what, None)

    def _trouble(self, what: str, why: str | None) -> None:
        """Why something cannot be read; None: it can."""
        if why is None:
            self._troubles.pop(what, None)
        else:
            self._troubles[what] = why
        sink = self._sink
        if sink is None:
            return
        reason = "; ".join(sorted(set(self._troubles.values())))
        if reason:
            lost = self._services.lost or not self._troubles.keys().isdisjoint(_REGISTERED)
            unread = "specs" in self._unseen
            if (reason, lost, unread) != self._said and (self._said or self._synced or self._answered):
                self._said, self._synced = (reason, lost, unread), False
                sink.failed(self.name, reason, endpoints=lost, specs=unread)
                sink.flush(time.monotonic())
        elif not self._unseen and not self._synced and self._services.caught_up:
            self._said, self._synced = None, True
            sink.synced(self.name)
            sink.flush(time.monotonic())
