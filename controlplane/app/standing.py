"""How sources stand: whether they can be read, since when not, and what that means for the endpoints they gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class SourceStatus:
    """One source. Times are of a clock that only goes forward (seconds).

    `spoke` is when it said something last, `lost` since when it cannot be read (None: it can); what it said before this
    process started counts.
    """

    name: str
    spoke: float
    lost: float | None
    synced: bool = False
    failure: str | None = None

    def works(self) -> bool:
        """It said everything, and can be read."""
        return self.synced and self.failure is None

    @property
    def answered(self) -> bool:
        """It said everything once, or said that it cannot."""
        return self.synced or self.failure is not None

    def has_synced(self, at: float) -> None:
        """It said everything, or works again."""
        self.synced, self.failure, self.spoke, self.lost = True, None, at, None

    def has_failed(self, reason: str, at: float) -> None:
        """It cannot be read."""
        self.failure = reason
        if self.lost is None:
            self.lost = at


def standing(names: Iterable[str], seen: Mapping[str, float], at: float, now: float) -> dict[str, SourceStatus]:
    """All sources at the start. `seen` is when each could be read last, `now` the same clock (seconds of the epoch)."""
    ages = {name: max(0.0, now - seen.get(name, now)) for name in names}
    return {name: SourceStatus(name, at - age, at - age) for name, age in ages.items()}


def stale(
    sources: Mapping[str, SourceStatus], keepings: Iterable[tuple[str, float]], at: float
) -> frozenset[tuple[str, float]]:
    """Of `keepings` (a source, and for how many seconds its endpoints are kept), those that are over."""
    return frozenset(
        (name, keep_for)
        for name, keep_for in keepings
        if (status := sources.get(name)) is not None and status.lost is not None and at - status.lost >= keep_for
    )
