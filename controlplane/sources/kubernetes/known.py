"""What is known of one service of a cluster, and how old that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from controlplane.model.endpoint import Endpoint, Service
from controlplane.sources.kubernetes import objects
from controlplane.sources.kubernetes.slices import Slice

Key = tuple[str, str]
"""Namespace and name of a service."""


class Part(StrEnum):
    """What a service consists of."""

    SERVICE = "service"
    SLICES = "slices"


@dataclass(frozen=True, slots=True)
class Read:
    """A whole read that was made at `version`.

    `rewound`: the cluster is behind what it has told before, whose versions say nothing any more. `confirms`: it began
    after a second read was asked for.
    """

    version: int
    rewound: bool = False
    confirms: bool = False


@dataclass(slots=True)
class Known:
    """One service. `said` is what was pushed last; None for "there is none", "nothing" as long as nothing was."""

    declared: objects.Service | None = None
    slices: dict[str, Slice] = field(default_factory=dict)
    unread: set[Part] = field(default_factory=lambda: set(Part))
    floors: dict[Part, int] = field(default_factory=lambda: dict.fromkeys(Part, -1))
    said: Service | Literal["nothing"] | None = "nothing"
    doubtful: bool = False
    """A list lacked something that was there before, and nobody has seen it go."""
    confirming: set[Part] | None = None
    """What is still to be read a second time."""
    leaving: dict[str, tuple[Endpoint, float]] = field(default_factory=dict)
    """Endpoints that may come back in another slice, by address, and until when they stay."""
    not_before: float = 0.0
    """When it may be pushed again."""
    waits: float | None = None
    """When what waits for that was noticed; None when nothing does."""

    def is_newer(self, part: Part, read: Read) -> bool:
        """Whether the cluster has said something whole of this part since the read was made."""
        return not read.rewound and read.version < self.floors[part]
