"""Files that a second process reads: what it has read counts only as far as it is what is asked for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.sources import ahead
from controlplane.sources.ahead import Ahead
from controlplane.sources.files import FileSource
from controlplane.spec.yaml import Loaded, load
from tests.sources.rig import running
from tests.support.waiting import PATIENCE

ROUTES = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {{name: {name}, namespace: shop}}
spec:
  gateway: platform/edge
  routes: [{{name: it, hosts: [{name}.example.com], match: [{{path: {{prefix: /}}}}], public: true, respond: {{status: 200}}}}]
"""

VALUES = """\
numbers: [0, -1, 18446744073709551615, 1.5, 1e3, .5, 0x1F, 007]
words: [null, ~, true, yes, "", 'it''s', "\\u263a", "---"]
anchored: &one {a: [1]}
again: [*one, *one]
block: |
  text
empty: {}
"""


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "WORTH_BYTES", 1)
    monkeypatch.setattr(ahead, "_processors", lambda: 2)


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that this process has read."""
    found: list[str] = []

    def counted(text: str) -> Loaded:
        found.append(text)
        return load(text)

    monkeypatch.setattr(ahead, "load", counted)
    return found


def write(folder: Path, *texts: str) -> dict[str, int]:
    """Files of these texts, and how large each is."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number:02}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return {str(file): file.stat().st_size for file in files}


def process_of(early: Ahead) -> subprocess.Popen[bytes]:
    """The second process."""
    assert early._process is not None
    return early._process


def ended(early: Ahead) -> Ahead:
    """When all has been read there that can be."""
    process_of(early).wait(PATIENCE)
    return early


def test_what_the_process_has_read_is_not_read_here(tmp_path: Path, read_here: list[str]) -> None:
    texts = [ROUTES.format(name=f"r{number}") for number in range(9)]
    with ended(Ahead(write(tmp_path, *texts))) as early:
        assert [early.load(text) for text in texts] == [load(text) for text in texts]
    assert read_here == []


def test_values_are_what_they_are_when_they_are_read_here(tmp_path: Path, read_here: list[str]) -> None:
    with ended(Ahead(write(tmp_path, VALUES))) as early:
        assert repr(early.load(VALUES)) == repr(load(VALUES))
    assert read_here == []


@pytest.mark.parametrize(
    "text",
    [
        "a: 99999999999999999999\n",
        "a: {\n",
        "a: 1\na: 2\n",
        "a: !thing 1\n",
        f"a: &a [{'1, ' * 99}]\nb: [{'*a, ' * 99}]\n",
    ],
    ids=["number", "syntax", "key", "tag", "aliases"],
)
def test_what_is_at_fault_or_swells_is_read_here(text: str, tmp_path: Path, read_here: list[str]) -> None:
    with ended(Ahead(write(tmp_path, text, "other: 1\n"))) as early:
        assert early.load(text) == load(text)
        assert early.load("other: 1\n") == load("other: 1\n")
    assert read_here == [text]


def test_what_a_file_says_by_now_counts(tmp_path: Path, read_here: list[str]) -> None:
    sizes = write(tmp_path, "before: 1\n")
    with ended(Ahead(sizes)) as early:
        write(tmp_path, "now: 1\n")
        assert early.load("now: 1\n").data == {"now": 1}
    assert read_here == ["now: 1\n"]


def test_a_process_that_dies_is_not_missed(tmp_path: Path) -> None:
    texts = [ROUTES.format(name=f"r{number}") for number in range(9)]
    sizes = write(tmp_path, *texts)
    with Ahead(sizes) as early:
        process_of(early).kill()
        assert list(early.in_turn(sizes)) == list(sizes)
        assert [early.load(text) for text in texts] == [load(text) for text in texts]


def test_half_an_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_here: list[str]) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nimport os; os.write(1, (99).to_bytes(4) + b'half')\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with ended(Ahead(write(tmp_path / "specs", "a: 1\n"))) as early:
        assert early.load("a: 1\n").data == {"a": 1}
    assert read_here == ["a: 1\n"]


def test_without_a_second_process_all_is_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_here: list[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    sizes = write(tmp_path, "a: 1\n", "b: 2\n")
    with Ahead(sizes) as early:
        assert list(early.in_turn(sizes)) == list(sizes)
        assert early.load("a: 1\n").data == {"a": 1}
    assert read_here == ["a: 1\n"]


def test_programs_in_the_folder_where_it_is_called_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_here: list[str]
) -> None:
    """`validate` looks at what strangers propose, from within the folder of it."""
    for name in ("yaml", "msgspec", "controlplane"):
        (tmp_path / f"{name}.py").write_text(f"open('{name}.ran', 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    with ended(Ahead(write(tmp_path / "specs", "a: 1\n"))) as early:
        assert early.load("a: 1\n").data == {"a": 1}
    assert read_here == []
    assert list(tmp_path.glob("*.ran")) == []


def test_each_file_has_its_turn_once_and_those_that_are_read_come_first(tmp_path: Path) -> None:
    sizes = write(tmp_path, *(f"a: {number}\n" for number in range(9)))
    last = list(sizes)[-1]
    with ended(Ahead(sizes)) as early:
        turns = list(early.in_turn([*sizes, "another"]))
    assert turns[0] == last
    assert sorted(turns) == sorted([*sizes, "another"])


def test_nothing_is_left_when_it_is_not_wanted_any_more(tmp_path: Path) -> None:
    with Ahead(write(tmp_path, *(ROUTES.format(name=f"r{number}") * 500 for number in range(3)))) as early:
        process = process_of(early)
    assert process.returncode is not None


def test_a_process_that_cannot_end_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that reads from a file system without an answer: SIGTERM has to end this one all the same."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    with monkeypatch.context() as stuck:
        stuck.setattr(sys, "executable", str(program))
        stuck.setattr(subprocess.Popen, "kill", lambda _: None)
        stuck.setattr(ahead, "END_SECONDS", 0.01)
        early = Ahead(write(tmp_path / "specs", "a: 1\n"))
        process = process_of(early)
        early.close()
        assert process.poll() is None
    process.kill()
    process.wait(PATIENCE)


def test_a_large_folder_declares_what_its_files_say(tmp_path: Path) -> None:
    names = [f"r{number}" for number in range(50)]
    write(
        tmp_path, *("---\n".join(ROUTES.format(name=name) for name in names[at : at + 10]) for at in range(0, 50, 10))
    )

    async def scenario() -> None:
        async with running(FileSource(tmp_path)) as rig:
            assert rig.names == sorted(names)

    asyncio.run(scenario())
