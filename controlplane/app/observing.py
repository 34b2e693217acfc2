"""Metrics that are asked of the running parts whenever somebody reads them; the others are counted where things happen."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

from controlplane.app.intake import Intake
from controlplane.app.memory import Memory
from controlplane.app.source_status import SourceStatus
from controlplane.app.trust import Trust
from controlplane.compile.compiler import Compiler
from controlplane.compile.expiry import Expiry
from controlplane.errors import Severity
from controlplane.telemetry.metrics import Metrics


def observe(
    metrics: Metrics, compiler: Compiler, intake: Intake, memory: Memory, trust: Trust | None, expiry: Expiry
) -> None:
    """Let the metrics look."""
    if trust is not None:
        metrics.watch_certificates(
            lambda: trust.seconds_left, lambda: trust.server_seconds_left, lambda: trust.authority_seconds_left
        )
    metrics.watch_expiry(lambda: expiry.seconds_left(time.time()))
    metrics.watch_state(memory.on_disk)
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
    metrics.blocks.set_function(sys.getallocatedblocks)
    for table in compiler.tables.graph.tables:
        metrics.rows.labels(table.name).set_function(partial(len, table.rows))
    for severity in Severity:
        metrics.problems.labels(str(severity)).set_function(partial(intake.register.count, severity))
    for status in intake.sources.values():
        metrics.watch_source(status.name, partial(_age, status), status.works)
        if status.name in intake.services.sources:
            metrics.watch_services(status.name, partial(intake.services.delivered, status.name))


def _age(status: SourceStatus) -> float:
    return time.monotonic() - status.spoke
