"""The rules of the house that no other linter knows: sizes of modules, names of modules, traps of the layout.

Run by `make lint`. Prints one line per problem and exits 1 when there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
"""Past this a module asks to be split by feature."""
HOMELESS = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc", "shared"}
"""Names of modules that say nothing of what they hold."""
OF_A_TEST = re.compile(rb"^from tests\.[a-z0-9_.]*\btest_", re.MULTILINE)
PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}")


def tracked() -> list[Path]:
    """Every file that git knows or would add, relative to the root; without git, every source file."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S603  fixed words
        names = [Path(name) for name in listing.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [file.relative_to(ROOT) for top in ("controlplane", "tests") for file in (ROOT / top).rglob("*")]
    return sorted(name for name in names if (ROOT / name).is_file())


def problems(files: list[Path]) -> Iterator[str]:
    """One line per broken rule."""
    for file in files:
        name, content = file.as_posix(), (ROOT / file).read_bytes()
        if PRIVATE_KEY.search(content):
            yield f"{name}: holds a private key; tests make theirs at run time"
        if file.suffix != ".py":
            continue
        if OF_A_TEST.search(content):
            yield f"{name}: imports from a module of tests; what several of them need has a module of its own"
        lines = content.count(b"\n")
        if lines > MAX_LINES and name.startswith("controlplane/"):
            yield f"{name}: {lines} lines, more than {MAX_LINES}; split it by feature"
        if {part.removesuffix(".py") for part in file.parts} & HOMELESS:
            yield f"{name}: the name says nothing of what it holds"
        if name.startswith("controlplane/") and not content.lstrip().startswith(b'"""'):
            yield f"{name}: no docstring (what it holds, who calls it, what it must not know)"
    if (ROOT / "envoy/__init__.py").exists():
        yield "envoy/__init__.py: hides the `envoy` package of xds-protos when the root is on sys.path"


def main() -> int:
    """Print the problems; 1 when there is one."""
    found = list(problems(tracked()))
    for line in found:
        print(line, file=sys.stderr)  # noqa: T201  a linter prints
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
