"""Services of a real Consul behind a real Envoy, under constant load: no request fails that has an instance to go to."""

from __future__ import annotations

import json
import signal
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.plane import Plane, answers, forward, gateway, respond
from tests.support.backends import HttpBackend
from tests.support.certificates import Authority, write_secret
from tests.support.client import Connection
from tests.support.consul import Consul, ConsulError
from tests.support.envoy import Envoy
from tests.support.load import Load
from tests.support.load import answers as always
from tests.support.ports import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.envoy
HOST = "shop.example.com"


class Site:
    """A Consul, a control plane that watches it, an Envoy, and the backends `a` and `b` as instances of `web`."""

    def __init__(
        self, folder: Path, guards: dict[str, Any] | None = None, tls: Authority | None = None, **source: Any
    ) -> None:
        self.consul = Consul(folder / "consul", tls=tls).start()
        token = folder / "token"
        token.write_text(self.consul.token())
        written = {"name": "gcp-dc2", "address": self.consul.address, "tokenFile": str(token), **source}
        configuration = folder / "controlplane.yaml"
        configuration.write_text(yaml.safe_dump({"sources": {"consul": [written]}, "guards": guards or {}}))
        self.port, backend_port = free_port(), free_port()
        self.backends = {
            name: HttpBackend(name, address=f"127.0.0.{number}", port=backend_port)
            for number, name in enumerate("ab", start=21)
        }
        self.plane = Plane(folder, "--config", str(configuration))
        self._envoy: Envoy | None = None

    def register(self, name: str, status: str = "passing") -> None:
        backend = 21 + "ab".index(name)
        self.consul.register("web", f"127.0.0.{backend}", self.backends[name].port, status=status, node=f"node-{name}")

    def write(self, **more: Any) -> None:
        members = [{"consul": {"datacenter": "gcp-dc2", "service": "web"}}]
        backend = {"name": "web", "members": members, **more}
        self.plane.write(gateway(port=self.port, routes=[forward("web", "/", "web", [HOST])], backends=[backend]))

    def start(self) -> None:
        self.plane.start().ready()
        self._envoy = self.plane.envoy()

    def serve(self) -> None:
        """With both backends, until both answer."""
        for name in self.backends:
            self.register(name)
        self.write()
        self.start()
        until(lambda: self.answer(*self.backends), "both answer")

    def connect(self) -> Connection:
        return Connection(self.port)

    def changing(self, times: int) -> float:
        """The median of the seconds that a change of `web` takes, from its being written to its use."""
        found = []
        for number in range(times):
            gone, left = ("a", "b") if number % 2 else ("b", "a")
            self.consul.check("web", f"node-{left}", "passing")
            self.consul.check("web", f"node-{gone}", "critical")
            written = time.monotonic()
            until(lambda left=left: self.answer(left), f"{left} answers", step=0.001)  # type: ignore[misc]
            found.append(time.monotonic() - written)
        return sorted(found)[times // 2]

    def answer(self, *names: str) -> bool:
        """Whether these backends, and no others, answer thirty requests."""
        try:
            with self.connect() as connection:
                found = [connection.request("/", HOST) for _ in range(30)]
        except OSError:  # the listener is not there yet
            return False
        if {answer.status for answer in found} != {200}:
            return False
        return {json.loads(answer.body)["backend"] for answer in found} == set(names)

    def source(self) -> dict[str, Any]:
        (found,) = (one for one in self.plane.json("/v1/sources")["sources"] if one["name"] == "consul/gcp-dc2")
        return dict(found)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.plane:
        yield made
    made.consul.kill()


def test_what_happens_in_consul_and_to_it_fails_no_request(site: Site) -> None:
    site.serve()
    with Load(site.connect, always("/", HOST), always("/x", HOST)) as load:
        site.consul.check("web", "node-a", "critical")
        until(lambda: site.answer("b"), "only the healthy one is asked")
        site.consul.check("web", "node-a", "passing")
        until(lambda: site.answer("a", "b"), "both are asked again")
        site.consul.deregister("node-a")
        until(lambda: site.answer("b"), "who is gone is not asked")
        load.during(100)
        site.consul.kill()
        until(lambda: site.source()["failure"], "the failure is shown")
        load.during(200)
        site.consul.start()
        until(lambda: not site.source()["failure"], "the source works again")
        site.register("a")
        until(lambda: site.answer("a", "b"), "changes are seen again")
        site.consul.signal(signal.SIGSTOP)
        load.during(300)
        site.consul.signal(signal.SIGCONT)
        site.consul.check("web", "node-b", "critical")
        until(lambda: site.answer("a"), "changes are seen again")
        site.consul.kill()
        site.consul.wipe()
        site.consul.start()
        load.during(300)


def test_a_process_that_starts_while_consul_is_gone_serves_what_was_known(site: Site) -> None:
    site.serve()
    site.plane.kept()
    site.plane.kill()
    site.consul.kill()
    with Load(site.connect, always("/", HOST)) as load:
        site.plane.start().ready()
        load.during(200)
    assert site.answer("a", "b")


def test_a_process_that_starts_after_consul_lost_its_data_serves_what_was_known(site: Site, tmp_path: Path) -> None:
    for number in range(60):
        site.consul.write("unrelated", str(number))  # the index of an older datacenter is higher than that of a new one
    site.serve()
    site.plane.kept()
    with closing(sqlite3.connect(f"file:{site.plane.state / 'state.sqlite'}?mode=ro", uri=True)) as reader:
        told = "SELECT version FROM told WHERE CAST(source AS TEXT) = 'consul/gcp-dc2' AND version > 60"
        until(lambda: reader.execute(told).fetchone(), "it is noted how far the datacenter has come")
    with Load(site.connect, always("/", HOST)) as load:
        site.plane.kill()
        site.consul.kill()
        site.consul.wipe()
        site.consul.start()
        (tmp_path / "token").write_text(site.consul.token())
        site.plane.start().ready()
        until(lambda: "went back" in (site.source()["failure"] or ""), "it is said")
        load.during(300)
        assert site.source()["endpoints"] == 2


def roots(consul: Consul) -> dict[str, Any] | None:
    """The authorities of the mesh; a server makes the first one some time after it leads."""
    try:
        found = dict(consul.get("/v1/agent/connect/ca/roots"))
    except ConsulError:
        return None
    return found if found["Roots"] else None


def leaf(consul: Consul, service: str) -> dict[str, Any]:
    """A certificate of the mesh for a service."""
    return dict(consul.get(f"/v1/agent/connect/ca/leaf/{service}"))


def test_a_service_of_the_mesh_is_verified_by_its_identity_and_shown_ours(site: Site, tmp_path: Path) -> None:
    """What stands for a sidecar here is a TLS server with a certificate of Consul's authority that asks for one."""
    found = until(lambda: roots(site.consul), "the mesh has an authority")
    authority = "".join(root["RootCert"] for root in found["Roots"])
    domain = found["TrustDomain"]
    theirs, ours = leaf(site.consul, "web"), leaf(site.consul, "edge-gateway")
    files = {"ca.pem": authority, "tls.pem": theirs["CertPEM"], "tls.key": theirs["PrivateKeyPEM"]}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    context.verify_mode = ssl.CERT_REQUIRED
    sidecar = HttpBackend("sidecar", context, address="127.0.0.23")
    site.consul.register(
        "web-sidecar-proxy", "127.0.0.23", sidecar.port, Kind="connect-proxy", Proxy={"DestinationServiceName": "web"}
    )
    write_secret(
        site.plane.secrets,
        "mesh",
        {
            "ca.crt": authority.encode(),
            "tls.crt": ours["CertPEM"].encode(),
            "tls.key": ours["PrivateKeyPEM"].encode(),
        },
    )

    def write(service: str) -> None:
        tls = {
            "mode": "mutual",
            "ca": {"secretRef": "mesh", "key": "ca.crt"},
            "clientCertificate": {"secretRef": "mesh"},
            "sanMatch": [f"spiffe://{domain}/ns/default/dc/dc1/svc/{service}"],
        }
        members = [{"consul": {"datacenter": "gcp-dc2", "service": "web-sidecar-proxy"}}]
        backend = {"name": "web", "members": members, "tls": tls}
        site.plane.write(gateway(port=site.port, routes=[forward("web", "/", "web", [HOST])], backends=[backend]))

    write("web")
    site.start()
    until(lambda: site.answer("sidecar"), "the sidecar answers")
    write("somebody-else")
    until(lambda: answers(site.port, path="/", status=503, host=HOST), "another identity is not believed")


def test_specs_of_a_prefix_that_is_emptied_stay_for_as_long_as_is_configured(tmp_path: Path) -> None:
    """Ten minutes unless told otherwise: the wait for the end would not outlast them."""
    site = Site(tmp_path, guards={"hold": "1s"}, specs="specs/")
    try:
        with site.plane:
            spec = {"gateway": "platform/edge", "routes": [respond("extra", "/extra", "extra", [HOST])]}
            head = {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "RouteSpec"}
            metadata = {"namespace": "platform", "name": "extra"}
            site.consul.write("specs/extra", yaml.safe_dump({**head, "metadata": metadata, "spec": spec}))
            site.register("a")
            site.write()
            site.start()
            until(lambda: answers(site.port, "extra", "/extra", host=HOST), "it is served")
            site.consul.delete("specs/", below=True)
            until(lambda: "GW0305" in str(site.plane.json("/v1/problems")), "its removal is doubted")
            assert [one["heldObjects"] for one in site.plane.json("/v1/sources")["sources"] if one["objects"]] == [0, 1]
            until(lambda: not answers(site.port, "extra", "/extra", host=HOST), "and believed in the end", 60)
            assert "GW0305" not in str(site.plane.json("/v1/problems"))
    finally:
        site.consul.kill()


def test_a_gateway_that_moves_between_a_file_and_consul_is_never_gone(tmp_path: Path) -> None:
    """Written in the new place, then deleted in the old one; each has something else, so that a deletion is believed."""
    site = Site(tmp_path, specs="specs/")
    moving = gateway(port=site.port, routes=[respond("all", "/", "it", [HOST])])
    stays = {
        name: gateway(name, port=free_port(), role=name, routes=[respond("all", "/", name, [HOST])])
        for name in ("file", "consul")
    }

    def is_told() -> bool:
        return "GW0226" in str(site.plane.json("/v1/problems"))

    try:
        with site.plane:
            site.consul.write("specs/stays", yaml.safe_dump(stays["consul"]))
            site.plane.write(stays["file"], file="stays.yaml")
            file = site.plane.write(moving)
            site.start()
            until(lambda: answers(site.port, "it", host=HOST), "it is served")
            with Load(site.connect, always("/", HOST)) as load:
                site.consul.write("specs/edge", yaml.safe_dump(moving))
                until(is_told, "it is said to be in both")
                file.unlink()
                until(lambda: not is_told(), "it is in Consul alone")
                load.during(100)
                site.plane.write(moving)
                until(is_told, "it is said to be in both again")
                site.consul.delete("specs/edge")
                until(lambda: not is_told(), "it is in the file alone")
                load.during(100)
            assert site.plane.gateways() == ["platform/consul", "platform/edge", "platform/file"]
    finally:
        site.consul.kill()


def test_a_certificate_of_consul_that_has_expired(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    site = Site(tmp_path, tls=authority, ca=str(tmp_path / "ca.pem"))
    try:
        with site.plane:
            site.serve()
            with Load(site.connect, always("/", HOST)) as load:
                site.consul.kill()
                site.consul.present(authority, life=timedelta(hours=-1))
                site.consul.start()
                until(lambda: "expired" in (site.source()["failure"] or ""), "it is said")
                load.during(200)
                site.consul.kill()
                site.consul.present(authority)
                site.consul.start()
                until(lambda: site.source()["failure"] is None, "it is read again")
                site.consul.check("web", "node-a", "critical")
                until(lambda: site.answer("b"), "only the healthy one is asked")
    finally:
        site.consul.kill()


def test_ten_thousand_instances_that_flap_hold_up_no_other_service(site: Site) -> None:
    """F39: half of them come and go all the time, as fast as that can be written."""
    addresses = [f"10.201.{number // 250}.{number % 250 + 1}" for number in range(10_000)]
    site.serve()
    site.consul.register_many("crowd", addresses, 80)
    members = [{"consul": {"datacenter": "gcp-dc2", "service": name}} for name in ("web", "crowd")]
    backends = [{"name": name, "members": [member]} for name, member in zip(("web", "crowd"), members, strict=True)]
    routes = [forward("web", "/", "web", [HOST]), forward("crowd", "/", "crowd", ["crowd.example.com"])]
    site.plane.write(gateway(port=site.port, routes=routes, backends=backends))
    until(lambda: site.source()["endpoints"] == len(addresses) + 2, "all of them are known")
    with Load(site.connect, always("/", HOST)):
        before = site.changing(6)
        stop, written = threading.Event(), 0

        def flap() -> None:
            nonlocal written
            while not stop.is_set():
                start = written * 320 % len(addresses)
                status = "critical" if written * 320 // len(addresses) % 2 == 0 else "passing"
                site.consul.register_many("crowd", addresses[start : start + 320], 80, status)
                written += 1

        flapping = threading.Thread(target=flap)
        flapping.start()
        try:
            until(lambda: written >= 10, "much has happened")
            during = site.changing(6)
        finally:
            stop.set()
            flapping.join()
    print(
        f"{written * 320} changes of instances; another service: {before * 1e3:.0f} ms before, {during * 1e3:.0f} meanwhile"
    )
    assert during < before + 2.5, (before, during)
