"""The end of a control plane, asked for or not, is nobody's failed request; and its beginning serves nothing half."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Self

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.xds import types
from tests.e2e.plane import Plane, answers, gateway, respond
from tests.e2e.raw import Client, Live
from tests.support.certificates import authority
from tests.support.client import Connection, trusting
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        yield plane


class Load:
    """Requests without a pause, half of them on new connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(keep,)) for keep in (True, False)]

    def _run(self, keep: bool) -> None:
        connection = Connection(self._port)
        while not self._stop.is_set():
            try:
                found = connection.request("/", "example.com")
                if found.status != 200:
                    self.failures.append(str(found.status))
                self.answered += 1
                if not keep:
                    connection.close()
                    connection = Connection(self._port)
            except OSError as error:
                self.failures.append(repr(error))
                connection = Connection(self._port)
            self._stop.wait(0.002)
        connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.envoy
@pytest.mark.parametrize("crashes", [5, pytest.param(20, marks=pytest.mark.soak)])
def test_crashes_and_restarts_under_load_fail_no_request(plane: Plane, crashes: int) -> None:
    port = free_port()
    plane.write(gateway(port=port))
    envoy = plane.start().ready().envoy().ready()
    until(lambda: answers(port, "edge"), "it answers")
    plane.kept()
    with Load(port) as load:
        for _ in range(crashes):
            plane.kill()
            plane.start().ready()
        version = plane.version()
        until(lambda: [one["settled"] for one in plane.json("/v1/nodes")["nodes"]], "the proxy is back")
        before = load.answered
        until(lambda: load.answered > before + 20, "the load goes on")
    assert load.failures == []
    assert plane.version() == version
    assert envoy.stats("listener_manager.listener_(modified|removed)") == {
        "listener_manager.listener_modified": 0,
        "listener_manager.listener_removed": 0,
    }


@pytest.mark.envoy
def test_connections_to_where_a_listener_was_are_answered_after_crashes(plane: Plane) -> None:
    """Envoy drains them for ten minutes, and what answers them is in no spec. Killed at once, and when the edit is on disk."""

    def listens(port: int, body: str) -> None:
        plane.write(gateway(port=port, routes=[respond("main", "/", body)]))
        until(lambda: answers(port, body), "it answers there")

    ports = [free_port() for _ in range(5)]
    plane.write(gateway(port=ports[0]))
    plane.start().ready().envoy().ready()
    with ExitStack() as stack:
        open_ones: list[Connection] = []
        for number, (before, port) in enumerate(pairwise(ports)):
            listens(before, f"number {number}")
            open_ones.append(stack.enter_context(Connection(before)))
            assert open_ones[-1].request("/", "example.com").status == 200
            listens(port, "moved")
            if number % 2:
                until(lambda port=port: str(port) in plane.kept_text(), "the edit is on disk")  # type: ignore[misc]
            plane.kill()
            plane.start().ready()
        listens(ports[-1], "after all")
        found = [(answer.status, answer.body) for answer in (one.request("/", "example.com") for one in open_ones)]
    assert found == [(200, b"after all")] * 4


@pytest.mark.envoy
def test_connections_with_a_certificate_that_got_another_name_are_answered_after_a_crash(plane: Plane) -> None:
    port, host = free_port(), "tls.example.com"
    for name in ("former", "present"):
        authority().leaf(host).write(plane.secrets, name)

    def shows(certificate: str, body: str) -> None:
        entry = {"hosts": [host], "certificate": {"secretRef": certificate}}
        listener = {"name": "https", "port": port, "protocol": "HTTPS", "tls": [entry]}
        plane.write(gateway(listeners=[listener], routes=[respond("main", "/", body, [host])]))
        until(lambda: answered() == body.encode(), "it answers")

    def answered() -> bytes:
        try:
            with Connection(port, trusting(authority().pem), host) as connection:
                return connection.request("/", host).body
        except OSError:
            return b""

    plane.start().listening()
    plane.envoy()
    shows("former", "before")
    with Connection(port, trusting(authority().pem), host) as before:
        assert before.request("/", host).status == 200
        shows("present", "edited")
        until(lambda: "present" in plane.kept_text(), "the edit is on disk")
        plane.kill()
        plane.start().ready()
        shows("present", "after all")
        answer = before.request("/", host)
        assert (answer.status, answer.body) == (200, b"after all")


@pytest.mark.envoy
def test_sigterm_under_load_ends_in_time_and_fails_no_request(plane: Plane) -> None:
    port = free_port()
    plane.write(gateway(port=port))
    plane.start().ready().envoy().ready()
    until(lambda: answers(port, "edge"), "it answers")
    with Load(port) as load:
        assert plane.stop() == 0, "by itself"
        before = load.answered
        until(lambda: load.answered > before + 20, "the load goes on")
    assert load.failures == []
    assert [line["seconds"] for line in plane.said("draining")] == [8.0]
    assert plane.said("stopped")
    assert "Traceback" not in plane.output()


def test_the_end_takes_as_long_as_is_configured_and_removes_nothing(tmp_path: Path) -> None:
    configuration = tmp_path / "controlplane.yaml"
    configuration.write_text("shutdown: {within: 2s}\n")
    with Plane(tmp_path, "--config", str(configuration)) as plane:
        plane.write(gateway())
        plane.start().ready()
        with Client(plane, None, labels={"role": "edge"}, tls=False) as client:
            live = Live(client)
            assert live.receive().resources
            assert plane.stop() == 0, "though the client keeps its stream open"
            assert [line["seconds"] for line in plane.said("draining")] == [1.6]
            with pytest.raises(StopIteration):  # nothing was said any more, and the end is a good one
                live.next()
            assert live.ended()[0] is grpc.StatusCode.OK


def test_nothing_is_served_before_everything_was_compiled_once(plane: Plane) -> None:
    plane.specs.rmdir()
    plane.start().listening()
    with grpc.insecure_channel(plane.xds) as channel:
        assert plane.get("/readyz")[0] == 503
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=types.LISTENER, node={"id": "n"})
        call = channel.stream_stream(DELTA)(iter([request.SerializeToString()]), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "not ready" in refused.value.details()


@pytest.mark.envoy
def test_a_proxy_that_was_there_first_is_served_once_there_is_something(plane: Plane) -> None:
    """Nothing half: it has no listener until the first complete configuration."""
    port = free_port()
    plane.specs.rmdir()
    plane.start().listening()
    envoy = plane.envoy()
    until(lambda: _refused(envoy), "its stream is refused")
    assert envoy.admin("/listeners") == ""
    plane.write(gateway(port=port, routes=[respond("main", "/", "first")]))
    until(lambda: answers(port, "first"), "it answers")


def _refused(envoy: Envoy) -> bool:
    try:
        return sum(envoy.stats("control_plane.connected_state|cluster.xds.upstream_rq_total").values()) > 0
    except OSError:  # it has not started yet
        return False


def test_a_signal_while_it_starts_ends_it(plane: Plane) -> None:
    plane.write(gateway())
    plane.start()
    assert plane.stop() in {0, -15}
    assert "Traceback" not in plane.output()
