"""The file source on real folders: what is in force when files change, break, vanish or lie."""

import asyncio
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.names import ObjectRef
from controlplane.sources import files, watching
from controlplane.sources.files import FileSource
from tests.e2e.plane import gateway
from tests.sources.rig import denied, mount, replace_file, running
from tests.spec.documents import file, routes
from tests.support.waiting import PATIENCE

BROKEN = routes("b").replace("port: 8080", "port: x")


def ref(name: str) -> ObjectRef:
    return ObjectRef("files", "RouteSpec", "shop", name)


async def loaded_and_changed(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "a.yaml").write_text(file(routes("a"), routes("b")))
    (root / "sub" / "c.yml").write_text(routes("c"))
    async with running(FileSource(root)) as sink:
        assert sink.state == "synced"
        assert sink.names == ["a", "b", "c"]
        assert sink.objects[ref("b")].file == str(root / "a.yaml")
        assert sink.objects[ref("b")].line == routes("a").count("\n") + 2
        (root / "sub" / "c.yml").write_text(routes("c", 9000))
        await sink.until(lambda: sink.port("c") == 9000)
        (root / "new" / "deeper").mkdir(parents=True)
        (root / "new" / "deeper" / "d.yaml").write_text(routes("d"))
        await sink.until(lambda: sink.names == ["a", "b", "c", "d"])
        assert sink.said == {}


def test_everything_is_loaded_and_changes_follow(tmp_path: Path) -> None:
    asyncio.run(loaded_and_changed(tmp_path))


def test_only_what_changed_is_said(tmp_path: Path) -> None:
    """The cost of an edit must not grow with the file."""

    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(file(*(routes(f"r{i}") for i in range(50))))
        async with running(FileSource(tmp_path)) as sink:
            sink.calls.clear()
            rows = {name: spec.rows for name, spec in sink.objects.items()}
            replace_file(path, file(*(routes(f"r{i}", 9000 if i == 7 else 8080) for i in range(50))))
            await sink.until(lambda: sink.port("r7") == 9000)
            assert sink.calls == ["put r7"]
            replace_file(path, "# one more line\n" + path.read_text())
            await sink.until(lambda: sink.objects[ref("r49")].line > 50 * 18 - 17)
            assert all(sink.objects[ref(f"r{i}")].rows is rows[ref(f"r{i}")] for i in range(8, 50))

    asyncio.run(scenario())


def test_saving_the_same_content_says_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(routes("a"))
        async with running(FileSource(tmp_path)) as sink:
            flushes = len(sink.history)
            path.write_text(routes("a"))
            replace_file(path, routes("a"))
            (tmp_path / "b.yaml").write_text(routes("b"))
            await sink.until(lambda: sink.names == ["a", "b"])
            assert len(sink.history) == flushes + 1

    asyncio.run(scenario())


def test_a_deleted_file_removes_what_it_declared(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "sub").mkdir()
        for path in (tmp_path / "a.yaml", tmp_path / "sub" / "b.yaml", tmp_path / "sub" / "c.yaml"):
            path.write_text(routes(path.stem))
        async with running(FileSource(tmp_path)) as sink:
            (tmp_path / "a.yaml").unlink()
            await sink.until(lambda: sink.names == ["b", "c"])
            (tmp_path / "sub").rename(tmp_path / ".hidden")
            await sink.until(lambda: sink.names == [])

    asyncio.run(scenario())


def test_a_renamed_file_keeps_its_objects_in_force(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "a.yaml").write_text(routes("a"))
        async with running(FileSource(tmp_path)) as sink:
            (tmp_path / "a.yaml").rename(tmp_path / "z.yaml")
            await sink.until(lambda: sink.objects[ref("a")].file.endswith("z.yaml"))
            assert "remove a" not in sink.calls
            await sink.until(lambda: sink.said == {})

    asyncio.run(scenario())


def test_an_editor_that_renames_the_old_file_away_loses_nothing(tmp_path: Path) -> None:
    """vim saves like this: for a moment the file does not exist, then it exists in part."""

    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(file(routes("a"), routes("b")))
        async with running(FileSource(tmp_path)) as sink:
            for number in range(9000, 9050):
                path.rename(tmp_path / "a.yaml~")
                await asyncio.sleep(0)
                path.write_text(file(routes("a", number), routes("b", number)))
                if number % 5 == 0:
                    await sink.until(lambda number=number: sink.port("b") == number)  # type: ignore[misc]
            await sink.until(lambda: sink.port("b") == 9049)
            assert not [call for call in sink.calls if call.startswith("remove")]
            assert sink.said == {}

    asyncio.run(scenario())


def test_a_broken_document_keeps_its_last_good_version_and_touches_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "all.yaml"
        replace_file(path, file(routes("a"), routes("b"), routes("c")))
        async with running(FileSource(tmp_path)) as sink:
            replace_file(path, file(routes("a", 9001), BROKEN, routes("c", 9003)))
            await sink.until(lambda: sink.port("a") == 9001)
            assert sink.names == ["a", "b", "c"]
            assert (sink.port("b"), sink.port("c")) == (8080, 9003)
            (diagnostic,) = sink.said[str(path)]
            assert str(diagnostic).startswith(f"{path}:27:46: spec.backends[web].members[0].static.port: ")
            replace_file(path, file(BROKEN, routes("c", 9003)))
            await sink.until(lambda: sink.names == ["b", "c"])
            replace_file(path, file(routes("b", 9002), routes("c", 9003)))
            await sink.until(lambda: sink.port("b") == 9002)
            assert sink.said == {}

    asyncio.run(scenario())


def test_one_bad_file_among_many(tmp_path: Path) -> None:
    async def scenario() -> None:
        for i in range(100):
            (tmp_path / f"r{i:03}.yaml").write_text(routes(f"r{i:03}"))
        (tmp_path / "r050.yaml").write_text("spec: [")
        async with running(FileSource(tmp_path)) as sink:
            assert len(sink.names) == 99
            assert list(sink.said) == [str(tmp_path / "r050.yaml")]

    asyncio.run(scenario())


def test_nothing_is_removed_while_a_document_does_not_say_which_object_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "all.yaml"
        replace_file(path, file(routes("a"), routes("b")))
        async with running(FileSource(tmp_path)) as sink:
            replace_file(path, file("kind: RouteSpec\nmetadata: {nam\n", routes("b", 9002)))
            await sink.until(lambda: sink.port("b") == 9002)
            assert sink.names == ["a", "b"]
            assert sink.codes == ["GW0005", "GW0305"]
            replace_file(path, routes("b", 9003))
            await sink.until(lambda: sink.names == ["b"])
            assert sink.said == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("end", [0, 1, 200, 500, 640, 700, 760, 810, 900])
def test_half_of_a_file_written_in_place_loses_nothing(tmp_path: Path, end: int) -> None:
    """F42: truncated, written in part, and completed later, by a writer that keeps it open."""

    async def scenario() -> None:
        path = tmp_path / "all.yaml"
        before = file(routes("a"), routes("b"), routes("c"))
        after = file(routes("a", 9001), routes("b"), routes("c", 9003))
        path.write_text(before)
        async with running(FileSource(tmp_path)) as sink:
            with path.open("w") as writer:
                writer.write(after[:end])
                writer.flush()
                (tmp_path / "other.yaml").write_text(routes("other"))
                await sink.until(lambda: "other" in sink.names)
                assert sink.names == ["a", "b", "c", "other"]
                writer.write(after[end:])
            await sink.until(lambda: sink.port("c") == 9003)
            assert sink.said == {}
            assert not [call for call in sink.calls if call.startswith("remove")]

    asyncio.run(scenario())


@pytest.mark.parametrize("end", range(0, 1000, 90))
def test_half_of_a_file_is_not_believed_before_it_rested(
    tmp_path: Path, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where the system does not say who writes: what is missing counts only after a rest."""
    monkeypatch.setattr("controlplane.sources.files.is_being_written", lambda *_: False)

    async def scenario() -> None:
        path = tmp_path / "all.yaml"
        before = file(routes("a"), routes("b"), routes("c"))
        path.write_text(before)
        async with running(FileSource(tmp_path, settle_seconds=3600)) as sink:
            path.write_text(before[:end])
            (tmp_path / "other.yaml").write_text(routes("other"))
            await sink.until(lambda: "other" in sink.names)
            assert sink.names == ["a", "b", "c", "other"]
            assert all(sink.objects[ref(name)].rows for name in "abc")
            path.write_text(before.replace("8080", "9000"))
            await sink.until(lambda: sink.port("c") == 9000)
            assert not [call for call in sink.calls if call.startswith("remove")]

    asyncio.run(scenario())


def test_a_removal_written_in_place_counts_when_the_file_rested(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "all.yaml"
        path.write_text(file(routes("a"), routes("b")))
        async with running(FileSource(tmp_path, settle_seconds=0.05)) as sink:
            path.write_text(file(routes("a", 9001)))
            await sink.until(lambda: sink.port("a") == 9001)
            await sink.until(lambda: sink.names == ["a"])
            assert sink.said == {}

    asyncio.run(scenario())


def test_a_gateway_that_gets_another_name_in_place_is_not_there_twice(tmp_path: Path) -> None:
    """For as long, one of the two had the hosts, and the other the routes of RouteSpecs: 404."""

    async def scenario() -> None:
        path = tmp_path / "all.yaml"
        path.write_text(file(document("edge"), routes("a")))
        async with running(FileSource(tmp_path, settle_seconds=3600)) as sink:
            path.write_text(file(document("next"), routes("a", 9001)))
            await sink.until(lambda: sink.port("a") == 9001)
            assert sink.names == ["a", "next"]
            path.write_text(file(document("last")))
            await sink.until(lambda: "last" in sink.names)
            assert sink.names == ["a", "last", "next"], "this one may be cut off"

    def document(name: str) -> str:
        return yaml.safe_dump(gateway(name))

    asyncio.run(scenario())


def test_an_emptied_file_removes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(routes("a"))
        async with running(FileSource(tmp_path, settle_seconds=0.01)) as sink:
            path.write_text("")
            await sink.until(lambda: sink.codes == ["GW0014"])
            assert sink.names == ["a"]
            path.unlink()
            await sink.until(lambda: sink.names == [])
            assert sink.said == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [b"", b"\xc3", b"\0", b"a: ["], ids=["empty", "not UTF-8", "NUL", "broken"])
def test_a_file_that_could_not_be_read_for_a_moment_is_no_new_file(tmp_path: Path, content: bytes) -> None:
    """What is written into it afterwards may be half of it, as before; another file in its place is whole."""

    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(file(routes("a"), routes("b")))
        async with running(FileSource(tmp_path, settle_seconds=3600)) as sink:
            path.write_bytes(content)
            await sink.until(lambda: bool(sink.said))
            path.write_text(routes("a", 9001))
            await sink.until(lambda: sink.port("a") == 9001)
            assert sink.names == ["a", "b"]
            path.write_bytes(content)
            await sink.until(lambda: bool(sink.said))
            replace_file(path, routes("a"))
            await sink.until(lambda: sink.names == ["a"])

    asyncio.run(scenario())


def test_of_two_declarations_the_smaller_path_wins(tmp_path: Path) -> None:
    """Whatever the order of arrival."""

    async def scenario() -> None:
        (tmp_path / "b.yaml").write_text(routes("x", 2))
        async with running(FileSource(tmp_path)) as sink:
            assert sink.port("x") == 2
            replace_file(tmp_path / "a.yaml", routes("x", 1))
            await sink.until(lambda: sink.port("x") == 1)
            (diagnostic,) = sink.said[str(tmp_path / "b.yaml")]
            assert str(diagnostic) == (
                f"{tmp_path}/b.yaml:3:18: metadata.name: RouteSpec shop/x is declared at {tmp_path}/a.yaml:1 too, "
                "which is used; this one is not (remove or rename one of them)"
            )
            replace_file(tmp_path / "a.yaml", routes("x").replace("8080", "x"))
            await sink.until(lambda: str(tmp_path / "a.yaml") in sink.said)
            assert sink.port("x") == 1
            (tmp_path / "a.yaml").unlink()
            await sink.until(lambda: sink.port("x") == 2)
            assert sink.said == {}
            replace_file(tmp_path / "b.yaml", file(routes("x", 3), routes("x", 4)))
            await sink.until(lambda: sink.port("x") == 3)
            assert sink.codes == ["GW0301"]

    asyncio.run(scenario())


def test_generations_of_a_mounted_folder_are_seen_whole(tmp_path: Path) -> None:
    """F43: two files that change together are never seen in two generations."""

    async def scenario() -> None:
        folder = tmp_path / "mounted"
        mount(folder, "g0", {"a.yaml": routes("a", 1000), "b.yaml": routes("b", 1000)})
        async with running(FileSource(tmp_path)) as sink:
            assert sink.names == ["a", "b"]
            for number in range(1, 201):
                port = 1000 + number
                mount(folder, f"g{number}", {"a.yaml": routes("a", port), "b.yaml": routes("b", port)})
                if number % 20 == 0:
                    await sink.until(lambda port=port: sink.port("a") == port)  # type: ignore[misc]
                await asyncio.sleep(0)
            for objects, _ in sink.history:
                versions = {spec.text.split("port: ")[1].split("}")[0] for spec in objects.values()}
                assert len(versions) == 1
                assert len(objects) == 2
            mount(folder, "last", {"b.yaml": routes("b", 2000)})
            await sink.until(lambda: sink.names == ["b"])

    asyncio.run(scenario())


def test_what_is_no_spec_file_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "a.yaml").write_text(routes("a"))
        for name in (".b.yaml", "b.yaml~", ".#b.yaml", "#b.yaml#", ".b.yaml.swp", "b.txt", "4913"):
            (tmp_path / name).write_text("nonsense: [")
        async with running(FileSource(tmp_path)) as sink:
            assert sink.names == ["a"]
            assert sink.said == {}

    asyncio.run(scenario())


def test_nothing_but_regular_files_is_opened(tmp_path: Path) -> None:
    """F46: opening a FIFO would block for ever."""

    async def scenario() -> None:
        os.mkfifo(tmp_path / "fifo.yaml")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "socket.yaml"))
            (tmp_path / "device.yaml").symlink_to("/dev/zero")
            (tmp_path / "loop.yaml").symlink_to("loop.yaml")
            (tmp_path / "nothing.yaml").symlink_to("no-such-file")
            (tmp_path / "circle").symlink_to(tmp_path)
            (tmp_path / "folder.yaml").mkdir()
            (tmp_path / "folder.yaml" / "c.yaml").write_text(routes("c"))
            (tmp_path / "a.yaml").write_text(routes("a"))
            async with running(FileSource(tmp_path)) as sink:
                assert sink.names == ["a", "c"]
                assert {Path(subject).name for subject in sink.said} == {
                    "fifo.yaml",
                    "socket.yaml",
                    "device.yaml",
                    "loop.yaml",
                    "nothing.yaml",
                }
                (tmp_path / "circle" / "a.yaml").write_text(routes("a", 9001))
                await sink.until(lambda: sink.port("a") == 9001)
                os.mkfifo(tmp_path / "late.yaml")
                (tmp_path / "b.yaml").write_text(routes("b"))
                await sink.until(lambda: sink.names == ["a", "b", "c"])

    asyncio.run(scenario())


def test_garbage_is_refused_by_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "a.yaml").write_text(routes("a"))
        with (tmp_path / "huge.yaml").open("w") as huge:
            huge.truncate(10 * 1024**3)
        (tmp_path / "utf16.yaml").write_bytes(routes("x").encode("utf-16"))
        (tmp_path / "nul.yaml").write_bytes(b"a: 1\n\0")
        (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
        (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + routes("bom").encode())
        (tmp_path / "crlf.yaml").write_bytes(routes("crlf").replace("\n", "\r\n").encode())
        async with running(FileSource(tmp_path)) as sink:
            assert sink.names == ["a", "bom", "crlf"]
            assert sink.codes == ["GW0002", "GW0003", "GW0003", "GW0004"]

    asyncio.run(scenario())


def test_a_file_that_cannot_be_read_keeps_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(routes("a"))
        async with running(FileSource(tmp_path)) as sink:
            allow = denied(monkeypatch, path)
            replace_file(path, routes("a", 9001))
            await sink.until(lambda: sink.codes == ["GW0001"])
            assert sink.port("a") == 8080
            allow()
            path.touch()
            await sink.until(lambda: sink.port("a") == 9001)
            assert sink.said == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("folder", ["", "sub"])
def test_a_folder_that_cannot_be_read_keeps_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    async def scenario() -> None:
        (tmp_path / "sub" / "deeper").mkdir(parents=True)
        (tmp_path / "sub" / "a.yaml").write_text(routes("a"))
        (tmp_path / "sub" / "deeper" / "b.yaml").write_text(routes("b"))
        async with running(FileSource(tmp_path)) as sink:
            allow = denied(monkeypatch, tmp_path / folder if folder else tmp_path)
            (tmp_path / "wake-up").mkdir()
            await sink.until(lambda: sink.codes == (["GW0001"] if folder else ["GW0302"]))
            assert sink.state == ("synced" if folder else "failed")
            assert sink.names == ["a", "b"]
            (tmp_path / "sub" / "a.yaml").unlink()
            allow()
            (tmp_path / "wake-up-again").mkdir()
            await sink.until(lambda: sink.names == ["b"])
            assert (sink.state, sink.said) == ("synced", {})

    asyncio.run(scenario())


def test_a_file_that_vanishes_while_it_is_read_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "keep.yaml").write_text(routes("keep"))
        async with running(FileSource(tmp_path)) as sink:
            for number in range(100):
                path = tmp_path / f"v{number}.yaml"
                path.write_text(routes(f"v{number}"))
                if number % 3 == 0:
                    await asyncio.sleep(0)
                path.unlink()
            (tmp_path / "end.yaml").write_text(routes("end"))
            await sink.until(lambda: sink.names == ["end", "keep"])
            assert sink.said == {}

    asyncio.run(scenario())


def test_a_missing_root_is_a_failure_and_keeps_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        root = tmp_path / "specs"
        async with running(FileSource(root, look_again=0.02)) as sink:
            assert (sink.state, sink.codes) == ("failed", ["GW0302"])
            root.mkdir()
            (root / "a.yaml").write_text(routes("a"))
            await sink.until(lambda: sink.state == "synced" and sink.names == ["a"])
            assert sink.said == {}
            root.rename(tmp_path / "away")
            await sink.until(lambda: sink.state == "failed")
            assert sink.names == ["a"]
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "a.yaml").write_text(routes("a", 9001))
            (tmp_path / "new").rename(root)
            await sink.until(lambda: sink.state == "synced" and sink.port("a") == 9001)
            replace_file(root / "a.yaml", routes("a", 9002))
            await sink.until(lambda: sink.port("a") == 9002)

    asyncio.run(scenario())


@pytest.mark.parametrize("start", [False, True])
def test_an_empty_folder_in_the_place_of_another_is_a_failure(tmp_path: Path, start: bool) -> None:
    """Nothing is mounted there, perhaps; one object is as dear as a hundred. A file says that nothing is meant."""

    async def scenario() -> None:
        root = tmp_path / "specs"
        root.mkdir()
        if not start:
            (root / "a.yaml").write_text(routes("a"))
        last_good = {ref("a"): routes("a")} if start else {}
        async with running(FileSource(root, last_good=last_good, look_again=0.02)) as sink:
            if not start:
                assert sink.state == "synced"
                root.rename(tmp_path / "away")
                root.mkdir()
                await sink.until(lambda: sink.state != "synced")
            assert "it is empty" in sink.reason
            assert sink.codes == ["GW0302"]
            assert sink.names == ["a"]
            (root / "none.yaml").write_text("# nothing is meant to be served\n")
            await sink.until(lambda: sink.names == [])
            assert sink.state == "synced"
            assert sink.said == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("where", ["the folder", "what is in it"])
def test_a_folder_that_does_not_answer_is_a_failure_and_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As one of a server whose machine is gone: whoever looks at it does not come back."""
    answers = threading.Event()
    answers.set()
    module, name = (watching, "folder_identity") if where == "the folder" else (files, "scan")
    look = getattr(module, name)

    def hangs(*args: Any) -> Any:
        answers.wait(PATIENCE)
        return look(*args)

    async def scenario() -> None:
        (tmp_path / "a.yaml").write_text(routes("a"))
        async with running(FileSource(tmp_path, look_again=0.02, answer_seconds=0.05)) as sink:
            await sink.until(lambda: sink.state == "synced")
            answers.clear()
            (tmp_path / "sub").mkdir()  # a reason to look
            await sink.until(lambda: sink.state == "failed")
            assert "has not answered" in sink.reason
            assert sink.names == ["a"]
            answers.set()
            replace_file(tmp_path / "b.yaml", routes("b"))
            await sink.until(lambda: sink.state == "synced" and sink.names == ["a", "b"] and sink.said == {})

    monkeypatch.setattr(module, name, hangs)
    try:
        asyncio.run(scenario())
    finally:
        answers.set()


def test_a_root_that_is_no_folder_is_a_failure(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "a.yaml").write_text(routes("a"))
        async with running(FileSource(tmp_path / "a.yaml", look_again=0.02)) as sink:
            assert sink.state == "failed"

    asyncio.run(scenario())


def test_the_last_good_state_serves_while_the_root_is_missing(tmp_path: Path) -> None:
    async def scenario() -> None:
        root = tmp_path / "specs"
        last_good = {ref("a"): routes("a"), ref("b"): routes("b"), ref("c"): "no longer valid"}
        async with running(FileSource(root, last_good=last_good, look_again=0.02)) as sink:
            assert (sink.state, sink.names) == ("failed", ["a", "b"])
            root.mkdir()
            (root / "b.yaml").write_text(routes("b", 9002))
            await sink.until(lambda: sink.state == "synced" and sink.names == ["b"])
            await sink.until(lambda: sink.port("b") == 9002)

    asyncio.run(scenario())


def test_the_last_good_version_of_what_is_broken_at_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "b.yaml"
        path.write_text(file(BROKEN, routes("c", 9003)))
        last_good = {ref(name): routes(name) for name in "abc"}
        async with running(FileSource(tmp_path, last_good=last_good)) as sink:
            assert sink.names == ["b", "c"]
            assert (sink.port("b"), sink.port("c")) == (8080, 9003)
            replace_file(path, routes("c", 9004))
            await sink.until(lambda: sink.names == ["c"])

    asyncio.run(scenario())


def test_the_last_good_state_stays_while_a_file_cannot_be_understood(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "b.yaml"
        path.write_text("spec: [")
        async with running(FileSource(tmp_path, last_good={ref("a"): routes("a")})) as sink:
            assert sink.names == ["a"]
            replace_file(path, routes("b"))
            await sink.until(lambda: sink.names == ["b"])

    asyncio.run(scenario())


def test_many_quick_edits_end_with_the_last(tmp_path: Path) -> None:
    """F48: the last write wins, and writes are coalesced."""

    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(routes("a"))
        async with running(FileSource(tmp_path)) as sink:
            for number in range(500):
                replace_file(path, routes("a", 10_000 + number))
            await sink.until(lambda: sink.port("a") == 10_499)
            assert len(sink.history) < 250

    asyncio.run(scenario())


def test_a_failing_sink_does_not_end_the_source(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "a.yaml").write_text(routes("a"))
        async with running(FileSource(tmp_path)) as sink:
            real, calls = sink.flush, 0

            def failing(event_time: float) -> None:
                nonlocal calls
                calls += 1
                if calls == 1:
                    raise RuntimeError("on purpose")
                real(event_time)

            sink.flush = failing  # type: ignore[method-assign]
            replace_file(tmp_path / "a.yaml", routes("a", 9001))
            (tmp_path / "b.yaml").write_text(routes("b"))
            for number in range(9002, 9100):
                replace_file(tmp_path / "a.yaml", routes("a", number))
                await asyncio.sleep(0)
            await sink.until(lambda: sink.port("a") == 9099)

    asyncio.run(scenario())


def test_files_that_vanish_together_are_gone_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to look at each: a removal is sure when something is left, and a lost folder leaves nothing."""

    async def scenario() -> None:
        for name in "abcd":
            (tmp_path / f"{name}.yaml").write_text(routes(name))
        async with running(FileSource(tmp_path)) as sink:
            removed: list[tuple[str, bool]] = []
            remove, read = sink.remove, FileSource._read

            def noted(ref: ObjectRef, *, sure: bool = False) -> None:
                removed.append((ref.name, sure))
                remove(ref, sure=sure)

            async def slow(source: FileSource, *arguments: Any, **options: Any) -> None:
                time.sleep(2 * files.GONE_SECONDS)  # noqa: ASYNC251 - the process does not get a processor
                await read(source, *arguments, **options)

            sink.remove = noted  # type: ignore[method-assign]
            monkeypatch.setattr(FileSource, "_read", slow)
            for name in "abcd":
                (tmp_path / f"{name}.yaml").unlink()
            await sink.until(lambda: sink.names == [])
            assert removed == [(name, False) for name in "abcd"]
            assert len(sink.history) == 2

    asyncio.run(scenario())


def test_a_file_that_is_missing_at_one_look_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the process stands still after that look: the file may be back."""

    async def scenario() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(routes("a"))
        async with running(FileSource(tmp_path)) as sink:
            settle = FileSource._settle

            async def late(source: FileSource, *arguments: Any) -> None:
                if source._gone and not path.exists():
                    path.write_text(routes("a", 9001))
                    time.sleep(2 * files.GONE_SECONDS)  # noqa: ASYNC251
                await settle(source, *arguments)

            monkeypatch.setattr(FileSource, "_settle", late)
            path.unlink()
            await sink.until(lambda: sink.port("a") == 9001)
            assert "remove a" not in sink.calls

    asyncio.run(scenario())
