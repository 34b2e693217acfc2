"""HTTP routes of the admin API.

Everything shown comes from a `Look`, which the application implements. There is no authentication yet, so the server
binds to loopback alone and refuses requests whose Host is another name (a browser that was lured here by DNS).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

FORMAT_VERSION = "1.0"
"""Of every JSON answer; within a major version fields are only added."""
PORTION = 500
"""Pieces of an answer's text (names, values, brackets) that are written before others have a turn: a millisecond or two."""
IDLE_SECONDS = 60.0
"""After which a connection without a whole request is closed: longer than between two scrapes, or between two probes."""
CONNECTIONS = 100
"""At a time on one listener. Each is a descriptor, and without one the process can neither read specs nor take proxies."""


class Look(Protocol):
    """What can be seen. Every method gives plain data, ready for JSON, without secrets.

    A value that costs something to make may be a function that makes it: it is called when the answer is written that far.
    """

    def ready(self) -> tuple[bool, str]:
        """Whether configuration is served, and why not."""

    def process(self) -> dict[str, Any]:
        """Which process this is."""

    def metrics(self) -> tuple[bytes, str]:
        """The metrics and their content type."""

    def gateways(self) -> list[dict[str, Any]]:
        """One entry per gateway."""

    def snapshot(
        self, gateway: str, type_url: str | None, bodies: bool, client: str | None = None
    ) -> dict[str, Any] | None:
        """The resources of a gateway for one kind of client (default: Envoy); None when there is no such gateway.

        Raises LookupError when there is no such type, or no such kind of client.
        """

    def nodes(self) -> list[dict[str, Any]]:
        """One entry per connected stream."""

    def held(self) -> list[dict[str, Any]]:
        """One entry per resource that is held back."""

    def roll(self) -> dict[str, Any]:
        """One row per node and type."""

    def inventory(self, node: str, kind: str, bodies: bool) -> dict[str, Any] | None:
        """What a node has of a type; None when there is no such node, LookupError when there is no such type."""

    def progress(self, version: str) -> dict[str, Any]:
        """How many nodes have acknowledged a version; LookupError when several begin so."""

    async def routes(self, route: str, spec: str) -> dict[str, Any]:
        """Of routes with such names: where they come from, since when, and which nodes have them."""

    def changes(self, of: str, last: int) -> dict[str, Any]:
        """The last changes of objects that are so called, the newest first."""

    def sources(self) -> list[dict[str, Any]]:
        """One entry per source."""

    async def problems(self) -> list[dict[str, Any]]:
        """Everything that is wrong now."""

    def state(self) -> dict[str, Any]:
        """What is known of the state on disk."""


def _made(value: Any) -> Any:
    if callable(value):
        return value()
    raise TypeError(f"{type(value).__name__} is not for JSON")


_ENCODER = json.JSONEncoder(indent=1, default=_made)


async def _json(content: Any, status: int = 200) -> web.Response:
    """An answer of one moment: `content` is complete, and does not change while it is written in portions."""
    parts: list[bytes] = []
    portion: list[str] = []
    for text in _ENCODER.iterencode({"formatVersion": FORMAT_VERSION, **content}):
        portion.append(text)
        if len(portion) >= PORTION:
            parts.append("".join(portion).encode())
            portion.clear()
            await asyncio.sleep(0)
    parts.append("".join([*portion, "\n"]).encode())
    return web.Response(body=b"".join(parts), status=status, content_type="application/json", charset="utf-8")


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@web.middleware
async def _guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    if not _is_local(request.host):
        return await _json({"error": "this Host is not served here; use 127.0.0.1 or localhost"}, 421)
    response = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def application(look: Look, *, public: bool = False) -> web.Application:
    """The routes; `public` leaves health, readiness and metrics alone, for a scraper on another machine."""
    app = web.Application(middlewares=[] if public else [_guard])

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        ready, reason = look.ready()
        return web.Response(text=f"{reason}\n", status=200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        body, content_type = look.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    if public:
        return app

    async def process(_: web.Request) -> web.Response:
        return await _json(look.process())

    async def gateways(_: web.Request) -> web.Response:
        return await _json({"gateways": look.gateways()})

    async def snapshot(request: web.Request) -> web.Response:
        name = f"{request.match_info['namespace']}/{request.match_info['name']}"
        bodies = request.query.get("bodies", "") in {"1", "true"}
        try:
            found = look.snapshot(name, request.query.get("type"), bodies, request.query.get("client"))
        except LookupError as error:
            return await _json({"error": str(error.args[0])}, 400)
        return await _json({"error": f'no gateway "{name}"'}, 404) if found is None else await _json(found)

    async def nodes(_: web.Request) -> web.Response:
        return await _json({"nodes": look.nodes(), "held": look.held()})

    async def roll(_: web.Request) -> web.Response:
        return await _json(look.roll())

    async def inventory(request: web.Request) -> web.Response:
        node, kind = request.query.get("node", ""), request.query.get("type", "")
        try:
            found = look.inventory(node, kind, request.query.get("bodies", "") in {"1", "true"})
        except LookupError as error:
            return await _json({"error": str(error.args[0])}, 400)
        return await _json({"error": f'no node "{node}" is connected'}, 404) if found is None else await _json(found)

    async def progress(request: web.Request) -> web.Response:
        try:
            return await _json(look.progress(request.query.get("version", "")))
        except LookupError as error:
            return await _json({"error": str(error.args[0])}, 400)

    async def routes(request: web.Request) -> web.Response:
        return await _json(await look.routes(request.query.get("route", "*"), request.query.get("spec", "*")))

    async def changes(request: web.Request) -> web.Response:
        last = request.query.get("last", "20")
        if not last.isdecimal():
            return await _json({"error": f'last: "{last}" is no number'}, 400)
        return await _json(look.changes(request.query.get("of", "*"), int(last[:9])))

    async def sources(_: web.Request) -> web.Response:
        return await _json({"sources": look.sources(), "state": look.state()})

    async def problems(_: web.Request) -> web.Response:
        return await _json({"problems": await look.problems()})

    app.router.add_get("/v1/process", process)
    app.router.add_get("/v1/gateways", gateways)
    app.router.add_get("/v1/gateways/{namespace}/{name}/snapshot", snapshot)
    app.router.add_get("/v1/nodes", nodes)
    app.router.add_get("/v1/nodes/status", roll)
    app.router.add_get("/v1/nodes/resources", inventory)
    app.router.add_get("/v1/nodes/progress", progress)
    app.router.add_get("/v1/routes", routes)
    app.router.add_get("/v1/changes", changes)
    app.router.add_get("/v1/sources", sources)
    app.router.add_get("/v1/problems", problems)
    return app


class _Runner(web.AppRunner):
    """Of too many connections the oldest goes: strangers who hold theirs must not keep the next probe out."""

    @property
    def server(self) -> Any:
        """What makes the protocol of each connection."""
        server: Any = super().server

        def connected() -> asyncio.BaseProtocol:
            # aiohttp has no bound of its own. To `close` one would wait for a peer who does not read what is left.
            for transport in list(server._connections.values())[:-CONNECTIONS]:
                transport.abort()
            protocol: asyncio.BaseProtocol = server()
            return protocol

        return connected


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a log record is about this server, not about bytes of a stranger, which are answered 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def listen(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serve on an address; the runner (to clean up) and the port."""
    server_logger.addFilter(_is_ours)
    runner = _Runner(app, access_log=None, handle_signals=False, keepalive_timeout=IDLE_SECONDS)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    address = runner.addresses[0]
    return runner, int(address[1])
