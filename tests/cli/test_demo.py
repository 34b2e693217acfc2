"""The demo: what a stranger sees first must work, and must leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

COMMAND = [sys.executable, "-m", "controlplane", "demo"]

pytestmark = pytest.mark.envoy


def _folder(text: str) -> Path:
    match = re.search(r"in (/\S*controlplane-demo-\S+)", text)
    assert match, text
    return Path(match[1])


def test_once_checks_everything_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*COMMAND, "--once"], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every check held" in done.stdout
    assert len(re.findall(r"  ok$", done.stdout, re.MULTILINE)) == 7
    assert re.search(r"Envoy answered by it [\d.]+ ms after it was saved", done.stdout)
    assert re.search(r"shop\.yaml:\d+:\d+", done.stdout)
    assert "Envoy still answers as before" in done.stdout
    assert not list(tmp_path.iterdir())


def test_it_stays_up_until_it_is_told_to_end(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            shown = ""
            for line in demo.stdout:
                shown += line
                if line.startswith("Ctrl-C ends"):
                    break
            assert "three things to try" in shown
            children = psutil.Process(demo.pid).children(recursive=True)
            assert len(children) == 2
            demo.send_signal(signal.SIGTERM)
            _, said = demo.communicate(timeout=60)
        finally:
            demo.kill()
    assert demo.returncode == 0
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert len(gone) == 2
    assert not alive
    assert not _folder(said).exists()


def test_without_an_envoy_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--envoy", str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "is not a program" in done.stderr
