"""The demo: what a stranger sees first must work, and must leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from controlplane.cli.demo import story
from controlplane.cli.exit import Exit
from controlplane.cli.terminal import Color, Terminal
from tests.support.waiting import PATIENCE

COMMAND = [sys.executable, "-m", "controlplane", "demo"]

pytestmark = pytest.mark.envoy


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    return {**kept, "TMPDIR": str(folder)}


@contextmanager
def _staying(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process], str]]:
    """A demo that has told everything and stays up, its children, and what it printed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(COMMAND, env=_environment(folder), **pipes) as demo:
        try:
            assert demo.stdout is not None
            shown = ""
            for line in demo.stdout:
                shown += line
                if line.startswith("Ctrl-C ends"):
                    break
            yield demo, psutil.Process(demo.pid).children(recursive=True), shown
        finally:
            demo.kill()


def test_once_checks_everything_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--once"],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    rows = {line[6:26].strip(): line[26:] for line in done.stdout.splitlines() if line.startswith("ok  ")}
    assert rows["public route"].split() == ["GET", "/hello", "200"]
    assert rows["JWT, no token"].endswith("401")
    assert rows["JWT, token"].endswith("200, x-user-id: alice")
    assert rows["JWT, altered token"].endswith("401")
    assert rows["rate limit"].endswith("200 200 200 429")
    assert rows["CORS preflight"].endswith("200, allows https://shop.example.com")
    assert re.search(r"\d+ stable, \d+ canary$", rows["weights 75 : 25"])
    assert len(re.findall(r"\d+\.\d", rows["Envoy answers by it"])) == 5
    assert rows["nothing has changed"].endswith("as before (6)")
    assert re.search(r"--> specs/shop\.yaml:\d+:\d+$", done.stdout, re.MULTILINE)
    assert "every check held" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with _staying(tmp_path) as (demo, children, shown):
        assert "three things to try" in shown
        assert len(children) == 2
        assert len(list(tmp_path.iterdir())) == 1
        demo.send_signal(number)
        demo.send_signal(number)
        said, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, said
    assert "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
    assert not list(tmp_path.iterdir())


def test_a_signal_during_the_last_words_ends_it_as_cleanly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may come between the line that tells of Ctrl-C and the wait for it, on a machine that has other things to do."""

    def speak(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    scene = SimpleNamespace(issuer=SimpleNamespace(token=str), token_file=tmp_path / "token")
    for name, replaced in {
        "_begin": lambda *_: SimpleNamespace(scene=scene, envoy="", children=[]),
        "_edit": lambda *_: None,
        "_break": lambda *_: None,
        "_invite": speak,
    }.items():
        monkeypatch.setattr(story, name, replaced)
    monkeypatch.setattr(story.checks, "requests", lambda *_: ())
    before = signal.getsignal(signal.SIGINT)
    assert story.tell(Terminal(Color.NEVER, -1), tmp_path, once=False) is Exit.OK
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has ended")
def test_children_do_not_outlive_a_killed_demo(tmp_path: Path) -> None:
    with _staying(tmp_path) as (demo, children, _):
        demo.kill()
        assert not psutil.wait_procs(children, timeout=PATIENCE)[1]


def test_what_is_wrong_is_said_even_when_it_is_quiet(tmp_path: Path) -> None:
    """An Envoy that is none ends at once: its last words are shown."""
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    envoy.chmod(0o755)
    (tmp_path / "demo").mkdir()
    done = subprocess.run(
        [*COMMAND, "--quiet", "--once", "--envoy", str(envoy)],
        env=_environment(tmp_path / "demo"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert not done.stdout
    assert "Envoy ended with 3" in done.stderr
    assert "no such thing" in done.stderr
    assert not list((tmp_path / "demo").iterdir())


def test_without_an_envoy_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--envoy", str(tmp_path / "none")], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert "is not a program" in done.stderr
