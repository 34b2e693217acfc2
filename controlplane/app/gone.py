"""Proxies that were connected and are not any more: for a while, and no more of them than fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic

from controlplane.xds.nodes import Node

REMEMBERED_SECONDS = 3600.0
"""One that is gone for longer was taken away, not lost."""
REMEMBERED = 1000


@dataclass(slots=True)
class Gone:
    """By node id, the newest last."""

    clock: Callable[[], float] = monotonic
    _left: OrderedDict[str, tuple[float, Node]] = field(default_factory=OrderedDict)

    def left(self, node: Node) -> None:
        """The last stream of this node has ended."""
        self._left.pop(node.id, None)
        self._left[node.id] = (self.clock(), node)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)

    def back(self, node: Node) -> None:
        """It is connected."""
        self._left.pop(node.id, None)

    def all(self) -> Iterator[tuple[Node, float]]:
        """Each node, and for how many seconds it is gone."""
        now = self.clock()
        while self._left and now - next(iter(self._left.values()))[0] > REMEMBERED_SECONDS:
            self._left.popitem(last=False)
        for at, node in self._left.values():
            yield node, now - at
