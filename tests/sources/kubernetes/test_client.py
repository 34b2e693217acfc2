"""Requests to an API server that are given up: nothing of them is left behind, and nothing of them grows."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import socket
import ssl
import threading
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from controlplane.sources.kubernetes import client
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.client import Client, Refused
from tests.support.certificates import Authority


def kubeconfig(file: Path, server: dict[str, str]) -> Path:
    content = {
        "clusters": [{"name": "c", "cluster": server}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_request_that_is_given_up_leaves_no_connection_open(tmp_path: Path) -> None:
    """A server that is busy answers neither the request nor the goodbye of TLS: nobody waits for that."""
    authority = Authority("kubernetes")
    leaf = authority.leaf("127.0.0.1")
    (tmp_path / "server.pem").write_bytes(leaf.certificate + leaf.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")
    asked, ended = threading.Event(), threading.Event()

    def serve(listening: socket.socket) -> None:
        raw, _ = listening.accept()
        with context.wrap_socket(raw, server_side=True) as connection:
            connection.recv(1)
            asked.set()
            ended.wait(20)

    async def scenario(port: int) -> None:
        trusted = base64.b64encode(authority.pem).decode()
        server = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": trusted}
        async with Client(Access(kubeconfig(tmp_path / "kubeconfig", server))) as one:
            asking = asyncio.create_task(one.get("/api", {}))
            await asyncio.to_thread(asked.wait, 20)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        asyncio.run(scenario(listening.getsockname()[1]))
        gc.collect()
        ended.set()
        server.join()


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_an_answer_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Also one to what was written: a server that is not what it should be takes no memory. Zeros compress well."""
    monkeypatch.setattr(client, "MAX_BYTES", 4 << 20)
    monkeypatch.setattr(client, "MAX_LINE", 4 << 20)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"})

    async def scenario() -> None:
        app = web.Application()
        app.router.add_route("*", "/api", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        try:
            async with Client(Access(kubeconfig(tmp_path / "kubeconfig", server))) as asking:
                reads = method == "GET"
                with pytest.raises(Refused, match="more than 4 MiB"):
                    await (asking.get("/api", {}) if reads else asking.send(method, "/api", b"{}", "text/plain", {}))
        finally:
            await runner.cleanup()

    asyncio.run(scenario())
