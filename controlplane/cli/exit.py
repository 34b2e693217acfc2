"""Exit codes: one table for every command, computed before anything is rendered.

Scripts rely on it, so a code never depends on the output format. `controlplane help exit-codes` prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from controlplane.errors import ControlPlaneError, Diagnostic, Severity
from controlplane.spec.codes import Code


class Exit(IntEnum):
    """An exit code; its meaning is in `MEANINGS`. 64 and above follow sysexits(3) where it has a word for the case."""

    OK = 0
    PROBLEMS = 1
    FAILED = 2
    USAGE = 64
    UNREADABLE = 65
    UNAVAILABLE = 69
    TIMED_OUT = 75
    DENIED = 77
    REJECTED = 79
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "success",
    Exit.PROBLEMS: "problems found at or above --fail-on (default: error)",
    Exit.FAILED: "could not do the job (I/O, network, internal)",
    Exit.USAGE: "usage error",
    Exit.UNREADABLE: "input unreadable or not YAML",
    Exit.UNAVAILABLE: "server unavailable",
    Exit.TIMED_OUT: "timed out waiting for an ACK",
    Exit.DENIED: "permission denied",
    Exit.REJECTED: "Envoy rejected the configuration",
    Exit.INTERRUPTED: "interrupted",
}


class Failure(ControlPlaneError):
    """A command that ends early, with its exit code and what a person can do about it."""

    def __init__(self, code: Exit, message: str, help: str = "") -> None:
        self.code = code
        self.help = help
        super().__init__(message)


_UNREADABLE = frozenset(
    {
        Code.UNREADABLE,
        Code.TOO_LARGE,
        Code.NOT_UTF8,
        Code.CONTROL_CHARACTER,
        Code.SYNTAX,
        Code.TAB,
        Code.EMPTY_FILE,
        Code.ROOT_UNREADABLE,
        Code.SECRET_UNREADABLE,
        Code.NOT_A_FILE,
    }
)
"""Codes of input that could not be read at all, as opposed to input that says something wrong."""


def exit_code(diagnostics: Iterable[Diagnostic], fail_on: Severity = Severity.ERROR) -> Exit:
    """What a command that found these ends with.

    Input that could not be read weighs more than input that is wrong, and is never a success, whatever its severity.
    """
    found = list(diagnostics)
    if any(diagnostic.code in _UNREADABLE for diagnostic in found):
        return Exit.UNREADABLE
    counts = any(d.severity is Severity.ERROR or fail_on is Severity.WARNING for d in found)
    return Exit.PROBLEMS if counts else Exit.OK
