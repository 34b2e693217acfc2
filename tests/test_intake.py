"""What is in force of secrets that come at the wrong time."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controlplane.app.intake import Intake
from controlplane.app.problems import Problems
from controlplane.app.services import Services
from controlplane.app.source_status import SourceStatus
from controlplane.model.secret import Secret
from controlplane.names import SecretRef
from tests.support.certificates import Authority, Pair, authority

REF = SecretRef("files", "platform", "shop-tls")
DAY = 86_400.0


def secret(pair: Pair) -> Secret:
    return Secret.of({"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority().pem})


class Rig:
    """An intake, what it keeps in force, and a clock."""

    def __init__(self) -> None:
        self.later = 0.0
        self.in_force: Secret | None = None
        self.register = Problems()
        services = SimpleNamespace(
            tick=lambda _: None,
            ask=lambda: None,
            flush=lambda _: None,
            unheard=lambda _: (),
            caught_up=lambda _: True,
            unnamed=set(),
        )
        self.intake = Intake(
            {"secrets": SourceStatus("secrets", 0.0, None)},
            keep=lambda _: None,
            keep_secret=self._keep,
            services=cast(Services, services),
            register=self.register,
            wall_clock=lambda: time.time() + self.later,
            objects_before={},
            secrets_before={},
        )
        loop: Any = SimpleNamespace(
            edit=lambda *_: None, flush=lambda _: None, hold=lambda _: None, release=lambda: None
        )
        self.intake.attach(loop)

    def _keep(self, _: SecretRef, kept: Secret | None) -> None:
        self.in_force = kept

    def said(self) -> str:
        return " ".join(one.message for one in asyncio.run(self.register.all()))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def leaf(days: float, delay: float = 0.0) -> Secret:
    """A pair that lives for so many days, after a delay."""
    return secret(authority().leaf("shop.example.com", life=timedelta(days=days), delay=timedelta(days=delay)))


def test_an_expired_pair_does_not_replace_one_within_its_time(rig: Rig) -> None:
    """Clients would refuse it, and the one that is in force still serves."""
    good, expired = leaf(2), leaf(-1)
    rig.intake.put_secret(REF, good)
    rig.intake.put_secret(REF, expired)
    rig.intake.tick()
    assert rig.in_force == good
    assert "has expired" in rig.said()
    better = leaf(3)
    rig.intake.put_secret(REF, better)
    assert (rig.in_force, rig.said()) == (better, "")


def test_a_pair_that_comes_early_is_taken_when_its_time_has_come(rig: Rig) -> None:
    good, early = leaf(9), leaf(9, delay=5)
    rig.intake.put_secret(REF, good)
    rig.intake.put_secret(REF, early)
    rig.intake.tick()
    assert rig.in_force == good
    assert "is not valid before" in rig.said()
    rig.later = 5.5 * DAY
    rig.intake.tick()
    assert (rig.in_force, rig.said()) == (early, "")


def test_a_pair_whose_time_is_over_keeps_nothing_out(rig: Rig) -> None:
    short, early = leaf(2), leaf(9, delay=5)
    rig.intake.put_secret(REF, short)
    rig.intake.put_secret(REF, early)
    assert rig.in_force == short
    rig.later = 3 * DAY
    rig.intake.tick()
    assert rig.in_force == early


def test_a_pair_that_was_taken_back_does_not_come_later(rig: Rig) -> None:
    good = leaf(9)
    rig.intake.put_secret(REF, good)
    rig.intake.put_secret(REF, leaf(9, delay=5))
    rig.intake.put_secret(REF, good)
    rig.later = 5.5 * DAY
    rig.intake.tick()
    assert (rig.in_force, rig.said()) == (good, "")


def test_the_first_pair_counts_whatever_its_time(rig: Rig) -> None:
    """There is nothing better to show."""
    expired = leaf(-1)
    rig.intake.put_secret(REF, expired)
    assert (rig.in_force, rig.said()) == (expired, "")


def test_authorities_that_cannot_be_used_do_not_replace_those_that_can(rig: Rig) -> None:
    """Not after a restart either: a backend whose certificate nobody can verify any more answers 503."""
    good, pair = leaf(9), leaf(9)
    rig.intake.put_secret(REF, good)
    rig.intake.put_secret(REF, Secret.of({**dict(pair.items), "ca.crt": authority().pem[:200]}))
    assert rig.in_force == pair, "the pair is taken, with the authorities from before"
    assert "ca.crt has a block that does not end: it is cut off; its previous authorities stay in force" in rig.said()
    others = {**dict(pair.items), "ca.crt": Authority("another").pem}
    rig.intake.put_secret(REF, Secret.of(others))
    assert (rig.in_force, rig.said()) == (Secret.of(others), "")
    without = {name: value for name, value in others.items() if name != "ca.crt"}
    rig.intake.put_secret(REF, Secret.of(without))
    assert (rig.in_force, rig.said()) == (Secret.of(without), "")
