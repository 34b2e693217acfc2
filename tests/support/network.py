"""A network namespace of its own, with addresses that are not loopback: kube-apiserver refuses endpoints on loopback.

A namespace belongs to a thread, and what the thread starts inherits it: inside `with network.entered():` everything that
is started or connected is in the namespace. Sockets stay where they were made.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """Its loopback device has all of 10.200.0.0/16, and fd10:200::1. Raises OSError when that is not permitted."""

    def __init__(self) -> None:
        made: list[int | OSError] = []

        def make() -> None:
            try:
                _check(_libc.unshare(_NEWNET))
                for command in (
                    "link set lo up",
                    "address add 10.200.0.1/16 dev lo",
                    "address add fd10:200::1/64 dev lo",
                ):
                    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)
                made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            except subprocess.CalledProcessError as error:
                made.append(OSError(error.stderr.strip()))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        self._file = made[0]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self._file, _NEWNET))
            yield
        finally:
            _check(_libc.setns(before, _NEWNET))
            os.close(before)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"a network namespace of its own is not permitted here: {os.strerror(number)}")


@cache
def network() -> Network:
    """The one that the tests of a process share."""
    return Network()
