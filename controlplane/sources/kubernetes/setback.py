"""A cluster whose data went back: restored from a backup, or with an empty disk in the place of its own.

What it lacks since then was lost, more likely than deleted, and what ran there runs on; a second read of the same data
proves nothing. So a service that went with it, or all of its endpoints, stays for a time, unless it comes back before;
then it is read once more, and believed. The catalog tells and asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from controlplane.model.endpoint import Service

if TYPE_CHECKING:
    from controlplane.sources.kubernetes.known import Key

_SAID = 5
"""Services that are named; of hundreds nobody reads each."""


class Setback:
    """Of one cluster."""

    def __init__(self, seconds: float, before: Mapping[Key, Service] | None = None) -> None:
        """What is lost stays for so long. `before`: services in force of which this process has pushed nothing yet."""
        self.over: Callable[[Collection[Key]], None] = lambda _: None
        """Called when it has lasted long enough: these are to be read once more."""
        self.changed: Callable[[], None] = lambda: None
        """Called when `reason` may be another one."""
        self._before = dict(before or {})
        self._seconds = seconds
        self._lost: set[Key] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def reason(self) -> str | None:
        """What stays and why, in words; None when nothing does."""
        if self._timer is None or not self._lost:
            return None
        names = [f"{namespace}/{name}" for namespace, name in sorted(self._lost)]
        some = ", ".join(names[:_SAID]) + (", …" if len(names) > _SAID else "")
        return f"its data went back (a backup, an empty disk?); what it lacks stays for {self._seconds:g} s: {some}"

    def lacks(self, key: Key) -> None:
        """Data that went back say nothing of a service, or name no endpoint of it."""
        self._lost.add(key)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)

    def before(self, key: Key) -> Service | None:
        """A service that is in force, and of which this process has pushed nothing yet."""
        return self._before.get(key)

    def pushed(self, key: Key) -> None:
        """What was in force before is not any more."""
        self._before.pop(key, None)

    def keeps(self, key: Key, said: object, now: Service | None) -> bool:
        """Whether a service stays as it was `said` to be, instead of what it is `now`."""
        if key not in self._lost:
            return False
        said = self._before.get(key, said)
        if isinstance(said, Service) and _is_somewhere(said) and not _is_somewhere(now):
            self.changed()
            return True
        self.forget(key)
        return False

    def forget(self, key: Key) -> None:
        """It is back, or nobody refers to it any more."""
        self._lost.discard(key)
        if not self._lost and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.changed()

    def _end(self) -> None:
        lost, self._lost, self._timer = self._lost, set(), None
        self.over(lost)
        self.changed()


def _is_somewhere(service: Service | None) -> bool:
    return service is not None and bool(service.endpoints or service.external_name)
