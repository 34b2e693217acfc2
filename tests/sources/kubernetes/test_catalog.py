"""The catalog by itself: what lists, reads and events say in an order that a real cluster shows seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from controlplane.compile.assignment import port_names
from controlplane.compile.pool import PoolMember
from controlplane.model.endpoint import Endpoint, Service, ServicePort
from controlplane.sources.kubernetes import catalog, objects
from controlplane.sources.kubernetes.catalog import Catalog
from controlplane.sources.kubernetes.known import Key, Read
from controlplane.sources.kubernetes.reflector import Health
from controlplane.sources.kubernetes.services import ServiceWatch
from controlplane.sources.kubernetes.setback import Setback
from controlplane.sources.kubernetes.slices import Regions
from controlplane.sources.kubernetes.watches import Watches
from tests.sources.kubernetes.rig import SOURCE, addresses, ref
from tests.sources.rig import Remembering
from tests.support.waiting import PATIENCE

BLUE, GREEN = ("shop", "blue"), ("shop", "green")


def service(key: Key, port: int = 80) -> dict[str, Any]:
    metadata = {"name": key[1], "namespace": key[0], "resourceVersion": "50"}
    return {"metadata": metadata, "spec": {"type": "ClusterIP", "ports": [{"port": port, "name": "http"}]}}


def declared(key: Key, version: int) -> objects.Service:
    """The service, written or deleted at this version."""
    found = service(key)
    return msgspec.convert(
        {**found, "metadata": {**found["metadata"], "resourceVersion": str(version)}}, objects.Service
    )


def slice_(
    key: Key, version: int, *hosts: str, name: str = "manual", port: str = "http", family: str = "IPv4"
) -> objects.EndpointSlice:
    labels = {objects.SERVICE_LABEL: key[1]}
    found = {
        "metadata": {"name": name, "namespace": key[0], "resourceVersion": str(version), "labels": labels},
        "addressType": family,
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts],
        "ports": [{"name": port, "port": 8080, "protocol": "TCP"}],
    }
    return msgspec.convert(found, objects.EndpointSlice)


class Cluster:
    """A catalog, what it has pushed, and how to tell it."""

    def __init__(self, *wanted: Key) -> None:
        self.catalog = Catalog(SOURCE, Regions("here"))
        self.sink = self.catalog.sink = Remembering()
        self.catalog.want(wanted)

    def read(self, key: Key, version: int, *slices: objects.EndpointSlice, rewound: bool = False) -> None:
        self.catalog.read_service(key, msgspec.convert(service(key), objects.Service), Read(version, rewound))
        self.catalog.read_slices(key, {one.metadata.name: one for one in slices}, Read(version, rewound))
        self.catalog.flush(0)

    def lose(self, key: Key, version: int, *, rewound: bool = True, confirms: bool = False) -> None:
        """Lists in which there is nothing of it."""
        self.catalog.read_service(key, None, Read(version, rewound, confirms))
        self.catalog.read_slices(key, {}, Read(version, rewound, confirms))
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
    """Whichever of the two the list says first. A cluster that was restored has lower versions, and who lost all stays as it was."""

    async def scenario() -> None:
        cluster = Cluster(*order)
        at, left = (40, ["10.0.0.9"]) if rewound else (200, [])
        for key in order:
            cluster.read(key, 100, *([slice_(BLUE, 60, "10.0.0.9")] if key == BLUE else []))
        await cluster.shows(blue=["10.0.0.9"], green=[])
        for key in order:
            found = [slice_(GREEN, at - 10, "10.0.0.9")] if key == GREEN else []
            cluster.read(key, at, *found, rewound=rewound)
        await cluster.shows(blue=left, green=["10.0.0.9"])
        cluster.delete(slice_(GREEN, 250))
        await cluster.shows(blue=left, green=[])

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


def test_what_was_seen_to_go_does_not_come_back_with_an_answer_that_is_older() -> None:
    """A read and the watch run beside each other: what is gone has no version that could tell."""

    async def scenario() -> None:
        cluster = Cluster(BLUE, GREEN)
        cluster.delete(slice_(BLUE, 110, name="gone"))
        cluster.put(slice_(("shop", "nobody's"), 111, "10.0.0.8", name="moved"))
        cluster.read(
            BLUE,
            100,
            slice_(BLUE, 90, "10.0.0.7", name="gone"),
            slice_(BLUE, 91, "10.0.0.8", name="moved"),
            slice_(BLUE, 92, "10.0.0.9"),
        )
        cluster.catalog.delete_service(declared(GREEN, 112))
        cluster.read(GREEN, 100)
        await cluster.shows(blue=["10.0.0.9"])
        assert cluster.sink.calls[-1] == f"remove {ref(*GREEN)}"
        cluster.put(slice_(BLUE, 120, "10.0.0.7", name="gone"))
        cluster.put(slice_(BLUE, 121, "10.0.0.8", name="moved"))
        cluster.catalog.put_service(declared(GREEN, 122))
        cluster.catalog.flush(0)
        await cluster.shows(blue=["10.0.0.7", "10.0.0.8", "10.0.0.9"], green=[])

    run(scenario())


def test_a_read_that_is_older_than_what_is_known_says_nothing() -> None:
    """It was asked before a list, and comes after it, or after what a watch told since. Nothing tells that again."""

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        cluster.read(BLUE, 200, slice_(BLUE, 90, "10.0.0.1"))
        cluster.read(BLUE, 100, slice_(BLUE, 90, "10.0.0.1"), slice_(BLUE, 80, "10.0.0.2", name="gone"))
        await cluster.shows(blue=["10.0.0.1"])
        cluster.put(slice_(BLUE, 80, "10.0.0.2", name="gone"))
        await cluster.shows(blue=["10.0.0.1"])
        cluster.put(slice_(BLUE, 210, "10.0.0.3", name="gone"))
        cluster.delete(slice_(BLUE, 240, name="gone"))
        cluster.read(BLUE, 220, slice_(BLUE, 90, "10.0.0.1"), slice_(BLUE, 210, "10.0.0.3", name="gone"))
        await cluster.shows(blue=["10.0.0.1"])
        cluster.lose(BLUE, 300, rewound=False)
        cluster.read(BLUE, 250, slice_(BLUE, 90, "10.0.0.1"))
        await cluster.shows()

    run(scenario())


def test_after_a_list_that_lacked_an_endpoint_one_that_moves_is_never_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """F33: what the list lacked is doubted until somebody reads it again, which may be never."""
    monkeypatch.setattr(catalog, "PUSH_SECONDS", 0.0)

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        cluster.read(BLUE, 100, slice_(BLUE, 90, "10.0.0.1", "10.0.0.2", "10.0.0.3"))
        cluster.read(BLUE, 200, slice_(BLUE, 150, "10.0.0.1", "10.0.0.2"))
        await cluster.shows(blue=["10.0.0.1", "10.0.0.2"])
        assert cluster.sink.calls[-1] == f"put {ref(*BLUE)}"
        monkeypatch.setattr(catalog, "MOVE_SECONDS", 10 * PATIENCE)
        cluster.sink.calls.clear()
        cluster.put(slice_(BLUE, 300, "10.0.0.1"))
        cluster.put(slice_(BLUE, 301, "10.0.0.2", name="other"))
        assert cluster.sink.calls == []
        cluster.put(slice_(BLUE, 302, "10.0.0.2", "10.0.0.4", name="other"))
        await cluster.shows(blue=["10.0.0.1", "10.0.0.2", "10.0.0.4"])

    run(scenario())


class Forgetful:
    """What runs for a cluster whose lists are here; a service is forgotten and wanted anew while it is read first."""

    def __init__(self, cluster: Cluster) -> None:
        self.client = self
        self.reading = ServiceWatch(cluster.catalog, Regions("here"), cast(Watches, self), None)
        self._cluster = cluster
        self._ports = iter((80, 81))
        self.tasks: list[asyncio.Future[None]] = []

    def watch(self, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(health=Health(listed=True))

    def spawn(self, _: str, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def get(self, path: str, _: object) -> bytes:
        items = []
        if path.endswith("/services"):
            port = next(self._ports)
            items.append(service(BLUE, port))
            if port == 80:
                self.reading.forget([BLUE])
                self._cluster.catalog.want([BLUE])
        return msgspec.json.encode({"metadata": {"resourceVersion": "100"}, "items": items})


def test_what_was_asked_before_a_service_was_forgotten_does_not_count_when_it_is_wanted_again() -> None:
    """Events that came in between were forgotten with it."""

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        watches = Forgetful(cluster)
        watches.reading.attend()
        await asyncio.gather(*watches.tasks)
        assert [one.number for one in cluster.sink.services[ref(*BLUE)].ports] == [81]

    run(scenario())


def ports(service: Service) -> dict[str, set[int]]:
    """By address, where callers of port 80 of the service are sent, as the compiler finds it."""
    member = PoolMember(0, 1, 0, ref(*BLUE), 80)
    names = port_names(member, service)
    return {one.address: {number for name, number in one.ports if name in names} for one in service.endpoints}


def named(name: str, version: int) -> objects.Service:
    metadata = {"name": BLUE[1], "namespace": BLUE[0], "resourceVersion": str(version)}
    listed = [{"port": 80, "name": name}, {"port": 90, "name": "metrics"}]
    return msgspec.convert({"metadata": metadata, "spec": {"ports": listed}}, objects.Service)


@pytest.mark.parametrize("order", list(permutations("sab")), ids="".join)
def test_a_port_that_gets_another_name_is_never_without_endpoints(
    order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second port makes people name the first. The service and its slices come on two watches, in any order."""
    monkeypatch.setattr(catalog, "MOVE_SECONDS", 10 * PATIENCE)
    monkeypatch.setattr(catalog, "PUSH_SECONDS", 0.0)

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        before = [slice_(BLUE, 90, f"10.0.0.{at}", name=name) for at, name in enumerate("ab", 1)]
        after = [slice_(BLUE, 110 + at, f"10.0.0.{at}", name=name, port="web") for at, name in enumerate("ab", 1)]
        cluster.read(BLUE, 100, *before)
        for what in order:
            if what == "s":
                cluster.catalog.put_service(named("web", 110))
                cluster.catalog.flush(0)
            else:
                cluster.put(after["ab".index(what)])
        versions = cluster.sink.versions[ref(*BLUE)]
        assert [ports(one) for one in versions] == [{"10.0.0.1": {8080}, "10.0.0.2": {8080}}] * len(versions)
        assert [port.name for port in versions[-1].ports] == ["metrics", "web"], "nothing is left of the former name"

    run(scenario())


def test_a_port_that_gets_another_name_keeps_its_endpoints_when_the_process_starts_before_slices_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "PUSH_SECONDS", 0.0)

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        _restored(cluster)
        cluster.catalog.read_service(BLUE, named("web", 100), Read(100))
        cluster.catalog.read_slices(BLUE, {"manual": slice_(BLUE, 90, "10.0.0.1")}, Read(100))
        cluster.catalog.flush(0)
        cluster.put(slice_(BLUE, 110, "10.0.0.1", port="web"))
        versions = cluster.sink.versions[ref(*BLUE)]
        assert [ports(one) for one in versions] == [{"10.0.0.1": {8080}}] * 2
        assert [port.name for port in versions[-1].ports] == ["metrics", "web"], "nothing is left of the former name"

    run(scenario())


async def _lost(cluster: Cluster) -> None:
    cluster.read(BLUE, 60, slice_(BLUE, 55, "10.0.0.1", "10.0.0.2"))
    await cluster.shows(blue=["10.0.0.1", "10.0.0.2"])
    cluster.lose(BLUE, 7)


def test_what_a_cluster_lost_with_its_data_stays_until_it_is_back() -> None:
    """A second read of the same data proves nothing. Part of it may come first: the service, and then its endpoints."""

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        await _lost(cluster)
        cluster.catalog.confirm([BLUE])
        cluster.lose(BLUE, 8, confirms=True)
        assert "shop/blue" in (cluster.catalog.setback.reason or "")
        cluster.read(BLUE, 9)
        await cluster.shows(blue=["10.0.0.1", "10.0.0.2"])
        cluster.put(slice_(BLUE, 10, "10.0.0.3"))
        await cluster.shows(blue=["10.0.0.3"])
        assert cluster.catalog.setback.reason is None

    asyncio.run(scenario())


def test_what_a_cluster_lost_with_its_data_is_read_again_and_believed_in_the_end() -> None:
    async def scenario() -> None:
        cluster = Cluster(BLUE)
        cluster.catalog.setback = Setback(0.05)
        cluster.catalog.setback.over = cluster.catalog.confirm
        await _lost(cluster)
        async with asyncio.timeout(PATIENCE):
            while not cluster.catalog.pending():  # noqa: ASYNC110  a timer of its own
                await asyncio.sleep(0.01)
        await cluster.shows(blue=["10.0.0.1", "10.0.0.2"])
        cluster.lose(BLUE, 8, rewound=False, confirms=True)
        await cluster.shows()

    asyncio.run(scenario())


def _restored(cluster: Cluster) -> None:
    """A process that has begun, with a service of the one before it."""
    endpoints = (Endpoint("10.0.0.1", (("http", 8080),)),)
    cluster.catalog.setback = Setback(0.05, {BLUE: Service((ServicePort("http", 80),), endpoints)})
    cluster.catalog.setback.over = cluster.catalog.confirm


def test_what_a_cluster_lost_with_its_data_while_nobody_looked_stays_for_a_time() -> None:
    """Nothing was pushed of it by this process, and the start does not wait for it."""

    async def scenario() -> None:
        cluster = Cluster(BLUE, GREEN)
        _restored(cluster)
        for key in (BLUE, GREEN):
            cluster.lose(key, 7)
        assert cluster.catalog.caught_up
        assert "shop/blue" in (cluster.catalog.setback.reason or "")
        assert "shop/green" not in (cluster.catalog.setback.reason or "")
        assert cluster.sink.calls == [f"remove {ref(*GREEN)}"]
        async with asyncio.timeout(PATIENCE):
            while not cluster.catalog.pending():  # noqa: ASYNC110  a timer of its own
                await asyncio.sleep(0.01)
        cluster.lose(BLUE, 8, rewound=False, confirms=True)
        assert cluster.sink.calls[1:] == [f"remove {ref(*BLUE)} surely"]

    asyncio.run(scenario())


def test_a_cluster_that_is_not_behind_is_believed_at_the_start() -> None:
    async def scenario() -> None:
        cluster = Cluster(BLUE)
        _restored(cluster)
        cluster.lose(BLUE, 7, rewound=False)
        assert cluster.sink.calls == [f"remove {ref(*BLUE)}"]

    asyncio.run(scenario())


def test_what_is_deleted_after_the_data_went_back_is_gone() -> None:
    """Its deletion was seen, and it had been there."""

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        cluster.read(BLUE, 60, slice_(BLUE, 55, "10.0.0.1", "10.0.0.2"))
        cluster.read(BLUE, 7, slice_(BLUE, 6, "10.0.0.1"), rewound=True)
        cluster.delete(slice_(BLUE, 8, "10.0.0.1"))
        await cluster.shows(blue=[])

    asyncio.run(scenario())


def test_what_the_slices_do_not_offer_is_believed_after_a_moment() -> None:
    async def scenario() -> None:
        cluster = Cluster(BLUE)
        cluster.read(BLUE, 100, slice_(BLUE, 90, "10.0.0.1"))
        cluster.put(slice_(BLUE, 110, "10.0.0.1", port="web"))
        await cluster.sink.until(lambda: ports(cluster.sink.services[ref(*BLUE)]) == {"10.0.0.1": set()})
        calls = len(cluster.sink.calls)
        await asyncio.sleep(3 * catalog.MOVE_SECONDS)
        assert len(cluster.sink.calls) == calls

    run(scenario())


def test_while_a_pod_of_two_families_moves_nobody_is_sent_to_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may have no route to it."""
    monkeypatch.setattr(catalog, "PUSH_SECONDS", 0.0)

    async def scenario() -> None:
        cluster = Cluster(BLUE)
        six = slice_(BLUE, 90, "2001:db8::1", name="six", family="IPv6")
        cluster.read(BLUE, 100, slice_(BLUE, 90, "10.0.0.1"), six)
        with monkeypatch.context() as patient:
            patient.setattr(catalog, "MOVE_SECONDS", 10 * PATIENCE)
            cluster.delete(slice_(BLUE, 110))
            cluster.put(slice_(BLUE, 111, "10.0.0.1", name="other"))
        assert [addresses(one) for one in cluster.sink.versions[ref(*BLUE)]] == [["10.0.0.1"]]
        cluster.delete(slice_(BLUE, 120, name="other"))
        await cluster.shows(blue=["2001:db8::1"])

    run(scenario())
