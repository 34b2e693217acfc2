"""The YAML of what a command was given, read by a second process while this one loads the rest of itself.

It imports next to nothing: most of what `validate` does for a thousand routes is to load its libraries.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from controlplane.sources.ahead import Ahead
from controlplane.sources.reading import is_spec_file, scan


def ahead_of(paths: Sequence[str]) -> Ahead:
    """For the block in which these files and folders are read, in this order."""
    return Ahead(dict(_sizes(paths)))


def _sizes(paths: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each file that can be looked at, and its bytes; whoever reads the others says what is wrong with them."""
    for path in paths:
        with suppress(OSError):
            status = Path(path).stat()
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            elif stat.S_ISDIR(status.st_mode):
                files = scan(path, is_spec_file).files
                yield from ((str(Path(path, name)), known.size) for name in sorted(files) if (known := files[name]))
