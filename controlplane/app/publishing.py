"""What follows from a commit, in the order in which it matters: proxies, then the disk, then those who look on.

Called by the commit loop and by the endpoint lane; `process` puts it together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from controlplane.app.ages import Ages
from controlplane.app.changes import Changes
from controlplane.app.doubts import Doubts
from controlplane.app.draining import Draining
from controlplane.app.fleet import RETURN_SECONDS, Fleet, Labels
from controlplane.app.intake import Intake
from controlplane.app.leaving import Leaving
from controlplane.app.loop import CommitLoop
from controlplane.app.memory import Memory
from controlplane.app.refusals import Refusals
from controlplane.app.reports import Reports
from controlplane.app.requirements import Requirements
from controlplane.app.rollcall import Rollcall
from controlplane.compile.compiler import Commit, Compiler, issues_of
from controlplane.compile.endpoints import Touched
from controlplane.compile.rows import LimitKey
from controlplane.errors import Diagnostic
from controlplane.names import GatewayName
from controlplane.snapshot.store import Store
from controlplane.telemetry.metrics import Metrics
from controlplane.xds.server import XdsServer


@dataclass(slots=True)
class Publishing:
    """Hands on what changed."""

    compiler: Compiler
    loop: CommitLoop
    store: Store
    fleet: Fleet
    server: XdsServer
    intake: Intake
    memory: Memory
    requirements: Requirements
    limits: Leaving[LimitKey]
    draining: Draining
    doubts: Doubts
    refusals: Refusals
    rollcall: Rollcall
    ages: Ages
    changes: Changes
    reports: Reports
    metrics: Metrics

    def committed(self, commit: Commit, event_time: float, build_seconds: float) -> None:
        """What a commit changed goes out at once; what only looks on comes when streams have written it."""
        before = self.store.sequence
        sequence = self.store.publish(commit.publication)
        touched = self.ages.touched(commit.publication, before)
        self.memory.committed()
        self.draining.look(time.monotonic())  # what an edit leaves behind is on disk no later than the edit
        self.doubts.committed(touched, commit.former)
        if commit.fleet_changed:
            self.fleet.select(self.selectors(), set(self.compiler.views()))
        leaving = (self.requirements.leaving(commit.requirements), self.limits.leaving(commit.limits))
        releases = [release for release in leaving if release is not None]
        if self.fleet.ready and (releases or sequence != before):
            self.fleet.published(sequence, event_time, partial(_call_later, releases) if releases else None)
        elif releases:  # while this process was not there
            _call_later(releases)
        if commit.fleet_changed or sequence != before:
            self.server.changed()
        if all(status.answered for status in self.intake.sources.values()):  # others may name what nobody names yet
            self.intake.services.settle()
        self.requirements.keep(commit.requirements)
        if self.fleet.ready:
            self.forget_secrets()
        self.rollcall.published(commit.publication, sequence)
        self.reports.published(commit.publication, sequence)
        self.metrics.build_seconds.observe(build_seconds)
        soon = asyncio.get_running_loop().call_soon
        edits = tuple(self.loop.taken)
        soon(self.ages.published, touched, sequence)
        soon(self.changes.committed, edits, touched, sequence, round(build_seconds * 1000, 2))
        soon(self._told, commit.issues, sequence)
        soon(self.reports.committed, edits, sequence)

    def endpoints_changed(self, touched: Touched, event_time: float) -> None:
        """What the endpoint lane changed goes out at once."""
        before = self.store.sequence
        publication = self.compiler.endpoints.publication(touched)
        sequence = self.store.publish(publication)
        if sequence != before:
            if self.fleet.ready:
                self.fleet.published(sequence, event_time)
            self.server.changed()
            self.metrics.endpoint_changes.inc()
            self.metrics.endpoint_seconds.observe(max(0.0, time.monotonic() - event_time))
        self.rollcall.published(publication, sequence)
        self.reports.published(publication, sequence)
        soon = asyncio.get_running_loop().call_soon
        soon(self.ages.published, self.ages.touched(publication, before), sequence)
        issues = issues_of(self.compiler.endpoints.tables.graph)
        soon(self._told, issues, sequence)

    def selectors(self) -> dict[GatewayName, Labels]:
        """What each gateway selects proxies by."""
        return {gateway: row.labels for gateway, row in self.compiler.tables.gateways.rows.items()}

    def forget_secrets(self) -> None:
        """Secrets that nothing refers to any more."""
        self.intake.forget_secrets(self.compiler.uses_secret)
        self.loop.flush(time.monotonic())

    def _told(self, issues: Mapping[Hashable, tuple[Diagnostic, ...]], sequence: int) -> None:
        """What was published is on its way to proxies: now the disk, and those who look on."""
        self.memory.write_soon()
        self.metrics.sequence.set(sequence)
        self.intake.register.say_all(issues)
        self.refusals.review()


def _call_later(releases: Iterable[Callable[[], None]]) -> None:
    """Proxies that are not connected, here or at all, come back with routes that name what would be released."""
    asyncio.get_running_loop().call_later(RETURN_SECONDS, _call, releases)


def _call(releases: Iterable[Callable[[], None]]) -> None:
    for release in releases:
        release()
