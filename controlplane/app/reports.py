"""What the custom resources are told of themselves: gathered from the running parts when their status is written.

Told by the intake, by commits and by the fleet that something may be otherwise now; asked by the writers, one for each cluster
with specs, what is known of an object. It changes nothing that is served.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.app.loop import CommitLoop
from controlplane.app.offered import offers
from controlplane.app.problems import Problems
from controlplane.app.rollcall import gateways_in, gateways_of
from controlplane.compile import codes
from controlplane.errors import Diagnostic, Severity
from controlplane.names import GATEWAY_KIND, GatewayName, ObjectRef, parts_of
from controlplane.snapshot.store import Store
from controlplane.sources.base import SpecObject
from controlplane.spec.codes import Code
from controlplane.spec.rows import Element
from controlplane.status.standing import Proxies, Standing
from controlplane.xds.server import XdsServer

COUNTED_SECONDS = 0.1
"""How old counts of proxies may be: they are counted once for all objects that are written together."""

MOVED_SECONDS = 0.5
SETTLING_SECONDS = 0.25
"""How long what others changed of a gateway may be on its way: where something changes all the time, something always is."""


class Writer(Protocol):
    """Writes the statuses of one cluster."""

    def touch(self, refs: Iterable[ObjectRef]) -> None:
        """Something about these may be otherwise now."""

    @property
    def leads(self) -> bool:
        """Whether it is this process that writes."""
        ...

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
        self._changes: dict[GatewayName, deque[tuple[int, float]]] = {}
        """By gateway: when the publications went out that changed something of it, back to the newest that is no news."""
        self._alone: dict[GatewayName, set[ObjectRef]] = {}
        """By gateway: the routes that were told that no proxy is connected."""
        self._unserved: set[ObjectRef] = set()
        """Those of whose routes none was published when it was asked last."""
        self._undecided: set[ObjectRef] = set()
        """Those that were asked for while a commit was under way that may decide it."""
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
                self._unserved.discard(ref)
                if ref.kind == GATEWAY_KIND:
                    self._changes.pop(GatewayName(ref.full_name), None)
                for alone in self._alone.values():
                    alone.discard(ref)
                self._touch((ref,))
                continue
            self._published[ref] = sequence
            if ref.kind == GATEWAY_KIND:
                self._gateways.add(ref)
                self._changes.setdefault(GatewayName(ref.full_name), deque())
            self._touch((ref,))
        undecided, self._undecided = self._undecided, set()
        self._touch(undecided)
        self.fleet_moved()

    def published(self, parts: Iterable[Hashable], sequence: int) -> None:
        """These parts of the snapshot have changed, by whatever: their gateways have another version."""
        if not self._changes:
            return
        now = time.monotonic()
        for gateway in gateways_in(parts):
            if (changes := self._changes.get(gateway)) is not None:
                _forget(changes, now)
                changes.append((sequence, now))
                self.fleet_moved()

    def fleet_moved(self) -> None:
        """A proxy came, went or took something over, or may have to: it is said a moment later, once for many."""
        if self.writers and not self._moving:
            self._moving = True
            asyncio.get_running_loop().call_later(MOVED_SECONDS, self._moved)

    def _moved(self) -> None:
        self._moving = False
        self._touch(self._gateways)
        if self._alone:
            self._count()
            for gateway in self._alone.keys() & self._counted.keys():
                self._touch(self._alone.pop(gateway))

    def said(self, source: str, reason: str | None) -> None:
        """Why the statuses of a cluster cannot be written; None when they can."""
        help = "manifests/rbac/README.md has the rights that it needs; or set status: false for this cluster"
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

    def standing(self, ref: ObjectRef, generation: int, good: int = 0) -> Standing | None:
        """Where an object stands; None while its newest version is not compiled. `good`: the generation in force, if known."""
        if self._loop.waits(ref):
            return None
        diagnostics = self._register.of(ref.subject)
        stands_back = any(one.code == codes.NAMESAKE for one in diagnostics)
        spec = self._register.object_of(ref) if not stands_back else None
        gateway = _gateway(spec) if spec is not None else None
        is_gateway = ref.kind == GATEWAY_KIND
        is_served = is_gateway or spec is None or self._is_served(ref, spec, diagnostics)
        if not is_served and self._loop.sweeps:
            self._undecided.add(ref)
            return None
        self._note(ref, is_served=is_served)
        proxies = Proxies()
        if gateway is not None:
            refused = is_gateway or any(one.code == codes.REJECTED for one in diagnostics)
            sequence = self._published.get(ref, 0)
            if is_gateway:
                sequence = max(sequence, self._changed(gateway))
            proxies = self._proxies(gateway, sequence, refused=refused)
            if not is_gateway and not proxies.matched:
                self._alone.setdefault(gateway, set()).add(ref)
                self.fleet_moved()  # one may have come since they were counted
        snapshot = self._store.view(parts_of((gateway,))).version() if is_gateway and gateway is not None else ""
        return Standing(
            generation,
            diagnostics,
            proxies,
            snapshot,
            counts=is_gateway,
            in_force=spec is not None,
            good=good,
            is_served=is_served,
        )

    def _is_served(self, ref: ObjectRef, spec: SpecObject, diagnostics: Iterable[Diagnostic]) -> bool:
        """Whether anything of its routes is published; of most objects nothing is said that would keep it out."""
        asked = ref in self._unserved or any(map(_may_withhold, diagnostics))
        return not asked or offers(self._loop.compiler.tables, self._store, spec)

    def _note(self, ref: ObjectRef, *, is_served: bool) -> None:
        if not is_served:
            self._unserved.add(ref)
        elif ref in self._unserved:
            self._unserved.discard(ref)
            self._published[ref] = self._store.sequence  # it took no edit of its own

    def _changed(self, gateway: GatewayName) -> int:
        """The last publication that changed something of a gateway, but for what went out a moment ago."""
        changes, now = self._changes.get(gateway), time.monotonic()
        if not changes:
            return 0
        _forget(changes, now)
        sequence, at = changes[0]
        return sequence if now - at >= SETTLING_SECONDS else 0

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
        nodes: dict[tuple[GatewayName, str], tuple[int, bool]] = {}  # a proxy may have several streams
        for stream in self._server.nodes():
            refuses = any(one.lacks for one in stream.types)
            for gateway in gateways_of(stream):
                node = GatewayName(gateway), stream.node.id
                settled, refused = nodes.get(node, (stream.settled, False))
                nodes[node] = min(settled, stream.settled), refused or refuses
        self._counted = {}
        for (gateway, _), (settled, refused) in nodes.items():
            counted = self._counted.setdefault(gateway, _Counted())
            counted.settled.append(settled)
            counted.nacked += refused
        for counted in self._counted.values():
            counted.settled.sort()
        self._counted_at = time.monotonic()


def _may_withhold(one: Diagnostic) -> bool:
    """Whether it may keep routes out of what is published."""
    return one.severity is Severity.ERROR or one.code == codes.NO_LISTENER


def _forget(changes: deque[tuple[int, float]], now: float) -> None:
    """What went out before the newest that is no news any more."""
    while len(changes) > 1 and now - changes[1][1] >= SETTLING_SECONDS:
        changes.popleft()


def _gateway(spec: SpecObject) -> GatewayName | None:
    """The gateway that an object is, or is attached to."""
    if spec.ref.kind == GATEWAY_KIND:
        return GatewayName(spec.ref.full_name)
    return next((row.gateway for row in spec.rows.values() if isinstance(row, Element)), None)
