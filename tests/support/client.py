"""Clients of a test, close to the wire: HTTP/1.1 and HTTP/2 requests, TLS by SNI, WebSockets.

They send what they are told and nothing else, so that a test can say things that a polite library would not.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

from tests.support.waiting import PATIENCE

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; header names are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The values of a header, joined by a comma, or None."""
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None

    def json(self) -> dict[str, Any]:
        """What a backend saw."""
        seen: dict[str, Any] = json.loads(self.body)
        return seen

    @property
    def backend(self) -> str | None:
        """Which backend answered, or None when Envoy did."""
        return self.header("x-from")

    @property
    def seen_path(self) -> str:
        """The path that the backend saw."""
        return str(self.json()["path"])

    def seen(self, name: str) -> str | None:
        """The header that the backend saw, or None."""
        values = [value for key, value in self.json()["headers"] if key == name]
        return ", ".join(values) if values else None


def trusting(authority: bytes | None, *protocols: str) -> ssl.SSLContext:
    """A TLS context of a client that trusts this authority (None: anybody), with these in ALPN."""
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def dial(port: int, tls: ssl.SSLContext | None = None, sni: str | None = None, preface: bytes = b"") -> socket.socket:
    """A connection to loopback; `preface` is sent first (PROXY protocol)."""
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if preface:
            plain.sendall(preface)
        return tls.wrap_socket(plain, server_hostname=sni) if tls else plain
    except BaseException:
        plain.close()
        raise


class Connection:
    """One HTTP/1.1 connection, used for as many requests as wanted.

    When the server has said that it closes it, as a proxy does now and then while it drains, the next is another one.
    """

    def __init__(
        self, port: int, tls: ssl.SSLContext | None = None, sni: str | None = None, preface: bytes = b""
    ) -> None:
        self._dial = partial(dial, port, tls, sni, preface)
        self.socket = self._dial()
        self._http = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._http.sock = self.socket

    def request(
        self, target: str, host: str | None = None, method: str = "GET", headers: Headers = (), body: bytes = b""
    ) -> Response:
        """Send one request with this target as it stands, and read the whole answer."""
        if self._http.sock is None:
            self.socket.close()
            self._http.sock = self.socket = self._dial()
        self._http.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if host is not None:
            self._http.putheader("host", host)
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            self._http.putheader(name, value)
        if body:
            self._http.putheader("content-length", str(len(body)))
        self._http.endheaders(body or None)
        answer: HTTPResponse = self._http.getresponse()
        with answer:
            found = tuple((name.lower(), value) for name, value in answer.getheaders())
            return Response(answer.status, found, answer.read())

    def close(self) -> None:
        self._http.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Upgrade:
    """The beginning of a WebSocket (or of anything else): the status, and text frames when it is 101."""

    def __init__(
        self,
        port: int,
        target: str,
        host: str,
        *,
        protocol: str = "websocket",
        headers: Headers = (),
        tls: ssl.SSLContext | None = None,
        sni: str | None = None,
    ) -> None:
        self._socket = dial(port, tls, sni)
        self._read = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {target} HTTP/1.1", f"host: {host}", "connection: upgrade", f"upgrade: {protocol}"]
        lines += [f"sec-websocket-key: {key}", "sec-websocket-version: 13"]
        lines += [f"{name}: {value}" for name, value in (headers.items() if isinstance(headers, Mapping) else headers)]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.status = int(self._read.readline().split()[1])
        while self._read.readline().strip():
            pass

    def say(self, text: str) -> str:
        """Send a short text, and return the one that comes back."""
        data, mask = text.encode(), os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self._socket.sendall(bytes((0x81, 0x80 | len(data))) + mask + masked)
        first, length = self._read.read(2)
        assert first == 0x81, f"not a text frame: {first:#x}"
        assert length < 126
        return self._read.read(length).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._read.close()
        self._socket.close()


class Http2:
    """One HTTP/2 connection; requests one after the other, or a stream that is left open."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, sni: str | None = None) -> None:
        self._socket = dial(port, tls, sni)
        self.scheme = "https" if tls else "http"
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.initiate_connection()
        self._flush()
        self._events: dict[int, list[h2.events.Event]] = {}
        self.going_away = False

    def open(self, target: str, host: str, method: str = "GET", headers: Headers = (), *, end: bool = True) -> int:
        """Begin a stream; unless `end`, its body follows with `send`."""
        stream = self._http.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", self.scheme), (":authority", host), (":path", target)]
        more = list(headers.items() if isinstance(headers, Mapping) else headers)
        self._events[stream] = []
        self._http.send_headers(stream, [*pseudo, *more], end_stream=end)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """More of the body."""
        self._http.send_data(stream, data, end_stream=end)
        self._flush()

    def end(self, stream: int, trailers: Mapping[str, str]) -> None:
        """End the request with trailers."""
        self._http.send_headers(stream, list(trailers.items()), end_stream=True)
        self._flush()

    def answer(self, stream: int) -> Response:
        """Read until the stream has ended."""
        headers: list[tuple[str, str]] = []
        body = b""
        while True:
            while self._events[stream]:
                match self._events[stream].pop(0):
                    case h2.events.ResponseReceived(headers=received) | h2.events.TrailersReceived(headers=received):
                        headers += [(str(name), str(value)) for name, value in received or ()]
                    case h2.events.DataReceived(data=data):
                        body += data or b""
                    case h2.events.StreamEnded():
                        status = next(int(value) for name, value in headers if name == ":status")
                        return Response(status, tuple(headers), body)
                    case h2.events.StreamReset(error_code=code):
                        raise ConnectionResetError(f"stream {stream} was reset: {code}")
            self._receive()

    def receive(self, stream: int, length: int) -> bytes:
        """Read until so many bytes of the body have come."""
        body = b""
        while len(body) < length:
            while self._events[stream]:
                event = self._events[stream].pop(0)
                if isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamReset | h2.events.StreamEnded):
                    raise ConnectionResetError(f"stream {stream} ended early")
            if len(body) < length:
                self._receive()
        return body

    def request(self, target: str, host: str, method: str = "GET", headers: Headers = ()) -> Response:
        """One request and its whole answer."""
        return self.answer(self.open(target, host, method, headers))

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("the connection was closed")
        for event in self._http.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                self.going_away = True
            if isinstance(event, h2.events.DataReceived) and event.stream_id is not None:
                self._http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            stream = getattr(event, "stream_id", None)
            if stream in self._events:
                self._events[stream].append(event)
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._http.data_to_send())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
