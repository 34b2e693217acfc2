"""A relay in front of a port, that sends connections elsewhere, cuts them, slows them down, or lets them fall silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow answers are: so long before each piece, a piece being so many bytes (0: whatever there is)."""

    seconds: float
    bytes: int = 0


class _Link:
    """One connection and its other half; two threads pass bytes on."""

    def __init__(self, near: socket.socket, far: socket.socket, pace: Pace | None) -> None:
        self.sockets = (near, far)
        self.silent = threading.Event()
        self.ended = threading.Event()
        for source, sink, slow in ((near, far, None), (far, near, pace)):
            threading.Thread(target=self._pass, args=(source, sink, slow), daemon=True, name="relay").start()

    def _pass(self, source: socket.socket, sink: socket.socket, pace: Pace | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                step = pace.bytes if pace and pace.bytes else len(data)
                for start in range(0, len(data), step):
                    if pace is not None and self.ended.wait(pace.seconds):
                        return
                    if not self.silent.is_set():
                        sink.sendall(data[start : start + step])
            if not self.silent.is_set():
                sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End both halves."""
        self.ended.set()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Relay:
    """Listens on a free port of loopback. A context manager that cuts what is left."""

    def __init__(self, target: int) -> None:
        """Connections go to this port of loopback."""
        self._target: int | None = target
        self._pace: Pace | None = None
        self._links: list[_Link] = []
        self._turn = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        self._thread = threading.Thread(target=self._accept, daemon=True, name="relay")
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._turn:  # a connection is one of before a change, and ends by it, or one of after it
                try:
                    if self._target is None:
                        raise ConnectionRefusedError
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                    far.settimeout(None)
                except OSError:
                    near.close()
                    continue
                self.accepted += 1
                self._links.append(_Link(near, far, self._pace))

    def flip(self, target: int | None) -> None:
        """New connections go to another port (None: nowhere), and those that there are end."""
        with self._turn:
            self._target = target
        self.cut()

    def slow_down(self, pace: Pace | None) -> None:
        """New connections are answered so (None: at once), and those that there are end."""
        with self._turn:
            self._pace = pace
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        with self._turn:
            links, self._links = self._links, []
        for link in links:
            link.cut()

    def fall_silent(self) -> None:
        """What is sent on the connections of now arrives nowhere, without an end; new ones are not concerned."""
        for link in self._links:
            link.silent.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()
