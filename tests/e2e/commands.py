"""Commands of the command line that end by themselves, each as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import CompletedProcess

from tests.support.waiting import PATIENCE


def controlplane(*arguments: str, stdin: str = "", **environment: str) -> CompletedProcess[str]:
    """Run one and wait for it."""
    command = [sys.executable, "-m", "controlplane", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE, env=variables
    )
