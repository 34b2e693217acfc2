"""By what a version may be called that people wait for."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.app.rollcall import Rollcall
from controlplane.names import GatewayName
from controlplane.snapshot.store import Store


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("8427805500a1b2c3", ("shop/edge", 2)),
        ("84278055", ("shop/edge", 2)),  # digits alone may be how a version begins
        ("0c4d0000", ("shop/mobile", 1)),
        ("2", (None, 2)),
        ("3", (None, None)),
        ("ffff", (None, None)),
    ],
)
def test_a_version_is_found_by_its_beginning_and_by_its_number(said: str, found: tuple[str | None, int | None]) -> None:
    store = Store()
    store.sequence = 2
    nobody: Any = None
    rollcall = Rollcall(store, nobody, nobody, nobody, nobody)
    rollcall._published["0c4d000000000000"] = GatewayName("shop/mobile"), 1
    rollcall._published["8427805500a1b2c3"] = GatewayName("shop/edge"), 2
    assert rollcall._find(said) == found
