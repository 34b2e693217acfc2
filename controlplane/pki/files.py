"""Files of the authority: written whole or not at all, readable by their owner only, and watched by their stamps.

Used by `authority` alone. It knows nothing of certificates.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from controlplane.errors import ConfigurationError

Stamp = tuple[int, int, int] | None
"""Inode, size and time of change; None for a file that cannot be reached."""


def stamp(file: Path) -> Stamp:
    """What changes when the file is replaced."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def create_folder(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Make a folder (0700) with these files (0600) in one step; False when it exists, which is then left alone.

    Of several processes that try, one wins with all of its files: a rename never replaces a folder that holds any.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_dir() and any(folder.iterdir()):
        return False
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            _write(made / name, content)
        _sync(made)
        made.rename(folder)
    except FileExistsError:
        return False
    except OSError:
        if folder.is_dir():  # some systems say "not empty" rather than "exists"
            return False
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _sync(folder.parent)
    return True


def replace(file: Path, content: bytes) -> None:
    """Put a file (0600) in the place of another in one step; its folder is made (0700) when absent."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        _write(temporary, content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(file.parent)


def read_private(file: Path) -> bytes:
    """The content of a key file; refused when others may read it, for then it may no longer be ours alone."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise ConfigurationError(f"{file}: readable by others (mode {mode:04o}); chmod 600, and rotate if it leaked")
    return file.read_bytes()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that change this folder; the folder itself is the lock, so readers need no write."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
