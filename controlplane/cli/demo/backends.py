"""The two sample backends: they answer every request with their own name and what they saw."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "sample"
    # Headers and body in one packet: in two, the second waits 40 ms for the acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        assert isinstance(self.server, Backend)
        user = self.headers.get("x-user-id")
        body = json.dumps({"backend": self.server.name, "path": self.path, "user": user}).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  the name that the base class calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the base class
        """Say nothing: the demo prints its own table."""


class Backend(ThreadingHTTPServer):
    """A backend on a free port of this machine, in threads of this process."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.name = name
        self._thread = Thread(target=self.serve_forever, name=f"backend {name}", kwargs={"poll_interval": 0.05})

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
