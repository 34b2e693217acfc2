"""Files of strangers: what lies under a folder, and reading it without ever blocking or trusting a name.

Used by the sources that watch folders. It knows no YAML and keeps nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import Diagnostic, InvalidInput, Place, Severity
from controlplane.spec.codes import Code

MAX_ENTRIES = 200_000
"""Entries of a tree; beyond this it is not a folder of specs."""

GENERATION = "..data"
"""Kubernetes swaps this symlink to change all files of a mounted folder at once."""


class Signature(NamedTuple):
    """What says that a file is as it was."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        """From a stat."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def file(self) -> tuple[int, int]:
        """Which file it is, whatever its content."""
        return self.device, self.inode


def is_spec_file(name: str) -> bool:
    """`*.yaml` and `*.yml`, but not what editors leave beside them."""
    return name.endswith((".yaml", ".yml")) and not name.startswith((".", "#"))


def read_regular(path: str, shown: str, max_bytes: int) -> tuple[bytes, Signature]:
    """The bytes of a regular file. Raises InvalidInput for anything else, OSError when it cannot be read.

    A FIFO, socket or device is not opened: opening one can block or have effects.
    """
    _check(Path(path).stat(), shown, max_bytes)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        _check(status, shown, max_bytes)
        parts = []
        left = max_bytes + 1
        while left > 0 and (part := os.read(descriptor, min(left, max(65536, status.st_size + 1)))):
            parts.append(part)
            left -= len(part)
        if left <= 0:
            raise _too_large(shown, max_bytes + 1, max_bytes)
        return b"".join(parts), Signature.of(status)
    finally:
        os.close(descriptor)


def is_gone(path: str) -> bool:
    """Whether nothing has this name, not even a symlink to nothing."""
    return not os.path.lexists(path)


def is_being_written(path: str, recent_seconds: float) -> bool:
    """Whether some process has the file open for writing and wrote recently; False when the system does not tell.

    The kernel grants a read lease only on a file that nobody can write to (fcntl(2), F_SETLEASE), to its owner. It is
    given back at once; a writer who opens the file in between waits for microseconds.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime > recent_seconds:
            return False
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # not SIGIO, which would end the process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False


def _check(status: os.stat_result, shown: str, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, socket or device"
        message = f"{kind}, not a regular file; it is not read"
        raise InvalidInput([Diagnostic(Code.NOT_A_FILE, message, severity=Severity.WARNING, place=Place(shown))])
    if status.st_size > max_bytes:
        raise _too_large(shown, status.st_size, max_bytes)


def _too_large(shown: str, size: int, max_bytes: int) -> InvalidInput:
    mebibyte = 1024 * 1024
    message = f"the file has {size / mebibyte:,.1f} MiB; at most {max_bytes / mebibyte:g} MiB are read"
    return InvalidInput([Diagnostic(Code.TOO_LARGE, message, place=Place(shown))])


def unreadable(shown: str, error: OSError) -> Diagnostic:
    """Why a file or folder cannot be read."""
    message = f"cannot be read: {error.strerror or error}"
    return Diagnostic(Code.UNREADABLE, message, help="what it declared stays in force", place=Place(shown))


@dataclass(slots=True)
class Tree:
    """What lies under a folder. All paths are relative to it; the folder itself is "".

    `files` have a signature, or None when they cannot be looked at; `generations` are the targets of `..data`.
    """

    files: dict[str, Signature | None] = field(default_factory=dict)
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    generations: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, OSError] = field(default_factory=dict)


def scan(root: str, wanted: Callable[[str], bool]) -> Tree:
    """Everything under `root` whose name is wanted; hidden folders are left out, symlinks followed.

    Every folder is entered once, by its real path if it has one here, so that loops of symlinks end. Raises OSError
    when the root itself cannot be read.
    """
    tree = Tree()
    seen: set[tuple[int, int]] = set()
    real = [""]
    linked: list[str] = []
    entries = 0
    while real or linked:
        folder = real.pop() if real else linked.pop(0)
        path = f"{root.rstrip('/')}/{folder}" if folder else root
        try:
            status = Path(path).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(path) as found:
                listed = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            if not folder:
                raise
            continue
        except OSError as error:
            if not folder:
                raise
            tree.troubles[folder] = error
            continue
        tree.folders[folder] = identity
        for entry in listed:
            entries += 1
            if entries > MAX_ENTRIES:
                raise OSError(f"more than {MAX_ENTRIES:,} files and folders")
            _enter(entry, f"{folder}/{entry.name}" if folder else entry.name, wanted, tree, folder, real, linked)
    return tree


def _enter(
    entry: os.DirEntry[str],
    name: str,
    wanted: Callable[[str], bool],
    tree: Tree,
    folder: str,
    real: list[str],
    linked: list[str],
) -> None:
    try:
        if entry.name == GENERATION and entry.is_symlink():
            tree.generations[folder] = str(Path(entry.path).readlink())
        elif entry.name.startswith("."):
            return
        elif entry.is_dir():
            (linked if entry.is_symlink() else real).append(name)
        elif wanted(entry.name):
            tree.files[name] = Signature.of(entry.stat())
    except OSError:  # a symlink to nowhere or in a circle, or a file that vanished: reading it says why
        if wanted(entry.name):
            tree.files[name] = None
