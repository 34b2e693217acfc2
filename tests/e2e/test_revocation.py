"""Who is not welcome any more loses its live streams within seconds and does not come back; all others stay."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from controlplane.pki.authority import Authority
from controlplane.xds import types
from tests.e2e.commands import controlplane
from tests.e2e.plane import Plane, answers, gateway, respond
from tests.e2e.raw import Client, Live, issued
from tests.support.certificates import Pair
from tests.support.clock import Clock
from tests.support.ports import free_port
from tests.support.waiting import until

DENIED = grpc.StatusCode.PERMISSION_DENIED
SECRETS = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def plane(tmp_path: Path, clock: Clock) -> Iterator[Plane]:
    with Plane(tmp_path, insecure=False, **clock.environment) as plane:
        plane.write(gateway(port=free_port()))
        yield plane.start().ready()


def pki(plane: Plane, command: str, *arguments: str) -> str:
    """A command of the authority's, which must succeed; what it says to people."""
    done = controlplane("pki", command, "--state", str(plane.state), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def serial(pair: Pair) -> str:
    return f"{x509.load_pem_x509_certificate(pair.certificate).serial_number:x}"


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_a_revoked_node_loses_its_streams_and_does_not_come_back(plane: Plane, delta: bool) -> None:
    with (
        Client(plane, issued(plane, "n1", role="edge"), delta=delta) as client,
        Client(plane, issued(plane, "n2", role="edge"), "n2") as other,
    ):
        stays, aggregated = Live(other), Live(client)
        aggregated.receive()
        streams = [aggregated]
        if delta:
            streams.append(Live(client, types.SECRET, method=SECRETS))  # nothing to say to it, and ended all the same
        stays.receive()
        until(lambda: len(plane.json("/v1/nodes")["nodes"]) == 1 + len(streams), "they are connected")
        assert "denied node n1" in pki(plane, "revoke", "--node-id", "n1", "--reason", "stolen")
        for stream in streams:
            assert stream.ended() == (DENIED, "the client certificate is revoked")
        for url in (types.LISTENER, types.SECRET):
            assert client.refusal(url) is DENIED
        with Client(plane, issued(plane, "n1", role="edge")) as renewed:
            assert renewed.refusal() is DENIED
        assert stays.open
        assert plane.metric("controlplane_refused_identities_total") >= 2
        assert "lifted node n1" in pki(plane, "revoke", "--node-id", "n1", "--lift")
        until(lambda: _let_in(client), "it is let in again")
        assert stays.open


def _let_in(client: Client) -> bool:
    live = Live(client)
    try:
        return bool(live.receive())
    except grpc.RpcError:
        return False
    finally:
        live.close()


def _serials(plane: Plane) -> list[str]:
    """The certificates of who is connected."""
    return [one["certificate"]["serial"] for one in plane.json("/v1/nodes")["nodes"] if one["certificate"]]


def test_one_certificate_of_a_node_is_revoked(plane: Plane) -> None:
    stolen, good = issued(plane, role="edge"), issued(plane, role="edge")
    with Client(plane, stolen) as thief, Client(plane, good) as client:
        bad, live = Live(thief), Live(client)
        bad.receive(), live.receive()
        pki(plane, "revoke", "--serial", serial(stolen))
        assert bad.ended()[0] is DENIED
        assert thief.refusal() is DENIED
        assert live.open
        until(lambda: _serials(plane) == [serial(good)], "the other one is connected alone")


def test_a_certificate_that_ends_takes_its_streams_with_it(plane: Plane, clock: Clock) -> None:
    """Else a stolen one would read on for as long as its stream lives. A renewed one is let in at once."""
    made = Authority.open(plane.state).issue_node("n1", "edge", {"role": "edge"}, timedelta(hours=1))
    with Client(plane, Pair(made.certificate, made.key)) as client:
        live = Live(client)
        live.receive()
        assert 0 < plane.metric("controlplane_node_certificate_seconds") <= 3600
        clock.jump(timedelta(hours=2))
        assert live.ended()[0] is DENIED
    with Client(plane, issued(plane, role="edge")) as client:
        assert client.ask(types.LISTENER)


def test_streams_of_a_distrusted_authority_end(plane: Plane) -> None:
    before = issued(plane, "n1", role="edge")
    with Client(plane, before) as client:
        live = Live(client)
        live.receive()
        done = controlplane("pki", "rotate", "--state", str(plane.state))
        with Client(plane, issued(plane, "n2", role="edge"), "n2") as renewed:
            stays = Live(renewed)
            stays.receive()
            assert live.open  # both are trusted
            pki(plane, "rotate", "--distrust", done.stdout.strip())
            assert live.ended()[0] is DENIED
            assert stays.open
        assert client.refusal() in {DENIED, grpc.StatusCode.UNAVAILABLE}  # on the old connection; on a new one


def test_a_damaged_deny_list_lets_nobody_in_and_is_reported(plane: Plane) -> None:
    file = plane.state / "denied"
    with Client(plane, issued(plane, "n1", role="edge")) as client:
        pki(plane, "revoke", "--node-id", "n1")
        until(lambda: not _let_in(client), "it is denied")
        file.write_text("node n2\nnonsense\n")
        found = plane.problem(lambda one: one["code"] == "GW0306", "the list is reported")
        assert f"{file}:2" in found["message"]
        assert client.refusal() is DENIED
        file.write_text("")
        until(lambda: not plane.problems(), "it is whole again")
        assert client.ask(types.LISTENER)


def test_a_node_that_changes_is_checked_again(plane: Plane) -> None:
    with Client(plane, issued(plane, "n1", role="edge")) as client:
        live = Live(client)
        assert live.receive().resources
        live.send(types.LISTENER, metadata={"labels": {"role": "another"}})  # its metadata narrows what it sees
        assert live.receive().removed_resources
        live.send(types.LISTENER, id="n2")
        assert live.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.envoy
def test_a_revoked_proxy_goes_on_with_what_it_has(plane: Plane) -> None:
    port = free_port()
    plane.write(gateway(port=port))
    envoy = plane.envoy("n1").ready()
    until(lambda: answers(port, "edge"), "it answers")
    pki(plane, "revoke", "--node-id", "n1")
    until(lambda: not plane.json("/v1/nodes")["nodes"], "its stream has ended")
    (row,) = plane.json("/v1/nodes/status")["rows"]
    assert (row["state"], row["detail"]) == ("gone", "the client certificate is revoked")
    plane.write(gateway(port=port, routes=[respond("main", "/", "secret")]))
    plane.barrier()
    until(lambda: envoy.stats("cluster.xds.upstream_rq_total")["cluster.xds.upstream_rq_total"] > 1, "it came back")
    assert answers(port, "edge")
    pki(plane, "revoke", "--node-id", "n1", "--lift")
    until(lambda: answers(port, "secret"), "it is served again")


@pytest.mark.envoy
def test_a_proxy_renews_its_certificate_from_files_and_never_restarts(
    plane: Plane, clock: Clock, tmp_path: Path
) -> None:
    """The stream ends with the old certificate, and comes back with the new one."""
    port, folder = free_port(), tmp_path / "certs"
    plane.write(gateway(port=port))
    node = ("--state", str(plane.state), "--node-id", "n1", "--node-cluster", "edge", "--label", "role=edge")
    done = controlplane("bootstrap", *node, "--xds", plane.xds, "--certificates", str(folder), "--lifetime", "1h")
    assert done.returncode == 0, done.stderr
    assert "PRIVATE KEY" not in done.stdout
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    envoy = plane.envoy(bootstrap=done.stdout).ready()
    until(lambda: answers(port, "edge"), "it answers")
    (first,) = _serials(plane)
    assert controlplane("pki", "issue", *node, "--out", str(folder)).returncode == 0
    clock.jump(timedelta(hours=2))

    def renewed() -> bool:
        found = _serials(plane)
        return bool(found) and found != [first]

    until(renewed, "it came back with the new one")
    plane.write(gateway(port=port, routes=[respond("main", "/", "renewed")]))
    until(lambda: answers(port, "renewed"), "it is served")
    assert envoy.stats("listener_manager.listener_(modified|removed)") == {
        "listener_manager.listener_modified": 0,
        "listener_manager.listener_removed": 0,
    }
