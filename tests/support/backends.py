"""Backends of tests: they say what they saw, fail on demand, speak WebSocket, TLS and gRPC.

HTTP backends share one event loop in a thread of the test process.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent import futures
from functools import cache
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import h2.config
import h2.connection
import h2.events
from aiohttp import WSMsgType, web

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="backends", daemon=True).start()
    return loop


def _await(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(30)


def _headers(request: web.BaseRequest) -> list[tuple[str, str]]:
    return [(name.decode().lower(), value.decode()) for name, value in request.raw_headers]


class HttpBackend:
    """Answers with its name and the request as JSON; `then` says what becomes of the next requests instead.

    A path of `documents` is answered with its bytes, one that ends with `/slow` when `release` is called; WebSockets are
    echoed, `websocket_headers` are those of the last one. `headers` are said beside the usual ones.
    """

    def __init__(self, name: str, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.requests = 0
        self.open_websockets = 0
        self.websocket_headers: list[tuple[str, str]] = []
        self.documents: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self._next: deque[int | str] = deque()
        self._released = asyncio.Event()
        # Made in this thread: a socket is in the network namespace of the thread that makes it.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, port), family=family, backlog=128)
        self._runner = _await(self._listen(listening, tls))
        self.port: int = self._runner.addresses[0][1]

    async def _listen(self, listening: socket.socket, tls: ssl.SSLContext | None) -> web.ServerRunner:
        # Keep-alive longer than any test: only failures on demand may break a connection.
        runner = web.ServerRunner(
            web.Server(self._answer, access_log=None, keepalive_timeout=600.0), shutdown_timeout=0.1
        )
        await runner.setup()
        await web.SockSite(runner, listening, ssl_context=tls).start()
        return runner

    def then(self, *outcomes: int | str) -> None:
        """What becomes of the next requests: a status, "reset", or "slow" (never answered)."""
        self._next.extend(outcomes)

    def forget(self) -> None:
        """Start counting anew, with nothing demanded."""
        self.requests = 0
        self.headers = {}
        self._next.clear()

    def release(self) -> None:
        """Answer the requests that wait, and no later one waits."""
        _loop().call_soon_threadsafe(self._released.set)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("upgrade", "").lower() == "websocket":
            return await self._echo(request)
        self.requests += 1
        if (document := self.documents.get(request.path)) is not None:
            return web.Response(body=document)
        outcome = self._next.popleft() if self._next else None
        if outcome == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if outcome == "slow" or request.path.endswith("/slow"):
            await self._released.wait()
        seen = {
            "backend": self.name,
            "method": request.method,
            "path": request.raw_path,
            "headers": _headers(request),
            "body": (await request.read()).decode(),
        }
        status = outcome if isinstance(outcome, int) else 200
        said = {"server": "backend", "x-powered-by": "tests", "x-from": self.name, "content-type": "application/json"}
        return web.Response(status=status, body=json.dumps(seen).encode(), headers=said | self.headers)

    async def _echo(self, request: web.BaseRequest) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        self.websocket_headers = _headers(request)
        await websocket.prepare(request)
        self.open_websockets += 1
        async for message in websocket:
            if message.type is WSMsgType.TEXT:
                await websocket.send_str(f"{self.name}: {message.data}")
        self.open_websockets -= 1
        return websocket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._next.clear()
        self.release()
        _await(self._runner.cleanup())


class Http2Backend:
    """Answers 200 to the one request of one HTTP/2 connection in clear, and keeps its trailers."""

    def __init__(self) -> None:
        self.trailers: dict[str, str] = {}
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:  # nobody came
            return
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        with connection:
            while data := connection.recv(65536):
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.TrailersReceived):
                        self.trailers = {str(name): str(value) for name, value in event.headers or ()}
                    elif isinstance(event, h2.events.StreamEnded):
                        http.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
                connection.sendall(http.data_to_send())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listening.close()


class GrpcBackend:
    """A gRPC server over HTTP/2 in clear, for any method.

    `/test/Echo` answers one message with it; `/test/Fail` fails with status 9; `/test/Chat` echoes a stream.
    """

    def __init__(self) -> None:
        self.metadata: list[tuple[str, str]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=[_Methods(self.metadata)])
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.stop(0).wait(10)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata

    def service(self, details: Any) -> Any:
        methods: dict[str, Callable[[], Any]] = {
            "/test/Echo": lambda: grpc.unary_unary_rpc_method_handler(self._echo),
            "/test/Fail": lambda: grpc.unary_unary_rpc_method_handler(self._fail),
            "/test/Chat": lambda: grpc.stream_stream_rpc_method_handler(self._chat),
        }
        handler = methods.get(details.method)
        return handler() if handler else None

    def _echo(self, message: bytes, context: Any) -> bytes:
        self._metadata[:] = [(str(key), str(value)) for key, value in context.invocation_metadata()]
        return message

    def _fail(self, _: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
        raise AssertionError

    def _chat(self, messages: Any, _: Any) -> Any:
        yield from messages
