"""Which services of a cluster are read how: all of them listed once and watched, a few new ones read one by one.

Nothing is watched before somebody refers to a service. One watch of each kind, for the cluster or for each namespace,
feeds the catalog; what it holds is only what is referred to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

import msgspec

from controlplane.sources.kubernetes.catalog import Catalog
from controlplane.sources.kubernetes.client import Refused, Trouble
from controlplane.sources.kubernetes.known import Key, Read
from controlplane.sources.kubernetes.mirrors import Nodes, Services, Slices
from controlplane.sources.kubernetes.objects import SERVICE_LABEL, EndpointSlice, Page, Service, version_number
from controlplane.sources.kubernetes.reflector import FIRST_DELAY, LONGEST_DELAY, Mirror, Reflector, pause
from controlplane.sources.kubernetes.slices import Regions
from controlplane.sources.kubernetes.watches import Watches, collection, named

FEW = 20
"""Up to so many services are read one by one when they are new; for more, everything is listed once."""
_AT_ONCE = 8
CORE, DISCOVERY = "/api/v1", "/apis/discovery.k8s.io/v1"


class ServiceWatch:
    """Services, EndpointSlices and, unless the region is configured, nodes."""

    def __init__(
        self,
        catalog: Catalog,
        regions: Regions,
        watches: Watches,
        namespaces: tuple[str, ...] | None,
        told_before: int = 0,
    ) -> None:
        """`namespaces` None: the whole cluster. `told_before`: what `told` was when another process ended."""
        self._catalog = catalog
        self._regions = regions
        self._watches = watches
        self._scopes: tuple[str | None, ...] = (None,) if namespaces is None else namespaces
        self._told_before = told_before
        self._reflectors: dict[str | None, tuple[Reflector, Reflector]] = {}
        self._nodes: Reflector | None = None
        self._asked: set[Key] = set()  # a list of everything will speak of these
        self._refused = False  # the last read of a few services

    @property
    def caught_up(self) -> bool:
        """Whether every service that is referred to has been pushed or said to be absent, unless some cannot be read."""
        return self._refused or any(map(self._fails, self._scopes)) or self._catalog.caught_up

    @property
    def waits(self) -> bool:
        """Whether services are referred to, and not watched before it is known where nodes stand."""
        return bool(self._catalog.known) and not self._reflectors

    @property
    def lost(self) -> bool:
        """Whether there is no namespace whose services are read: none was yet, or none can be any more."""
        return not any(map(_is_read, self._reflectors.values()))

    @property
    def lost_namespaces(self) -> frozenset[str]:
        """Of the namespaces that are read one by one, those whose services cannot be."""
        return frozenset(scope for scope, pair in self._reflectors.items() if scope is not None and not _is_read(pair))

    def _fails(self, scope: str | None) -> bool:
        return any(self._watches.fails(named(plural, scope)) for plural in ("services", "endpointslices"))

    def confirm(self, keys: Collection[Key]) -> None:
        """Read these a second time."""
        self._catalog.confirm(keys)
        self._asked.difference_update(keys)

    def forget(self, keys: Collection[Key]) -> None:
        """Refer to these no longer. A list that is on its way does not speak of them, should they be new once more."""
        self._catalog.forget(keys)
        self._asked.difference_update(keys)

    def attend(self) -> None:
        """Read what is referred to and not known; called when that or the health of a reflector has changed."""
        if not self._catalog.known:
            return
        if not self._regions.region and self._nodes is None:
            nodes = Nodes(self._regions, self._moved)
            self._nodes = self._watches.watch("nodes", f"{CORE}/nodes", nodes, metadata_only=True, optional=True)
        if self._nodes is not None and not self._nodes.health.answered:
            return
        if not self._reflectors:
            for scope in self._scopes:
                services, slices = Services(self._catalog, scope), Slices(self._catalog, scope)
                self._reflectors[scope] = (
                    self._watch(named("services", scope), collection(CORE, scope, "services"), services),
                    self._watch(named("endpointslices", scope), collection(DISCOVERY, scope, "endpointslices"), slices),
                )
        pending = self._catalog.pending()
        self._asked.intersection_update(pending)
        for scope in {self._scope(key) for key in pending if key not in self._asked}:
            if all(one.health.listed for one in self._reflectors[scope]):
                self._watches.spawn(named("read services", scope), self._read_pending(scope))

    def _watch(self, name: str, path: str, mirror: Mirror) -> Reflector:
        return self._watches.watch(name, path, mirror, highest=self._told_before)

    def _is_restored(self, key: Key) -> bool:
        """Whether a service stays as it was before this process began, unless it is read for a second time."""
        return self._catalog.setback.before(key) is not None and not self._catalog.is_confirming(key)

    def _scope(self, key: Key) -> str | None:
        """The reflectors that speak of a service: one namespace may be denied, and the others go on."""
        return None if None in self._reflectors else key[0]

    def _moved(self) -> None:
        """Nodes say something new of zones: where endpoints are is worked out again."""
        for scope in self._reflectors:
            self._list_again(scope)

    def _list_again(self, scope: str | None) -> None:
        for reflector in self._reflectors[scope]:
            reflector.list_again()

    async def _read_pending(self, scope: str | None) -> None:
        delay = FIRST_DELAY
        while pending := [
            key for key in self._catalog.pending() if key not in self._asked and self._scope(key) == scope
        ]:
            if len(pending) > FEW:
                self._asked.update(pending)
                self._list_again(scope)
                return
            try:
                for start in range(0, len(pending), _AT_ONCE):
                    await asyncio.gather(*map(self._read, pending[start : start + _AT_ONCE]))
                delay, self._refused = FIRST_DELAY, False
                if any(map(self._catalog.is_confirming, pending)):
                    await asyncio.sleep(FIRST_DELAY)  # the answer was older than what is known, and confirms nothing
            except Refused as refused:
                self._refused = True
                await asyncio.sleep(pause(delay, refused.retry_after))
                delay = min(delay * 2, LONGEST_DELAY)

    async def _read(self, key: Key) -> None:
        """One service and its slices, consistently: lists without a version are reads of the newest."""
        known = self._catalog.known.get(key)
        confirms = self._catalog.is_confirming(key)
        namespace, name = key
        event_time = time.monotonic()
        asked = {"fieldSelector": f"metadata.name={name}"}
        items, version, rewound = await self._list(collection(CORE, namespace, "services"), key, asked)
        if self._catalog.known.get(key) is not known:
            return  # it was forgotten, and events with it: if it is wanted again, this may be older than they were
        services = [msgspec.json.decode(item, type=Service) for item in items]
        self._catalog.read_service(key, services[0] if services else None, Read(version, rewound, confirms))
        asked = {"labelSelector": f"{SERVICE_LABEL}={name}"}
        items, version, rewound = await self._list(collection(DISCOVERY, namespace, "endpointslices"), key, asked)
        if self._catalog.known.get(key) is not known:
            return
        slices = [msgspec.json.decode(item, type=EndpointSlice) for item in items]
        found = {one.metadata.name: one for one in slices}
        self._catalog.read_slices(key, found, Read(version, rewound, confirms))
        self._catalog.flush(event_time)

    async def _list(self, path: str, key: Key, parameters: dict[str, str]) -> tuple[list[msgspec.Raw], int, bool]:
        """The items, their version, and whether they are behind what the cluster had told when the service came in force."""
        body = await self._watches.client.get(path, parameters)
        try:
            page = msgspec.json.decode(body, type=Page)
        except msgspec.MsgspecError as error:
            raise Refused(Trouble.BROKEN, f"{path} makes no sense: {error}") from None
        version = version_number(page.metadata.resource_version)
        return page.items or [], version, version < self._told_before and self._is_restored(key)


def _is_read(pair: tuple[Reflector, Reflector]) -> bool:
    return all(one.health.listed and one.health.trouble is None for one in pair)
