"""What the custom resources are told of themselves: gathered from the running parts when their status is written.

Told by the intake, by commits and by the fleet that something may be otherwise now; asked by the writers, one for each cluster
with specs, what is known of an object. It changes nothing that is served.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.app.loop import CommitLoop
from controlplane.app.problems import Problems
from controlplane.app.rollcall import gateways_of
from controlplane.compile import codes
from controlplane.errors import Diagnostic, Severity
from controlplane.names import GATEWAY_KIND, GatewayName, ObjectRef, parts_of
from controlplane.snapshot.store import Store
from controlplane.sources.base import SpecObject
from controlplane.spec.codes import Code
from controlplane.spec.rows import Element
from controlplane.status.standing import Proxies, Standing
from controlplane.xds.observer import State
from controlplane.xds.server import XdsServer

COUNTED_SECONDS = 0.1
"""How old counts of proxies may be: they are counted once for all objects that are written together."""

MOVED_SECONDS = 0.5


class Writer(Protocol):
    """Writes the statuses of one cluster."""

    def touch(self, refs: Iterable[ObjectRef]) -> None:
        """Something about these may be otherwise now."""

    async def run(self) -> None:
        """Write until cancelled."""


@dataclass(slots=True)
class _Counted:
    """The proxies of one gateway: up to which publication each has everything, sorted, and how many refuse something."""

    settled: list[int] = field(default_factory=list)
    nacked: int = 0


class Reports:
    """Knows where each object stands. Without writers it does nothing."""

    def __init__(self, register: Problems, loop: CommitLoop, store: Store, server: XdsServer) -> None:
        self.writers: dict[str, Writer] = {}
        """By source."""
        self._register = register
        self._loop = loop
        self._store = store
        self._server = server
        self._published: dict[ObjectRef, int] = {}
        self._gateways: set[ObjectRef] = set()
        self._counted: dict[GatewayName, _Counted] = {}
        self._counted_at = float("-inf")
        self._moving = False
        register.changed = self._said

    def start(self) -> list[asyncio.Task[None]]:
        """The tasks of all writers."""
        return [
            asyncio.create_task(writer.run(), name=f"status of {name}") for name, writer in sorted(self.writers.items())
        ]

    # -- what may be otherwise -----------------------------------------------------------------------------------

    def committed(self, edits: Iterable[Hashable], sequence: int) -> None:
        """A commit with these edits is published."""
        if not self.writers:
            return
        edited = {key: None for key in edits if isinstance(key, ObjectRef)}
        for ref in dict.fromkeys(ref._replace(source=source) for ref in edited for source in self.writers):
            if self._register.object_of(ref) is None:
                if ref not in edited:
                    continue  # else an edit in one source may put what another one has of that name in force
                self._gateways.discard(ref)
                self._published.pop(ref, None)
                self._touch((ref,))
                continue
            self._published[ref] = sequence
            if ref.kind == GATEWAY_KIND:
                self._gateways.add(ref)
            self._touch((ref,))
        self.fleet_moved()

    def fleet_moved(self) -> None:
        """A proxy came, went or took something over, or may have to: gateways say so a moment later, once for many."""
        if self._gateways and not self._moving:
            self._moving = True
            asyncio.get_running_loop().call_later(MOVED_SECONDS, self._moved)

    def _moved(self) -> None:
        self._moving = False
        self._touch(self._gateways)

    def said(self, source: str, reason: str | None) -> None:
        """Why the statuses of a cluster cannot be written; None when they can."""
        help = "manifests/rbac/status.yaml has the rights that it needs; or set status: false for this cluster"
        message = f"{source}: the status of specs cannot be written: {reason}"
        said = [Diagnostic(Code.STATUS_NOT_WRITTEN, message, help=help, severity=Severity.WARNING)] if reason else []
        self._register.say(("status", source), said)

    def _said(self, subjects: Iterable[str]) -> None:
        """Something else is wrong with these objects now."""
        for subject in subjects:
            if (ref := ObjectRef.of_subject(subject)) is not None:
                self._touch((ref,))

    def _touch(self, refs: Iterable[ObjectRef]) -> None:
        for ref in refs:
            if (writer := self.writers.get(ref.source)) is not None:
                writer.touch((ref,))

    # -- what is known -------------------------------------------------------------------------------------------

    def standing(self, ref: ObjectRef, generation: int) -> Standing | None:
        """Where an object stands; None while its newest version is not compiled."""
        if self._loop.waits(ref):
            return None
        diagnostics = self._register.of(ref.subject)
        stands_back = any(one.code == codes.TWIN for one in diagnostics)
        spec = self._register.object_of(ref) if not stands_back else None
        gateway = _gateway(spec) if spec is not None else None
        is_gateway = ref.kind == GATEWAY_KIND
        proxies = Proxies()
        if gateway is not None:
            refused = is_gateway or any(one.code == codes.REJECTED for one in diagnostics)
            proxies = self._proxies(gateway, self._published.get(ref, 0), refused=refused)
        snapshot = self._store.view(parts_of((gateway,))).version() if is_gateway and gateway is not None else ""
        return Standing(generation, diagnostics, proxies, snapshot, counts=is_gateway)

    def _proxies(self, gateway: GatewayName, sequence: int, *, refused: bool) -> Proxies:
        if time.monotonic() - self._counted_at > COUNTED_SECONDS:
            self._count()
        counted = self._counted.get(gateway)
        if counted is None:
            return Proxies()
        matched = len(counted.settled)
        nacked = counted.nacked if refused else 0
        synced = matched - bisect_left(counted.settled, sequence)
        return Proxies(matched, min(synced, matched - nacked), nacked)

    def _count(self) -> None:
        self._counted = {}
        for stream in self._server.nodes():
            for gateway in gateways_of(stream):
                counted = self._counted.setdefault(GatewayName(gateway), _Counted())
                counted.settled.append(stream.settled)
                counted.nacked += any(one.state is State.NACK for one in stream.types)
        for counted in self._counted.values():
            counted.settled.sort()
        self._counted_at = time.monotonic()


def _gateway(spec: SpecObject) -> GatewayName | None:
    """The gateway that an object is, or is attached to."""
    if spec.ref.kind == GATEWAY_KIND:
        return GatewayName(spec.ref.full_name)
    return next((row.gateway for row in spec.rows.values() if isinstance(row, Element)), None)
