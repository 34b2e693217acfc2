"""Starts a program that ends when its parent does, even when the parent is killed and cannot end it itself.

Run as a file in a process of its own, before the program takes that process over: `python leash.py PARENT PROGRAM …`.
It imports nothing of this package, so that it costs little. Where the kernel has no such signal (macOS) it only starts
the program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends to this process when its parent ends; it outlives execve(2)."""


def main(parent: int, program: list[str]) -> None:
    """Become the program, on the leash."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the leash was on
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606  no shell is what we want


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
