"""The state folder of a running control plane: shared with a second one by mistake or in passing, or taken from under it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.plane import COMMAND, Plane, gateway, respond
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        plane.write(gateway())
        yield plane


def test_a_second_process_serves_says_who_has_the_folder_and_takes_over_when_it_ends(plane: Plane) -> None:
    """As in a rolling restart on one machine, where the next one has to be ready before the former is asked to end."""
    plane.start().ready()
    plane.kept()
    with Plane(plane.folder) as second:
        second.log = plane.folder / "log of the second"
        second.log.touch()
        second.start().ready()
        assert second.version() == plane.version()
        assert second.json("/v1/process")["state"] == plane.json("/v1/process")["state"] == str(plane.state)
        assert (second.json("/v1/process")["pid"], second.json("/v1/process")["ready"]) == (second.child.pid, True)
        (said,) = second.said("state")
        assert f"another process writes it (pid {plane.child.pid} on " in said["problem"]
        state = second.json("/v1/sources")["state"]
        assert f"pid {plane.child.pid}" in state["degraded"]
        command = [*COMMAND, "sources", "--admin", second.admin]
        told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
        assert (
            f"warning: the state on disk: not written: another process writes it (pid {plane.child.pid}" in told.stderr
        )
        assert "controlplane_state_kept 0.0" in second.get("/metrics")[1]
        assert "controlplane_state_kept 1.0" in plane.get("/metrics")[1]
        plane.write(gateway(routes=[respond("main", "/", "edited")]))
        until(lambda: second.version() == plane.version() != "", "both follow the specs")
        plane.kept()
        assert plane.json("/v1/sources")["state"]["degraded"] is None
        assert plane.stop() == 0
        until(lambda: second.json("/v1/sources")["state"]["degraded"] is None, "the second has the folder")
        assert second.said("state written again")
        second.kept()
        version = second.version()
        second.kill()
    shutil.rmtree(plane.specs)
    plane.start().ready()
    assert plane.version() == version, "nothing was lost"
    assert "last known good state of: files" in plane.get("/readyz")[1]


def test_a_folder_that_is_removed_while_it_runs_is_written_anew(plane: Plane) -> None:
    plane.start().ready()
    plane.kept()
    version = plane.version()
    shutil.rmtree(plane.state)
    until(lambda: plane.json("/v1/sources")["state"]["mishaps"], "it is noticed, though nothing changes")
    plane.kept()
    state = plane.json("/v1/sources")["state"]
    assert state["degraded"] is None
    assert state["lastMishap"] == "state.sqlite was removed"
    (said,) = plane.said("state written anew")
    assert said["reason"] == "state.sqlite was removed"
    assert "controlplane_state_mishaps 1.0" in plane.get("/metrics")[1]
    plane.kill()
    killed = datetime.now(UTC)
    shutil.rmtree(plane.specs)
    plane.start().ready()
    assert plane.version() == version
    (found,) = plane.json("/v1/gateways")["gateways"]
    assert datetime.fromisoformat(found["since"]) <= killed, "it is served since then, not since the restart"
