"""The admin server and strangers: who is let in, and what they leave in the log."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

from controlplane.admin import server
from controlplane.admin.server import application, listen


def talk(said: bytes) -> bytes:
    """What the server answers to these bytes."""

    async def once() -> bytes:
        look: Any = None  # /healthz looks at nothing
        runner, port = await listen(application(look), "127.0.0.1", 0)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            answer = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            return answer
        finally:
            await runner.cleanup()

    return asyncio.run(once())


@pytest.mark.parametrize("host", ["LOCALHOST", "LocalHost:18080", "127.0.0.1", "[::1]:1"])
def test_this_machine_may_be_called_by_any_of_its_names(host: str) -> None:
    said = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert talk(said.encode()).startswith(b"HTTP/1.1 200")


def test_another_name_is_not_served() -> None:
    assert talk(b"GET /healthz HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize("said", [b"GET / HTTP/9\r\n\r\n", b"GET /\x01 HTTP/1.1\r\nBad Header: x\r\n\r\n"])
def test_what_is_no_request_leaves_no_traceback(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A scan of ports would fill the log, and hide what matters in it."""
    with caplog.at_level(logging.INFO):
        assert b" 400 " in talk(said).split(b"\r\n")[0]
    assert not caplog.records


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def test_strangers_who_hold_connections_keep_nobody_out() -> None:
    """Each is a descriptor: without any left, specs cannot be read and proxies cannot connect."""

    async def crowd() -> None:
        look: Any = None
        runner, port = await listen(application(look, public=True), "127.0.0.1", 0)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(server.CONNECTIONS + 10)]
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")
            assert await asyncio.wait_for(held[0][0].read(), 20) == b"", "the first who came went"
            held.append((reader, writer))
        finally:
            await asyncio.gather(*(closed(writer) for _, writer in held))
            await runner.cleanup()

    asyncio.run(crowd())


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: h\r\n"])
def test_who_asks_for_nothing_is_sent_away(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.01)
    assert talk(said) == b""
