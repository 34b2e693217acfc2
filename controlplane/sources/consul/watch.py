"""A blocking query that is asked again and again, by Consul's rules for indexes.

https://developer.hashicorp.com/consul/api-docs/features/blocking#implementation-details
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from controlplane.sources.consul.client import Answer, Client, Consistency, Failure
from controlplane.sources.consul.pace import Backoff

WAIT_SECONDS = 8.0
"""How long a query is held when nothing happens. An agent that hangs is noticed when its answer is overdue, so this is
short; an idle query costs an agent next to nothing."""
_BREATH_SECONDS = 0.005
_LONGEST_BREATH_SECONDS = 0.02
_LONGEST_IDLE_BREATH_SECONDS = 1.0
_SHARE = 4.0
"""An answer is followed by a pause of so many times what it cost to look at, so that a large one cannot take it all."""


@dataclass(frozen=True, slots=True)
class Step:
    """An answer. `moved`: something of this kind is newer than before. `changed`: the answer differs from the last one.

    `reset`: the index went back, so Consul has other data. `at` is time.monotonic() when it arrived.
    """

    answer: Answer
    moved: bool
    changed: bool
    reset: bool
    at: float


async def watch(
    client: Client,
    path: str,
    query: Mapping[str, str],
    consistency: Consistency,
    failed: Callable[[Failure, int], None],
    *,
    wait: float = WAIT_SECONDS,
) -> AsyncGenerator[Step, None]:
    """Answers for ever. `failed(failure, how many in a row)` is told of those that did not come."""
    seen = index = 0
    last: bytes | None = None
    backoff = Backoff()
    breath = 0.0
    while True:
        try:
            # Spread, so that the queries of many replicas do not come back at the same moment.
            patience = wait * random.uniform(0.8, 1.0)  # noqa: S311
            asked = time.monotonic()
            # Without an index nothing tells how far behind a server is; its contact with the leader does not.
            whom = consistency if index else Consistency.LEADER
            answer = await client.held(path, query, index=index, wait=patience, consistency=whom)
            if answer.index < seen:
                # A server that lags behind, or other data? The leader knows, once it has read again all that was written.
                answer = await client.held(path, query, index=0, wait=0.0, consistency=Consistency.CONSISTENT)
        except Failure as failure:
            # A server that lost its data would hold a query until its index comes so far again: ask without one.
            index = 0
            seconds = backoff.failed(failure.after)
            failed(failure, backoff.failures)
            await asyncio.sleep(seconds)
            continue
        backoff.worked()
        began = time.monotonic()
        moved = answer.index != seen
        step = Step(answer, moved, answer.body != last, answer.index < seen, began)
        seen = index = answer.index
        last = answer.body
        yield step
        cost = time.monotonic() - began
        # The index counts the changes of everything of this kind: where much happens, most answers say nothing new.
        # An answer that came early though nothing moved is against the rules, and must not become a busy loop.
        longest = _LONGEST_BREATH_SECONDS if moved else _LONGEST_IDLE_BREATH_SECONDS
        breath = _BREATH_SECONDS if step.changed else min(breath * 2, longest)
        if moved or began - asked < patience / 2:
            await asyncio.sleep(max(breath, cost * _SHARE))
