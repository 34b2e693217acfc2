"""Answers of the admin API: large ones are written in portions, so that nothing waits for them."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controlplane.admin import server
from controlplane.app import look, rollcall
from controlplane.app.ages import Ages
from controlplane.app.look import Running
from controlplane.app.rollcall import Rollcall
from controlplane.names import GatewayName
from controlplane.snapshot.store import Store
from controlplane.xds import types
from controlplane.xds.observer import TypeStatus

COUNT = 200
BODY = {"name": "route", "domains": ["a.example.com"], "routes": [{"n": number} for number in range(30)]}


def test_others_have_their_turns_while_a_large_answer_is_written() -> None:
    """`snapshot?bodies=1` of 5,000 routes held up every edit and every probe for as long as it took."""
    made = 0

    def body() -> dict[str, Any]:
        nonlocal made
        made += 1
        return BODY

    async def ask() -> tuple[int, bytes]:
        content = {"resources": [{"name": str(number), "body": body} for number in range(COUNT)]}
        task = asyncio.create_task(server._json(content))
        before = most = 0
        while not task.done():
            await asyncio.sleep(0)
            most = max(most, made - before)
            before = made
        answer = task.result().body
        assert isinstance(answer, bytes)
        return most, answer

    most, answer = asyncio.run(ask())
    assert made == COUNT
    assert most <= 10, "bodies that are made in one turn"
    plain = {"formatVersion": "1.0", "resources": [{"name": str(number), "body": BODY} for number in range(COUNT)]}
    assert answer.decode() == json.dumps(plain, indent=1) + "\n"


def test_what_is_not_for_json_is_no_answer() -> None:
    with pytest.raises(TypeError, match="object is not for JSON"):
        asyncio.run(server._json({"what": object()}))


def test_bodies_are_not_made_before_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is listed are resources, which never change: the answer is of the moment it was asked for."""
    resource = SimpleNamespace(name="web", version="1")
    monkeypatch.setattr(look, "as_dict", BODY.update)
    monkeypatch.setattr(rollcall, "as_dict", BODY.update)
    view = SimpleNamespace(names=lambda _: {"web"}, get=lambda *_: resource, version=lambda: "1", sequence=1)
    gateway = GatewayName("platform/edge")
    tables = SimpleNamespace(gateways=SimpleNamespace(rows={gateway: None}))
    running: Any = SimpleNamespace(compiler=SimpleNamespace(tables=tables), _view=lambda *_: view)
    found = Running.snapshot(running, gateway, "cds", True)
    assert found is not None
    entries = [found["resources"]["cds"][0]]
    item = SimpleNamespace(name="web", resource=resource, state="synced")
    node = SimpleNamespace(node=SimpleNamespace(id="edge-1"), parts=())
    asked: Any = SimpleNamespace(nodes=lambda: [node], inventory=lambda *_: [item])
    ages = Ages(Store(), lambda: 0.0)
    has = Rollcall(ages.store, asked, cast(Any, None), cast(Any, None), ages).inventory(
        "edge-1", "cluster", bodies=True
    )
    assert has is not None
    entries += has["resources"]
    for entry in entries:
        assert isinstance(entry["body"], partial)
        assert entry["body"].args == (resource,)


def test_a_type_is_called_alike_by_all_who_tell_of_it() -> None:
    """`vhds` was its type URL among the nodes."""
    status: Any = SimpleNamespace(**dict.fromkeys(TypeStatus.__dataclass_fields__, 0) | {"nack": None, "held": {}})
    status.type_url = types.VIRTUAL_HOST
    running: Any = SimpleNamespace(clock=lambda: 0.0)
    assert Running._type(running, status)["type"] == types.short_name(types.VIRTUAL_HOST) == "vhds"
