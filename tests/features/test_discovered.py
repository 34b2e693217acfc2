"""Services of Kubernetes and Consul through a real Envoy: order, health, loss and doubt, under constant load."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.backends import HttpBackend
from tests.support.client import Connection, Response
from tests.support.edge import gateway_text
from tests.support.envoy import Envoy
from tests.support.load import Load, answers
from tests.support.names import Names
from tests.support.ports import free_port
from tests.support.scripted import ScriptedPlane
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.envoy

EU, US, DC = "kubernetes/aws-eu", "kubernetes/aws-us", "consul/dc"
NAMES = ("a", "b", "c", "d", "e", "f")

GATEWAY = gateway_text("""
  listeners: [{name: http, port: %(port)d, protocol: HTTP}]
  backends:
    - name: catalog
      members:
%(members)s
%(more)s
  routes:
    - {name: web, hosts: [shop.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: catalog}]}
""")
IN_EU = "        - {kubernetes: {cluster: aws-eu, service: shop/catalog, port: 8080}}\n"
IN_US = "        - {kubernetes: {cluster: aws-us, service: shop/catalog, port: 8080}, priority: 1}\n"
IN_DC = "        - {consul: {datacenter: dc, service: catalog}, priority: 2}\n"


class Discovered:
    """A control plane with scripted sources, one Envoy, and a backend `a`, `b`, … on an address of its own each."""

    def __init__(self, folder: Path, configuration: dict[str, Any] | None = None) -> None:
        self.port = free_port()
        common = free_port()
        self.backends = {
            name: HttpBackend(name, address=f"127.0.0.{number}", port=common) for number, name in enumerate(NAMES, 11)
        }
        self.backend_port = common
        self.plane = ScriptedPlane(folder, {EU: {}, US: {}, DC: {}}, configuration)
        self._envoy: Envoy | None = None

    def service(self, *names: str, **health: str) -> dict[str, Any]:
        """A service with these endpoints; `b="draining"` says how one is."""
        ports = {"http": self.backend_port}
        endpoints = [
            {"address": f"127.0.0.{11 + NAMES.index(name)}", "health": health.get(name, "healthy"), "ports": ports}
            for name in names
        ]
        return {"ports": {"http": 8080}, "endpoints": endpoints}

    def instances(self, *names: str) -> dict[str, Any]:
        """The same in Consul."""
        endpoints = [
            {"address": f"127.0.0.{11 + NAMES.index(name)}", "ports": {"": self.backend_port}} for name in names
        ]
        return {"ports": {}, "endpoints": endpoints}

    def write(self, members: str = IN_EU, more: str = "") -> None:
        self.plane.write("shop.yaml", GATEWAY % {"port": self.port, "members": members, "more": more})

    def start(self) -> None:
        self.plane.start()
        self._envoy = self.plane.envoy()

    def connect(self) -> Connection:
        return Connection(self.port)

    def ask(self) -> Response:
        with self.connect() as connection:
            return connection.request("/", "shop.example.com")

    def serving(self, times: int = 40) -> set[str]:
        """Who answers."""
        return set(self.counts(times))

    def counts(self, times: int = 40) -> Counter[str]:
        with self.connect() as connection:
            found = [connection.request("/", "shop.example.com") for _ in range(times)]
        return Counter(one.backend if one.status == 200 else str(one.status) for one in found)

    def becomes(self, *names: str) -> None:
        """Wait until exactly these answer."""
        until(lambda: self.serving() == set(names), f"{', '.join(names)} answer")

    def steady(self) -> Load:
        """Constant load; every request must be answered."""
        return Load(self.connect, *[answers("/", "shop.example.com")] * 2)

    def close(self) -> None:
        if self._envoy is not None:
            self._envoy.stop()
        self.plane.__exit__(None, None, None)
        for backend in self.backends.values():
            backend.__exit__(None, None, None)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Discovered]:
    found = Discovered(tmp_path / "plane")
    yield found
    found.close()


def test_endpoints_change_under_load(shop: Discovered) -> None:
    """Endpoints that come and go are the ordinary day of a cluster: no request may notice."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a", "b")}
    shop.write()
    shop.start()
    shop.becomes("a", "b")
    with shop.steady() as load:
        for names in (("b", "c"), ("c",), ("a", "b", "c", "d"), ("d", "a"), ("a",)) * 4:
            shop.plane.tell(EU, services={"shop/catalog": shop.service(*names)}, sure=True)
            load.during(20)
        shop.becomes("a")


def test_failover_in_the_declared_order(shop: Discovered) -> None:
    """Three levels, by what sources say of health and of existence; and back."""
    shop.plane.world |= {
        EU: {"shop/catalog": shop.service("a", "b")},
        US: {"shop/catalog": shop.service("c")},
        DC: {"catalog": shop.instances("d")},
    }
    shop.write(IN_EU + IN_US + IN_DC)
    shop.start()
    with shop.steady():
        shop.becomes("a", "b")
        shop.plane.tell(EU, services={"shop/catalog": shop.service("a", "b", a="unhealthy", b="unhealthy")})
        shop.becomes("c")
        shop.plane.tell(US, services={"shop/catalog": shop.service()}, sure=True)
        shop.becomes("d")
        shop.plane.tell(EU, services={"shop/catalog": shop.service("a", "b", b="unhealthy")})
        until(lambda: "a" in shop.serving() and "b" not in shop.serving(), "half of the first level")
        shop.plane.tell(EU, services={"shop/catalog": shop.service("a", "b")})
        shop.becomes("a", "b")


def test_draining_and_unhealthy_endpoints_get_nothing_while_others_are_there(shop: Discovered) -> None:
    """More endpoints drain than serve: a rollout is no reason to use the next level, nor those that end."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a", "b", "c", b="draining", c="draining")}
    shop.plane.world[US] = {"shop/catalog": shop.service("d")}
    shop.write(IN_EU + IN_US)
    shop.start()
    with shop.steady() as load:
        shop.becomes("a")
        shop.plane.tell(
            EU, services={"shop/catalog": shop.service("a", "b", "c", a="unhealthy", c="unhealthy", b="draining")}
        )
        shop.becomes("d")
        shop.plane.tell(US, services={"shop/catalog": shop.service()}, sure=True)
        shop.becomes("b")
        load.during(50)


def test_most_endpoints_not_ready_is_no_reason_to_use_them(shop: Discovered) -> None:
    shop.plane.world[EU] = {
        "shop/catalog": shop.service("a", "b", "c", "d", b="unhealthy", c="unhealthy", d="unhealthy")
    }
    shop.write()
    shop.start()
    with shop.steady():
        shop.becomes("a")


def test_a_service_without_endpoints_answers_503_and_comes_back(shop: Discovered) -> None:
    """Scaled to zero is a fact, and all that is not ready is no outage of the source. (F34)"""
    shop.plane.world[EU] = {"shop/catalog": shop.service()}
    shop.write()
    shop.start()
    assert shop.ask().status == 503
    shop.plane.tell(EU, services={"shop/catalog": shop.service("a")})
    shop.becomes("a")
    shop.plane.tell(EU, services={"shop/catalog": shop.service("a", a="unhealthy")})
    until(lambda: shop.ask().status == 503, "503 while nothing is ready")
    shop.plane.tell(EU, services={"shop/catalog": shop.service("a")})
    shop.becomes("a")


def test_a_lost_source_changes_nothing(shop: Discovered) -> None:
    shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
    shop.write()
    shop.start()
    with shop.steady() as load:
        shop.plane.tell(EU, fail="connection refused")
        shop.plane.source_becomes(EU, "the failure is shown", failure="connection refused", endpoints=1)
        load.during(100)
        shop.plane.tell(EU, work=True)
        shop.plane.source_becomes(EU, "it works again", failure=None)


@pytest.mark.parametrize(("then", "after"), [("keep", "a"), ("next", "c"), ("empty", "c")])
def test_endpoints_of_a_lost_source_are_kept_as_long_as_the_spec_says(shop: Discovered, then: str, after: str) -> None:
    shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
    shop.plane.world[US] = {"shop/catalog": shop.service("c")}
    shop.write(IN_EU + IN_US, f"      onSourceLost: {{keepFor: 1s, then: {then}}}\n")
    shop.start()
    with shop.steady() as load:
        shop.becomes("a")
        shop.plane.tell(EU, fail="gone")
        until(lambda: (shop.plane.source(EU)["lostSeconds"] or 0) > 2.5, "the time is over")
        shop.becomes(after)
        if then == "next":  # stale endpoints beat none
            shop.plane.tell(US, services={"shop/catalog": shop.service()}, sure=True)
            until(lambda: shop.serving() == {"a"}, "the stale endpoint is the last resort")
        load.during(20)
        shop.plane.tell(EU, work=True)
        shop.becomes("a")


def test_what_is_used_last_of_a_lost_source_comes_after_the_names_that_envoy_resolves(shop: Discovered) -> None:
    """`then: next` of a mixed backend: the names have priority 1 only, but the endpoints are in doubt."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
    other = HttpBackend("local", address="127.0.0.1", port=shop.backend_port)
    mixed = IN_EU + f"        - {{dns: {{host: localhost, port: {shop.backend_port}}}, priority: 1}}\n"
    shop.write(mixed, "      onSourceLost: {keepFor: 1s, then: next}\n")
    shop.start()
    try:
        with shop.steady() as load:
            shop.becomes("a")
            shop.plane.tell(EU, fail="gone")
            shop.becomes("local")
            load.during(20)
            shop.plane.tell(EU, work=True)
            shop.becomes("a")
    finally:
        other.__exit__(None, None, None)


def test_endpoints_are_no_older_for_another_part_of_their_source_that_cannot_be_read(shop: Discovered) -> None:
    """A secret that may not be read, for example: what is known of services is heard as it changes."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
    shop.plane.world[US] = {"shop/catalog": shop.service("c")}
    shop.write(IN_EU + IN_US, "      onSourceLost: {keepFor: 1s, then: empty}\n")
    shop.start()
    with shop.steady() as load:
        shop.becomes("a")
        shop.plane.tell(EU, fail="secret shop/tls: Denied", endpoints=False)
        shop.plane.source_becomes(EU, "the failure is shown", failure="secret shop/tls: Denied")
        until(lambda: shop.plane.source(EU)["lostSeconds"] > 2.5, "the time would be over")
        assert shop.serving() == {"a"}
        assert shop.plane.source(EU)["endpointsLostSeconds"] is None
        shop.plane.tell(EU, fail="all of it: Unreachable")
        shop.becomes("c")
        load.during(20)


def test_a_namespace_that_cannot_be_read_is_lost_though_others_can(shop: Discovered) -> None:
    """Where namespaces are read one by one, one of them may be denied: what it said last grows old, and nothing else."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
    shop.plane.world[US] = {"shop/catalog": shop.service("c")}
    shop.write(IN_EU + IN_US, "      onSourceLost: {keepFor: 1s, then: empty}\n")
    shop.start()
    with shop.steady() as load:
        shop.becomes("a")
        shop.plane.tell(EU, fail="services in other: Denied", namespaces=["other"])
        until(lambda: (shop.plane.source(EU)["lostSeconds"] or 0) > 2.5, "the time would be over")
        assert shop.serving() == {"a"}
        assert shop.plane.source(EU)["lostNamespaces"]["other"] > 1
        shop.plane.tell(EU, fail="services in shop: Denied", namespaces=["shop"])
        shop.becomes("c")
        shop.plane.tell(EU, work=True)
        shop.becomes("a")
        load.during(20)


def test_mass_removal_is_held_until_it_is_confirmed(tmp_path: Path) -> None:
    """A relist that is half empty must not empty a backend."""
    shop = Discovered(tmp_path / "plane", {"guards": {"hold": "1h"}})
    try:
        shop.plane.world[EU] = {"shop/catalog": shop.service("a", "b", "c", "d")}
        shop.write()
        shop.start()
        with shop.steady() as load:
            shop.becomes("a", "b", "c", "d")
            asked = shop.plane.tell(EU, services={"shop/catalog": shop.service("e")}, confirms=False)
            until(lambda: "e" in shop.serving(), "what is new is used at once")
            assert shop.serving(100) == {"a", "b", "c", "d", "e"}
            assert shop.plane.source(EU)["heldEndpoints"] == 4
            assert any(one["code"] == "GW0311" for one in shop.plane.json("/v1/problems")["problems"])
            asked = shop.plane.tell(EU, services={"shop/catalog": shop.service("e")}, sure=True)
            assert asked["confirmed"] == ["catalog"]
            shop.becomes("e")
            load.during(20)
        assert shop.plane.source(EU)["heldEndpoints"] == 0
        assert not any(one["code"] == "GW0311" for one in shop.plane.json("/v1/problems")["problems"])
    finally:
        shop.close()


def test_a_mass_removal_is_not_believed_while_its_source_cannot_be_heard(tmp_path: Path) -> None:
    """It could not be confirmed, and now it could not be taken back: the time that it is held is not the source's word."""
    shop = Discovered(tmp_path / "plane", {"guards": {"hold": "3s"}})
    try:
        shop.plane.world[EU] = {"shop/catalog": shop.service("a", "b", "c", "d")}
        shop.write()
        shop.start()
        with shop.steady() as load:
            shop.becomes("a", "b", "c", "d")
            shop.plane.tell(EU, services={"shop/catalog": shop.service("e")}, confirms=False)
            shop.plane.tell(EU, fail="gone")
            until(lambda: (shop.plane.source(EU)["lostSeconds"] or 0) > 4.5, "the time is over")
            assert shop.serving(100) == {"a", "b", "c", "d", "e"}
            load.during(20)
            shop.plane.tell(EU, work=True)
            shop.becomes("e")
    finally:
        shop.close()


def test_a_restart_with_the_source_down_serves_what_was_known(shop: Discovered) -> None:
    shop.plane.world[EU] = {"shop/catalog": shop.service("a", "b")}
    shop.write()
    shop.start()
    shop.becomes("a", "b")
    until(lambda: shop.plane.json("/v1/sources")["state"]["pending"] == 0, "the state is written")
    with shop.steady() as load:
        shop.plane.stop(signal.SIGKILL)
        shop.plane.broken[EU] = "connection refused"
        shop.plane.start()
        found = shop.plane.source(EU)
        assert (found["failure"], found["services"], found["endpoints"]) == ("connection refused", 1, 2)
        assert shop.plane.get("/readyz")[0] == 200
        load.during(50)
        fresh = shop.plane.envoy("edge-2")  # a proxy that has nothing of its own gets the stored endpoints too
        try:
            shop.becomes("a", "b")
        finally:
            fresh.stop()
        shop.plane.tell(EU, work=True, services={"shop/catalog": shop.service("b", "c")})
        shop.becomes("b", "c")


def test_nothing_is_served_as_empty_because_a_source_is_silent(tmp_path: Path) -> None:
    """R4: what is not known yet is not known to be empty."""
    shop = Discovered(tmp_path / "plane", {"startup": {"waitFor": ["files"]}})
    try:
        shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
        shop.plane.broken[EU] = "silent"
        shop.write()
        shop.plane.start()
        resources = shop.plane.json("/v1/gateways/platform/shop/snapshot")["resources"]
        assert [one["name"] for one in resources["cds"]] == ["gatewayspec/platform/shop/catalog"]
        assert resources["eds"] == []
        shop.plane.tell(EU, work=True)
        shop._envoy = shop.plane.envoy()
        shop.becomes("a")
    finally:
        shop.close()


def test_a_route_moves_to_a_new_service_without_a_gap(shop: Discovered) -> None:
    """The service that an edit names first is asked for, and known, before a route leads to it."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a"), "shop/next": shop.service("b")}
    shop.write()
    shop.start()
    with shop.steady() as load:
        for service, name in (("shop/next", "b"), ("shop/catalog", "a")) * 3:
            shop.write(IN_EU.replace("shop/catalog", service))
            shop.becomes(name)
        load.during(20)


def test_dns_behind_discovered_endpoints(shop: Discovered) -> None:
    """Discovered endpoints first, then a name that Envoy resolves; such a member comes and goes without a gap."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
    shop.write()
    shop.start()
    other = HttpBackend("local", address="127.0.0.1", port=shop.backend_port)
    mixed = IN_EU + f"        - {{dns: {{host: localhost, port: {shop.backend_port}}}, priority: 1}}\n"
    try:
        with shop.steady() as load:
            for members in (mixed, IN_EU) * 3:
                shop.write(members)
                load.during(60)
            shop.write(mixed)
            name = until(
                lambda: [
                    one["name"]
                    for one in shop.plane.json("/v1/gateways/platform/shop/snapshot")["resources"]["cds"]
                    if "/of-" in one["name"]
                ],
                "the aggregate cluster",
            )
            assert len(name) == 1
            shop.becomes("a")
            shop.plane.tell(EU, services={"shop/catalog": shop.service("a", a="unhealthy")})
            shop.becomes("local")
            shop.plane.tell(EU, services={"shop/catalog": shop.service()}, sure=True)
            load.during(50)
            assert shop.serving() == {"local"}
            shop.plane.tell(EU, services={"shop/catalog": shop.service("b")})
            shop.becomes("b")
    finally:
        other.__exit__(None, None, None)


def test_edits_of_a_backend_whose_names_take_a_while_to_resolve(shop: Discovered) -> None:
    """Envoy does not wait for the addresses of a cluster: one that took the place of another would be empty."""
    named = "        - {dns: {host: slow.test, port: %d}}\n"
    shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
    shop.write(named % shop.backend_port)
    shop.plane.start()
    with (
        Names(seconds=0.1) as names,
        HttpBackend("local", address="127.0.0.1", port=shop.backend_port),
        HttpBackend("other", address="127.0.0.1") as other,
    ):
        bootstrap = yaml.safe_load(shop.plane.bootstrap("edge-1", {"role": "edge"}))
        shop._envoy = Envoy({**bootstrap, "typed_dns_resolver_config": names.resolver()}).ready()
        shop.becomes("local")
        with shop.steady() as load:
            for members, more, name in (
                (named % other.port, "", "other"),
                (IN_EU, "", "a"),
                (named % other.port, "", "other"),
                (named % other.port, "      connectTimeout: 3s\n", "other"),
                (named % other.port, '  defaults: {retry: {budget: "30%"}}\n', "other"),
            ):
                shop.write(members, more)
                shop.becomes(name)
                load.during(300)


def test_a_service_turns_into_a_name_and_back(shop: Discovered) -> None:
    """`type: ExternalName` is a name that Envoy resolves."""
    port = free_port()
    other = HttpBackend("local", address="127.0.0.1", port=port)
    real = {"shop/catalog": shop.service("a") | {"ports": {"http": port}}}
    shop.plane.world[EU] = dict(real)
    shop.write(IN_EU.replace("8080", str(port)))
    shop.start()
    try:
        with shop.steady():
            shop.becomes("a")
            shop.plane.tell(EU, services={"shop/catalog": {"external": "localhost"}}, sure=True)
            shop.becomes("local")
            shop.plane.tell(EU, services=real, sure=True)
            shop.becomes("a")
    finally:
        other.__exit__(None, None, None)


def test_members_of_one_priority_share_by_their_weights(shop: Discovered) -> None:
    """The weight is the member's, however many endpoints it has."""
    shop.plane.world[EU] = {"shop/catalog": shop.service("a", "b", "c")}
    shop.plane.world[US] = {"shop/catalog": shop.service("d")}
    shop.write(IN_EU + IN_US.replace("priority: 1", "weight: 3"))
    shop.start()
    shop.becomes("a", "b", "c", "d")
    counts = shop.counts(400)
    assert 240 <= counts["d"] <= 360, counts


def test_near_endpoints_come_first(shop: Discovered) -> None:
    """`failover.within`: the proxy's own zone, then its region, then the rest; for each proxy its own order."""
    places = {"a": ("here", "one"), "b": ("here", "two"), "c": ("there", "one")}

    def service(*names: str) -> dict[str, Any]:
        found = shop.service(*names)
        for endpoint, name in zip(found["endpoints"], names, strict=True):
            endpoint["region"], endpoint["zone"] = places[name]
        return found

    shop.plane.world[EU] = {"shop/catalog": service("a", "b", "c")}
    shop.write(more="      failover: {within: [zone, region]}\n")
    shop.plane.start()
    content = yaml.safe_load(shop.plane.bootstrap("edge-1", {"role": "edge"}))
    content["node"]["locality"] = {"region": "here", "zone": "one"}
    shop._envoy = Envoy(content).ready()
    with shop.steady() as load:
        shop.becomes("a")
        shop.plane.tell(EU, services={"shop/catalog": service("b", "c")}, sure=True)
        shop.becomes("b")
        shop.plane.tell(EU, services={"shop/catalog": service("c")}, sure=True)
        shop.becomes("c")
        shop.plane.tell(EU, services={"shop/catalog": service("a", "b", "c")}, sure=True)
        shop.becomes("a")
        shop.write()  # without an order by place, all are used
        shop.becomes("a", "b", "c")
        load.during(20)


def test_sources_are_shown(shop: Discovered) -> None:
    shop.plane.world[EU] = {"shop/catalog": shop.service("a", "b")}
    shop.write()
    shop.plane.start()
    shop.plane.tell(US, fail="connection refused")
    command = [sys.executable, "-m", "controlplane", "sources", "--admin", shop.plane.admin_address]

    def shown() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE).stdout

    text = until(lambda: found if "connection refused" in (found := shown()) else "", "the failure is shown")
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert rows["files"][1] == "works"
    assert rows[EU][1:2] + rows[EU][3:8] == ["works", "0", "0", "1", "2", "0"]
    assert rows[US][1] == "failed"


@pytest.mark.parametrize("how", ["emptied", "replaced"])
def test_an_empty_folder_of_specs_is_doubted(tmp_path: Path, how: str) -> None:
    """A mount that came back empty must not take down every gateway; what comes back is believed."""
    shop = Discovered(tmp_path / "plane", {"guards": {"hold": "1h"}})
    try:
        shop.plane.world[EU] = {"shop/catalog": shop.service("a")}
        shop.write()
        for number in range(3):
            other = GATEWAY.replace("name: shop, ", f"name: other-{number}, ").replace(
                "shop.example.com", f"{number}.example.com"
            )
            shop.plane.write(f"{number}.yaml", other % {"port": shop.port, "members": IN_EU, "more": ""})
        shop.start()
        with shop.steady() as load:
            shop.becomes("a")
            away = tmp_path / "away"
            if how == "replaced":
                shop.plane.specs.rename(away)
                shop.plane.specs.mkdir()
            else:
                shutil.copytree(shop.plane.specs, away)
                with shop.plane.paused():
                    for file in list(shop.plane.specs.iterdir()):
                        file.unlink()
            # Files that go from a folder are held by the guard; another folder without any is not believed at all.
            code, held = ("GW0302", 0) if how == "replaced" else ("GW0311", 4)
            until(lambda: code in {one["code"] for one in shop.plane.json("/v1/problems")["problems"]}, "it is said")
            shop.plane.source_becomes("files", "nothing is taken away", heldObjects=held)
            load.during(50)
            for file in away.iterdir():
                shutil.copy(file, shop.plane.specs / file.name)
            shop.plane.source_becomes("files", "it is there again", heldObjects=0, failure=None)
            load.during(20)
    finally:
        shop.close()
