"""What the reflectors of services, EndpointSlices and nodes do with their objects: hand them to the catalog.

A mirror covers one namespace or the whole cluster. A list counts for the services that were referred to when it began:
for one that came later it may have passed by already.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from controlplane.model.endpoint import Locality
from controlplane.sources.kubernetes import objects
from controlplane.sources.kubernetes.catalog import Catalog, owner
from controlplane.sources.kubernetes.known import Key, Read
from controlplane.sources.kubernetes.slices import Regions

_service = msgspec.json.Decoder(objects.Service)
_slice = msgspec.json.Decoder(objects.EndpointSlice)
_node = msgspec.json.Decoder(objects.Node)


class Services:
    """Services to the catalog."""

    def __init__(self, catalog: Catalog, namespace: str | None) -> None:
        self._catalog = catalog
        self._namespace = namespace
        self._covered: dict[Key, bool] = {}
        self._listed: dict[Key, objects.Service] = {}

    def begin(self) -> None:
        """A list begins."""
        self._covered = self._catalog.covered(self._namespace)
        self._listed = {}

    def item(self, data: msgspec.Raw) -> None:
        """A service of the list."""
        one = _service.decode(data)
        key = (one.metadata.namespace, one.metadata.name)
        if key in self._covered:
            self._listed[key] = one

    def end(self, version: int, *, rewound: bool) -> None:
        """The list is complete."""
        for key, confirms in self._covered.items():
            self._catalog.read_service(key, self._listed.get(key), Read(version, rewound, confirms))
        self._covered, self._listed = {}, {}

    def changed(self, data: msgspec.Raw) -> None:
        """A service as it is now."""
        self._catalog.put_service(_service.decode(data))

    def deleted(self, data: msgspec.Raw) -> None:
        """A service is gone."""
        self._catalog.delete_service(_service.decode(data))

    def flush(self, event_time: float) -> None:
        """A batch ends."""
        self._catalog.flush(event_time)


class Slices:
    """EndpointSlices to the catalog."""

    def __init__(self, catalog: Catalog, namespace: str | None) -> None:
        self._catalog = catalog
        self._namespace = namespace
        self._covered: dict[Key, bool] = {}
        self._listed: dict[Key, dict[str, objects.EndpointSlice]] = {}

    def begin(self) -> None:
        """A list begins."""
        self._covered = self._catalog.covered(self._namespace)
        self._listed = {}

    def item(self, data: msgspec.Raw) -> None:
        """A slice of the list."""
        one = _slice.decode(data)
        key = (one.metadata.namespace, owner(one))
        if key in self._covered:
            self._listed.setdefault(key, {})[one.metadata.name] = one

    def end(self, version: int, *, rewound: bool) -> None:
        """The list is complete."""
        for key, confirms in self._covered.items():
            self._catalog.read_slices(key, self._listed.pop(key, {}), Read(version, rewound, confirms))
        self._covered, self._listed = {}, {}

    def changed(self, data: msgspec.Raw) -> None:
        """A slice as it is now."""
        self._catalog.put_slice(_slice.decode(data))

    def deleted(self, data: msgspec.Raw) -> None:
        """A slice is gone."""
        self._catalog.delete_slice(_slice.decode(data))

    def flush(self, event_time: float) -> None:
        """A batch ends."""
        self._catalog.flush(event_time)


class Nodes:
    """The labels of nodes, to the regions of zones."""

    def __init__(self, regions: Regions, moved: Callable[[], None]) -> None:
        """`moved` is called when the place of endpoints that are known already has changed."""
        self._regions = regions
        self._moved = moved
        self._dirty = False

    def begin(self) -> None:
        """A list begins. Nodes that it lacks stay: nothing stands on them."""

    def item(self, data: msgspec.Raw) -> None:
        """A node."""
        metadata = _node.decode(data).metadata
        labels = metadata.labels or {}
        where = Locality(labels.get(objects.REGION_LABEL, ""), labels.get(objects.ZONE_LABEL, ""))
        self._dirty |= self._regions.note(metadata.name, where)

    def end(self, version: int, *, rewound: bool) -> None:
        """The list is complete."""

    def changed(self, data: msgspec.Raw) -> None:
        """A node as it is now."""
        self.item(data)

    def deleted(self, data: msgspec.Raw) -> None:
        """A node is gone."""
        self._regions.forget(_node.decode(data).metadata.name)

    def flush(self, event_time: float) -> None:
        """A batch ends."""
        if self._dirty:
            self._dirty = False
            self._moved()
