"""The servers that `make tools` builds: where they are, or why tests that need them cannot run."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@cache
def tool(name: str) -> Path | None:
    """The program of this name: given ($KUBEBUILDER_ASSETS), built (`make tools`), or on PATH."""
    built = os.environ.get("CONTROLPLANE_TOOLS") or _ROOT / ".tools" / "bin"
    for folder in (os.environ.get("KUBEBUILDER_ASSETS"), built):
        if folder and os.access(path := Path(folder) / name, os.X_OK):
            return path.resolve()
    found = shutil.which(name)
    return Path(found) if found else None


def needs(*names: str) -> None:
    """Skip the test, with the reason, when a server is missing; where nothing is skipped (CI=true), fail."""
    missing = [name for name in names if tool(name) is None]
    if missing:
        unavailable(f"{', '.join(missing)}: not built (`make tools` builds it; that needs Go)")


def unavailable(reason: str) -> None:
    """Skip with this reason, or fail where nothing is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
