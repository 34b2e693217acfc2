"""Who writes the state: one process at a time, by a lock on a file beside it that ends with the process, however it ends.

The file says who that is, for the next one to tell. Used by `ledger` alone. `bootstrap` and `pki` write other files of
the folder, and ask for nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

_UNLOCKABLE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_READ_BYTES = 512


class Claim:
    """The lock of one folder."""

    def __init__(self, file: Path) -> None:
        """Nothing is claimed yet."""
        self._file = file
        self._descriptor: int | None = None

    def take(self) -> str | None:
        """Claim the folder, or see that it still is ours; who has it instead (None: nobody). Raises OSError.

        Where files cannot be locked at all, nobody is asked.
        """
        while not self._is_ours():
            self.release()
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._descriptor, _READ_BYTES, 0).decode(errors="replace").strip()
                self.release()
                return holder or "it does not say which"
            except OSError as error:
                if error.errno not in _UNLOCKABLE:
                    self.release()
                    raise
            since = datetime.now(UTC).isoformat(timespec="seconds")
            with suppress(OSError):  # a full disk: it is ours all the same
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"pid {os.getpid()} on {socket.gethostname()}, since {since}\n".encode(), 0)
        return None

    def release(self) -> None:
        """Let others have it. The file stays: one that another process has open must not be taken from under it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_ours(self) -> bool:
        """Whether the file that we locked is the one that others find."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._file.stat())
        except FileNotFoundError:
            return False
