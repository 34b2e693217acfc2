"""How sources stand: whether they can be read, since when not, and what that means for the endpoints they gave."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from controlplane.compile.endpoints import Keeping

HEARING_SECONDS = 15.0
"""Within which a source is read again that has come back."""
STILL_SECONDS = 5.0
"""Between two looks, after which this process has stood still."""


class Hearing:
    """Whether sources could be heard if they speak: not before they had the time, at the start or after this process stood still.

    Until then nobody knows whether they are lost still, or what is held is gone still.
    """

    def __init__(self, now: float) -> None:
        """The process begins."""
        self._looked = now
        self._from = now + HEARING_SECONDS

    def look(self, now: float) -> bool:
        """Asked again and again; times are of a clock that only goes forward (seconds)."""
        if now - self._looked > STILL_SECONDS:
            self._from = now + HEARING_SECONDS
        self._looked = now
        return now >= self._from


@dataclass(slots=True)
class SourceStatus:
    """One source. Times are of a clock that only goes forward (seconds).

    `spoke` is when it said something last, or that it works, `lost` since when it, or a part of it, cannot be read (None: it can), and
    `endpoints_lost` since when its services cannot: a secret that may not be read makes no endpoint older. What it said
    before this process started counts. `namespaces_lost` is the same for the services of single namespaces.
    """

    name: str
    spoke: float
    lost: float | None
    endpoints_lost: float | None = None
    namespaces_lost: dict[str, float] = field(default_factory=dict)
    synced: bool = False
    failure: str | None = None
    remembered: bool = True
    """Whether what it declares is known from before this process started, or was read though other things cannot be; or it
    declares nothing."""

    def works(self) -> bool:
        """It said everything, and can be read."""
        return self.synced and self.failure is None

    @property
    def trouble(self) -> str | None:
        """Why what is known of it may be old; None when it works."""
        if self.works():
            return None
        why = self.failure or "it has not answered yet"
        return f"{why}; not all that it declares is known" if self.is_unknown else why

    @property
    def is_unknown(self) -> bool:
        """Nobody here knows all that it declares: without it, less may be served than before."""
        return not (self.synced or self.remembered)

    @property
    def answered(self) -> bool:
        """It said everything once, or said that it cannot."""
        return self.synced or self.failure is not None

    @property
    def is_heard(self) -> bool:
        """What it knows is heard as it changes: of services at least, where it has any."""
        return self.answered and self.endpoints_lost is None

    def has_synced(self, at: float) -> None:
        """It said everything, or works again."""
        self.synced, self.failure, self.spoke, self.lost, self.endpoints_lost = True, None, at, None, None
        self.namespaces_lost = {}

    def lost_since(self, namespace: str) -> float | None:
        """Since when the services of a namespace cannot be read ("": it has none); None: they can."""
        return min(
            (one for one in (self.endpoints_lost, self.namespaces_lost.get(namespace)) if one is not None), default=None
        )

    def has_failed(
        self,
        reason: str,
        at: float,
        *,
        endpoints: bool = True,
        namespaces: frozenset[str] = frozenset(),
        specs: bool = True,
    ) -> None:
        """It, or a part of it, cannot be read; `endpoints`: its services neither, or else those of `namespaces`.

        `specs`: nor has all been read that it declares.
        """
        self.failure = reason
        self.remembered |= not specs
        if self.lost is None:
            self.lost = at
        if not endpoints:
            before, self.endpoints_lost = self.endpoints_lost, None
            since = at if before is None else before
            self.namespaces_lost = {one: self.namespaces_lost.get(one, since) for one in namespaces}
        elif self.endpoints_lost is None:
            self.endpoints_lost = at


def at_start(
    names: Iterable[str], seen: Mapping[str, float], at: float, now: float, unknown: Collection[str] = ()
) -> dict[str, SourceStatus]:
    """All sources at the start. `seen` is when the services of each could be read last, `now` the same clock (seconds of the epoch).

    `unknown` are those that declare specs which are not remembered.
    """
    ages = {name: max(0.0, now - seen.get(name, now)) for name in names}
    return {
        name: SourceStatus(name, at - age, at - age, at - age, remembered=name not in unknown)
        for name, age in ages.items()
    }


def stale(sources: Mapping[str, SourceStatus], keepings: Iterable[Keeping], at: float) -> frozenset[Keeping]:
    """Those that are over."""
    return frozenset(
        keeping
        for keeping in keepings
        if (status := sources.get(keeping.source)) is not None
        and (since := status.lost_since(keeping.namespace)) is not None
        and at - since >= keeping.seconds
    )
