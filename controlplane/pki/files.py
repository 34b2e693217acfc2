"""Files of the authority: written whole or not at all, readable by their owner only, and watched by their stamps.

Their owner is whoever runs the server, also when somebody else writes them (`sudo controlplane pki …`): a list that the
server cannot read denies nobody. Used by `pki` alone. It knows nothing of certificates.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from controlplane.errors import ConfigurationError

_OF_THE_SERVER = ("state.sqlite", "ca")
"""What the server makes in a state folder, the surest first."""

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
        if os.geteuid() == 0 and (owner := _server(folder)) is not None:
            with suppress(PermissionError):  # root without that right
                for path in (*made.iterdir(), made):
                    os.chown(path, *owner)
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
    """Put a file (0600) in the place of another in one step; its folder is made (0700) when absent.

    Raises PermissionError, and changes nothing, when the server could not read it.
    """
    folder = file.parent
    owner = _owner(file if folder.is_dir() else folder)
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give(folder, owner)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        _write(temporary, content)
        _give(temporary, owner)
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


def _owner(file: Path) -> tuple[int, int] | None:
    """To whom a new file is to be given; None when this process may keep it. Raises PermissionError."""
    server, ours = _server(file), os.geteuid()
    if server is None or server[0] == ours:
        return None
    if ours != 0:
        raise _unread(file, server[0])
    return server


def _give(file: Path, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        try:
            os.chown(file, *owner)
        except PermissionError:  # root without that right
            raise _unread(file, owner[0]) from None


def _unread(file: Path, user: int) -> PermissionError:
    reason = f"the server's user ({_name(user)}) could not read it; run this as that user or as root"
    return PermissionError(errno.EPERM, reason, str(file))


def _server(file: Path) -> tuple[int, int] | None:
    """The user and group of the server that reads this file; None for root, who reads what anybody wrote.

    They are those of what the server made beside it; before it made anything, of the folder; and where root made that
    (a volume), of the file that was there before.
    """
    folder = file.parent
    known = next((path for path in map(folder.joinpath, _OF_THE_SERVER) if path.exists()), folder)
    if not known.exists():
        return None
    found = known.stat()
    if known == folder and found.st_uid == 0 and file.exists():
        found = file.stat()
    return (found.st_uid, found.st_gid) if found.st_uid != 0 else None


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


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
