"""How the process behaves over time: its start and end, storms of changes, and removals that it doubts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from controlplane.model.written import Percent, PositiveCount, PositiveDuration, Written


class Startup(Written):
    """What is served before every source has said everything once.

    `waitFor`: the sources that must have, by name (`files`, `secrets`, `kubernetes/NAME`, `consul/NAME`).
    """

    wait_for: Literal["all", "none"] | Annotated[tuple[str, ...], Field(max_length=256)] = "all"
    deadline: PositiveDuration = timedelta(seconds=30)
    on_deadline: Literal["serve-last-known-good", "wait"] = "serve-last-known-good"


class Shutdown(Written):
    """How long the end may take after SIGTERM: streams end at random over most of it, and the process is gone within."""

    within: PositiveDuration = timedelta(seconds=10)


class Coalesce(Written):
    """How a storm of changes is gathered: the first goes out at once, then after `quiet`, at the latest after `max`."""

    quiet: PositiveDuration = timedelta(milliseconds=5)
    max: PositiveDuration = timedelta(milliseconds=100)

    @model_validator(mode="after")
    def _in_order(self) -> Coalesce:
        if self.max < self.quiet:
            raise ValueError("max must be at least quiet")
        return self


HOLD = timedelta(minutes=10)
"""How long what is gone without a proof stays in force, unless told otherwise."""


class Guards(Written):
    """When a removal is not believed at once.

    More than `massRemoval` of the endpoints of a service or a source, or of the specs of a source, and at least
    `minimum` of them, gone at once without a confirmation: they stay in force for `hold`. So do all specs of a source whose
    definition (Kubernetes) or prefix (Consul) is gone, however many they are.
    """

    mass_removal: Percent = 50.0
    hold: PositiveDuration = HOLD
    minimum: PositiveCount = 3
