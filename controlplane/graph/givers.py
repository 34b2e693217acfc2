"""Which of several tasks gives a row. The engine alone uses this."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any


class Givers:
    """The keys of several tasks that give one row, the smallest at hand: thousands of routes may give the same host."""

    __slots__ = ("_heap", "_members")

    def __init__(self, *task_keys: Any) -> None:
        """Begin with these."""
        self._members = set(task_keys)
        self._heap = sorted(task_keys)

    def __len__(self) -> int:
        """How many give the row."""
        return len(self._members)

    def add(self, task_key: Any) -> None:
        """One more; nothing happens when it is there."""
        if task_key not in self._members:
            self._members.add(task_key)
            heappush(self._heap, task_key)

    def discard(self, task_key: Any) -> None:
        """One less. The heap forgets a key when it comes to the top, or when most of it is forgotten."""
        self._members.discard(task_key)
        if len(self._heap) > 2 * len(self._members):
            self._heap = sorted(self._members)

    def smallest(self) -> Any:
        """The one whose row counts."""
        while self._heap[0] not in self._members:
            heappop(self._heap)
        return self._heap[0]
