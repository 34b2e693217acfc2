"""What tests of the state store share: a disk, however slow, is waited for."""

from __future__ import annotations

import pytest

from controlplane.state.store import State
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `close` could not write in time is lost; that is no answer to whether it comes back."""
    monkeypatch.setattr(State.close, "__defaults__", (PATIENCE,))
