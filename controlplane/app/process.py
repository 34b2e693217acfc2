"""Putting the process together, starting it in order, and ending it without dropping anything.

Start: state, then sources, then the first complete compile, and only then do proxies get an answer.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any
from uuid import uuid4

import structlog

from controlplane.admin.server import application, listen
from controlplane.app import garbage
from controlplane.app.addresses import Addresses
from controlplane.app.draining import Draining
from controlplane.app.fleet import Fleet, Labels
from controlplane.app.intake import Intake
from controlplane.app.lane import EndpointLane
from controlplane.app.listening import obstacle, reason
from controlplane.app.look import Running
from controlplane.app.loop import CommitLoop
from controlplane.app.memory import Memory
from controlplane.app.problems import Problems
from controlplane.app.refusals import Refusals
from controlplane.app.reports import Reports
from controlplane.app.rollcall import Rollcall
from controlplane.app.services import Services
from controlplane.app.sources import discoveries, make_sources, may_declare, waited_for
from controlplane.app.standing import SourceStatus, stale, standing
from controlplane.app.trust import Trust
from controlplane.compile.compiler import Commit, Compiler, issues_of
from controlplane.compile.endpoints import Endpoints, EndpointTables, Touched
from controlplane.config import Configuration, Endpoint
from controlplane.errors import ConfigurationError, Diagnostic, Severity
from controlplane.model.endpoint import Locality, Service
from controlplane.names import Family, GatewayName, ServiceRef, View, parts_of
from controlplane.snapshot.store import Store
from controlplane.sources.guard import Limits as RemovalLimits
from controlplane.telemetry.metrics import Metrics
from controlplane.xds.bounds import Limits
from controlplane.xds.server import XdsServer, dynamic_credentials

log = structlog.get_logger(__name__)

MANIFEST_SECONDS = 5.0
"""How often the versions that are served, and which sources can be read, are noted on disk."""
AGE_SECONDS = 1.0
"""How often ages are looked at: keepFor and the guard count in minutes."""
RETURN_SECONDS = 90.0
"""For proxies to come back after a start, with what they had: Envoy waits up to 30 s between two attempts."""
DRAIN_SHARE = 0.8
"""Of the time that the end may take, over which streams end; the rest is for what comes after."""


class ControlPlane:
    """One process."""

    def __init__(self, configuration: Configuration) -> None:
        """Open the state and wire the parts; nothing listens yet. Raises ConfigurationError."""
        self._configuration = configuration
        self._memory = Memory.open(configuration.state.path, configuration.state.key, configuration.identity.cluster)
        self._metrics = Metrics()
        self._trust = Trust.open(configuration)
        self._store = Store()
        self._sources = make_sources(configuration, self._memory)
        discovered, guards = discoveries(self._sources), configuration.guards
        known = frozenset(source.name for source in discovered)
        removals = RemovalLimits(guards.mass_removal / 100, guards.hold.total_seconds(), guards.minimum)
        self._compiler = Compiler(endpoints=Endpoints(EndpointTables(known)))
        self._lane = EndpointLane(
            self._compiler.endpoints,
            self._endpoints_changed,
            quiet=configuration.coalesce.quiet.total_seconds(),
            longest=configuration.coalesce.max.total_seconds(),
        )
        register = Problems()
        services = Services(
            self._lane,
            discovered,
            external=self._external_changed,
            keep=self._memory.keep_service,
            say=lambda source, said: register.say(("held services", source), said),
            limits=removals,
        )
        names = [source.name for source in self._sources]
        self.intake = Intake(
            standing(names, self._memory.seen, time.monotonic(), time.time()),
            keep=self._memory.keep,
            keep_secret=self._memory.keep_secret,
            services=services,
            register=register,
            limits=removals,
            waited_for=waited_for(configuration, names),
            objects_before=self._memory.texts,
            secrets_before=self._memory.secrets,
            may_declare=partial(may_declare, configuration),
        )
        self._loop = CommitLoop(
            self._compiler,
            self._committed,
            quiet=configuration.coalesce.quiet.total_seconds(),
            longest=configuration.coalesce.max.total_seconds(),
        )
        self._draining = Draining(self._compiler, self._loop)
        self._fleet = Fleet(
            self._store,
            self._metrics,
            trust=self._trust,
            demand=self._demand,
        )
        self._compiler.wanted = lambda: self._fleet.wanted(self._selectors())
        self._fleet.near = lambda gateways, node, family: self._lane.near(
            gateways, Locality(node.locality.region, node.locality.zone), family, node.id
        )
        replica = configuration.identity.replica
        identifier = f"{configuration.identity.cluster}/{socket.gethostname() if replica == 'auto' else replica}"
        age = configuration.xds.max_stream_age
        limits = Limits(stream_age_seconds=age.total_seconds() if age is not None else None)
        self._server = XdsServer(self._store, self._fleet, observer=self._fleet, identifier=identifier, limits=limits)
        self._refusals = Refusals(
            self.intake.register, self._store, self._server.holds, self._metrics, self._compiler.in_force
        )
        self._fleet.explain = self._refusals.held
        self._rollcall = Rollcall(self._store, self._server, self._fleet, self._refusals)
        self._reports = Reports(self.intake.register, self._loop, self._store, self._server)
        self._fleet.moved = self._reports.fleet_moved
        if clusters := configuration.sources.kubernetes:
            from controlplane.app.clusters import status_writers

            self._reports.writers |= status_writers(clusters, self._sources, self._reports, f"{identifier}/{uuid4()}")
        self._answered = asyncio.Event()
        self._runners: list[Any] = []
        self._observe()

    async def run(self, started: Callable[[Addresses], None] = lambda _: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain. `started` is called once everything listens."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.intake.attach(self._loop)
        self.intake.changed = self._answered.set
        self.intake.services.restore(self._memory.services)
        tasks = [asyncio.create_task(self._loop.run(), name="commits")]
        tasks += [asyncio.create_task(source.run(self.intake), name=source.name) for source in self._sources]
        tasks.append(asyncio.create_task(self._remember_served(), name="manifest"))
        tasks.append(asyncio.create_task(self._watch_ages(), name="ages"))
        tasks += self._reports.start()
        if self._trust is not None:
            said = partial(self.intake.register.say, "trust")
            tasks.append(asyncio.create_task(self._trust.watch(self._server.review, said), name="trust"))
        readiness = asyncio.create_task(self._become_ready(), name="readiness")
        listens = False
        try:
            addresses = await self._listen()
            listens = True
            started(addresses)
            ending = asyncio.create_task(stop.wait())
            await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # none of them ends by itself: this raises what went wrong
        finally:
            drain = self._configuration.shutdown.within.total_seconds() * DRAIN_SHARE
            if listens:
                log.info("draining", seconds=drain)
                self._fleet.draining = True
            await self._server.stop(drain)
            for task in (readiness, *tasks):
                task.cancel()
            await asyncio.gather(readiness, *tasks, return_exceptions=True)
            for runner in self._runners:
                await runner.cleanup()
            await asyncio.to_thread(self._memory.close)
            if listens:
                log.info("stopped")

    # -- start ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> Addresses:
        configuration = self._configuration
        running = Running(
            self.intake,
            self._compiler,
            self._store,
            self._fleet,
            self._server,
            self._refusals,
            self._rollcall,
            self._memory.status,
            self._metrics,
            asyncio.get_running_loop().time,
        )
        admin = configuration.admin.listen
        admin_port = await self._listen_http("the admin API", admin, application(running))
        if configuration.metrics.listen is not None:
            await self._listen_http("metrics", configuration.metrics.listen, application(running, public=True))
        address = configuration.xds.listen
        try:
            port = await self._server.start(str(address), self._credentials())
        except RuntimeError:
            raise ConfigurationError(f"xDS cannot listen on {address}: {await obstacle(address)}") from None
        addresses = Addresses(str(address._replace(port=port)), str(admin._replace(port=admin_port)))
        log.info("listening", xds=addresses.xds, admin=f"http://{addresses.admin}", mtls=not configuration.xds.insecure)
        return addresses

    async def _listen_http(self, what: str, address: Endpoint, app: Any) -> int:
        try:
            runner, port = await listen(app, address.host, address.port)
        except OSError as error:
            raise ConfigurationError(f"{what} cannot listen on {address}: {reason(error)}") from None
        self._runners.append(runner)
        return port

    def _credentials(self) -> Any:
        return None if self._trust is None else dynamic_credentials(self._trust.server_keys)

    async def _become_ready(self) -> None:
        """Every source has answered, or the deadline has passed and there is something to serve."""
        startup = self._configuration.startup
        deadline = time.monotonic() + startup.deadline.total_seconds()
        while not all(map(self.intake.has_all, self.intake.waited_for)):
            self._answered.clear()
            left = deadline - time.monotonic()
            if left <= 0 and startup.on_deadline == "serve-last-known-good" and self.intake.has_objects:
                log.warning("startup deadline passed; serving the last known good state")
                break
            try:
                # Not everything that a source catches up with is said: that one thing cannot be read is no news.
                await asyncio.wait_for(self._answered.wait(), min(left, 1.0) if left > 0 else 1.0)
            except TimeoutError:
                continue
        self.intake.release(time.monotonic())
        while not self._can_serve():
            self._answered.clear()
            await self._answered.wait()
            self._loop.flush(time.monotonic())
        await self._loop.settled()
        garbage.loaded()
        self._fleet.ready = True
        self._metrics.ready.set(1)
        self._forget_secrets()
        failed = [status.name for status in self.intake.sources.values() if status.failure]
        log.info("ready", gateways=len(self._compiler.tables.gateways.rows), last_known_good_of=failed or None)
        self._server.changed()

    def _can_serve(self) -> bool:
        """An unreadable folder of specs and nothing remembered is no configuration."""
        return bool(self.intake.objects) or all(status.synced for status in self.intake.sources.values())

    async def _remember_served(self) -> None:
        """Keep the manifest of what is served up to date, off the hot path."""
        written = 0
        while True:
            await asyncio.sleep(MANIFEST_SECONDS)
            now = time.time()
            self._memory.seen_now({status.name: now for status in self.intake.sources.values() if status.works()})
            if self._fleet.ready and written != self._store.sequence:
                written = self._store.sequence
                gateways = self._compiler.tables.gateways.rows
                self._memory.served({name: self._store.view(parts_of((name,))).version() for name in gateways})

    async def _watch_ages(self) -> None:
        """What was held long enough is believed; endpoints of a source that is lost are kept as long as specs say."""
        over: frozenset[tuple[str, float]] = frozenset()
        while True:
            await asyncio.sleep(AGE_SECONDS)
            self.intake.tick()
            now = time.monotonic()
            self._draining.tick(now)
            before, over = over, stale(self.intake.sources, self._lane.endpoints.keepings(), now)
            if over != before:
                self._lane.lost(over, now)

    # -- commits -------------------------------------------------------------------------------------------------

    def _demand(self, view: View, family: Family) -> None:
        """A node sees a set of gateways that was not seen before by its family of clients."""
        self._loop.edit(("view", view, family), lambda compiler: compiler.add_view(view, family))
        self._loop.flush(time.monotonic())

    def _committed(self, commit: Commit, event_time: float, build_seconds: float) -> None:
        """What a commit changed goes out at once; what only looks on comes when streams have written it."""
        before = self._store.sequence
        sequence = self._store.publish(commit.publication)
        tables = self._compiler.tables
        if commit.fleet_changed:
            self._fleet.select(self._selectors(), set(self._compiler.views()))
        gone = [key for key in commit.requirements if key not in tables.requirements.rows]
        if self._fleet.ready and (gone or sequence != before):
            self._fleet.published(sequence, event_time, (lambda: self._release(gone)) if gone else None)
        elif gone:  # while this process was not there: proxies come back with routes that name them
            asyncio.get_running_loop().call_later(RETURN_SECONDS, self._release, gone)
        if commit.fleet_changed or sequence != before:
            self._server.changed()
        if all(status.answered for status in self.intake.sources.values()):  # others may name what nobody names yet
            self.intake.services.settle()
        self._keep([key for key in commit.requirements if key in tables.requirements.rows])
        if self._fleet.ready:
            self._forget_secrets()
        self._rollcall.published(commit.publication, sequence)
        self._reports.published(commit.publication, sequence)
        self._metrics.build_seconds.observe(build_seconds)
        soon = asyncio.get_running_loop().call_soon
        soon(self._told, commit.issues, sequence)
        soon(self._reports.committed, tuple(self._loop.taken), sequence)
        if commit.publication:
            changed = sum(map(len, commit.publication.values()))
            milliseconds = round(build_seconds * 1000, 2)
            soon(partial(log.info, "published", sequence=sequence, resources=changed, build_ms=milliseconds))

    def _told(self, issues: Mapping[Hashable, tuple[Diagnostic, ...]], sequence: int) -> None:
        """What was published is on its way to proxies: now the disk, and those who look on."""
        self._memory.write_soon()
        self._metrics.sequence.set(sequence)
        self.intake.register.say_all(issues)
        self._refusals.review()

    def _selectors(self) -> dict[GatewayName, Labels]:
        return {gateway: row.labels for gateway, row in self._compiler.tables.gateways.rows.items()}

    def _endpoints_changed(self, touched: Touched, event_time: float) -> None:
        """What the endpoint lane changed goes out at once."""
        before = self._store.sequence
        publication = self._compiler.endpoints.publication(touched)
        sequence = self._store.publish(publication)
        if sequence != before:
            if self._fleet.ready:
                self._fleet.published(sequence, event_time)
            self._server.changed()
            self._metrics.endpoint_changes.inc()
            self._metrics.endpoint_seconds.observe(max(0.0, time.monotonic() - event_time))
        self._rollcall.published(publication, sequence)
        self._reports.published(publication, sequence)
        issues = issues_of(self._compiler.endpoints.tables.graph)
        asyncio.get_running_loop().call_soon(self._told, issues, sequence)

    def _external_changed(self, ref: ServiceRef, service: Service | None) -> None:
        """A service stands for a DNS name, or ceases to: that is for the configuration to know."""
        self._loop.edit(("external", ref), lambda compiler: compiler.put_external(ref, service))

    def _keep(self, requirements: list[tuple[GatewayName, str]]) -> None:
        """Routes on proxies name these from now on: they stay in the filter until no proxy names them."""
        for gateway, name in requirements:
            self._edit_requirement(gateway, name, keep=True)
        self._loop.flush(time.monotonic())

    def _forget_secrets(self) -> None:
        """Secrets that nothing refers to any more."""
        self.intake.forget_secrets(self._compiler.uses_secret)
        self._loop.flush(time.monotonic())

    def _release(self, requirements: list[tuple[GatewayName, str]]) -> None:
        """Every proxy has routes without these."""
        for gateway, name in requirements:
            if (gateway, name) not in self._compiler.tables.requirements.rows:
                self._edit_requirement(gateway, name, keep=False)
        self._loop.flush(time.monotonic())

    def _edit_requirement(self, gateway: GatewayName, name: str, *, keep: bool) -> None:
        edit = partial(Compiler.keep_requirement, gateway=gateway, requirement=name, keep=keep)
        self._loop.edit(("requirement", gateway, name), edit)

    def _observe(self) -> None:
        if (trust := self._trust) is not None:
            self._metrics.watch_certificates(lambda: trust.seconds_left)
        self._metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
        self._metrics.blocks.set_function(sys.getallocatedblocks)
        for table in self._compiler.tables.graph.tables:
            self._metrics.rows.labels(table.name).set_function(partial(len, table.rows))
        for severity in Severity:
            self._metrics.problems.labels(str(severity)).set_function(partial(self.intake.register.count, severity))
        for status in self.intake.sources.values():
            self._metrics.watch_source(status.name, partial(_age, status), status.works)
            if status.name in self.intake.services.sources:
                self._metrics.watch_services(status.name, partial(self.intake.services.delivered, status.name))


def _age(status: SourceStatus) -> float:
    return time.monotonic() - status.spoke


def serve(configuration: Configuration, started: Callable[[Addresses], None] = lambda _: None) -> int:
    """Run a control plane until it is told to stop; the exit code. Raises ConfigurationError and OSError when it cannot start."""
    garbage.while_loading()
    asyncio.run(_serve(configuration, started))
    return 0


async def _serve(configuration: Configuration, started: Callable[[Addresses], None]) -> None:
    await ControlPlane(configuration).run(started)
