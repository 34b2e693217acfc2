"""The endpoint lane: incremental equals from scratch, in both lanes, and no change of it waits for a large commit."""

from __future__ import annotations

import gc
import time
from itertools import chain
from random import Random
from typing import Any

import pytest

from controlplane.compile.checks import violations
from controlplane.compile.compiler import Compiler
from controlplane.compile.endpoints import ABSENT, Endpoints, EndpointTables, Keeping
from controlplane.compile.offline import decoded
from controlplane.compile.xds_types import LOAD_ASSIGNMENT
from controlplane.model.endpoint import Locality, Service
from controlplane.names import GatewayName, ServiceRef
from controlplane.spec.rows import Row, RowKey
from tests.compile.worlds import SHOP, with_backends
from tests.support.services import ref as service_ref
from tests.support.services import service

GATEWAY = GatewayName("platform/shop")
SOURCES = ("kubernetes/eu", "kubernetes/us", "consul/dc")
SERVICES = [service_ref(source, name) for source in SOURCES[:2] for name in ("shop/a", "shop/b")] + [
    service_ref("consul/dc", name) for name in ("a", "b")
]


def _member(random: Random, priority: int) -> dict[str, Any]:
    kind = random.choice(("kubernetes", "kubernetes", "consul", "static"))
    said: dict[str, Any] = {"priority": priority, "weight": random.randint(1, 3)}
    if kind == "kubernetes":
        port: Any = random.choice((8080, "http", 9999))
        return said | {
            "kubernetes": {
                "cluster": random.choice(["eu", "us"]),
                "service": f"shop/{random.choice('ab')}",
                "port": port,
            }
        }
    if kind == "consul":
        return said | {
            "consul": {"datacenter": "dc", "service": random.choice("ab"), "tags": random.choice(([], ["x"]))}
        }
    return said | {"static": {"address": f"10.9.0.{random.randint(1, 4)}", "port": 80}}


def _backend(random: Random, name: str) -> dict[str, Any]:
    levels = random.randint(1, 3)
    members = [_member(random, priority) for priority in range(levels) for _ in range(random.randint(1, 2))]
    distinct = {
        str({key: value for key, value in one.items() if key not in {"priority", "weight"}}): one for one in members
    }
    found = sorted(distinct.values(), key=lambda one: one["priority"])
    ranks = {priority: rank for rank, priority in enumerate(sorted({one["priority"] for one in found}))}
    backend: dict[str, Any] = {"name": name, "members": [{**one, "priority": ranks[one["priority"]]} for one in found]}
    if random.random() < 0.2:
        backend["members"].append({"dns": {"host": "a.example.com", "port": 80}, "priority": len(ranks)})
    discovered = any("static" not in one and "dns" not in one for one in backend["members"])
    if random.random() < 0.3 and discovered:
        backend["failover"] = {"within": ["zone", "region"]}
    if random.random() < 0.3 and discovered:
        backend["onSourceLost"] = {"keepFor": "1h", "then": random.choice(("keep", "next", "empty"))}
    return backend


def _service(random: Random) -> Service:
    if random.random() < 0.1:
        return ABSENT
    if random.random() < 0.1:
        return service({"external": "b.example.com", "ports": {"http": 8080}})
    endpoints = [
        {
            "address": f"10.0.0.{random.randint(1, 6)}",
            "health": random.choice(("healthy", "healthy", "degraded", "draining", "unhealthy")),
            "region": random.choice(("", "r")),
            "zone": random.choice(("", "z")),
            "weight": random.randint(1, 3),
            "tags": random.choice(([], ["x"])),
            "ports": {"http": 80, "": 80},
        }
        for _ in range(random.randint(0, 4))
    ]
    return service({"ports": {"http": 8080}, "endpoints": endpoints})


class World:
    """A compiler that lives through edits, and everything that it was told."""

    def __init__(self) -> None:
        self.compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
        self.rows: dict[RowKey, Row] = with_backends([])
        # Everything is known from the beginning: what waits for services is history, and tested by itself.
        self.services: dict[ServiceRef, Service] = dict.fromkeys(SERVICES, ABSENT)
        self.stale: set[Keeping] = set()
        self.places: set[Locality] = set()
        for found, content in self.services.items():
            self.compiler.endpoints.put(found, content)

    def external(self, compiler: Compiler, found: ServiceRef, content: Service) -> None:
        compiler.put_external(found, content if content.external_name else None)

    def again(self) -> Compiler:
        compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
        for place in self.places:
            compiler.endpoints.add_class(place)
        compiler.endpoints.lost(self.stale)
        for found, content in self.services.items():
            compiler.endpoints.put(found, content)
            self.external(compiler, found, content)
        compiler.put(SHOP, self.rows)
        compiler.commit_now()
        return compiler


def _everything(compiler: Compiler) -> dict[Any, tuple[str, str]]:
    tables = (*compiler.tables.resources, *compiler.endpoints.tables.resources)
    return {key: (table.name, one.version) for table in tables for key, one in table.rows.items()}


@pytest.mark.parametrize("seed", range(12))
def test_incremental_equals_from_scratch(seed: int) -> None:
    """Endpoints that change in the midst of a configuration commit, too."""
    random = Random(seed)
    world = World()
    endpoints = world.compiler.endpoints
    for _ in range(25):
        world.rows = with_backends([_backend(random, name) for name in random.sample("abcde", random.randint(0, 4))])
        world.compiler.put(SHOP, world.rows)
        steps = world.compiler.commit()
        pending: list[tuple[ServiceRef, Service]] = []
        while True:
            try:
                next(steps)
            except StopIteration:
                break
            if random.random() < 0.3:
                found, content = random.choice(SERVICES), _service(random)
                world.services[found] = content
                endpoints.put(found, content)
                pending.append((found, content))
                endpoints.commit()
        for found, content in pending:
            world.external(world.compiler, found, content)
        if random.random() < 0.3:
            lost = random.choice(SOURCES)
            world.stale = {Keeping(lost, "" if lost.startswith("consul/") else "shop", 3600.0)}
            endpoints.lost(world.stale)
        if random.random() < 0.2:
            place = Locality("r", random.choice(("", "z")))
            world.places.add(place)
            endpoints.add_class(place)
        world.compiler.commit_now()
        endpoints.commit()
        assert _everything(world.compiler) == _everything(world.again())


def test_every_priority_has_endpoints_and_every_endpoint_stands_once() -> None:
    """Envoy takes no gaps, and an endpoint that stood twice would be counted twice."""
    for seed in range(60):
        random = Random(seed)
        compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
        for found in SERVICES:
            compiler.endpoints.put(found, _service(random))
        compiler.put(SHOP, with_backends([_backend(random, name) for name in "abc"]))
        compiler.commit_now()
        for resource in compiler.endpoints.tables.assignments.rows.values():
            message = decoded(resource)
            priorities = sorted({one.priority for one in message.endpoints if one.lb_endpoints})
            assert priorities == list(range(len(priorities)))
            places = [
                (one.endpoint.address.socket_address.address, one.endpoint.address.socket_address.port_value)
                for group in message.endpoints
                for one in group.lb_endpoints
            ]
            assert len(places) == len(set(places))
            assert all(group.lb_endpoints for group in message.endpoints)
            assert violations(message) == (), "what schema and sources let through breaks none of Envoy's rules"


@pytest.mark.parametrize("sick", ["kubernetes/eu", "consul/dc"])
def test_of_what_two_sources_say_of_an_address_the_better_counts(sick: str) -> None:
    """Whatever their names: a copy of a catalog may be behind."""
    members = [
        {"kubernetes": {"cluster": "eu", "service": "shop/a", "port": 80}},
        {"consul": {"datacenter": "dc", "service": "a"}},
    ]
    compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
    for source, name, port in (("kubernetes/eu", "shop/a", "http"), ("consul/dc", "a", "")):
        health = "unhealthy" if source == sick else "healthy"
        found = [{"address": "10.0.0.1", "health": health}]
        compiler.endpoints.put(service_ref(source, name), service({"ports": {port: 80}, "endpoints": found}))
    compiler.put(SHOP, with_backends([{"name": "b", "members": members}]))
    compiler.commit_now()
    (resource,) = compiler.endpoints.tables.assignments.rows.values()
    ((one,),) = [group.lb_endpoints for group in decoded(resource).endpoints]
    assert one.health_status == 0


@pytest.mark.parametrize(
    ("ports", "of_endpoint", "asked", "found"),
    [
        ({}, {}, 9000, [9000]),
        ({}, {}, "http", []),
        ({"http": 80}, {}, 9000, []),
        ({"http": 80}, {"http": 81}, 80, [81]),
    ],
)
def test_a_headless_service_that_declares_no_ports_has_every_port(
    ports: dict[str, int], of_endpoint: dict[str, int], asked: int | str, found: list[int]
) -> None:
    """As its pods do; of one that declares some, these are all."""
    compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
    said = {"ports": ports, "endpoints": [{"address": "10.0.0.1", "ports": of_endpoint}]}
    compiler.endpoints.put(service_ref("kubernetes/eu", "shop/a"), service(said))
    member = {"kubernetes": {"cluster": "eu", "service": "shop/a", "port": asked}}
    compiler.put(SHOP, with_backends([{"name": "b", "members": [member]}]))
    told = [one.code for found in compiler.commit_now().issues.values() for one in found]
    (resource,) = compiler.endpoints.tables.assignments.rows.values()
    endpoints = [one.endpoint for group in decoded(resource).endpoints for one in group.lb_endpoints]
    assert [one.address.socket_address.port_value for one in endpoints] == found
    assert ("GW0223" in told) is (not found)


def test_an_edit_that_names_an_unknown_service_leaves_what_works() -> None:
    """What is not known yet does not replace what is: an empty load assignment would answer 503."""
    compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
    member = {"kubernetes": {"cluster": "eu", "service": "shop/a", "port": 8080}}
    compiler.endpoints.put(SERVICES[0], service({"ports": {"http": 8080}, "endpoints": ["10.0.0.1"]}))
    compiler.put(SHOP, with_backends([{"name": "a", "members": [member]}]))
    compiler.commit_now()
    before = _everything(compiler)
    other = {"kubernetes": {"cluster": "eu", "service": "shop/b", "port": 8080}}
    compiler.put(SHOP, with_backends([{"name": "a", "members": [other]}]))
    publication = compiler.commit_now().publication
    assert not any(url == LOAD_ASSIGNMENT for found in publication.values() for url, _, _ in found)
    assert _everything(compiler) == before
    compiler.endpoints.put(SERVICES[1], service({"ports": {"http": 8080}, "endpoints": ["10.0.0.2"]}))
    assert len(compiler.endpoints.commit()) == 1
    assert not compiler.endpoints.is_used(SERVICES[0])


def test_an_endpoint_changes_while_a_commit_of_20000_rows_is_in_flight() -> None:
    """The lane commits between any two steps of the other, and does no more than its own work."""
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 1_000, 1_000)
    compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
    live = {"name": "live", "members": [{"kubernetes": {"cluster": "eu", "service": "shop/a", "port": 8080}}]}
    compiler.endpoints.put(SERVICES[0], service({"ports": {"http": 8080}, "endpoints": ["10.0.0.1"]}))
    compiler.put(SHOP, with_backends([live]))
    compiler.commit_now()
    many = [
        {"name": f"b{number}", "members": [{"static": {"address": "10.9.0.1", "port": 1 + number}}]}
        for number in range(5_000)
    ]
    edited = with_backends([live, *many])
    gc.collect()
    gc.freeze()  # as the process does: what is loaded stays, and is not looked through in the midst of a commit
    graph = compiler.endpoints.tables.graph
    steps = chain(compiler.putting(SHOP, edited), compiler.commit())
    started = time.process_time()
    count, changed, slowest, longest, last = 0, 0, 0.0, 0.0, started
    while True:
        try:
            next(steps)
        except StopIteration:
            break
        longest = max(longest, time.process_time() - last)
        count += 1
        if count % 100 == 0:
            runs, began = graph.runs, time.process_time()
            address = f"10.1.{count // 100 % 250}.1"
            compiler.endpoints.put(SERVICES[0], service({"ports": {"http": 8080}, "endpoints": [address]}))
            touched = compiler.endpoints.commit()
            slowest = max(slowest, time.process_time() - began)
            assert [key.name for key in touched] == ["gatewayspec/platform/shop/live"]
            assert graph.runs <= runs + 2  # the load assignment, and the same for gRPC
            changed += 1
        last = time.process_time()
    used = last - started
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    assert changed >= 100
    assert longest + slowest < used / 20, (
        f"{longest:.4f} s until a change may begin, {slowest:.4f} s for it, of {used:.2f}"
    )


def test_a_source_that_is_not_configured_is_named_with_those_that_are() -> None:
    compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
    member = {"kubernetes": {"cluster": "eur", "service": "shop/a", "port": 8080}}
    compiler.put(SHOP, with_backends([{"name": "a", "members": [member]}]))
    (said,) = [one for found in compiler.commit_now().issues.values() for one in found if one.code == "GW0221"]
    assert said.path == "spec.backends[a].members[0].kubernetes.cluster"
    assert said.message == 'no cluster "eur" is configured'
    assert said.help == 'did you mean "eu"?'


def said(compiler: Compiler, *members: dict[str, Any]) -> list[str]:
    """What is wrong with a backend of these members, after a commit of both lanes."""
    compiler.put(SHOP, with_backends([{"name": "b", "members": list(members)}]))
    return [one.message for found in compiler.commit_now().issues.values() for one in found]


def test_what_waits_for_a_service_says_so() -> None:
    """Whoever leads a backend elsewhere, and sees nothing change, wants to know for what it waits."""
    eu, us = ({"kubernetes": {"cluster": one, "service": "shop/a", "port": 8080}} for one in ("eu", "us"))
    static = {"static": {"address": "10.9.0.1", "port": 80}}
    compiler = Compiler(endpoints=Endpoints(EndpointTables(SOURCES)))
    unheard = "nothing has been heard of service kubernetes/{}: shop/a yet; "
    assert said(compiler, eu) == [unheard.format("eu") + "it has no endpoints until then"]
    known = service({"endpoints": [{"address": "10.0.0.1", "ports": {"http": 80}}], "ports": {"http": 8080}})
    compiler.endpoints.put(SERVICES[0], known)
    compiler.endpoints.commit()
    assert said(compiler, eu) == []
    assert said(compiler, static, us) == [
        unheard.format("us") + "what was in force of this backend before stays until then"
    ]
    compiler.endpoints.put(service_ref("kubernetes/us", "shop/a"), known)
    compiler.endpoints.commit()
    assert said(compiler, static, us) == []
