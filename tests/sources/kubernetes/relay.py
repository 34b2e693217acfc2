"""A way to the API server that can be made bad: it refuses, cuts, falls silent, lies, where the real one cannot be made to.

It speaks plain HTTP to the source and forwards as the administrator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp import web

from controlplane.sources.kubernetes.client import Connector
from tests.support.kubernetes import Kubernetes

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Relay:
    """`answer` is asked first for every request: None forwards it."""

    def __init__(self, cluster: Kubernetes) -> None:
        self.url = ""
        self.answer: Answer | None = None
        self.silent = False
        """Watches are accepted, and what happens is not told."""
        self.asked: list[tuple[float, str]] = []
        self._cluster = cluster
        self._requests: set[asyncio.Task[Any]] = set()

    def cut(self) -> None:
        """Break every connection that waits for something, those of watches among them."""
        for request in list(self._requests):
            request.cancel()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append((time.monotonic(), request.path_qs))
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            answer = await self.answer(request) if self.answer is not None else None
            return answer if answer is not None else await self._forward(request)
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._requests.discard(task)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        url = self._cluster.url + request.raw_path
        opened: WeakSet[asyncio.Transport] = WeakSet()
        connector = Connector(opened, ssl=self._cluster.context)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
                session.get(url, headers={"Accept": request.headers["Accept"]}) as upstream,
            ):
                response = web.StreamResponse(status=upstream.status, headers={"Content-Type": upstream.content_type})
                await response.prepare(request)
                async for part in upstream.content.iter_any():
                    if not (self.silent and "watch" in request.query):
                        await response.write(part)
                return response
        finally:
            for transport in list(opened):
                transport.abort()  # nobody waits for the goodbye of TLS


@asynccontextmanager
async def relayed(cluster: Kubernetes) -> AsyncIterator[Relay]:
    """A relay in front of the cluster."""
    relay = Relay(cluster)
    application = web.Application()
    application.router.add_get("/{tail:.*}", relay.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    relay.url = f"http://{host}:{port}"
    try:
        yield relay
    finally:
        relay.cut()
        await runner.cleanup()
        await asyncio.sleep(0.05)  # connections close in later turns of the event loop
