"""A Consul that misbehaves on demand, for what a real one cannot be made to do; it runs in the event loop of the test."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from tests.support.waiting import PATIENCE

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeConsul:
    """`instances` of services as `/v1/health/service` has them; every change of `index` ends held queries.

    `keys` are values with the index of their last change, `deleted` is the index of the last deletion that is not
    forgotten: the list of keys has the highest of these, whatever else happens. `instead` answers the paths that begin so; `headers` are added to every answer. `asked` counts requests by path.
    """

    def __init__(self) -> None:
        self.index = 10
        self.indexes: dict[str, int] = {}
        self.instances: dict[str, list[dict[str, Any]]] = {}
        self.checks: dict[str, list[dict[str, Any]]] = {"critical": [], "warning": []}
        self.keys: dict[str, tuple[int, str]] = {}
        self.deleted = 0
        self.headers: dict[str, str] = {}
        self.instead: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.queries: list[str] = []
        self.tokens: set[str] = set()
        self._changed, self._asked = asyncio.Condition(), asyncio.Condition()
        self.address = ""

    async def change(self, service: str, *instances: dict[str, Any]) -> None:
        """The instances of a service from now on."""
        self.index += 1
        self.indexes[service] = self.index
        self.instances[service] = list(instances)
        if not instances:
            del self.instances[service]
        await self.wake()

    async def wake(self) -> None:
        """End held queries."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, question by question, until something holds."""
        async with asyncio.timeout(PATIENCE), self._asked:
            await self._asked.wait_for(holds)

    async def until_asked(self, path: str, times: int = 1) -> None:
        """Wait until this was asked so many times more."""
        enough = self.asked[path] + times
        await self.until(lambda: self.asked[path] >= enough)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.asked[path] += 1
        self.queries.append(f"{path}?{request.query_string}")
        self.tokens.add(request.headers.get("X-Consul-Token", ""))
        async with self._asked:
            self._asked.notify_all()
        in_keys = path.startswith("/v1/kv/")
        for prefix, instead in self.instead.items():
            if path.startswith(prefix):
                return await instead(request)
        newest = max(self.deleted, *(index for index, _ in self.keys.values()), 1)
        if "index" in request.query and int(request.query["index"]) >= (newest if in_keys else self.index):
            seconds = int(request.query["wait"].removesuffix("ms")) / 1000
            async with self._changed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), seconds)
        body: Any = None
        index = self.index
        if path == "/v1/catalog/services":
            body = {name: [] for name in self.instances}
        elif path.startswith("/v1/health/state/"):
            body = self.checks[path.rpartition("/")[2]]
        elif path.startswith("/v1/health/service/"):
            name = path.rpartition("/")[2]
            body = [] if "filter" in request.query else self.instances.get(name, [])
            index = self.indexes.get(name, self.index)
        elif in_keys:
            body = [
                {"Key": key, "ModifyIndex": modified, "Value": b64encode(value.encode()).decode()}
                for key, (modified, value) in self.keys.items()
            ]
            index = newest
        return web.json_response(
            body, headers={"X-Consul-Index": str(index), "X-Consul-KnownLeader": "true"} | self.headers
        )


def instance(
    address: str, port: int = 80, *, status: str = "passing", name: str = "a", **service: Any
) -> dict[str, Any]:
    """An instance as Consul writes it."""
    return {
        "Node": {"Node": f"node-{address}", "Address": address},
        "Service": {"ID": name, "Service": "web", "Address": address, "Port": port, "Tags": [], **service},
        "Checks": [{"Node": f"node-{address}", "CheckID": f"check:{name}", "Status": status, "ServiceName": "web"}],
    }


async def status(code: int, text: str = "", **headers: str) -> web.StreamResponse:
    """A refusal."""
    return web.Response(status=code, text=text, headers=headers)


async def cut_off(request: web.Request) -> web.StreamResponse:
    """The first half of an answer, then the end of the connection."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "X-Consul-Index": "99"})
    await response.prepare(request)
    await response.write(json.dumps([instance("10.0.0.9")]).encode()[:60])
    assert request.transport is not None
    request.transport.close()
    return response


@asynccontextmanager
async def fake_consul() -> AsyncIterator[FakeConsul]:
    """One that listens."""
    fake = FakeConsul()
    runner = web.ServerRunner(web.Server(fake.answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        await runner.cleanup()
