"""Whatever becomes of files while they are served: the process lives, others are untouched, the last good one stays."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.plane import Plane, answers, ask, gateway, respond
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.envoy


class Scene:
    """A control plane, a proxy, and the gateway that must go on being served."""

    def __init__(self, plane: Plane) -> None:
        self.plane, self.port = plane, free_port()
        self.text = plane.write(gateway(port=self.port)).read_text()
        self.envoy: Envoy = plane.start().ready().envoy().ready()
        until(lambda: answers(self.port, "edge"), "it answers")
        self.version = plane.version()

    def undisturbed(self) -> None:
        """What was served is served, and a later file is read: nothing hangs."""
        assert self.plane.child.running
        self.plane.barrier()
        assert self.plane.version() == self.version
        assert answers(self.port, "edge")
        assert "Traceback" not in self.plane.output()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Plane(tmp_path_factory.mktemp("files")) as plane:
        yield Scene(plane)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(10 * 1024**3)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(os.urandom(100_000)),
    "UTF-16": lambda path: path.write_bytes("kind: GatewaySpec".encode("utf-16")),
    "invalid UTF-8": lambda path: path.write_bytes(b"a: \xff\n"),
    "tab": lambda path: path.write_bytes(b"a:\n\tb: 1\n"),
    "NUL": lambda path: path.write_bytes(b'a: "\0"\n'),
    "alias bomb": lambda path: path.write_text(
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    ),
    "deep flow": lambda path: path.write_text("[" * 100_000),
    "deep block": lambda path: path.write_text("".join(" " * depth + "a:\n" for depth in range(2000))),
    "code": lambda path: path.write_text('!!python/object/apply:os.system ["touch pwned"]\n'),
    "many documents": lambda path: path.write_text("---\na: 1\n" * 10_000),
    "100 MB": lambda path: path.write_bytes(b"x: " + b"y" * 100 * 1024 * 1024),
    "10 GB": _sparse,
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "dangling link": lambda path: path.symlink_to("/nowhere/at/all"),
    "link to itself": lambda path: path.symlink_to(path),
    "the same object": lambda path: path.symlink_to("gateway.yaml"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_named_and_change_nothing(scene: Scene, kind: str) -> None:
    path = scene.plane.specs / "zz.yaml"
    HOSTILE[kind](path)
    problem = scene.plane.problem(lambda one: one["file"] == str(path), f"{kind} is reported")
    assert problem["message"]
    scene.undisturbed()
    path.unlink()
    until(lambda: not scene.plane.json("/v1/problems")["problems"], "nothing is wrong any more")


def test_folders_and_names_that_are_odd(scene: Scene) -> None:
    specs = scene.plane.specs
    (specs / "folder.yaml").mkdir()
    (specs / "loop").symlink_to(".")
    for name in (".swap.yaml.swp", "backup.yaml~", "#lock.yaml#", "4913", "notes.txt"):
        (specs / name).write_text("a: 1")
    scene.undisturbed()
    assert scene.plane.json("/v1/problems")["problems"] == []
    inside = scene.plane.write(gateway("inside", role="x"), file="folder.yaml/gateway.yaml")
    until(lambda: "platform/inside" in scene.plane.gateways(), "a folder with this name is a folder")
    inside.unlink()
    (specs / "folder.yaml").rmdir()
    (specs / "loop").unlink()


def test_a_broken_save_changes_nothing_and_says_where(scene: Scene) -> None:
    path = scene.plane.write(scene.text.replace("respond:", "responds:"))
    problem = scene.plane.problem(lambda one: "responds" in one["message"], "the error is reported")
    place = f"{path}:{problem['line']}:{problem['column']}"
    assert path.read_text().splitlines()[problem["line"] - 1].strip() == "responds:"
    assert problem["path"] == "spec.routes[main]"
    assert 'did you mean "respond"?' in problem["help"]
    assert scene.plane.said("problem", at=place)
    before = scene.envoy.config_dump("dynamic_route_configs")
    scene.undisturbed()
    assert scene.envoy.config_dump("dynamic_route_configs") == before
    scene.plane.write(scene.text)
    until(lambda: not scene.plane.problems(), "nothing is wrong any more")


@pytest.mark.parametrize("left", [0, 60, 200])
def test_a_file_that_is_cut_in_place_keeps_what_it_declared(scene: Scene, left: int) -> None:
    path = scene.plane.specs / "gateway.yaml"
    path.write_text(scene.text[:left])
    scene.plane.problem(lambda one: one["file"] == str(path), "it is reported")
    scene.undisturbed()
    path.write_text(scene.text)
    until(lambda: not scene.plane.json("/v1/problems")["problems"], "nothing is wrong any more")


def test_a_file_that_is_written_in_two_halves_is_read_once_it_is_whole(scene: Scene) -> None:
    text = scene.text.replace("body: edge", "body: halves")
    half = text.index("routes:") + 20
    with (scene.plane.specs / "gateway.yaml").open("w") as stream:
        stream.write(text[:half])
        stream.flush()
        scene.undisturbed()
        stream.write(text[half:])
    until(lambda: answers(scene.port, "halves"), "the whole is served")
    scene.plane.write(scene.text)
    until(lambda: answers(scene.port, "edge"), "the first is served again")


def test_the_folder_goes_and_comes_back(scene: Scene) -> None:
    """A missing folder is a failure of the source, never an empty result."""
    plane, away = scene.plane, scene.plane.folder / "away"
    plane.specs.rename(away)
    until(lambda: "last known good state of: files" in plane.get("/readyz")[1], "it is said")
    assert plane.version() == scene.version
    assert answers(scene.port, "edge")
    away.rename(plane.specs)
    until(lambda: plane.get("/readyz")[1] == "ready\n", "it is ready")
    scene.undisturbed()


def test_deleting_a_file_removes_what_it_declared(scene: Scene) -> None:
    port = free_port()
    path = scene.plane.write(gateway("gone", port=port), file="gone.yaml")
    until(lambda: answers(port, "gone"), "it answers")
    path.unlink()
    until(lambda: not answers(port, "gone"), "its listener is gone")
    scene.undisturbed()


def test_files_that_vanish_while_they_are_read(scene: Scene) -> None:
    folder = scene.plane.specs / "flapping"
    for number in range(20):
        folder.mkdir()
        for index in range(10):
            (folder / f"{index}.yaml").write_text(scene.text.replace("name: edge", f"name: flap{number}-{index}"))
        shutil.rmtree(folder)
    until(lambda: scene.plane.gateways() == ["platform/edge"], "they are gone")
    scene.undisturbed()


def test_edits_are_answered_while_others_are_broken(scene: Scene) -> None:
    scene.plane.write("kind: nonsense\n", file="broken.yaml")
    scene.plane.write(gateway(port=scene.port, routes=[respond("main", "/", "edited")]))
    until(lambda: answers(scene.port, "edited"), "the edit is served")
    assert ask(scene.port).status == 200
    (scene.plane.specs / "broken.yaml").unlink()
    scene.plane.write(scene.text)
    until(lambda: answers(scene.port, "edge"), "the first is served again")
