"""All that runs for one cluster: its reflectors and whatever else takes time, and the sum of their health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from msgspec import Raw

from controlplane.sources.kubernetes.client import Client
from controlplane.sources.kubernetes.reflector import LONGEST_DELAY, Health, Mirror, Reflector

SAID = 5
"""So many things that fail alike, and so many reasons, are said in words."""

log = structlog.get_logger(__name__)


class Watches:
    """The tasks of one source."""

    def __init__(self, source: str, client: Client, changed: Callable[[], None]) -> None:
        """`changed` is called when the health of a reflector has changed, and after each of its lists."""
        self.client = client
        self._source = source
        self._changed = changed
        self._reflectors: dict[str, Reflector] = {}
        self._optional: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(
        self,
        name: str,
        path: str,
        mirror: Mirror,
        *,
        selector: str = "",
        metadata_only: bool = False,
        optional: bool = False,
        prepare: Callable[[Raw], None] | None = None,
        highest: int = 0,
    ) -> Reflector:
        """Keep a mirror in step until `forget`. One that is `optional` is no fault of the source when it fails."""
        parameters = {"fieldSelector": selector} if selector else {}
        reflector = Reflector(
            self.client,
            path,
            mirror,
            self._changed,
            what=name,
            parameters=parameters,
            metadata_only=metadata_only,
            prepare=prepare,
            highest=highest,
        )
        self._reflectors[name] = reflector
        if optional:
            self._optional.add(name)
        self.spawn(f"watch {name}", self._keep(reflector))
        return reflector

    def forget(self, name: str) -> None:
        """Watch it no longer."""
        self._reflectors.pop(name, None)
        self._optional.discard(name)
        if (task := self._tasks.pop(f"watch {name}", None)) is not None:
            task.cancel()

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else, unless something of this name is being done already."""
        if (running := self._tasks.get(name)) is not None and not running.done():
            work.close()
            return
        task = asyncio.get_running_loop().create_task(self._guarded(name, work), name=f"{self._source} {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._tasks.pop(name) if self._tasks.get(name) is done else None)

    async def close(self) -> None:
        """End everything."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def answered(self) -> bool:
        """Whether everything has been read once, or has failed."""
        return all(one.health.answered for name, one in self._reflectors.items() if name not in self._optional)

    @property
    def told(self) -> int:
        """The highest version that was told: all kinds of a cluster are counted together."""
        return max((one.highest for one in self._reflectors.values() if one.health.listed), default=0)

    def fails(self, name: str) -> bool:
        """Whether this is watched and cannot be read."""
        reflector = self._reflectors.get(name)
        return reflector is not None and reflector.health.trouble is not None

    @property
    def failure(self) -> str | None:
        """What does not work, in words; None when everything does."""
        reasons: dict[str, list[str]] = {}
        for name, reflector in sorted(self._reflectors.items()):
            if reflector.health.trouble is not None and name not in self._optional:
                reasons.setdefault(reflector.health.reason, []).append(name)
        found = [f"{_some(names, ', ')}: {reason}" for reason, names in reasons.items()]
        return _some(found, "; ") or None

    @property
    def health(self) -> dict[str, Health]:
        """How each reflector is doing, by what it watches."""
        return {name: reflector.health for name, reflector in self._reflectors.items()}

    async def _keep(self, reflector: Reflector) -> None:
        while True:
            try:
                await reflector.run()
            except Exception as error:  # whatever a cluster says, it must not end the process
                log.exception("kubernetes watch failed", source=self._source, what=reflector.what)
                reflector.broken(f"{type(error).__name__}: {error}")
                await asyncio.sleep(LONGEST_DELAY)

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("kubernetes task failed", source=self._source, task=name)


def _some(texts: list[str], between: str) -> str:
    """The first of them, and how many more there are: of hundreds of secrets nobody reads each reason."""
    more = len(texts) - SAID
    return between.join(texts[:SAID] + ([f"and {more} more"] if more > 0 else []))


def collection(prefix: str, namespace: str | None, plural: str) -> str:
    """The path of the objects of a kind, in one namespace or in all."""
    return f"{prefix}/namespaces/{namespace}/{plural}" if namespace is not None else f"{prefix}/{plural}"


def named(plural: str, namespace: str | None) -> str:
    """What a reflector watches, for people."""
    return plural if namespace is None else f"{plural} in {namespace}"
