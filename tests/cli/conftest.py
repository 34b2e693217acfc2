"""The command line as a user has it: a process with arguments, stdin, stdout, stderr and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

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
def run(tmp_path: Path) -> Run:
    """Run one command in `tmp_path`."""

    def run(*arguments: str, stdin: str | bytes = "", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
        data = stdin.encode() if isinstance(stdin, str) else stdin
        finished = subprocess.run(
            [sys.executable, "-m", "controlplane", *arguments],
            cwd=tmp_path,
            env=environment | {"PYTHONWARNINGS": "error"} | variables,
            input=data,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return subprocess.CompletedProcess(
            finished.args, finished.returncode, finished.stdout.decode(), finished.stderr.decode()
        )

    return run


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A folder with one valid gateway."""
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "gateway.yaml").write_text(GATEWAY)
    return folder
