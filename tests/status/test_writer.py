"""The writer of statuses, without a cluster: whatever comes of one object, the others are written and it goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.names import ObjectRef
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.client import Client, Refused, Trouble
from controlplane.sources.kubernetes.specs import Seen
from controlplane.status.standing import Proxies, Standing
from controlplane.status.writer import Writer

A, B = (ObjectRef("kubernetes/test", "RouteSpec", "shop", name) for name in "ab")


class Cluster:
    def seen(self, ref: ObjectRef) -> Seen:
        return Seen(ref.name, 1, msgspec.Raw(b"{}"))

    def refs(self) -> list[ObjectRef]:
        return [A, B]


@pytest.mark.parametrize("error", [AttributeError("'NoneType' object has no attribute 'getall'"), KeyError("spec")])
def test_an_error_that_nobody_thought_of_ends_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in an HTTP library, in what one cluster says, must not end what serves every proxy."""
    written: list[str] = []
    reasons: list[str | None] = []

    async def send(_: Client, method: str, path: str, *more: Any) -> bytes:
        if method == "PATCH" and path.endswith("/a/status") and not written:
            raise error
        written.append(path)
        return b"{}"

    async def get(*_: Any) -> bytes:
        if not asked:
            asked.append(None)
            raise error
        return b'{"metadata": {}, "spec": {}}'

    asked: list[None] = []
    monkeypatch.setattr(Client, "send", send)
    monkeypatch.setattr(Client, "get", get)
    monkeypatch.setattr("controlplane.status.lease.RENEW_SECONDS", 0.01)
    monkeypatch.setattr("controlplane.status.writer.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("controlplane.status.writer.GATHER_SECONDS", 0.01)

    async def scenario() -> None:
        writer = Writer(
            Access(tmp_path / "kubeconfig"),
            Cluster(),
            lambda *_: Standing(1, (), Proxies()),
            reasons.append,
            namespace="controlplane",
            identity="me",
        )
        running = asyncio.create_task(writer.run())
        async with asyncio.timeout(20):
            while writer.writes < 2:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.005)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert {path.split("/")[-2] for path in written if path.endswith("/status")} == {"a", "b"}
    assert any(reason and type(error).__name__ in reason for reason in reasons)


class Api:
    """An API server with one object, and the watch of it; whatever is written is told at once unless `silent`."""

    def __init__(self) -> None:
        self.version, self.generation = 10, 1
        self.status: dict[str, Any] = {}
        self.writes: list[dict[str, Any]] = []
        self.refuse: list[Trouble] = []
        self.before_send: Callable[[], None] = lambda: None
        self.silent = self.gone = False
        self.lease: dict[str, Any] = {"metadata": {}, "spec": {}}
        self.writer: Writer
        self._told = self._seen()

    def seen(self, _: ObjectRef) -> Seen | None:
        return None if self.gone else self._told

    def refs(self) -> list[ObjectRef]:
        return [A]

    def _seen(self) -> Seen:
        return Seen("a", self.generation, msgspec.Raw(json.dumps(self.status).encode()), str(self.version))

    def tell(self) -> None:
        self._told = self._seen()
        self.writer.noticed(A)

    def put(self, status: dict[str, Any]) -> None:
        """Somebody writes it."""
        self.status = status
        self.version += 1
        if not self.silent:
            self.tell()

    async def get(self, *_: Any) -> bytes:
        return json.dumps(self.lease).encode()

    async def send(self, method: str, path: str, body: bytes, *_: Any) -> bytes:
        await asyncio.sleep(0)
        if method != "PATCH":
            self.lease = json.loads(body)
            return body
        self.before_send()
        asked = json.loads(body)
        if self.refuse:
            raise Refused(self.refuse.pop(), "no")
        if asked["metadata"]["resourceVersion"] != str(self.version):
            raise Refused(Trouble.CONFLICT, "the object has been modified")
        self.writes.append(asked["status"])
        self.put({**self.status, **asked["status"]})
        metadata = {"resourceVersion": str(self.version)}
        return json.dumps({"metadata": metadata, "status": self.status}).encode()


@asynccontextmanager
async def running(api: Api, folder: Path) -> AsyncIterator[Writer]:
    """Its writer, once it has written a first time."""
    writer = api.writer = Writer(
        Access(folder / "kubeconfig"),
        api,
        lambda _, seen: Standing(seen.generation, (), Proxies(1, 1)),
        lambda _: None,
        namespace="controlplane",
        identity="me",
    )
    task = asyncio.create_task(writer.run())
    try:
        await met(lambda: len(api.writes) == 1)
        yield writer
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def met(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.002)


async def idle(writer: Writer) -> None:
    """Nothing is due any more."""
    await met(lambda: not writer._due and not writer._underway)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(Client, "send", lambda _, *more: made.send(*more))
    monkeypatch.setattr(Client, "get", lambda _, *more: made.get(*more))
    for name in ("RETRY_SECONDS", "AGAIN_SECONDS", "GATHER_SECONDS", "INTERVAL_SECONDS", "LONGEST_REST_SECONDS"):
        monkeypatch.setattr(f"controlplane.status.writer.{name}", 0.01)
    return made


def test_what_somebody_makes_of_a_status_is_put_right(api: Api, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(api, tmp_path) as writer:
            api.put({})
            await met(lambda: len(api.writes) == 2)
            changed = json.loads(json.dumps(api.status))
            changed["conditions"][0]["status"] = "False"
            api.put(changed)
            await met(lambda: len(api.writes) == 3)
            await idle(writer)
            assert api.status["conditions"][0]["status"] == "True"

    asyncio.run(scenario())
    assert len(api.writes) == 3, "our own writes are none to put right"


def test_what_others_add_is_theirs(api: Api, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(api, tmp_path) as writer:
            audited = {"type": "Audited", "status": "True"}
            api.put({**api.status, "conditions": [audited, *api.status["conditions"]], "owner": "me"})
            writer.touch([A])
            await idle(writer)

    asyncio.run(scenario())
    assert len(api.writes) == 1


def test_a_field_that_the_api_server_does_not_keep_is_not_written_again_and_again(api: Api, tmp_path: Path) -> None:
    """Its definition is an older one."""
    put = api.put
    api.put = lambda status: put({name: value for name, value in status.items() if name != "observedGeneration"})  # type: ignore[method-assign]

    async def scenario() -> None:
        async with running(api, tmp_path) as writer:
            for _ in range(3):
                writer.touch([A])
                await idle(writer)

    asyncio.run(scenario())
    assert len(api.writes) == 1


def test_what_the_watch_has_not_told_yet_is_not_put_right(api: Api, tmp_path: Path) -> None:
    api.silent = True

    async def scenario() -> None:
        async with running(api, tmp_path) as writer:
            writer.touch([A])
            api.writer.noticed(A)
            await idle(writer)

    asyncio.run(scenario())
    assert len(api.writes) == 1


def test_another_generation_that_says_the_same_is_told(api: Api, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(api, tmp_path):
            api.generation = 2
            api.put(api.status)
            await met(lambda: len(api.writes) == 2)

    asyncio.run(scenario())
    assert [one["observedGeneration"] for one in api.writes] == [1, 2]


@pytest.mark.parametrize("trouble", [Trouble.NOT_FOUND, Trouble.CONFLICT, Trouble.UNREACHABLE])
def test_what_is_refused_is_tried_again_while_the_object_is_seen(trouble: Trouble, api: Api, tmp_path: Path) -> None:
    """An API server that starts answers 404 for a moment, too."""
    api.refuse = [trouble]

    async def scenario() -> None:
        async with running(api, tmp_path) as writer:
            api.refuse, api.gone, api.generation = [trouble] * 99, True, 2
            writer.touch([A])
            await idle(writer)
            assert len(api.refuse) == 99

    asyncio.run(scenario())
    assert len(api.writes) == 1


def test_a_leader_that_stood_still_overwrites_nothing(api: Api, tmp_path: Path) -> None:
    """Its successor has written what is newer, and the watch has not told it yet."""

    async def scenario() -> None:
        async with running(api, tmp_path) as writer:
            newer = {**api.status, "observedGeneration": 7}

            def successor() -> None:
                api.before_send = lambda: None
                api.silent = True
                api.put(newer)

            api.generation, api.before_send = 2, successor
            api.tell()
            await met(lambda: api.silent)
            writer._lease._until = float("-inf")
            await idle(writer)
            assert api.status == newer

    asyncio.run(scenario())
    assert len(api.writes) == 1


def test_who_does_not_lead_any_more_sends_nothing(api: Api, tmp_path: Path) -> None:
    """It is asked before each: a process may stand still between two."""
    sent: list[None] = []

    async def scenario() -> None:
        async with running(api, tmp_path) as writer:
            api.before_send = lambda: sent.append(None)
            writer._standing = lambda _, seen: _lost(writer, seen)
            api.generation = 2
            api.tell()
            await idle(writer)

    asyncio.run(scenario())
    assert sent == []


def _lost(writer: Writer, seen: Seen) -> Standing:
    writer._lease._until = float("-inf")
    return Standing(seen.generation, (), Proxies(1, 1))


def test_one_object_that_cannot_be_written_is_told_once_whatever_becomes_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A namespace without the right: each write of another object said that all was well, and each refusal that it was not."""
    reasons: list[str | None] = []
    versions = itertools.count(1)
    forbidden = True

    async def send(_: Client, method: str, path: str, *more: Any) -> bytes:
        if method == "PATCH" and path.endswith("/a/status") and forbidden:
            raise Refused(Trouble.DENIED, "forbidden")
        return json.dumps({"metadata": {"resourceVersion": str(next(versions))}}).encode()

    async def get(*_: Any) -> bytes:
        return b'{"metadata": {}, "spec": {}}'

    monkeypatch.setattr(Client, "send", send)
    monkeypatch.setattr(Client, "get", get)
    for name in ("RETRY_SECONDS", "GATHER_SECONDS", "INTERVAL_SECONDS"):
        monkeypatch.setattr(f"controlplane.status.writer.{name}", 0.01)
    generations = itertools.count(1)

    async def scenario() -> None:
        nonlocal forbidden
        writer = Writer(
            Access(tmp_path / "kubeconfig"),
            Cluster(),
            lambda *_: Standing(next(generations), (), Proxies()),
            reasons.append,
            namespace="controlplane",
            identity="me",
        )
        assert not writer.leads
        running = asyncio.create_task(writer.run())
        for count in range(1, 6):
            await met(lambda count=count: writer.writes >= count)
            writer.touch([B])
        assert writer.leads
        assert reasons == ["Denied: forbidden"]
        forbidden = False
        await met(lambda: reasons == ["Denied: forbidden", None])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize(("crowd", "rested"), [(2, False), (3, True)])
def test_a_few_wait_while_it_rests_and_a_crowd_does_not(
    crowd: int, rested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests from its first round, of B alone, when both come; nobody comes to the end of this rest."""
    generations = itertools.count(1)
    rounds: list[str] = []

    async def send(_: Client, method: str, path: str, *more: Any) -> bytes:
        if method == "PATCH":
            rounds.append(path.split("/")[-2])
        return b"{}"

    async def get(*_: Any) -> bytes:
        return b'{"metadata": {}, "spec": {}}'

    monkeypatch.setattr(Client, "send", send)
    monkeypatch.setattr(Client, "get", get)
    monkeypatch.setattr(Cluster, "refs", lambda _: [B])
    for name, value in {"GATHER_SECONDS": 0.01, "INTERVAL_SECONDS": 0.01, "CROWD": crowd, "A_WRITER": 1}.items():
        monkeypatch.setattr(f"controlplane.status.writer.{name}", value)
    for name in ("REST", "LONGEST_REST_SECONDS"):
        monkeypatch.setattr(f"controlplane.status.writer.{name}", 1e9)

    async def scenario() -> None:
        writer = Writer(
            Access(tmp_path / "kubeconfig"),
            Cluster(),
            lambda *_: Standing(next(generations), (), Proxies()),
            lambda _: None,
            namespace="controlplane",
            identity="me",
        )
        running = asyncio.create_task(writer.run())
        await met(lambda: rounds == ["b"] and writer._rests_until > 0)
        writer.touch([A, B])
        if rested:
            await asyncio.sleep(0.2)
        else:
            await met(lambda: len(rounds) == 3)
        assert rounds == (["b"] if rested else ["b", "a", "b"])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
