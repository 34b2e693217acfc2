"""What a real Consul server says becomes services: registrations, health, tags, weights, maintenance, specs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.endpoint import Endpoint, Health, Locality
from controlplane.names import ObjectRef, ServiceRef
from controlplane.sources.consul import source as consul_source
from controlplane.sources.consul.client import Settings
from controlplane.sources.consul.source import ConsulSource
from tests.sources.rig import Remembering, running
from tests.spec.documents import file, routes
from tests.support.consul import READ_ALL, Consul, consul

_numbers = count(1)


def ref(service: str, source: str = "consul/dc1") -> ServiceRef:
    return ServiceRef(source, "", service)


def unique(name: str) -> str:
    return f"{name}-{next(_numbers)}"


class Watched:
    """A service that a source watches, and the server that it watches."""

    def __init__(self, server: Consul, source: ConsulSource, sink: Remembering, service: str) -> None:
        self.server, self.source, self.sink, self.service = server, source, sink, service

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        found = self.sink.services.get(ref(self.service, self.source.name))
        return found.endpoints if found is not None else ()

    @property
    def addresses(self) -> list[str]:
        return [endpoint.address for endpoint in self.endpoints]

    async def until(self, holds: Callable[[], bool]) -> None:
        await self.sink.until(holds)


def settings(server: Consul, folder: Path, rules: str = READ_ALL, **fields: Any) -> Settings:
    """With a token of its own in a file."""
    token = folder / "token"
    token.write_text(server.token(rules))
    return Settings(server.datacenter, server.address, token_file=token, **fields)


@asynccontextmanager
async def watching(folder: Path, *, rules: str = READ_ALL, **fields: Any) -> AsyncIterator[Watched]:
    """A source that wants one service, which does not exist yet."""
    server, service = consul(), unique("web")
    source = ConsulSource(settings(server, folder, rules, **fields))
    source.want([ref(service)], [])
    async with running(source) as sink:
        assert sink.state == "synced", sink.reason
        assert source.caught_up
        assert sink.calls == [f"remove {ref(service)}"]
        yield Watched(server, source, sink, service)


async def registered(folder: Path) -> None:
    async with watching(folder) as web:
        first = web.server.register(web.service, "10.0.0.1", 8080, Tags=["v2", "eu"], Meta={"color": "blue"})
        await web.until(lambda: len(web.endpoints) == 1)
        assert web.endpoints == (Endpoint("10.0.0.1", (("", 8080),), tags=("eu", "v2"), meta=(("color", "blue"),)),)
        second = web.server.register(web.service, "10.0.0.2", status=None)  # in the catalog only, without a check
        await web.until(lambda: web.addresses == ["10.0.0.1", "10.0.0.2"])
        assert web.endpoints[1].health is Health.HEALTHY
        web.server.register(web.service, "10.0.0.1", 9090, node=first, status=None)  # nothing but the port
        await web.until(lambda: web.endpoints[0].ports == (("", 9090),))
        web.server.deregister(first, web.service)
        await web.until(lambda: web.addresses == ["10.0.0.2"])
        web.server.deregister(second)
        await web.until(lambda: ref(web.service) not in web.sink.services)
        assert web.sink.calls[-1] == f"remove {ref(web.service)}"


def test_registrations_and_deregistrations_follow(tmp_path: Path) -> None:
    asyncio.run(registered(tmp_path))


async def health(folder: Path) -> None:
    async with watching(folder) as web:
        node = web.server.register(web.service, "10.0.0.1")
        web.server.register(web.service, "10.0.0.2", Weights={"Passing": 7, "Warning": 3})
        await web.until(lambda: len(web.endpoints) == 2)
        assert [one.weight for one in web.endpoints] == [1, 7]
        for status, seen in (
            ("critical", Health.UNHEALTHY),
            ("warning", Health.DEGRADED),
            ("passing", Health.HEALTHY),
        ):
            web.server.check(web.service, node, status)
            await web.until(lambda seen=seen: web.endpoints[0].health is seen)
        web.server.check_node(node, "critical")
        await web.until(lambda: web.endpoints[0].health is Health.UNHEALTHY)
        web.server.check_node(node, "passing")
        await web.until(lambda: web.endpoints[0].health is Health.HEALTHY)
        web.server.check(web.service, f"{web.service}-10.0.0.2", "warning")
        await web.until(lambda: web.endpoints[1].health is Health.DEGRADED)
        assert web.endpoints[1].weight == 3
        assert web.addresses == ["10.0.0.1", "10.0.0.2"]


def test_health_of_instances_and_of_nodes_follows(tmp_path: Path) -> None:
    asyncio.run(health(tmp_path))


async def through_the_agent(folder: Path) -> None:
    """As services register themselves: with a check that is critical until it reported."""
    async with watching(folder) as web:
        put = web.server.put
        check = {"CheckID": f"check-{web.service}", "TTL": "1h"}
        put("/v1/agent/service/register", {"Name": web.service, "Address": "10.0.0.1", "Port": 80, "Check": check})
        await web.until(lambda: [one.health for one in web.endpoints] == [Health.UNHEALTHY])
        put(f"/v1/agent/check/pass/{check['CheckID']}")
        await web.until(lambda: web.endpoints[0].health is Health.HEALTHY)
        put(f"/v1/agent/service/maintenance/{web.service}", enable="true", reason="a new disk")
        await web.until(lambda: web.endpoints[0].health is Health.DRAINING)
        put(f"/v1/agent/service/maintenance/{web.service}", enable="false")
        await web.until(lambda: web.endpoints[0].health is Health.HEALTHY)
        put("/v1/agent/maintenance", enable="true")
        await web.until(lambda: web.endpoints[0].health is Health.DRAINING)
        put("/v1/agent/maintenance", enable="false")
        await web.until(lambda: web.endpoints[0].health is Health.HEALTHY)
        put(f"/v1/agent/service/deregister/{web.service}")
        await web.until(lambda: ref(web.service) not in web.sink.services)


def test_services_that_register_with_an_agent_and_maintenance(tmp_path: Path) -> None:
    asyncio.run(through_the_agent(tmp_path))


async def places(folder: Path) -> None:
    async with watching(folder, locality=Locality("eu", "eu-1"), tagged_address="wan") as web:
        wan = {"wan": {"Address": "203.0.113.9", "Port": 443}}
        web.server.register(web.service, "10.0.0.1", TaggedAddresses=wan, Locality={"Region": "us", "Zone": "us-2"})
        web.server.register(web.service, "2001:db8::0:5", 81)
        web.server.register(web.service, "db.example.com", 82)
        await web.until(lambda: len(web.endpoints) == 2 and bool(web.sink.said))
        assert web.endpoints == (
            Endpoint("2001:db8::5", (("", 81),), locality=Locality("eu", "eu-1")),
            Endpoint("203.0.113.9", (("", 443),), locality=Locality("us", "us-2")),
        )
        (diagnostic,) = web.sink.said[f"service {web.service}"]
        assert "db.example.com:82" in diagnostic.message
        web.server.deregister(f"{web.service}-db.example.com")
        await web.until(lambda: not web.sink.said)


def test_places_and_addresses(tmp_path: Path) -> None:
    asyncio.run(places(tmp_path))


async def confirmed(folder: Path) -> None:
    async with watching(folder) as web:
        node = web.server.register(web.service, "10.0.0.1")
        await web.until(lambda: bool(web.endpoints))
        web.source.confirm([ref(web.service)])
        await web.until(lambda: web.sink.calls[-1].endswith("surely"))
        assert web.addresses == ["10.0.0.1"]
        web.server.deregister(node)
        await web.until(lambda: not web.endpoints)
        assert web.sink.calls[-1] == f"remove {ref(web.service)}"
        web.source.confirm([ref(web.service)])
        await web.until(lambda: web.sink.calls[-1] == f"remove {ref(web.service)} surely")


def test_a_second_read_is_sure_whether_or_not_anything_changed(tmp_path: Path) -> None:
    asyncio.run(confirmed(tmp_path))


async def storm(folder: Path) -> None:
    async with watching(folder) as web:
        web.server.register(web.service, "10.1.0.1")
        await web.until(lambda: len(web.endpoints) == 1)
        before, began = len(web.sink.calls), time.monotonic()

        def register_many() -> None:
            for number in range(100):
                web.server.register(web.service, f"10.0.0.{number}")
                if number % 2:
                    web.server.deregister(f"{web.service}-10.0.0.{number}")

        await asyncio.to_thread(register_many)
        await web.until(lambda: len(web.endpoints) == 51)
        assert len(web.sink.calls) - before <= 2 * (time.monotonic() - began) + 2
        assert "10.1.0.1" in web.addresses


def test_a_storm_of_registrations_is_two_pushes_a_second(tmp_path: Path) -> None:
    asyncio.run(storm(tmp_path))


async def least(folder: Path) -> None:
    """A token for one service sees a list without the others, and is not to be blamed for that."""
    server, mine, other = consul(), unique("mine"), unique("other")
    for service in (mine, other):
        server.register(service, "10.0.0.1")
    rules = f'service "{mine}" {{ policy = "read" }} node_prefix "" {{ policy = "read" }}'
    source = ConsulSource(settings(server, folder, rules))
    source.want([ref(mine)], [])
    async with running(source) as sink:
        assert sink.state == "synced", sink.reason
        server.check(mine, f"{mine}-10.0.0.1", "critical")
        await sink.until(lambda: sink.services[ref(mine)].endpoints[0].health is Health.UNHEALTHY)
        source.want([ref(mine), ref(other)], [])
        await sink.until(lambda: sink.state == "failed")
        assert f"rules hide {other}" in sink.reason
        assert source.caught_up
        assert ref(other) not in sink.services
        assert not any(call.startswith("remove") for call in sink.calls)


def test_the_least_rights_are_enough_and_less_is_a_failure(tmp_path: Path) -> None:
    asyncio.run(least(tmp_path))


async def odd_names(folder: Path) -> None:
    server = consul()
    odd = [f"{unique('odd')} a/b?c&d=ü%2F", unique("UPPER_case")]
    source = ConsulSource(settings(server, folder))
    source.want([ref(name) for name in odd], [])
    async with running(source) as sink:
        for name in odd:
            server.register(name, "10.0.0.1", node=unique("node"))
            await sink.until(lambda name=name: ref(name) in sink.services)


def test_names_of_services_that_are_no_host_names(tmp_path: Path) -> None:
    asyncio.run(odd_names(tmp_path))


async def another_case(folder: Path) -> None:
    server, service = consul(), unique("web")
    node = server.register(service, "10.0.0.1")
    source = ConsulSource(settings(server, folder))
    spelt = [ref(service), ref(service.upper()), ref(service.title())]
    source.want(spelt, [])
    async with running(source) as sink:

        def health() -> list[list[Health]]:
            return [[one.health for one in sink.services[name].endpoints] for name in spelt if name in sink.services]

        assert health() == 3 * [[Health.HEALTHY]]
        server.check(service, node, "critical")
        await sink.until(lambda: health() == 3 * [[Health.UNHEALTHY]])
        source.forget(spelt[:2], [])
        server.check(service, node, "passing")
        await sink.until(lambda: health()[2] == [Health.HEALTHY])
        server.deregister(node)
        await sink.until(lambda: spelt[2] not in sink.services)
        server.register(service, "10.0.0.2", status=None)
        await sink.until(lambda: spelt[2] in sink.services)


def test_names_differ_from_those_that_are_registered_in_the_case_of_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consul finds them: a change that is noticed only by looking at everything once a minute comes a minute late."""
    monkeypatch.setattr(consul_source, "EVERYTHING_SECONDS", float("inf"))
    asyncio.run(another_case(tmp_path))


async def equal_names(folder: Path) -> None:
    service = unique("shared")
    servers = [consul("dc1"), consul("dc2")]
    for number, server in enumerate(servers, start=1):
        server.register(service, f"10.0.{number}.1")
        (folder / server.datacenter).mkdir()
    sources = [ConsulSource(settings(server, folder / server.datacenter)) for server in servers]
    for source in sources:
        source.want([ref(service, source.name)], [])
    async with running(sources[0]) as first, running(sources[1]) as second:
        assert [one.address for one in first.services[ref(service, "consul/dc1")].endpoints] == ["10.0.1.1"]
        assert [one.address for one in second.services[ref(service, "consul/dc2")].endpoints] == ["10.0.2.1"]
        servers[1].deregister(f"{service}-10.0.2.1")
        await second.until(lambda: not second.services)
        assert first.services


def test_two_datacenters_may_have_services_of_one_name(tmp_path: Path) -> None:
    asyncio.run(equal_names(tmp_path))


async def wrong_datacenter(folder: Path) -> None:
    source = ConsulSource(settings(consul(), folder, datacenter="dc9"))
    source.want([ref("web")], [])
    async with running(source) as sink:
        assert sink.state == "failed"
        assert "No path to datacenter" in sink.reason
        assert sink.calls == []


def test_a_datacenter_that_the_agent_does_not_know_is_a_failure(tmp_path: Path) -> None:
    asyncio.run(wrong_datacenter(tmp_path))


def spec(name: str) -> ObjectRef:
    return ObjectRef("consul/dc1", "RouteSpec", "shop", name)


async def specs(folder: Path) -> None:
    server, prefix = consul(), unique("specs") + "/"
    server.write(f"{prefix}a", file(routes("a"), routes("b")))
    server.write(f"{prefix}deep/c.yaml", routes("c"))
    server.write(f"{prefix}deep/", "")
    server.write(f"other/{prefix}d", routes("d"))
    source = ConsulSource(settings(server, folder, specs=prefix), hold_seconds=1.0)
    async with running(source) as sink:
        assert sink.state == "synced", sink.reason
        assert sink.names == ["a", "b", "c"]
        assert sink.objects[spec("b")].file == f"consul/dc1:{prefix}a"
        server.write(f"{prefix}a", file(routes("a", 9000), routes("b")))
        await sink.until(lambda: sink.port("a") == 9000)
        assert sink.calls.count("put b") == 1
        broken = routes("b").replace("port: 8080", "port: x")
        server.write(f"{prefix}a", file(routes("a", 9001), broken))
        await sink.until(lambda: sink.port("a") == 9001)
        assert sink.names == ["a", "b", "c"]
        (diagnostic,) = sink.said[f"consul/dc1:{prefix}a"]
        line = 1 + file(routes("a", 9001), broken)[: file(routes("a", 9001), broken).index("port: x")].count("\n")
        assert str(diagnostic.place).startswith(f"consul/dc1:{prefix}a:{line}:")
        server.write(f"{prefix}a", b"\xff".decode("latin-1"))
        server.delete(f"{prefix}deep/c.yaml")
        await sink.until(lambda: sink.names == ["a", "b"])
        server.delete(prefix, below=True)
        await sink.until(lambda: bool(sink.said.get(prefix)))
        assert sink.names == ["a", "b"]
        await sink.until(lambda: sink.names == [])
        assert sink.said == {}
        assert sink.surely_gone == ["a", "b"]  # after a second look nobody need doubt it again


def test_specs_of_the_key_value_store(tmp_path: Path) -> None:
    asyncio.run(specs(tmp_path))


async def put_back(folder: Path) -> None:
    server, prefix = consul(), unique("specs") + "/"
    for name in ("a", "b", "c"):
        server.write(f"{prefix}{name}", routes(name))
    source = ConsulSource(settings(server, folder, specs=prefix))
    async with running(source) as sink:
        server.delete(prefix, below=True)
        await sink.until(lambda: "no key is left" in str(sink.said.get(prefix)))
        assert source.held == 3
        sink.calls.clear()
        server.write(f"{prefix}z", routes("c", 9001))  # under another name
        await sink.until(lambda: sink.port("c") == 9001)
        assert (sink.names, source.held) == (["a", "b", "c"], 2)
        assert f": {prefix}a, {prefix}b, {prefix}c" in sink.said[prefix][0].message
        assert set(sink.said) == {prefix}
        server.write(f"{prefix}a", routes("a"))
        await sink.until(lambda: f"{prefix}a" not in str(sink.said))
        assert sink.calls == ["put c"]
        source.hold_seconds = 0.0
        server.write(f"{prefix}a", routes("a", 9002))
        await sink.until(lambda: not sink.said)
        assert sink.names == ["a", "c"]


def test_keys_that_vanished_together_and_are_put_back_one_by_one_are_not_missed_meanwhile(tmp_path: Path) -> None:
    asyncio.run(put_back(tmp_path))


async def put_back_later(folder: Path) -> None:
    server, prefix = consul(), unique("specs") + "/"
    last_good = {spec(name): routes(name) for name in ("a", "b")}
    source = ConsulSource(settings(server, folder, specs=prefix), last_good=last_good)
    async with running(source) as sink:
        await sink.until(lambda: sink.names == ["a", "b"])
        server.write(f"{prefix}a", routes("a", 9001))
        await sink.until(lambda: sink.port("a") == 9001)
        assert sink.names == ["a", "b"]
        assert "not everything" in sink.said[prefix][0].message
        source.hold_seconds = 0.0
        server.write(f"{prefix}a", routes("a"))
        await sink.until(lambda: sink.names == ["a"])
        assert sink.said == {}


def test_nor_are_those_that_vanished_before_the_process_started(tmp_path: Path) -> None:
    asyncio.run(put_back_later(tmp_path))


async def restored(folder: Path) -> None:
    server, prefix = consul(), unique("specs") + "/"
    last_good = {spec("a"): routes("a"), spec("gone"): routes("gone")}
    server.write(f"{prefix}a", routes("a").replace("port: 8080", "port: x"))
    source = ConsulSource(settings(server, folder, specs=prefix), last_good=last_good)
    async with running(source) as sink:
        await sink.until(lambda: sink.names == ["a"])


def test_what_was_in_force_before_the_process_started_stays_while_a_key_is_broken(tmp_path: Path) -> None:
    asyncio.run(restored(tmp_path))


async def unreadable_keys(folder: Path) -> None:
    server, prefix = consul(), unique("specs") + "/"
    server.write(f"{prefix}a", routes("a"))
    rules = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
    source = ConsulSource(settings(server, folder, rules, specs=prefix), last_good={spec("a"): routes("a")})
    async with running(source) as sink:
        assert sink.state == "failed"
        assert f"needed: key_prefix read for {prefix}" in sink.reason
        assert sink.specs_fail
        assert "remove a" not in sink.calls


def test_keys_that_may_not_be_read_are_not_missing(tmp_path: Path) -> None:
    asyncio.run(unreadable_keys(tmp_path))
