"""What is remembered of routes, and how many one answer explains."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from controlplane.app.problems import Problems
from controlplane.app.routes import MOST, Routes
from controlplane.compile.xds_types import CLUSTER, SCOPED_ROUTE
from controlplane.names import FILES, GATEWAY_KIND, ElementKey, ObjectRef
from controlplane.resources import Resource
from controlplane.snapshot.store import Store


def routes(rows: dict[ElementKey, Any]) -> Routes:
    compiler = SimpleNamespace(tables=SimpleNamespace(routes=SimpleNamespace(rows=rows)))
    server = SimpleNamespace(nodes=tuple)
    return Routes(cast(Any, compiler), Store(), cast(Any, server), Problems(), lambda: 7.0)


def change(name: str, body: bytes | None, url: str = SCOPED_ROUTE) -> tuple[str, str, Resource | None]:
    return url, name, None if body is None else Resource(url, name, body)


def test_a_shard_is_as_old_as_its_content() -> None:
    """A publication repeats what has only moved in its file."""
    looked = routes({})
    looked.published({"part": [change("a", b"1"), change("b", b"1"), change("c", b"1", CLUSTER)]}, 1)
    looked.clock = lambda: 9.0
    looked.published({"part": [change("a", b"1"), change("b", b"2")]}, 2)
    assert {name: since[1:] for name, since in looked._since.items()} == {"a": (1, 7.0), "b": (2, 9.0)}
    looked.published({"part": [change("a", None)]}, 3)
    assert looked._since.keys() == {"b"}, "what is gone is forgotten"


def test_an_answer_has_bounds() -> None:
    document = ObjectRef(FILES, GATEWAY_KIND, "platform", "edge")
    row = SimpleNamespace(gateway="platform/edge", part=SimpleNamespace(hosts=["*"]))
    looked = routes({ElementKey(document, f"r{number:02}"): row for number in range(MOST + 5)})
    answer = asyncio.run(looked.explained("r*", "*"))
    assert ([one["route"] for one in answer["routes"]], answer["more"]) == ([f"r{n:02}" for n in range(MOST)], 5)
    assert asyncio.run(looked.explained("*", "other/*")) == {"routes": [], "more": 0}
