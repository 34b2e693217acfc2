"""Faults of clouds, seen from the requests of a backend that has members in four of them: none may fail."""

from __future__ import annotations

import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from tests.e2e.clouds import CRDS, EU, NUMBER, PORT, SHOP, TEAM, US, Clouds, clouds
from tests.e2e.plane import answers, respond
from tests.support.client import Connection
from tests.support.liar import Liar, Lie
from tests.support.load import Load
from tests.support.load import answers as always
from tests.support.relay import Pace
from tests.support.waiting import until

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with clouds(tmp_path_factory.mktemp("clouds")) as found:
        yield found


@pytest.fixture
def here(places: Clouds) -> Clouds:
    places.healthy()
    return places


def test_one_place_after_the_other_and_back(here: Clouds) -> None:
    """By health, by existence, by a check; the last level is a name that Envoy resolves."""
    with here.load(SHOP) as load:
        here.pods("eu", others=["eu-1", "eu-2"])
        here.becomes("us-1", "us-2")
        load.during(50)
        here.pods("us", others=["us-1", "us-2"])
        here.becomes("dc-1")
        load.during(50)
        here.consul.check("web", "dc-1", "critical")
        here.becomes("dns")
        load.during(50)
        here.consul.check("web", "dc-1", "passing")
        here.becomes("dc-1")
        load.during(50)
        here.pods("us", "us-1", "us-2")
        here.becomes("us-1", "us-2")
        load.during(50)
        here.pods("eu", "eu-1", "eu-2")
        here.becomes("eu-1", "eu-2")


def test_endpoints_that_die_while_nobody_can_say_so(here: Clouds) -> None:
    """A whole cloud is gone, pods and API server: what was known of it stays, and Envoy goes on to the next level."""
    with here.load() as load:
        here.eu.kill()
        here.close("eu-1", "eu-2")
        here.becomes("us-1", "us-2")
        until(lambda: not here.up("kubernetes/eu"), "it is said")
        load.during(100)
        assert here.source("kubernetes/eu")["endpoints"] == 2
        here.open("eu-1", "eu-2")
        here.eu.start()
        here.becomes("eu-1", "eu-2")


def test_equal_names_are_different_services(here: Clouds) -> None:
    with here.load(US) as load:
        here.pods("eu", "eu-2")
        here.becomes("eu-2", host=EU)
        assert here.served(US) == {"us-1", "us-2"}
        here.eu.delete("Service", "web", "shop")
        here.eu.delete("EndpointSlice", "web-1", "shop")
        here.becomes("503", host=EU)
        here.becomes("us-1", "us-2")
        load.during(50)


def test_a_second_port_makes_people_name_the_first(here: Clouds) -> None:
    """The service says the other name before its slices do. Who asks for the port by its number is served all the time."""
    with here.load(NUMBER) as load:
        here.us.service("shop", "web", {"web": 80, "metrics": 90})
        load.during(50)
        here.pods("us", "us-1", "us-2", port="web")
        here.becomes("503", host=US)  # by its former name there is none any more
        load.during(50)
        here.pods("us", "us-1", port="web")
        here.becomes("us-1", host=NUMBER)
        load.during(50)


def test_a_namespace_that_is_deleted_and_made_again(here: Clouds) -> None:
    """Explicit deletions of a cluster that works are believed at once, however many; the next level has them all."""
    with here.load() as load:
        for kind in ("EndpointSlice", "Service"):
            here.eu.delete_all(kind, "shop")
        here.becomes("us-1", "us-2")
        load.during(50)
        here.eu.service("shop", "web")
        here.pods("eu", "eu-1", "eu-2")  # other objects of the same names, with uids of their own
        here.becomes("eu-1", "eu-2")


def test_the_definition_of_specs_is_removed_and_made_again(here: Clouds) -> None:
    """With it all its objects are gone at once. They stay in force until they are back, and then are what they are."""
    route = {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "RouteSpec"}

    def write(*names: str) -> None:
        for name in names:
            body = {"gateway": "platform/edge", "routes": [respond(name, f"/{name}", name, [TEAM])]}
            here.eu.create({**route, "metadata": {"namespace": "team", "name": name}, "spec": body})

    def answered(name: str) -> bool:
        return answers(here.port, name, f"/{name}", host=TEAM)

    write("a", "b")
    until(lambda: answered("a") and answered("b"), "both answer")
    with here.load() as load, Load(lambda: Connection(here.port), always("/a", TEAM), always("/b", TEAM)) as team:
        here.eu.delete("CustomResourceDefinition", "routespecs.gatewayspec.dev")
        here.plane.problem(lambda one: one["code"] == "GW0305", "it is said")
        team.during(50)
        here.eu.define(*(yaml.safe_load(file.read_text()) for file in CRDS.glob("*routespecs*")))
        write("a", "b", "c")
        until(lambda: answered("c"), "it goes on")
        load.during(50)
    here.eu.delete("RouteSpec", "a", "team")
    until(lambda: answers(here.port, path="/a", status=404, host=TEAM), "a single deletion counts")
    for name in "bc":
        here.eu.delete("RouteSpec", name, "team")


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_a_server_that_dies_again_and_again_causes_no_push(here: Clouds, times: int) -> None:
    """F25: as long as nothing has changed, proxies are told nothing."""
    with here.load() as load:
        pushes = here.settled()
        for _ in range(times):
            here.eu.kill()
            until(lambda: not here.up("kubernetes/eu"), "it is said")
            load.during(20)
            here.eu.start()
            until(lambda: here.up("kubernetes/eu"), "it is read again")
        assert here.pushes() == pushes
        here.pods("eu", "eu-1")
        here.becomes("eu-1")


@pytest.mark.soak
def test_a_server_that_is_frozen_for_minutes_causes_no_push(here: Clouds) -> None:
    """Its connections stay open, and nothing comes: noticed by a deadline."""
    with here.load():
        pushes = here.settled()
        here.eu.freeze()
        try:
            until(lambda: not here.up("kubernetes/eu"), "it is said", step=0.1)
            end = time.monotonic() + 120
            until(lambda: time.monotonic() > end, "two minutes pass", 130, 0.5)
        finally:
            here.eu.thaw()
        until(lambda: here.up("kubernetes/eu"), "it is read again")
        assert here.pushes() == pushes
        here.pods("eu", "eu-1")
        here.becomes("eu-1")


@pytest.mark.parametrize("pace", [Pace(5.0), Pace(1.0, 1)], ids=["5 s late", "1 byte/s"])
def test_a_slow_source_holds_up_no_other(here: Clouds, pace: Pace) -> None:
    """F41: changes of another cluster, and of Consul, take as long as before."""

    with here.load(SHOP):
        before = here.changing(8)
        here.relay.slow_down(pace)
        slow = here.changing(8)
        here.consul.check("web", "dc-1", "warning")
    assert slow < before + 2.5, "half of what an answer of the slow one takes"


LIES = (
    Lie(401, b"Unauthorized"),
    Lie(body=b'{"metadata":{"resourceVersion":"7"},"items":[{"metad', missing=100),
    Lie(410, b'{"kind":"Status","code":410,"message":"too old resource version"}'),
    Lie(403, b"no such right"),
    Lie(body=b"<html>"),
    Lie(500, b"oops"),
    Lie(302, headers=(("Location", "http://127.0.0.1:1/"),)),
    Lie(503),
    Lie(body=b"null"),
    Lie(429, headers=(("Retry-After", "1"),)),
    Lie(),
)


def test_an_api_server_that_answers_nonsense(here: Clouds, tmp_path: Path) -> None:
    with here.load(SHOP, EU) as load, Liar(LIES, tmp_path, here.eu.authority) as liar:
        pushes = here.settled()
        here.relay.flip(liar.port)
        until(lambda: liar.asked > 2 * len(LIES), "every kind of nonsense has been answered")
        assert here.source("kubernetes/eu")["failure"] is not None
        load.during(300)
        here.relay.flip(here.eu.port)
        until(lambda: here.up("kubernetes/eu"), "it is read again")
        assert here.pushes() == pushes
        here.pods("eu", "eu-1")
        here.becomes("eu-1", host=EU)


def test_history_that_was_compacted_while_nobody_could_watch(here: Clouds) -> None:
    with here.load(SHOP, EU) as load:
        pushes = here.settled()
        here.relay.flip(None)
        until(lambda: here.source("kubernetes/eu")["failure"] is not None, "it is said")
        for number in range(20):
            here.eu.slice("many", "other-1", "other", [f"10.202.0.{number + 1}"], {"http": PORT})
        here.eu.compact()
        load.during(100)
        assert here.pushes() == pushes
        here.pods("eu", "eu-1")
        here.relay.flip(here.eu.port)
        here.becomes("eu-1", host=EU)


def test_a_consul_that_answers_nonsense(here: Clouds, tmp_path: Path) -> None:
    here.pods("eu")
    here.pods("us")
    here.becomes("dc-1")
    with here.load(SHOP) as load, Liar(LIES, tmp_path) as liar:
        pushes = here.settled()
        here.way_to_consul.flip(liar.port)
        until(lambda: liar.asked > 2 * len(LIES), "every kind of nonsense has been answered")
        assert here.source("consul/dc")["failure"] is not None
        load.during(300)
        here.way_to_consul.flip(here.consul.port)
        until(lambda: here.up("consul/dc"), "it is read again")
        assert (here.pushes(), here.served()) == (pushes, {"dc-1"})
    here.consul.check("web", "dc-1", "critical")
    here.becomes("dns")


def test_a_certificate_of_the_server_that_has_expired(here: Clouds) -> None:
    with here.load() as load:
        pushes = here.settled()
        here.eu.kill()
        here.eu.certify(here.eu.authority.leaf("127.0.0.1", "localhost", life=timedelta(hours=-1)))
        here.eu.launch()
        until(lambda: "expired" in (here.source("kubernetes/eu")["failure"] or ""), "it is said")
        load.during(50)
        here.eu.kill()
        here.eu.certify()
        here.eu.start()
        until(lambda: here.up("kubernetes/eu"), "it is read again")
        assert here.pushes() == pushes


def _runs_on(here: Clouds, load: Load) -> None:
    """What ran in the first cluster; more reads agree that it is gone, for they are of the same disk. What comes back is what it is."""
    until(lambda: "went back" in (here.source("kubernetes/eu")["failure"] or ""), "it is said")
    here.list_twice()
    here.becomes("eu-1", "eu-2", host=EU)
    load.during(200)
    here.furnish("eu")
    here.pods("eu", "eu-2")
    here.becomes("eu-2", host=EU)
    until(lambda: here.up("kubernetes/eu"), "it is read as before")


def test_a_cluster_whose_etcd_lost_its_disk_takes_nothing_away(here: Clouds) -> None:
    with here.load(SHOP, EU) as load:
        for _ in range(300):
            here.pods("eu", "eu-1", "eu-2")
        here.lose_disk()
        _runs_on(here, load)


def test_a_cluster_whose_etcd_lost_its_disk_while_nobody_watched_takes_nothing_away(here: Clouds) -> None:
    """The control plane was not there either: how far the cluster had come is on its own disk."""
    for number in range(300):  # more than an API server writes by itself
        made = here.eu.slice("many", "crowd-1", "crowd", [f"10.9.0.{number % 250 + 1}"], {"http": PORT})
    newest = made["metadata"]["resourceVersion"]
    with closing(sqlite3.connect(f"file:{here.plane.state / 'state.sqlite'}?mode=ro", uri=True)) as reader:
        told = f"SELECT version FROM told WHERE CAST(source AS TEXT) = 'kubernetes/eu' AND version >= {newest}"
        until(lambda: reader.execute(told).fetchone(), "it is noted how far the cluster has come")
    with here.load(SHOP, EU) as load:
        here.plane.kill()
        here.lose_disk()
        here.plane.start().ready()
        _runs_on(here, load)


def test_a_kubeconfig_that_is_broken_is_said_while_what_was_in_it_works(here: Clouds) -> None:
    def codes() -> set[str]:
        here.relay.cut()  # each request looks at the file
        return {one["code"] for one in here.plane.json("/v1/problems")["problems"]}

    good = here.kubeconfig.read_text()
    with here.load(SHOP, EU):
        try:
            here.kubeconfig.write_text(good[: len(good) // 2])
            until(lambda: "GW0315" in codes(), "it is said", step=1.0)
            here.pods("eu", "eu-1")
            here.becomes("eu-1", host=EU)
        finally:
            here.kubeconfig.write_text(good)
        until(lambda: "GW0315" not in codes(), "it is right again", step=1.0)


def test_the_control_plane_starts_while_a_place_is_gone(here: Clouds) -> None:
    """What it has stored of that place counts; the others are read; then the place comes back, and is believed."""
    here.pods("eu", "eu-2")
    here.becomes("eu-2")
    here.plane.kept()
    with here.load() as load:
        here.eu.kill()
        here.plane.kill()
        here.pods("us", "us-2")
        here.plane.start().ready()
        here.becomes("us-2", host=US)
        assert here.served() == {"eu-2"}
        assert here.source("kubernetes/eu")["endpoints"] == 1
        load.during(50)
        here.eu.start()
        here.pods("eu", "eu-1", "eu-2")
        here.becomes("eu-1", "eu-2")


def test_a_service_that_flaps_holds_up_no_other(here: Clouds) -> None:
    """F39: half of so many endpoints come and go all the time, in slices of a hundred, as fast as they can be written."""
    size = 10_000
    addresses = [f"10.201.{number // 250}.{number % 250 + 1}" for number in range(size)]

    def write(number: int, *, all_of_it: bool) -> None:
        listed = addresses[number * 100 : (number + 1) * 100]
        here.eu.slice("many", f"crowd-{number}", "crowd", listed if all_of_it else listed[::2], {"http": PORT})

    here.eu.service("many", "crowd")
    for number in range(size // 100):
        write(number, all_of_it=True)
    here.plane.write(here.gateway(crowd=True))
    until(lambda: here.source("kubernetes/eu")["endpoints"] == size + 2, "all of them are known")
    before = here.changing(8)

    stop, written = threading.Event(), 0

    def flap() -> None:
        nonlocal written
        while not stop.is_set():
            write(written % (size // 100), all_of_it=bool(written // (size // 100) % 2))
            written += 1

    flapping = threading.Thread(target=flap)
    with here.load():
        flapping.start()
        try:
            began, pushes, used = time.monotonic(), here.eds(), here.cpu_seconds()
            until(lambda: written >= 300, "much has happened")
            lasted, pushed, used = time.monotonic() - began, here.eds() - pushes, here.cpu_seconds() - used
            during = here.changing(8)
        finally:
            stop.set()
            flapping.join()
    print(
        f"{size} endpoints, {written} writes: {pushed / lasted:.1f} pushes/s, {used / lasted:.0%} of a core; "
        f"another service: {before * 1e3:.1f} ms before, {during * 1e3:.1f} ms meanwhile"
    )
    here.plane.write(here.gateway())
    here.eu.delete_all("EndpointSlice", "many")
    assert pushed <= 2 + lasted * 20_000 / size  # the first at once; that before the first may be counted late
    assert during < before + 2.5, (before, during)


def test_a_full_disk_stops_nothing(here: Clouds) -> None:
    """F11: neither state nor log can be written. What happens is served from memory."""
    pid = here.plane.child.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    with here.load() as load:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            here.pods("eu", "eu-2")
            here.becomes("eu-2")
            here.plane.write(here.gateway(crowd=True))
            until(lambda: answers(here.port, status=503, host="crowd.example.com"), "an edit is served")
            until(lambda: here.plane.json("/v1/sources")["state"]["degraded"], "it is said that it is not kept")
            load.during(100)
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        here.plane.write(here.gateway())
        until(lambda: answers(here.port, status=404, host="crowd.example.com"), "so is the next one")


@pytest.mark.parametrize("hours", [48, -48])
def test_a_clock_that_jumps_changes_nothing(here: Clouds, hours: int) -> None:
    """Forward, as after a sleep, and back, as when somebody sets it right: ages and waits do not hang on it."""
    with here.load() as load:
        pushes = here.settled()
        here.clock.jump(timedelta(hours=hours))
        try:
            here.eu.kill()
            until(lambda: not here.up("kubernetes/eu"), "a failure is noticed as always")
            load.during(50)
            assert 0 <= here.source("kubernetes/eu")["ageSeconds"] < 120
            here.eu.start()
            until(lambda: here.up("kubernetes/eu"), "and so is its end")
            assert here.pushes() == pushes
            here.pods("eu", "eu-1")
            here.becomes("eu-1")
        finally:
            here.clock.jump(timedelta())
        here.pods("eu", "eu-2")
        here.becomes("eu-2")
