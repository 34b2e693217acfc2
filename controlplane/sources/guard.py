"""The guard against mass removal: what is gone all at once, and not for sure, is held for a while and shown.

A relist that is half empty, a catalog that forgot its services, a folder that was replaced by an empty one: such
removals are believed when the source confirms them, when they are explicit, or after a time in which it could have taken
them back. Pure: time comes in as an
argument (seconds, of a clock that only goes forward). The intake asks it about every batch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from controlplane.model.conduct import HOLD
from controlplane.model.endpoint import Endpoint, Service
from controlplane.names import ServiceRef

K = TypeVar("K", bound=Hashable)

WINDOW = 10.0
"""Seconds over which removals from a source count as one: not every source says all at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """More than `share` (0 to 1) of what there was, and at least `minimum`, is held for `hold` seconds."""

    share: float = 0.5
    hold: float = HOLD.total_seconds()
    minimum: int = 3

    def exceeded(self, gone: int, of: int) -> bool:
        """Whether so many of so many are too many."""
        return gone >= self.minimum and gone > self.share * of


@dataclass(frozen=True, slots=True)
class Held:
    """A removal that is not believed yet: how much of how much, and since when."""

    gone: int
    of: int
    since: float


class _Window:
    """What is gone from a source lately, and how much there was before."""

    def __init__(self) -> None:
        self._gone: deque[tuple[float, int]] = deque()

    def add(self, gone: int, at: float) -> None:
        self._gone.append((at, gone))

    def sum(self, at: float) -> int:
        while self._gone and self._gone[0][0] <= at - WINDOW:
            self._gone.popleft()
        return sum(gone for _, gone in self._gone)


class ObjectGuard(Generic[K]):
    """Guards whole things, such as specs: by source, which of those that it removes must go."""

    def __init__(self, limits: Limits) -> None:
        self.held: dict[K, Held] = {}
        self._limits = limits
        self._windows: dict[str, _Window] = {}

    def judge(self, source: str, gone: Mapping[K, bool], of: int, at: float) -> list[K]:
        """Which of `gone` (with whether it is sure) are to be believed; `of` is how many the source had."""
        unsure = [key for key, sure in gone.items() if not sure and key not in self.held]
        window = self._windows.setdefault(source, _Window())
        lately = window.sum(at)
        if self._limits.exceeded(len(unsure) + lately, of + lately):
            for key in unsure:
                self.held[key] = Held(len(unsure), of, at)
            believed = [key for key, sure in gone.items() if sure]
        else:
            window.add(len(unsure), at)
            believed = [key for key, sure in gone.items() if sure or key not in self.held]
        for key in believed:
            self.held.pop(key, None)
        return believed

    def back(self, key: K) -> None:
        """It is there."""
        self.held.pop(key, None)

    def due(self, at: float, is_heard: Callable[[K], bool]) -> list[K]:
        """What was held long enough: it is to go, if its source is heard, which could have said otherwise."""
        found = [key for key, held in self.held.items() if at >= held.since + self._limits.hold and is_heard(key)]
        for key in found:
            del self.held[key]
        return found


class EndpointGuard:
    """Guards the endpoints of services. It remembers what is believed of each; what is gone and held is part of that."""

    def __init__(self, limits: Limits) -> None:
        self.held: dict[ServiceRef, Held] = {}
        self._limits = limits
        self._believed: dict[ServiceRef, Service] = {}
        self._said: dict[ServiceRef, Service | None] = {}  # of those that are held
        self._totals: dict[str, int] = {}
        self._windows: dict[str, _Window] = {}

    def judge(
        self, batch: Mapping[ServiceRef, tuple[Service | None, bool]], at: float
    ) -> dict[ServiceRef, Service | None]:
        """What to believe of each service of a batch, given what its source says and whether that is sure."""
        gone = {ref: self._gone(ref, service) for ref, (service, _) in batch.items()}
        totals = dict(self._totals)
        lately = {ref.source: self._windows.setdefault(ref.source, _Window()).sum(at) for ref in batch}
        unsure = dict(lately)
        for ref, (_, sure) in batch.items():
            if not sure:
                unsure[ref.source] += len(gone[ref])
        for ref, held in self.held.items():  # is still unsure, though nobody speaks of it now
            if ref not in batch and ref.source in unsure:
                unsure[ref.source] += held.gone
        found: dict[ServiceRef, Service | None] = {}
        for ref, (service, sure) in batch.items():
            before, held_before = self._believed.get(ref), self.held.get(ref)
            of = len(before.endpoints) if before else 0
            whole = self._limits.exceeded(unsure[ref.source], totals.get(ref.source, 0) + lately[ref.source])
            again = held_before is not None and len(gone[ref]) >= held_before.gone  # none of it has come back
            if sure or not gone[ref] or not (again or whole or self._limits.exceeded(len(gone[ref]), of)):
                if gone[ref] and not sure:
                    self._windows[ref.source].add(len(gone[ref]), at)
                found[ref] = service
                self.held.pop(ref, None)
                self._said.pop(ref, None)
            else:
                self.held[ref] = Held(len(gone[ref]), of, held_before.since if held_before else at)
                self._said[ref] = service
                found[ref] = _with(service, before, gone[ref])
            self._believe(ref, found[ref])
        return found

    def restore(self, ref: ServiceRef, service: Service) -> None:
        """What was believed before this process started."""
        self._believe(ref, service)

    def forget(self, ref: ServiceRef) -> None:
        """Nobody asks for it any more."""
        self._believe(ref, None)
        self.held.pop(ref, None)
        self._said.pop(ref, None)

    def due(self, at: float, is_heard: Callable[[ServiceRef], bool]) -> dict[ServiceRef, Service | None]:
        """What was held long enough, as its source says it is; not of a source that is not heard any more."""
        over = [ref for ref, held in self.held.items() if at >= held.since + self._limits.hold and is_heard(ref)]
        found = {ref: self._said.pop(ref) for ref in over}
        for ref, service in found.items():
            del self.held[ref]
            self._believe(ref, service)
        return found

    def _gone(self, ref: ServiceRef, service: Service | None) -> list[Endpoint]:
        """The endpoints that are believed in, and that the source does not name any more.

        Instances may share an address and differ by port; one whose place another port of its address took is not gone.
        """
        before = self._believed.get(ref)
        if before is None or before.external_name is not None:
            return []
        now = service.endpoints if service is not None else ()
        there = {(one.address, one.ports) for one in now}
        missing = [one for one in before.endpoints if (one.address, one.ports) not in there]
        if not missing:
            return []
        known = {(one.address, one.ports) for one in before.endpoints}
        new = Counter(one.address for one in now if (one.address, one.ports) not in known)
        gone = []
        for one in missing:
            if new[one.address]:
                new[one.address] -= 1
            else:
                gone.append(one)
        return gone

    def _believe(self, ref: ServiceRef, service: Service | None) -> None:
        before = self._believed.pop(ref, None)
        count = (len(service.endpoints) if service else 0) - (len(before.endpoints) if before else 0)
        self._totals[ref.source] = self._totals.get(ref.source, 0) + count
        if service is not None:
            self._believed[ref] = service


def _with(service: Service | None, before: Service | None, gone: Iterable[Endpoint]) -> Service | None:
    """The service with endpoints that are not to go yet."""
    if service is None or before is None:
        return before
    return Service(service.ports or before.ports, tuple(sorted((*service.endpoints, *gone))))


def held_sentence(held: Collection[Held], names: Iterable[str], what: str, limits: Limits) -> str:
    """`3 endpoints were gone at once (of 4): kept for up to 600 s, or until that is confirmed: shop/catalog`."""
    listed = sorted(names)
    shown = ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
    gone = sum(one.gone for one in held) if what == "endpoints" else len(held)
    return f"{gone} {what} are gone at once, which is not believed before {limits.hold:g} s or a confirmation: {shown}"
