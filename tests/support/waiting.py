"""Waiting for what another process does: ask again until a deadline, and say what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds after which what has not come is a failure: so many that no machine, however busy, needs them."""


def until(answer: Callable[[], T | None], what: str, seconds: float = PATIENCE, step: float = 0.01) -> T:
    """Ask until the answer is true, and return it. Raises TimeoutError that names what was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := answer()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s (last answer: {found!r})")
        time.sleep(step)
    return found
