"""A reflector by itself: what a cluster says at once does not hold up what else the process does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from typing import Any, cast

import msgspec
import pytest

from controlplane.sources.kubernetes import reflector, specs
from controlplane.sources.kubernetes.client import Client, Refused, Trouble
from controlplane.sources.kubernetes.nesting import LEVELS as LEVELS_KEPT
from controlplane.sources.kubernetes.nesting import shallow
from controlplane.sources.kubernetes.specs import Documents
from controlplane.spec.codes import Code
from controlplane.spec.parse import parse_piece
from tests.sources.rig import Remembering

OBJECTS = 50


def thing(number: int) -> dict[str, Any]:
    return {"metadata": {"name": f"n{number}", "namespace": "shop", "resourceVersion": str(number + 1)}}


class Cluster:
    """Lists all objects, then tells all of them again in one batch of a watch that stays."""

    async def server(self) -> str:
        return "here"

    async def get(self, *_: Any) -> bytes:
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": list(map(thing, range(OBJECTS)))}).encode()

    async def watch(self, *_: Any) -> AsyncGenerator[list[bytes], None]:
        yield []
        yield [json.dumps({"type": "MODIFIED", "object": thing(number)}).encode() for number in range(OBJECTS)]
        await asyncio.Event().wait()


class Counting:
    """A mirror that notes how many turns the event loop has made at every call."""

    def __init__(self) -> None:
        self.turns = 0
        self.listed: list[int] = []
        self.changes: list[int] = []
        self.flushes = 0
        self.done = asyncio.Event()

    def begin(self) -> None:
        return

    def item(self, _: msgspec.Raw) -> None:
        self.listed.append(self.turns)

    def end(self, version: int, *, rewound: bool) -> None:
        return

    def changed(self, _: msgspec.Raw) -> None:
        self.changes.append(self.turns)

    def deleted(self, _: msgspec.Raw) -> None:
        return

    def flush(self, _: float) -> None:
        self.flushes += 1
        if self.changes:
            self.done.set()


def test_others_have_their_turn_within_a_list_and_within_a_batch_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a batch is flushed once, at its end: how much is gone at once is judged by it."""
    monkeypatch.setattr(reflector, "SLICE_SECONDS", 0.0)

    async def scenario() -> Counting:
        mirror = Counting()

        async def others() -> None:
            while True:
                mirror.turns += 1
                await asyncio.sleep(0)

        one = reflector.Reflector(cast(Client, Cluster()), "/things", mirror, lambda: None, what="things")
        tasks = [asyncio.create_task(one.run()), asyncio.create_task(others())]
        async with asyncio.timeout(20):
            await mirror.done.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return mirror

    mirror = asyncio.run(scenario())
    assert len(set(mirror.listed)) == OBJECTS
    assert len(set(mirror.changes)) == OBJECTS
    assert mirror.flushes == 3, "after the list, when the watch began, and after the batch"


LEVELS = (300, 900, 985, 1200, 3000)
"""Nested so deeply: most decoders of ours give up at about a thousand, in the one place or in the other."""


def spec(name: str, version: int, levels: int = 0) -> str:
    """A RouteSpec as the API server stores it; with `levels` it has a field that nests so deeply."""
    metadata = {"name": name, "namespace": "shop", "uid": name, "resourceVersion": str(version), "generation": version}
    route = {"name": "r", "hosts": ["a.example"], "public": True, "match": [{"path": {"prefix": "/"}}]}
    said = {"gateway": "platform/edge", "routes": [{**route, "respond": {"status": 200}}]}
    junk = '{"a":[' * (levels // 2) + r'"}\"]"' + "]}" * (levels // 2)
    deep = f', "junk": {junk}' if levels else ""
    return f'{{"metadata": {json.dumps(metadata)}, "spec": {json.dumps(said)[:-1]}{deep}}}}}'


class Deep(Cluster):
    """Lists and tells objects that are nested deeply among others."""

    def __init__(self) -> None:
        self.lists = 0
        self.done = asyncio.Event()

    async def get(self, *_: Any) -> bytes:
        self.lists += 1
        items = [spec("before", 2), *(spec(f"listed-{count}", 3, count) for count in LEVELS), spec("after", 4)]
        return f'{{"metadata":{{"resourceVersion":"9"}},"items":[{",".join(items)}]}}'.encode()

    async def watch(self, *_: Any) -> AsyncGenerator[list[bytes], None]:
        yield []
        events = [("ADDED", spec(f"added-{count}", 10, count)) for count in LEVELS]
        events += [("MODIFIED", spec("before", 11, 1500)), ("DELETED", spec("listed-1200", 12, 1200))]
        events += [("ADDED", spec("last", 13))]
        yield [f'{{"type":"{kind}","object":{said}}}'.encode() for kind, said in events]
        self.done.set()  # all of it has been taken
        await asyncio.Event().wait()


def test_an_object_that_is_nested_too_deeply_costs_nobody_else_anything() -> None:
    """The API server takes some thousand levels, of everybody who may write; unheeded, a whole page would fail with them."""

    async def scenario() -> reflector.Reflector:
        one = reflector.Reflector(cast(Client, cluster), "/things", documents, lambda: None, what="things")
        task = asyncio.create_task(one.run())
        async with asyncio.timeout(20):
            await cluster.done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return one

    cluster, sink = Deep(), Remembering()
    documents = Documents("kubernetes/test", "RouteSpec", None, {}, sink)
    one = asyncio.run(scenario())
    assert (one.health.trouble, one.health.lists, cluster.lists) == (None, 1, 1)
    deep = {f"{how}-{count}" for how in ("listed", "added") for count in LEVELS}
    assert {ref.name for ref in documents.seen} == {"before", "after", "last"} | deep - {"listed-1200"}
    assert {ref.name for ref in sink.objects} == {"before", "after", "last"}, "the last good version of the first stays"
    said = {subject.rpartition("/")[2]: diagnostics for subject, diagnostics in sink.said.items()}
    assert said.keys() == deep | {"before"}, "that which is deleted is asked about, and is what it was until then"
    assert {(one.code, one.message) for found in said.values() for one in found} == {
        (Code.TOO_DEEP, "more than 64 levels of nesting")
    }


class Few(Cluster):
    """Lists two objects; one of them changes, and then its status alone."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    async def get(self, *_: Any) -> bytes:
        return f'{{"metadata":{{"resourceVersion":"9"}},"items":[{spec("one", 2)},{spec("two", 3)}]}}'.encode()

    async def watch(self, *_: Any) -> AsyncGenerator[list[bytes], None]:
        yield []
        changed = spec("two", 10).replace("a.example", "b.example")
        for said in (changed, f'{changed[:-1]}, "status": {{}}}}'):
            yield [f'{{"type":"MODIFIED","object":{said}}}'.encode()]
        self.done.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("large", [True, False])
def test_a_large_object_is_parsed_beside_the_event_loop_and_once(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """A megabyte of regexes takes five seconds: whoever may write one object could hold up every proxy with each edit."""
    monkeypatch.setattr(reflector, "LARGE", 100 if large else 1_000_000)
    beside: list[bool] = []

    def parse(*said: Any) -> Any:
        beside.append(threading.current_thread() is not threading.main_thread())
        return parse_piece(*said)

    monkeypatch.setattr(specs, "parse_piece", parse)
    cluster, sink = Few(), Remembering()
    documents = Documents("kubernetes/test", "RouteSpec", None, {}, sink)

    async def scenario() -> None:
        one = reflector.Reflector(
            cast(Client, cluster), "/things", documents, lambda: None, what="things", prepare=documents.prepare
        )
        task = asyncio.create_task(one.run())
        async with asyncio.timeout(20):
            await cluster.done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert beside == [large] * 3, "two that were listed, and one change"
    assert {ref.name: "b.example" in one.text for ref, one in sink.objects.items()} == {"one": False, "two": True}


def test_what_is_cut_off_is_what_lies_too_deep() -> None:
    """And a bracket in a text is none."""
    deep = spec("deep", 1, 3000)
    cut = json.loads(shallow(f'{{"items": [{deep}, {spec("next", 2)}], "last": ["]}}", "\\\\"]}}'.encode()))
    assert cut["items"][1] == json.loads(spec("next", 2))
    assert cut["items"][0]["metadata"] == json.loads(spec("deep", 1))["metadata"]
    assert cut["last"] == ["]}", "\\"]
    assert shallow(spec("plain", 1, LEVELS_KEPT - 2).encode()) == spec("plain", 1, LEVELS_KEPT - 2).encode()


class Replaced(Cluster):
    """Another cluster, when it is told to be: with other objects, at another place in its history."""

    def __init__(self, version: int, *, moves: bool) -> None:
        self.version = 100
        self.later = version
        self.moves = moves
        self.asked: list[str] = []

    async def server(self) -> str:
        return "there" if self.moves and self.version == self.later else "here"

    async def get(self, *_: Any) -> bytes:
        self.asked.append(f"list {self.version}")
        return json.dumps({"metadata": {"resourceVersion": str(self.version)}, "items": []}).encode()

    async def watch(self, _: str, asked: dict[str, str], *__: Any) -> AsyncGenerator[list[bytes], None]:
        self.asked.append(f"watch {asked['resourceVersion']}")
        yield []
        if self.version == self.later:
            await asyncio.Event().wait()
        self.version = self.later
        if not self.moves:
            bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
            yield [json.dumps(bookmark).encode()]
            await asyncio.Event().wait()


class Rewinds(Counting):
    """A mirror that notes what the lists were."""

    def __init__(self) -> None:
        super().__init__()
        self.rewound: list[bool] = []

    def end(self, version: int, *, rewound: bool) -> None:
        self.rewound.append(rewound)
        if len(self.rewound) == 2:
            self.done.set()


class Swapped(Replaced):
    """A cluster that another one takes the place of: ahead of it, and with an object of the same name. Watches end early."""

    def __init__(self, *, breaks: bool, same: bool) -> None:
        super().__init__(400, moves=False)
        self.breaks, self.same = breaks, same
        self.watched_again = asyncio.Event()

    async def get(self, _: str, asked: dict[str, str], *__: Any) -> bytes:
        self.asked.append(f"list {self.version} {asked['limit']}")
        uid = "one" if self.same or self.version == 100 else "another"
        items = [{"metadata": {"name": "n", "namespace": "shop", "uid": uid, "resourceVersion": "50"}}]
        return json.dumps({"metadata": {"resourceVersion": str(self.version)}, "items": items}).encode()

    async def watch(self, _: str, asked: dict[str, str], *__: Any) -> AsyncGenerator[list[bytes], None]:
        self.asked.append(f"watch {asked['resourceVersion']}")
        yield []
        if self.version == self.later:
            self.watched_again.set()
            await asyncio.Event().wait()
        self.version = self.later
        if self.breaks:
            raise Refused(Trouble.UNREACHABLE, "broken off")


@pytest.mark.parametrize("breaks", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_another_cluster_in_the_place_of_one_is_recognised(
    breaks: bool, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells nothing of what only the former one had; of the same cluster nothing is listed again."""
    monkeypatch.setattr(reflector, "FIRST_DELAY", 0.0)
    cluster = Swapped(breaks=breaks, same=same)

    async def scenario() -> None:
        one = reflector.Reflector(cast(Client, cluster), "/things", Counting(), lambda: None, what="things")
        task = asyncio.create_task(one.run())
        async with asyncio.timeout(20):
            await cluster.watched_again.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    relisted = [] if same else ["list 400 500"]
    watched = "watch 100" if same else "watch 400"
    assert cluster.asked == ["list 100 500", "watch 100", "list 400 1", *relisted, watched]


@pytest.mark.parametrize(("version", "moves"), [(40, False), (40, True), (400, True)])
def test_another_cluster_is_listed(version: int, moves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig that leads elsewhere now, or a name that does. A watch from a version of the other one tells nothing."""
    monkeypatch.setattr(reflector, "FIRST_DELAY", 0.0)

    async def scenario() -> None:
        one = reflector.Reflector(cast(Client, cluster), "/things", mirror, lambda: None, what="things")
        task = asyncio.create_task(one.run())
        async with asyncio.timeout(20):
            await mirror.done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    cluster, mirror = Replaced(version, moves=moves), Rewinds()
    asyncio.run(scenario())
    assert cluster.asked[:3] == ["list 100", "watch 100", f"list {version}"]
    assert mirror.rewound == [False, version < 100]
