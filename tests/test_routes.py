"""How many routes one answer explains."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from controlplane.app.ages import Ages
from controlplane.app.problems import Problems
from controlplane.app.routes import MOST, Routes
from controlplane.names import FILES, GATEWAY_KIND, ElementKey, ObjectRef
from controlplane.snapshot.store import Store


def routes(rows: dict[ElementKey, Any]) -> Routes:
    compiler = SimpleNamespace(tables=SimpleNamespace(routes=SimpleNamespace(rows=rows)), in_force=lambda ref: ref)
    server = SimpleNamespace(nodes=tuple)
    store = Store()
    return Routes(cast(Any, compiler), store, cast(Any, server), Problems(), Ages(store, lambda: 7.0))


def test_an_answer_has_bounds() -> None:
    document = ObjectRef(FILES, GATEWAY_KIND, "platform", "edge")
    row = SimpleNamespace(gateway="platform/edge", part=SimpleNamespace(hosts=["*"], to=None, use=(), auth=None))
    looked = routes({ElementKey(document, f"r{number:02}"): row for number in range(MOST + 5)})
    answer = asyncio.run(looked.explained("r*", "*"))
    assert ([one["route"] for one in answer["routes"]], answer["more"]) == ([f"r{n:02}" for n in range(MOST)], 5)
    assert asyncio.run(looked.explained("*", "other/*")) == {"routes": [], "more": 0}
