"""The admin server and strangers: who is let in, and what they leave in the log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

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
