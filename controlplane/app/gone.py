"""Proxies that were connected and are not any more: for a while, and no more of them than fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from controlplane.xds.nodes import Node

REMEMBERED_SECONDS = 3600.0
"""One that is gone for longer was taken away, not lost."""
REMEMBERED = 1000


class _Left(NamedTuple):
    """When a node left, and why it had to (None: it went itself)."""

    at: float
    node: Node
    reason: str | None


@dataclass(slots=True)
class Gone:
    """By node id, the newest last."""

    clock: Callable[[], float] = monotonic
    _left: OrderedDict[str, _Left] = field(default_factory=OrderedDict)

    def left(self, node: Node, reason: str | None) -> None:
        """The last stream of this node has ended; `reason`: why it was not let go on."""
        self._left.pop(node.id, None)
        self._left[node.id] = _Left(self.clock(), node, reason)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)

    def back(self, node: Node) -> None:
        """It is connected."""
        self._left.pop(node.id, None)

    def all(self) -> Iterator[tuple[Node, float, str | None]]:
        """Each node, for how many seconds it is gone, and why it had to go."""
        now = self.clock()
        while self._left and now - next(iter(self._left.values())).at > REMEMBERED_SECONDS:
            self._left.popitem(last=False)
        for at, node, reason in self._left.values():
            yield node, now - at, reason
