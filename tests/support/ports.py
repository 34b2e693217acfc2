"""Free ports for processes that must be told a number before they start.

They lie below the range from which outgoing connections take theirs, and each worker of a parallel run has a share of
its own: a port that is free now stays free until it is used.
"""

from __future__ import annotations

import os
import re
import socket
from itertools import count

_FIRST, _SHARE, _WORKERS = 12_000, 400, 40
_next = count(os.getpid() % _SHARE)


def free_port() -> int:
    """A port of the loopback addresses that nobody listens on."""
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or _WORKERS - 1)
    for number in _next:
        port = _FIRST + worker % _WORKERS * _SHARE + number % _SHARE
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise AssertionError
