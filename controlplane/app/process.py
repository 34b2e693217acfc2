"""Putting the process together, starting it in order, and ending it without dropping anything.

Start: state, then sources, then the first complete compile, and only then do proxies get an answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import structlog

from controlplane import __version__
from controlplane.app import garbage
from controlplane.app.addresses import Addresses
from controlplane.app.ages import Ages
from controlplane.app.changes import Changes
from controlplane.app.doubts import Doubts
from controlplane.app.draining import Draining
from controlplane.app.fleet import Fleet
from controlplane.app.in_place import InPlace
from controlplane.app.intake import Intake
from controlplane.app.lane import EndpointLane
from controlplane.app.leaving import Leaving
from controlplane.app.listening import Listening
from controlplane.app.look import Running
from controlplane.app.loop import CommitLoop
from controlplane.app.memory import Memory
from controlplane.app.observing import observe
from controlplane.app.problems import Problems
from controlplane.app.publishing import Publishing
from controlplane.app.readiness import first_commit
from controlplane.app.refusals import Refusals
from controlplane.app.reports import Reports
from controlplane.app.requirements import Requirements
from controlplane.app.rollcall import Rollcall
from controlplane.app.routes import Routes
from controlplane.app.services import Services
from controlplane.app.source_status import Hearing, at_start, stale
from controlplane.app.sources import discoveries, make_sources, may_declare, unknown_at_start, waited_for
from controlplane.app.trust import Trust
from controlplane.compile.compiler import Commit, Compiler
from controlplane.compile.endpoints import Endpoints, EndpointTables, Keeping, Touched
from controlplane.compile.expiry import Expiry
from controlplane.config import Configuration
from controlplane.model.endpoint import Locality, Service
from controlplane.names import Family, ObjectRef, ServiceRef, View, parts_of
from controlplane.snapshot.store import Store
from controlplane.sources.base import SpecObject
from controlplane.sources.belief import RESTORED
from controlplane.sources.guard import Limits as RemovalLimits
from controlplane.telemetry.metrics import Metrics
from controlplane.xds.bounds import Limits
from controlplane.xds.server import XdsServer

log = structlog.get_logger(__name__)

MANIFEST_SECONDS = 5.0
"""How often the versions that are served, and which sources can be read, are noted on disk."""
AGE_SECONDS = 1.0
"""How often ages are looked at: keepFor and the guard count in minutes."""
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
        self._doubts = Doubts(self._store, self._memory.note, self._memory.texts)
        self._doubts.restore(self._memory.notes)
        self._memory.gather = self._doubts.note
        names = [source.name for source in self._sources]
        self.intake = Intake(
            at_start(
                names, self._memory.seen, time.monotonic(), time.time(), unknown_at_start(configuration, self._memory)
            ),
            keep=self._keep,
            keep_secret=self._memory.keep_secret,
            services=services,
            register=register,
            limits=removals,
            waited_for=waited_for(configuration, names),
            objects_before=self._memory.texts,
            objects_former=self._doubts.former,
            secrets_before=self._memory.secrets,
            may_declare=partial(may_declare, configuration),
        )
        self._loop = CommitLoop(
            self._compiler,
            self._committed,
            quiet=configuration.coalesce.quiet.total_seconds(),
            longest=configuration.coalesce.max.total_seconds(),
        )
        self._fleet = Fleet(
            self._store,
            self._metrics,
            trust=self._trust,
            demand=self._demand,
        )
        self._compiler.wanted = lambda: self._fleet.wanted(self._publishing.selectors())
        self._fleet.near = lambda gateways, node, family: self._lane.near(
            gateways, Locality(node.locality.region, node.locality.zone), family, node.id
        )
        replica = configuration.identity.replica
        identifier = f"{configuration.identity.cluster}/{socket.gethostname() if replica == 'auto' else replica}"
        self._process = {
            "version": __version__,
            "identifier": identifier,
            "pid": os.getpid(),
            "state": str(configuration.state.path.absolute()),
            "sources": names,
        }
        age = configuration.xds.max_stream_age
        limits = Limits(stream_age_seconds=age.total_seconds() if age is not None else None)
        self._server = XdsServer(self._store, self._fleet, observer=self._fleet, identifier=identifier, limits=limits)
        self._doubts.refused = self._server.holds.among
        in_place = InPlace(self._compiler, self._store, self._server.holds)
        self._draining = Draining(self._compiler, self._loop, in_place, self._memory.note)
        self._draining.restore(self._memory.notes, time.monotonic())
        self._requirements = Requirements(self._compiler, self._loop, in_place)
        self._limits = Leaving(self._compiler.tables.limits.rows, Compiler.release_limit, self._loop, in_place)
        self._refusals = Refusals(
            self.intake.register, self._store, self._server.holds, self._metrics, self._compiler.in_force
        )
        self._fleet.explain = self._refusals.held
        served = dict(self._memory.served_before)
        self._ages = Ages(self._store, time.monotonic)
        self._rollcall = Rollcall(self._store, self._server, self._fleet, self._refusals, self._ages, served)
        self._expiry = Expiry(self._compiler.tables)
        self._routes = Routes(self._compiler, self._store, self._server, register, self._ages)
        self._changes = Changes(register)
        self._reports = Reports(self.intake.register, self._loop, self._store, self._server)
        self._fleet.moved = self._reports.fleet_moved
        if clusters := configuration.sources.kubernetes:
            from controlplane.app.clusters import status_writers

            self._reports.writers |= status_writers(clusters, self._sources, self._reports, f"{identifier}/{uuid4()}")
        self._publishing = Publishing(
            self._compiler,
            self._loop,
            self._store,
            self._fleet,
            self._server,
            self.intake,
            self._memory,
            self._requirements,
            self._limits,
            self._draining,
            self._doubts,
            self._refusals,
            self._rollcall,
            self._ages,
            self._changes,
            self._reports,
            self._metrics,
        )
        self._listening = Listening(configuration, self._running(), self._server, self._trust)
        observe(self._metrics, self._compiler, self.intake, self._memory, self._trust, self._expiry)
        for name, writer in self._reports.writers.items():
            self._metrics.watch_status(name, partial(getattr, writer, "leads"))

    async def run(self, started: Callable[[Addresses], None] = lambda _: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain. `started` is called once everything listens."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.intake.attach(self._loop)
        self.intake.services.restore(self._memory.services)
        tasks = [asyncio.create_task(self._loop.run(), name="commits")]
        tasks += [asyncio.create_task(source.run(self.intake), name=source.name) for source in self._sources]
        tasks.append(asyncio.create_task(self._remember_served(), name="manifest"))
        tasks.append(asyncio.create_task(self._watch_ages(), name="ages"))
        reporting = self._reports.start()
        tasks += reporting
        if self._trust is not None:
            said = partial(self.intake.register.say, "trust")
            tasks.append(asyncio.create_task(self._trust.watch(self._server.review, said), name="trust"))
        readiness = asyncio.create_task(self._become_ready(), name="readiness")
        listens = False
        try:
            addresses = await self._listening.start()
            listens = True
            log.info("started", **self._process)
            started(addresses)
            ending = asyncio.create_task(stop.wait())
            left = {ending, readiness, *tasks}
            ended: set[asyncio.Task[Any]] = set()
            while ended <= {readiness}:  # of those that go well, the only one that ends by itself
                ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()  # raises what went wrong
        finally:
            drain = self._configuration.shutdown.within.total_seconds() * DRAIN_SHARE
            if listens:
                log.info("draining", seconds=drain)
                self._fleet.draining = True
            for task in reporting:  # proxies that leave now go to other replicas, one of which writes from now on
                task.cancel()
            await self._server.stop(drain)
            for task in (readiness, *tasks):
                task.cancel()
            await asyncio.gather(readiness, *tasks, return_exceptions=True)
            await self._listening.stop_http()
            await asyncio.to_thread(self._memory.close)
            if listens:
                log.info("stopped")

    def _running(self) -> Running:
        return Running(
            self._process,
            self.intake,
            self._compiler,
            self._store,
            self._fleet,
            self._server,
            self._refusals,
            self._rollcall,
            self._routes,
            self._changes,
            self._memory.status,
            self._metrics,
            time.monotonic,
        )

    async def _become_ready(self) -> None:
        await first_commit(self.intake, self._loop, self._configuration.startup)
        garbage.loaded()
        self._fleet.ready = True
        self._metrics.ready.set(1)
        self._publishing.forget_secrets()
        failed = [status.name for status in self.intake.sources.values() if status.trouble]
        restored = sum(spec.file == RESTORED for spec in self.intake.objects.values())
        gateways = len(self._compiler.tables.gateways.rows)
        log.info("ready", gateways=gateways, last_known_good_of=failed or None, restored_objects=restored)
        self._server.changed()

    async def _remember_served(self) -> None:
        """Keep the manifest of what is served up to date, off the hot path."""
        written = 0
        while True:
            await asyncio.sleep(MANIFEST_SECONDS)
            now = time.time()
            self._memory.seen_now({status.name: now for status in self.intake.sources.values() if status.is_heard})
            self._memory.told_now({one.name: told for one in self._sources if (told := getattr(one, "told", 0))})
            if self._fleet.ready and written != self._store.sequence:
                written = self._store.sequence
                gateways = self._compiler.tables.gateways.rows
                self._memory.served({name: self._store.view(parts_of((name,))).version() for name in gateways})
                self._rollcall.forget(gateways)

    async def _watch_ages(self) -> None:
        """What was held long enough is believed; endpoints of a source that is lost are kept as long as specs say."""
        over: frozenset[Keeping] = frozenset()
        hearing = Hearing(time.monotonic())
        while True:
            await asyncio.sleep(AGE_SECONDS)
            self.intake.register.say("expiry", self._expiry.diagnostics(time.time()))
            now = time.monotonic()
            for each in (self._draining, self._requirements, self._limits):
                each.tick(now)
            if self._doubts.look():
                self._memory.write_soon()
            if not hearing.look(now):
                continue
            self.intake.tick()
            before, over = over, stale(self.intake.sources, self._lane.endpoints.keepings(), now)
            if over != before:
                self._lane.lost(over, now)

    # -- what the parts tell each other ---------------------------------------------------------------------------

    def _keep(self, spec: SpecObject | ObjectRef) -> None:
        self._memory.keep(spec)
        self._doubts.taken(spec)

    def _committed(self, commit: Commit, event_time: float, build_seconds: float) -> None:
        self._publishing.committed(commit, event_time, build_seconds)

    def _endpoints_changed(self, touched: Touched, event_time: float) -> None:
        self._publishing.endpoints_changed(touched, event_time)

    def _demand(self, view: View, family: Family) -> None:
        """A node sees a set of gateways that was not seen before by its family of clients."""
        self._loop.edit(("view", view, family), lambda compiler: compiler.add_view(view, family))
        self._loop.flush(time.monotonic())

    def _external_changed(self, ref: ServiceRef, service: Service | None) -> None:
        """A service stands for a DNS name, or ceases to: that is for the configuration to know."""
        self._loop.edit(("external", ref), lambda compiler: compiler.put_external(ref, service))


def serve(configuration: Configuration, started: Callable[[Addresses], None] = lambda _: None) -> int:
    """Run a control plane until it is told to stop; the exit code. Raises ConfigurationError and OSError when it cannot start."""
    garbage.while_loading()
    asyncio.run(_serve(configuration, started))
    return 0


async def _serve(configuration: Configuration, started: Callable[[Addresses], None]) -> None:
    await ControlPlane(configuration).run(started)
