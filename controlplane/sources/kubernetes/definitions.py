"""The watches of gateway specs, and the question whether objects that are gone were meant to go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import msgspec

from controlplane.names import GATEWAY_KIND, ROUTE_KIND, ObjectRef
from controlplane.sources.base import Sink
from controlplane.sources.kubernetes.client import Refused, Trouble
from controlplane.sources.kubernetes.reflector import Reflector
from controlplane.sources.kubernetes.specs import Documents, Seen
from controlplane.sources.kubernetes.watches import Watches, collection, named
from controlplane.spec.gateway import API_VERSION

SETTLE_SECONDS = 0.25
"""How long a deletion waits, so that it is known whether the definition of its kind goes too."""
ASK_SECONDS = 1.0
"""How long it waits again when the API server did not say."""
_GROUP = f"/apis/{API_VERSION}"


class _Resource(msgspec.Struct, frozen=True):
    """A kind that the API server serves, and what can be done with it."""

    name: str
    verbs: list[str]


class _Discovered(msgspec.Struct, frozen=True):
    """All kinds of a group."""

    resources: list[_Resource]


class SpecWatch:
    """GatewaySpecs and RouteSpecs of a cluster."""

    def __init__(
        self,
        source: str,
        watches: Watches,
        sink: Sink,
        namespaces: tuple[str, ...] | None,
        last_good: Mapping[ObjectRef, str],
        hold_seconds: float,
        noticed: Callable[[ObjectRef], None],
        told_before: int = 0,
    ) -> None:
        """Begin to watch. `last_good`: texts of objects that were in force before, when the cluster was at `told_before`.

        `hold_seconds`: how long objects stay whose definition was removed. `noticed` is called when an object is there, or
        has another generation or status than before.
        """
        self._watches = watches
        self._hold_seconds = hold_seconds
        self._documents: list[tuple[Documents, Reflector]] = []
        for kind in (GATEWAY_KIND, ROUTE_KIND):
            for scope in (None,) if namespaces is None else namespaces:
                plural = f"{kind.lower()}s"
                documents = Documents(source, kind, scope, last_good, sink)
                path = collection(_GROUP, scope, plural)
                reflector = watches.watch(
                    named(plural, scope), path, documents, prepare=documents.prepare, highest=told_before
                )
                documents.noticed = noticed
                documents.ask_again = reflector.list_again
                documents.ask_release = partial(self._hold, documents, plural, named(plural, scope))
                documents.ask_definition = partial(self._ask, documents, plural, named(plural, scope))
                self._documents.append((documents, reflector))

    @property
    def held(self) -> int:
        """How many objects are held."""
        return sum(documents.held for documents, _ in self._documents)

    @property
    def listed(self) -> bool:
        """Whether every kind has been listed once, in every namespace that is watched."""
        return all(reflector.health.listed for _, reflector in self._documents)

    def seen(self, ref: ObjectRef) -> Seen | None:
        """The object as the API server has it, or None."""
        return next((found for documents, _ in self._documents if (found := documents.seen.get(ref))), None)

    def refs(self) -> Iterator[ObjectRef]:
        """Every object that exists."""
        return (ref for documents, _ in self._documents for ref in documents.seen)

    def attend(self) -> None:
        """Called when the health of a reflector has changed."""
        for documents, reflector in self._documents:
            health = reflector.health
            if health.trouble is Trouble.NOT_FOUND:
                documents.suspicious = True
            if health.trouble is not None and not health.listed:
                documents.restore()
                documents.flush(time.monotonic())

    def _ask(self, documents: Documents, plural: str, name: str) -> None:
        self._watches.spawn(f"deleted {name}", self._settle(documents, plural))

    def _hold(self, documents: Documents, plural: str, name: str) -> None:
        self._watches.spawn(f"held {name}", self._release(documents, plural))

    async def _settle(self, documents: Documents, plural: str) -> None:
        """Objects were seen deleted: that counts if the definition of their kind stays."""
        wait = SETTLE_SECONDS
        while seen := set(documents.doubted):
            await asyncio.sleep(wait)
            defined = await self._is_defined(plural)
            wait = SETTLE_SECONDS if defined is not None else ASK_SECONDS
            if defined is None:
                continue
            if defined:
                documents.delete(seen)
            else:
                documents.hold()
            documents.flush(time.monotonic())

    async def _release(self, documents: Documents, plural: str) -> None:
        """What is held goes in the end, or as soon as it proves to have been deleted while its definition was there.

        Not while the API server does not answer: it may have them again.
        """
        until = time.monotonic() + self._hold_seconds
        answers = False
        while documents.held and ((left := until - time.monotonic()) > 0 or not answers):
            await asyncio.sleep(min(ASK_SECONDS, left) if left > 0 else ASK_SECONDS)
            defined = await self._is_defined(plural)
            answers = defined is not None
            if defined and documents.unjudged:
                documents.judge()
        documents.release()
        documents.flush(time.monotonic())

    async def _is_defined(self, plural: str) -> bool | None:
        """Whether the kind is there to stay: of one that is being removed nothing can be created. None: nobody says."""
        try:
            found = msgspec.json.decode(await self._watches.client.get(_GROUP, {}), type=_Discovered).resources
        except Refused as refused:
            return False if refused.trouble is Trouble.NOT_FOUND else None
        except msgspec.MsgspecError:
            return None
        return any(one.name == plural and "create" in one.verbs for one in found)
