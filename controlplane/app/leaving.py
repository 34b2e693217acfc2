"""What routes name of a filter that they share: it stays there until no proxy has a route that names it.

JWT requirements and rate limits. One that is taken away too early would leave routes that refuse everything, or that
limit nothing (ADR 7).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from functools import partial
from typing import Generic, TypeVar

from controlplane.app.in_place import LINGER_SECONDS, InPlace
from controlplane.app.loop import CommitLoop
from controlplane.compile.compiler import Compiler

Key = TypeVar("Key", bound=tuple[str, ...])


class Leaving(Generic[Key]):
    """Of one kind. The last word of a key is the name in routes; `wanted` are those that specs ask for."""

    def __init__(
        self,
        wanted: Container[Key],
        release: Callable[[Compiler, Key], None],
        loop: CommitLoop,
        in_place: InPlace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = wanted
        self._release = release
        self._loop = loop
        self._in_place = in_place
        self._clock = clock
        self._ceased: dict[Key, object] = {}  # a mark of the last time that routes ceased to name it
        self._named: dict[Key, float] = {}  # those that are in doubt: when they were last named, as far as is known

    def leaving(self, touched: Iterable[Key]) -> Callable[[], None] | None:
        """Of these, routes that are published now began or ceased to name them: what to do when every proxy has the routes."""
        gone, mark = self._gone(touched), object()
        for key in gone:
            self._ceased[key] = mark
            self._named.pop(key, None)
        return partial(self._arrived, gone, mark) if gone else None

    def _gone(self, touched: Iterable[Key]) -> list[Key]:
        return [key for key in touched if key not in self._wanted]

    def _arrived(self, touched: Iterable[Key], mark: object) -> None:
        """Every proxy has routes without these, or had the time to: but who refused them has those of before.

        Of what routes have named again and ceased to name meanwhile, that says nothing.
        """
        last = [key for key in touched if self._ceased.get(key) is mark]
        for key in last:
            del self._ceased[key]
        now, gone = self._clock(), self._gone(last)
        if self._in_place.look(now):
            self._named |= dict.fromkeys(gone, now)
        else:
            self._let_go(gone, now)

    def tick(self, now: float) -> None:
        """Let go of what nothing names any more that is shown in the place of something else."""
        if not self._named:
            return
        named = self._in_place.named(key[-1] for key in self._named)
        self._named = {
            key: now if key[-1] in named else since for key, since in self._named.items() if key not in self._wanted
        }
        over = [key for key, since in self._named.items() if now - since >= LINGER_SECONDS]
        for key in over:
            del self._named[key]
        self._let_go(over, now)

    def _let_go_of(self, key: Key, compiler: Compiler) -> None:
        if key not in self._wanted:
            self._release(compiler, key)

    def _let_go(self, keys: Iterable[Key], now: float) -> None:
        for key in keys:
            self._loop.edit(("leaves", key), partial(self._let_go_of, key))
        self._loop.flush(now)
