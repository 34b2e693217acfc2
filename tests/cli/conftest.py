"""The command line as a user has it: arguments, stdin, stdout, stderr and an exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane.cli import main


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]

GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: http, port: 10080, protocol: HTTP}]
  backends:
    - name: web
      members: [{static: {address: 127.0.0.1, port: 9001}}]
  routes:
    - name: web
      hosts: ["*"]
      match: [{path: {prefix: /}}]
      public: true
      to: [{backend: web}]
"""
"""The least gateway that does something."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command in `tmp_path`; in this process, because a new one costs half a second."""

    def run(*arguments: str, stdin: str | bytes = "", **variables: str) -> Result:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name in ("NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            data = stdin.encode() if isinstance(stdin, str) else stdin
            out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = 0
            try:
                code = main.run(arguments)
            except SystemExit as ended:  # how click ends when a shell asks for completions
                code = int(ended.code or 0)
            shown = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        return Result(code, *shown)

    return run


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A folder with one valid gateway."""
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "gateway.yaml").write_text(GATEWAY)
    return folder
