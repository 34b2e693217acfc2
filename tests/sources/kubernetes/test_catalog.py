"""The catalog by itself: what lists, reads and events say in an order that a real cluster shows seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from controlplane.sources.kubernetes import objects
from controlplane.sources.kubernetes.catalog import Catalog, Key, Read
from controlplane.sources.kubernetes.slices import Regions
from tests.sources.kubernetes.rig import SOURCE, addresses, ref
from tests.sources.rig import Remembering

BLUE, GREEN = ("shop", "blue"), ("shop", "green")


def service(key: Key) -> objects.Service:
    ports = [{"port": 80, "name": "http"}]
    metadata = {"name": key[1], "namespace": key[0], "resourceVersion": "50"}
    return msgspec.convert({"metadata": metadata, "spec": {"type": "ClusterIP", "ports": ports}}, objects.Service)


def slice_(key: Key, version: int, *hosts: str, name: str = "manual") -> objects.EndpointSlice:
    labels = {objects.SERVICE_LABEL: key[1]}
    found = {
        "metadata": {"name": name, "namespace": key[0], "resourceVersion": str(version), "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }
    return msgspec.convert(found, objects.EndpointSlice)


class Cluster:
    """A catalog, what it has pushed, and how to tell it."""

    def __init__(self, *wanted: Key) -> None:
        self.catalog = Catalog(SOURCE, Regions("here"))
        self.sink = self.catalog.sink = Remembering()
        self.catalog.want(wanted)

    def read(self, key: Key, version: int, *slices: objects.EndpointSlice, rewound: bool = False) -> None:
        self.catalog.read_service(key, service(key), Read(version, rewound))
        self.catalog.read_slices(key, {one.metadata.name: one for one in slices}, Read(version, rewound))
        self.catalog.flush(0)

    def put(self, one: objects.EndpointSlice) -> None:
        self.catalog.put_slice(one)
        self.catalog.flush(0)

    def delete(self, one: objects.EndpointSlice) -> None:
        self.catalog.delete_slice(one)
        self.catalog.flush(0)

    async def shows(self, **expected: list[str]) -> None:
        """After a moment, in which endpoints may move."""
        await self.sink.until(
            lambda: {one.name: addresses(found) for one, found in self.sink.services.items()} == expected
        )


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


@pytest.mark.parametrize("order", [(BLUE, GREEN), (GREEN, BLUE)])
@pytest.mark.parametrize("rewound", [False, True])
def test_a_slice_that_a_list_says_of_another_service_is_of_that_alone(order: tuple[Key, Key], rewound: bool) -> None:
    """Whichever of the two the list says first; a cluster that was restored has lower versions."""

    async def scenario() -> None:
        cluster = Cluster(*order)
        at = 40 if rewound else 200
        for key in order:
            cluster.read(key, 100, *([slice_(BLUE, 60, "10.0.0.9")] if key == BLUE else []))
        await cluster.shows(blue=["10.0.0.9"], green=[])
        for key in order:
            found = [slice_(GREEN, at - 10, "10.0.0.9")] if key == GREEN else []
            cluster.read(key, at, *found, rewound=rewound)
        await cluster.shows(blue=[], green=["10.0.0.9"])
        cluster.delete(slice_(GREEN, 250))
        await cluster.shows(blue=[], green=[])

    run(scenario())


def test_a_slice_that_a_read_of_one_service_found_has_left_the_other() -> None:
    async def scenario() -> None:
        cluster = Cluster(BLUE, GREEN)
        cluster.read(BLUE, 100, slice_(BLUE, 60, "10.0.0.9"))
        cluster.read(GREEN, 151, slice_(GREEN, 150, "10.0.0.9"))
        await cluster.shows(blue=[], green=["10.0.0.9"])
        assert cluster.sink.calls[-1] == f"put {ref(*BLUE)} surely"
        cluster.put(slice_(GREEN, 150, "10.0.0.9"))  # the watch says so, a moment later
        cluster.delete(slice_(GREEN, 250))
        await cluster.shows(blue=[], green=[])

    run(scenario())


def test_what_is_older_takes_no_slice_away() -> None:
    """It went to the other service and back; a read and the watch still say the former."""

    async def scenario() -> None:
        cluster = Cluster(BLUE, GREEN)
        cluster.read(GREEN, 90)
        cluster.read(BLUE, 200, slice_(BLUE, 180, "10.0.0.9"))
        cluster.read(GREEN, 151, slice_(GREEN, 150, "10.0.0.9"))
        await cluster.shows(blue=["10.0.0.9"], green=[])
        cluster.read(BLUE, 200, slice_(BLUE, 180, "10.0.0.9"))
        cluster.put(slice_(GREEN, 160, "10.0.0.9"))
        cluster.put(slice_(BLUE, 180, "10.0.0.9"))
        await cluster.shows(blue=["10.0.0.9"], green=[])
        cluster.delete(slice_(BLUE, 250))
        await cluster.shows(blue=[], green=[])

    run(scenario())
