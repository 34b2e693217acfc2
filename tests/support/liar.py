"""A server that answers with one lie after the other, whatever it is asked: refusals, nonsense, halves of answers."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.certificates import Authority


@dataclass(frozen=True)
class Lie:
    """An answer. `missing`: bytes that are announced and do not come."""

    status: int = 200
    body: bytes = b""
    missing: int = 0
    headers: tuple[tuple[str, str], ...] = ()


class Liar:
    """Listens on a free port of loopback, with a certificate of an authority if there is one. A context manager."""

    def __init__(self, lies: Sequence[Lie], folder: Path, authority: Authority | None = None) -> None:
        self.asked = 0

        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                lie = lies[liar.asked % len(lies)]
                liar.asked += 1
                self.send_response(lie.status)
                for name, value in lie.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(lie.body) + lie.missing))
                self.end_headers()
                self.wfile.write(lie.body)
                self.close_connection = bool(lie.missing)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who asks hangs up
        self.port = self._server.server_port
        if authority is not None:
            pair = authority.leaf("127.0.0.1", "localhost")
            for name, content in (("liar.crt", pair.certificate), ("liar.key", pair.key)):
                (folder / name).write_bytes(content)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "liar.crt", folder / "liar.key")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="liar")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
