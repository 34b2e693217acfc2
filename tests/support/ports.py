"""Free ports for processes that must be told a number before they start.

They lie below the range from which outgoing connections take theirs, and a process that was given one keeps it from all
others, those of other test runs too, until it ends: a port that is free now stays free until it is used.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from itertools import count
from pathlib import Path

_FIRST, _NUMBER = 12_000, 16_000
_next = count(os.getpid() * 97)
"""Far from where its neighbours begin; their process ids follow one another."""
_kept: dict[int, int] = {}
"""Locked files by port. A file lock ends with its process, whatever becomes of that."""


def free_port() -> int:
    """A port of the loopback addresses that nobody listens on."""
    for number in _next:
        port = _FIRST + number % _NUMBER
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("0.0.0.0", port))
            except OSError:
                continue
            if _keep(port):
                return port
    raise AssertionError


def _keep(port: int) -> bool:
    """Whether this process has it for itself now."""
    if port in _kept:
        return True
    folder = Path(tempfile.gettempdir()) / f"controlplane-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise
        return False
    _kept[port] = file
    return True
