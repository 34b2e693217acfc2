"""A real Consul that crashes, hangs, loses its data, its leader or its certificate, and tokens that end: what was known
stays, the failure is said, and the next change is seen soon after the recovery."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.endpoint import Health
from controlplane.names import ObjectRef, ServiceRef
from controlplane.sources.consul.client import Settings
from controlplane.sources.consul.source import ConsulSource
from tests.sources.rig import Remembering, running
from tests.spec.documents import routes
from tests.support.certificates import Authority
from tests.support.consul import Consul

WEB = ServiceRef("consul/dc1", "", "web")
DOUBT_SECONDS = 12.0
"""Longer than it takes to look at what is doubted, on a machine that has other things to do."""


@pytest.fixture
def server(tmp_path: Path) -> Any:
    made = Consul(tmp_path / "consul").start()
    yield made
    made.kill()


@asynccontextmanager
async def known(server: Consul, folder: Path, **fields: Any) -> AsyncIterator[tuple[ConsulSource, Remembering]]:
    """A source that knows two instances of `web`."""
    token = folder / "token"
    token.write_text(server.token())
    for number in (1, 2):
        server.register("web", f"10.0.0.{number}")
    source = ConsulSource(Settings("dc1", server.address, token_file=token, **fields), doubt_seconds=DOUBT_SECONDS)
    source.want([WEB], [])
    async with running(source) as sink:
        assert sink.state == "synced", sink.reason
        assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]
        sink.calls.clear()
        yield source, sink


def addresses(sink: Remembering) -> list[str]:
    return [endpoint.address for endpoint in sink.services[WEB].endpoints]


async def killed(server: Consul, folder: Path) -> None:
    async with known(server, folder) as (_, sink):
        server.kill()
        await sink.until(lambda: sink.state == "failed")
        assert "Connection refused" in sink.reason
        await asyncio.to_thread(server.start)
        server.register("web", "10.0.0.3")
        await sink.until(lambda: sink.state == "synced" and len(addresses(sink)) == 3)
        assert not any(call.startswith("remove") for call in sink.calls)
        assert len(sink.calls) == 1


def test_killed_and_started_again(server: Consul, tmp_path: Path) -> None:
    asyncio.run(killed(server, tmp_path))


async def frozen(server: Consul, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.sources.consul.client.READ_SECONDS", 5.0)
    monkeypatch.setattr("controlplane.sources.consul.source.WAIT_SECONDS", 2.0)
    async with known(server, folder) as (_, sink):
        server.signal(signal.SIGSTOP)
        try:
            await sink.until(lambda: sink.state == "failed")
            assert "no answer within" in sink.reason
            assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]
        finally:
            server.signal(signal.SIGCONT)
        server.check("web", "web-10.0.0.1", "critical")
        await sink.until(lambda: sink.state == "synced" and sink.services[WEB].endpoints[0].health is Health.UNHEALTHY)
        assert not any(call.startswith("remove") for call in sink.calls)


def test_frozen_and_continued(server: Consul, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(frozen(server, tmp_path, monkeypatch))


async def wiped(server: Consul, folder: Path) -> None:
    server.write("specs/a", routes("a"))
    async with known(server, folder, specs="specs/") as (_, sink):
        for number in range(60):
            server.write("unrelated", str(number))  # the index of an older datacenter is higher than that of a new one
        server.register("web", "10.0.0.2", Meta={"rank": "2"})
        await sink.until(lambda: bool(sink.services[WEB].endpoints[1].meta))
        server.kill()
        server.wipe()
        await asyncio.to_thread(server.start)
        (folder / "token").write_text(server.token())
        await sink.until(lambda: "its data went back" in sink.reason)
        server.register("web", "10.0.0.1", Meta={"again": "yes"})  # one of two agents is back
        await sink.until(lambda: bool(sink.services[WEB].endpoints[0].meta))
        assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]
        assert sink.names == ["a"]
        await sink.until(lambda: sink.state == "synced" and addresses(sink) == ["10.0.0.1"])
        assert not any(call.startswith("remove") for call in sink.calls)
        await sink.until(lambda: "specs/" in sink.said)  # all keys at once: held for long, and shown
        assert sink.names == ["a"]


def test_an_empty_disk_is_not_an_empty_datacenter(server: Consul, tmp_path: Path) -> None:
    asyncio.run(wiped(server, tmp_path))


async def wiped_while_nobody_looked(server: Consul, folder: Path) -> None:
    server.write("specs/a", routes("a"))
    server.write("specs/b", routes("b"))
    async with known(server, folder, specs="specs/") as (source, sink):
        told, services = source.told, dict(sink.services)
        assert told > 0
    server.kill()
    server.wipe()
    await asyncio.to_thread(server.start)
    server.write("specs/a", routes("a"))
    server.register("web", "10.0.0.1")  # one of two agents is back
    settings = Settings("dc1", server.address, token_file=folder / "token", specs="specs/")
    source = ConsulSource(
        settings,
        last_good={ObjectRef("consul/dc1", "RouteSpec", "shop", name): routes(name) for name in "ab"},
        services_before=services,
        told_before=told,
        doubt_seconds=DOUBT_SECONDS,
    )
    source.want([WEB], [])
    async with running(source) as sink:
        assert "access denied (403)" in sink.reason, "the token was lost as well"
        assert sink.names == ["a", "b"]
        assert not any("web" in call for call in sink.calls)
        (folder / "token").write_text(server.token())
        await sink.until(lambda: "its data went back" in sink.reason and WEB in sink.services)
        assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]
        assert source.told == 0, "the next process compares with what was told before that"
        await sink.until(lambda: sink.state == "synced" and addresses(sink) == ["10.0.0.1"])
        assert 0 < source.told < told
        assert not any(call.startswith("remove") for call in sink.calls[:-1])


def test_an_empty_disk_is_not_an_empty_datacenter_though_nobody_looked_when_it_was_lost(
    server: Consul, tmp_path: Path
) -> None:
    asyncio.run(wiped_while_nobody_looked(server, tmp_path))


async def revoked(server: Consul, folder: Path) -> None:
    async with known(server, folder) as (_, sink):
        file = folder / "token"
        server.revoke(file.read_text())
        server.check("web", "web-10.0.0.1", "critical")
        await sink.until(lambda: sink.state == "failed")
        assert "access denied (403)" in sink.reason
        assert sink.calls == []
        file.write_text(server.token())
        await sink.until(lambda: sink.state == "synced" and sink.services[WEB].endpoints[0].health is Health.UNHEALTHY)


def test_a_revoked_token_and_its_successor(server: Consul, tmp_path: Path) -> None:
    asyncio.run(revoked(server, tmp_path))


async def curtailed(server: Consul, folder: Path) -> None:
    """The token lives on and may see nothing: Consul answers with an empty list and status 200."""
    async with known(server, folder) as (_, sink):
        accessor = server.call("GET", "/v1/acl/token/self", token=(folder / "token").read_text())["AccessorID"]
        policy = server.get(f"/v1/acl/token/{accessor}")["Policies"][0]["ID"]
        server.put(f"/v1/acl/policy/{policy}", {"Name": "less", "Rules": 'key_prefix "" { policy = "read" }'})
        server.check("web", "web-10.0.0.1", "critical")
        await sink.until(lambda: sink.state == "failed")
        assert "rules hide web" in sink.reason
        assert sink.calls == []


def test_a_token_that_may_see_less_does_not_see_less_services(server: Consul, tmp_path: Path) -> None:
    asyncio.run(curtailed(server, tmp_path))


async def anonymous(server: Consul) -> None:
    server.register("web", "10.0.0.1")
    source = ConsulSource(Settings("dc1", server.address))
    source.want([WEB], [])
    async with running(source) as sink:
        assert sink.state == "failed"
        assert "rules hide web" in sink.reason
        assert sink.calls == []


def test_without_a_token_an_empty_list_proves_nothing(server: Consul) -> None:
    asyncio.run(anonymous(server))


async def refused() -> None:
    source = ConsulSource(Settings("dc1", "http://127.0.0.1:1"))
    source.want([WEB], [])
    async with running(source) as sink:
        assert sink.state == "failed"
        assert sink.reason == "cannot connect to 127.0.0.1:1: Connection refused"
        assert source.caught_up
        assert sink.calls == []


def test_nobody_listens() -> None:
    asyncio.run(refused())


async def over_tls(server: Consul, authority: Authority, folder: Path) -> None:
    ca = folder / "ca.pem"
    ca.write_bytes(Authority("somebody else").pem)
    token = folder / "token"
    token.write_text(server.token())
    server.register("web", "10.0.0.1")
    source = ConsulSource(Settings("dc1", server.address, token_file=token, ca=ca))
    source.want([WEB], [])
    async with running(source) as sink:
        assert sink.state == "failed"
        assert "its certificate is not trusted" in sink.reason
        ca.write_bytes(b"no certificate")  # half a rotation; the reason stays that of the trust that there was
        ca.write_bytes(authority.pem)
        await sink.until(lambda: sink.state == "synced" and addresses(sink) == ["10.0.0.1"])


def test_trust_is_that_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    authority = Authority()
    server = Consul(tmp_path / "consul", tls=authority).start()
    try:
        asyncio.run(over_tls(server, authority, tmp_path))
    finally:
        server.kill()


async def with_client_certificate(server: Consul, authority: Authority, folder: Path) -> None:
    files = {name: folder / name for name in ("ca", "client_certificate", "client_key")}
    wrong = Authority("somebody else").leaf("controlplane", client=True)
    files["ca"].write_bytes(authority.pem)
    files["client_certificate"].write_bytes(wrong.certificate)
    files["client_key"].write_bytes(wrong.key)
    source = ConsulSource(Settings("dc1", server.address, **files))
    async with running(source) as sink:
        assert sink.state == "failed"
        pair = authority.leaf("controlplane", client=True)
        files["client_certificate"].write_bytes(pair.certificate)
        files["client_key"].write_bytes(pair.key)
        await sink.until(lambda: sink.state == "synced")


def test_client_certificates_are_those_of_the_files_as_they_are_now(tmp_path: Path) -> None:
    authority = Authority()
    server = Consul(tmp_path / "consul", tls=authority)
    server.present(authority, ask_clients=True)
    server.start()
    try:
        asyncio.run(with_client_certificate(server, authority, tmp_path))
    finally:
        server.kill()


async def without_a_leader(servers: list[Consul], folder: Path) -> None:
    async with known(servers[0], folder, max_stale=5.0) as (_, sink):
        for server in servers[1:]:
            server.kill()
        await sink.until(lambda: sink.state == "failed" and "leader" in sink.reason.lower())
        assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]
        for server in servers[1:]:
            await asyncio.to_thread(server.start, ready=False)
        await sink.until(lambda: sink.state == "synced")
        servers[0].check("web", "web-10.0.0.1", "critical")
        await sink.until(lambda: sink.services[WEB].endpoints[0].health is Health.UNHEALTHY)
        assert not any(call.startswith("remove") for call in sink.calls)


def test_without_a_leader_nothing_is_truth(tmp_path: Path) -> None:
    servers = [Consul(tmp_path / f"server-{number}", bootstrap_expect=3) for number in range(3)]
    join = [f"127.0.0.1:{server.serf_port}" for server in servers]
    try:
        for server in servers:
            server.configure(retry_join=join, retry_interval="500ms")
            server.start(ready=False)
        servers[0].until_ready()
        asyncio.run(without_a_leader(servers, tmp_path))
    finally:
        for server in servers:
            server.kill()
