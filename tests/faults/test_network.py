"""Connections that fall silent, processes that freeze, descriptors that run out: no request fails, and all recover."""

from __future__ import annotations

import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import yaml

from controlplane.bootstrap import Variant
from controlplane.xds import types
from tests.e2e.plane import Plane, answers, forward, gateway, respond, static
from tests.e2e.raw import Client, Live
from tests.support.backends import HttpBackend
from tests.support.client import Connection
from tests.support.load import Load
from tests.support.load import answers as answered
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        yield plane


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def impatient(bootstrap: str, *ports: int, interval: str = "2s", timeout: str = "1s") -> str:
    """The bootstrap of a proxy that pings so often, and knows the control plane at these ports of loopback."""
    document = yaml.safe_load(bootstrap)
    (cluster,) = document["static_resources"]["clusters"]
    options = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"] = {
        "interval": interval,
        "timeout": timeout,
    }
    cluster["connect_timeout"] = "1s"
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": one}} for one in addresses]}]
    return yaml.safe_dump(document)


def written(plane: Plane, port: int, body: str) -> None:
    plane.write(gateway(port=port, routes=[respond("main", "/", body)]))


def load(port: int) -> Load:
    return Load(lambda: Connection(port), answered("/", "example.com"))


@pytest.mark.envoy
def test_what_is_lost_on_the_way_is_noticed_and_made_up_for(plane: Plane) -> None:
    """No reset, no end: the proxy's own pings find out, and it comes back for what it missed."""
    port = free_port()
    written(plane, port, "first")
    plane.start().ready()
    with Relay(port_of(plane.xds)) as relay:
        plane.envoy(bootstrap=impatient(plane.bootstrap(), relay.port)).ready()
        until(lambda: answers(port, "first"), "it answers")
        with load(port):
            for body in ("second", "third"):
                relay.fall_silent()
                written(plane, port, body)
                until(lambda body=body: answers(port, body), "it has what it missed")


@pytest.mark.envoy
def test_a_state_of_the_world_proxy_that_missed_a_rename_fails_no_request_when_it_comes_back(plane: Plane) -> None:
    """It is told of the new cluster and its endpoints before its routes, and of what is gone after them."""
    port = free_port()

    def renamed(name: str) -> None:
        plane.write(gateway(port=port, routes=[forward("main", "/", name)], backends=[static(name, backend.port)]))

    with HttpBackend("backend") as backend:
        renamed("before")
        plane.start().ready()
        with Relay(port_of(plane.xds)) as relay:
            document = yaml.safe_load(impatient(plane.bootstrap(), relay.port))
            document["dynamic_resources"]["ads_config"]["api_type"] = Variant.SOTW.value
            envoy = plane.envoy(bootstrap=yaml.safe_dump(document)).ready()
            until(lambda: answers(port), "it answers")
            with load(port):
                relay.flip(None)
                edits = len(plane.json("/v1/changes")["changes"])
                renamed("after")
                until(lambda: len(plane.json("/v1/changes")["changes"]) > edits, "it is renamed")
                relay.flip(port_of(plane.xds))
                until(lambda: "/before::" not in envoy.admin("/clusters"), "it has what changed")


@pytest.mark.envoy
@pytest.mark.parametrize("seconds", [6.0, pytest.param(90.0, marks=pytest.mark.soak)])
def test_a_frozen_control_plane_fails_no_request_and_goes_on_where_it_was(plane: Plane, seconds: float) -> None:
    port = free_port()
    written(plane, port, "first")
    plane.start().ready()
    plane.envoy(bootstrap=impatient(plane.bootstrap(), port_of(plane.xds))).ready()
    until(lambda: answers(port, "first"), "it answers")
    with load(port) as requests:
        plane.child.send(signal.SIGSTOP)
        written(plane, port, "second")
        thaw = time.monotonic() + seconds
        until(lambda: time.monotonic() > thaw, "the time is over", seconds + PATIENCE)
        requests.during(100)
        assert answers(port, "first")
        plane.child.send(signal.SIGCONT)
        until(lambda: answers(port, "second"), "it has what changed")
    plane.child.check()


@pytest.mark.envoy
def test_proxies_leave_a_frozen_replica_for_another(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Plane(tmp_path / "one") as one, Plane(tmp_path / "two") as two:
        for plane in (one, two):
            written(plane, port, "first")
            plane.start().ready()
        one.envoy(bootstrap=impatient(one.bootstrap(), port_of(one.xds), port_of(two.xds))).ready()
        until(lambda: answers(port, "first"), "it answers")
        here, there = (one, two) if one.json("/v1/nodes")["nodes"] else (two, one)
        with load(port):
            here.child.send(signal.SIGSTOP)
            until(lambda: there.json("/v1/nodes")["nodes"], "it is at the other")
            written(there, port, "second")
            until(lambda: answers(port, "second"), "the other serves it")
            here.child.send(signal.SIGCONT)


@pytest.mark.envoy
def test_a_frozen_proxy_holds_up_nobody_and_gets_the_newest_when_it_thaws(plane: Plane) -> None:
    frozen_port, port = free_port(), free_port()
    plane.write(gateway("frozen", port=frozen_port, role="frozen"), file="frozen.yaml")
    written(plane, port, "0")
    plane.start().ready()
    frozen = plane.envoy("frozen", role="frozen").ready()
    plane.envoy("quick").ready()
    until(lambda: answers(port, "0") and answers(frozen_port, "frozen"), "both answer")
    frozen.send(signal.SIGSTOP)
    for number in range(1, 11):
        route = respond("main", "/", f"{number} " + "x" * 3_000)
        plane.write(gateway("frozen", port=frozen_port, role="frozen", routes=[route]), file="frozen.yaml")
        written(plane, port, str(number))
        until(lambda number=number: answers(port, str(number)), "the other is served", 20)
    frozen.send(signal.SIGCONT)
    until(lambda: answers(frozen_port, "10 " + "x" * 3_000), "it has the newest")


@pytest.mark.envoy
@pytest.mark.soak
def test_a_proxy_that_stood_still_while_its_backend_was_renamed_fails_no_request(plane: Plane) -> None:
    """Its stream is given up meanwhile: it reads what is left in its buffer, and that must not be half of a change."""
    port = free_port()
    with HttpBackend("backend") as backend:
        for name in ("before", "after"):
            plane.write(gateway(port=port, routes=[forward("main", "/", name)], backends=[static(name, backend.port)]))
            if name == "before":
                envoy = plane.start().ready().envoy().ready()
                until(lambda: answers(port), "it answers")
                envoy.send(signal.SIGSTOP)
        until(lambda: not plane.json("/v1/nodes")["nodes"], "its stream is given up")
        envoy.send(signal.SIGCONT)
        with load(port):
            until(lambda: "/before::" not in envoy.admin("/clusters"), "it has what changed")


@pytest.mark.envoy
def test_two_proxies_that_share_an_id_are_both_served_and_pointed_out(plane: Plane) -> None:
    port = free_port()
    written(plane, port, "first")
    plane.start().ready()
    plane.envoy("twin").ready()
    until(lambda: answers(port, "first"), "it answers")
    assert [one["shared"] for one in plane.json("/v1/nodes")["nodes"]] == [False]
    # The second one cannot listen on the same port: what it has taken over shows that it is served.
    second = plane.envoy("twin")
    until(lambda: [one["shared"] for one in plane.json("/v1/nodes")["nodes"]] == [True, True], "they are pointed out")
    second.stop()
    until(lambda: [one["shared"] for one in plane.json("/v1/nodes")["nodes"]] == [False], "one has left")
    written(plane, port, "second")
    until(lambda: answers(port, "second"), "the other is served")


def test_without_descriptors_nobody_is_let_in_and_nobody_falls(plane: Plane) -> None:
    """And the process does not spin."""
    written(plane, free_port(), "first")
    plane.start().ready()
    process = psutil.Process(plane.child.pid)
    with ExitStack() as stack:
        client = stack.enter_context(Client(plane, None, labels={"role": "edge"}, tls=False))
        live = Live(client, types.SCOPED_ROUTES)
        live.receive()
        limit = process.num_fds() + 4
        before = process.rlimit(resource.RLIMIT_NOFILE)
        process.rlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        crowd = ExitStack()
        for _ in range(40):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port_of(plane.xds)), 5))
        until(lambda: process.num_fds() >= limit - 1, "there is no descriptor left")
        used = process.cpu_times()
        written(plane, free_port(), "second")
        assert b"second" in live.receive().SerializeToString()
        with pytest.raises(TimeoutError):
            until(lambda: not plane.child.running, "it ends", 2.0)
        now = process.cpu_times()
        assert now.user + now.system - used.user - used.system < 1.0
        crowd.close()
        process.rlimit(resource.RLIMIT_NOFILE, before)
        other = stack.enter_context(Client(plane, None, "n2", labels={"role": "edge"}, tls=False))
        assert other.ask(types.LISTENER)
        assert live.open
        live.close()
