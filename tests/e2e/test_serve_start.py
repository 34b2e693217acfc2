"""`serve` with each thing missing, in use or broken: one clear line and an exit code, or the last good state."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.plane import Plane, answers, gateway, respond
from tests.support.certificates import authority, write_secret
from tests.support.ports import free_port
from tests.support.waiting import until


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        plane.write(gateway())
        yield plane


def ended(plane: Plane, code: int, *words: str) -> None:
    """It ended with this code and one line that has these words."""
    assert plane.ended() == code
    said = plane.output().splitlines()
    assert len(said) == (2 if code == 64 else 1), said  # a usage error says where the help is
    assert said[0].startswith("error: ")
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--insecure", "--xds", "0.0.0.0:0"], ["insecure", "loopback", "0.0.0.0:0"]),
        (["--insecure", "--xds", "[::]:0"], ["insecure", "loopback"]),
        (["--admin", "0.0.0.0:0"], ["admin", "loopback"]),
        (["--xds", "nowhere"], ["HOST:PORT"]),
        (["--xds", "127.0.0.1:70000"], ["HOST:PORT"]),
    ],
)
def test_flags_that_cannot_be(plane: Plane, flags: list[str], words: list[str]) -> None:
    plane.insecure = False
    ended(plane.start(*flags), 64, *words)


def test_no_alarm_about_certificates_that_nobody_is_asked_for(plane: Plane) -> None:
    """manifests/monitoring/alerts.yaml has an alert on the time left: with `--insecure` it must not fire for ever."""
    plane.start().ready()
    assert "controlplane_node_certificate_seconds" not in plane.get("/metrics")[1]


def test_a_port_in_use(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended(plane.start("--admin", address), 2, "the admin API", address, "in use")
        plane_again = Plane(plane.folder)
        with plane_again:
            ended(plane_again.start("--xds", address), 2, "xDS", address, "in use")


def test_an_address_of_no_machine_here(plane: Plane) -> None:
    plane.insecure = False
    ended(plane.start("--xds", "192.0.2.1:0"), 2, "xDS", "192.0.2.1:0", "assign")


def test_a_state_folder_that_is_none(plane: Plane) -> None:
    plane.insecure = False
    plane.state.write_text("a file")
    plane.start()
    assert plane.ended() == 2
    assert "error: " in plane.output()
    assert "Traceback" not in plane.output()


@pytest.mark.parametrize("specs", ["missing", "a file"])
def test_specs_that_cannot_be_read_and_nothing_remembered(plane: Plane, specs: str) -> None:
    """It waits, says why, and serves as soon as they are there."""
    shutil.rmtree(plane.specs)
    if specs == "a file":
        plane.specs.write_text("x")
    plane.start().listening()
    until(lambda: plane.said("source failed", source="files"), "the failure is logged")
    status, reason = plane.get("/readyz")
    assert status == 503
    assert str(plane.specs) in reason
    assert plane.get("/healthz") == (200, "ok\n")
    if specs == "a file":
        plane.specs.unlink()
    plane.write(gateway())
    until(lambda: plane.get("/readyz") == (200, "ready\n"), "it is ready")
    assert plane.gateways() == ["platform/edge"]


def test_a_source_of_which_nothing_is_known_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    """Ready at once, a new replica would take what that source declares from every proxy that comes to it."""
    configuration = tmp_path / "controlplane.yaml"
    consul = f"sources: {{consul: [{{name: dc, address: 'http://127.0.0.1:{free_port()}', specs: gateways}}]}}\n"
    configuration.write_text(consul)
    unknown = "consul/dc (cannot connect"
    with Plane(tmp_path, "--config", str(configuration)) as plane:
        plane.write(gateway())
        plane.start().listening()
        until(lambda: plane.said("published"), "the specs of the folder are compiled")
        plane.write(gateway(routes=[respond("main", "/", "edited")]))
        until(lambda: len(plane.said("published")) > 1, "as they change")
        status, reason = plane.get("/readyz")
        assert (status, plane.said("ready")) == (503, [])
        assert unknown in reason
        assert "not all that it declares is known" in reason
        plane.kill()
        configuration.write_text(f"{consul}startup: {{deadline: 1s}}\n")
        plane.start().ready()
        (said,) = plane.said("startup deadline passed; serving the last known good state")
        assert said["not_all_of"] == ["consul/dc"]
        assert "not all that it declares is known" in plane.get("/readyz")[1]


def test_an_empty_folder_of_specs_is_ready(plane: Plane) -> None:
    shutil.rmtree(plane.specs)
    plane.specs.mkdir()
    plane.start().ready()
    assert plane.gateways() == []


def test_missing_secrets_are_said_once_and_hold_up_nothing(plane: Plane) -> None:
    shutil.rmtree(plane.secrets)
    plane.start().ready()
    assert "secrets" in plane.get("/readyz")[1]
    assert plane.gateways() == ["platform/edge"]


@pytest.mark.envoy
def test_everything_unreadable_after_a_restart(plane: Plane) -> None:
    """The last good state is served, to a proxy that starts now too, and the state of things is said."""
    port = free_port()
    plane.write(gateway(port=port))
    plane.start().ready()
    version = plane.version()
    plane.kept()
    plane.kill()
    shutil.rmtree(plane.specs)
    shutil.rmtree(plane.secrets)
    plane.start().ready()
    assert plane.version() == version
    assert "last known good state of: files" in plane.get("/readyz")[1]
    failures = {one["name"]: one["failure"] for one in plane.json("/v1/sources")["sources"]}
    assert str(plane.specs) in failures["files"]
    assert str(plane.secrets) in failures["secrets"]
    plane.envoy().ready()
    until(lambda: answers(port, "edge"), "it answers")


def test_a_document_that_is_broken_after_a_restart_is_served_as_it_was_and_that_is_said(plane: Plane) -> None:
    plane.write(gateway())
    plane.start().ready()
    version = plane.version()
    plane.kept()
    plane.kill()
    plane.write("kind: [")
    plane.start().ready()
    assert plane.version() == version

    def counts() -> tuple[int, int]:
        files = next(one for one in plane.json("/v1/sources")["sources"] if one["name"] == "files")
        return files["objects"], files["restoredObjects"]

    assert counts() == (1, 1)
    assert '"restored_objects": 1' in plane.output()
    plane.write(gateway())
    until(lambda: counts() == (1, 0), "the document can be read")


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: (state / "state.sqlite").write_bytes(os.urandom(5000)),
        lambda state: os.truncate(state / "state.sqlite", 5000),
        lambda state: (state / "state.sqlite").write_bytes(b""),
        lambda state: (state / "key").write_bytes(os.urandom(32)),
        lambda state: (state / "key").write_bytes(b"short"),
    ],
    ids=["noise", "truncated", "empty", "another key", "no key"],
)
def test_damage_of_the_state_is_said_and_everything_served_from_the_sources(plane: Plane, damage: Damage) -> None:
    write_secret(plane.secrets, "token", {"token": b"x"})
    plane.start().ready()
    version = plane.version()
    plane.stop()
    damage(plane.state)
    plane.start().ready()
    assert plane.version() == version
    assert "Traceback" not in plane.output()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("ca.key", b"no key"),
        ("ca.crt", b"no certificate"),
        ("ca.crt", authority().pem),
        ("ca.key", None),
        ("ca.crt", None),
    ],
)
def test_an_authority_that_is_damaged_is_never_replaced_in_silence(
    plane: Plane, file: str, content: bytes | None
) -> None:
    """A new one would lock out every proxy."""
    plane.insecure = False
    plane.start().ready()
    plane.stop()
    path = plane.state / "ca" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    ended(plane.start(), 2, str(plane.state / "ca"))


def test_the_admin_api(plane: Plane) -> None:
    plane.start().ready()
    for path in ("/healthz", "/readyz", "/metrics", "/v1/gateways", "/v1/nodes", "/v1/sources", "/v1/problems"):
        assert plane.get(path)[0] == 200
        assert plane.get(path, host="evil.example")[0] == 421
        assert plane.get(path, method="POST")[0] == 405
    snapshot = "/v1/gateways/platform/edge/snapshot"
    assert plane.get(snapshot, host="evil.example:80")[0] == 421
    assert plane.get(snapshot, host="localhost")[0] == 200
    assert plane.get(snapshot, host="[::1]:80")[0] == 200
    assert list(plane.json(f"{snapshot}?type=lds")["resources"]) == ["lds"]
    assert plane.get(f"{snapshot}?type=nonsense")[0] == 400
    assert plane.get("/v1/gateways/platform/none/snapshot")[0] == 404
    assert plane.get("/v1/none")[0] == 404
    metrics = plane.get("/metrics")[1]
    for name in (
        "pushes_total",
        "acks_total",
        "nacks_total",
        "build_seconds_bucket",
        "rows",
        "propagation_seconds_bucket",
    ):
        assert f"controlplane_{name}" in metrics
    assert 'controlplane_source_age_seconds{source="files"}' in metrics
