"""Clients on one keep-alive connection: one that asks in a tight loop, one that watches routes nobody edits.

Nothing here knows how the answer came about. The bystander runs in a process of its own, so that neither delays the other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import NamedTuple

TIMEOUT_SECONDS = 60.0
BYSTANDER_PAUSE = 0.002
"""Between two looks of the bystander: it must see an outage of milliseconds, and not be the load of the machine."""


class Answer(NamedTuple):
    """Status 0: no answer."""

    status: int
    body: bytes


class Client:
    """HTTP/1.1 on one connection, as plain as it gets: a request is one write and, mostly, one read."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, host: str, path: str) -> Answer:
        """One request; a lost connection is an answer with status 0."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_SECONDS)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            return self._answer(self._socket)
        except OSError:
            self.close()
            return Answer(0, b"")

    @staticmethod
    def _answer(connection: socket.socket) -> Answer:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += _received(connection)
        head = data[:end].lower()
        status = int(head[9:12])
        at = head.find(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        while len(data) < end + 4 + size:
            data += _received(connection)
        return Answer(status, data[end + 4 :])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _received(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise ConnectionResetError
    return part


def wait_for(client: Client, host: str, path: str, expected: Callable[[Answer], bool]) -> float:
    """Ask in a tight loop until the answer is the expected one; time.monotonic() when it came."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not expected(answer := client.ask(host, path)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{host}{path} still answers {answer}")
    return time.monotonic()


def resolution(client: Client, host: str, path: str, looks: int) -> list[float]:
    """Seconds from one look to the next when nothing happens: what a prober cannot tell apart."""
    times = [time.monotonic()]
    for _ in range(looks):
        client.ask(host, path)
        times.append(time.monotonic())
    return [after - before for before, after in pairwise(times)]


def plain_work() -> float:
    """Seconds that a piece of work took which is the same each time: a machine that stutters stretches its tail as well."""
    began = time.monotonic()
    sum(range(_WORK))
    return time.monotonic() - began


_WORK = 300_000
"""Of numbers that are added up: some 5 ms, as much as the control plane takes for a change."""


@contextlib.contextmanager
def bystander(
    port: int, routes: Sequence[tuple[str, str]], pause: float = BYSTANDER_PAUSE
) -> Iterator[Callable[[], Counter[Answer]]]:
    """Watch routes, which must all answer 200, from another process; gives how often each answer came."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_watch, args=(theirs, port, list(routes), pause), daemon=True)
    process.start()
    ours.recv()

    def stop() -> Counter[Answer]:
        ours.send(None)
        seen: Counter[Answer] = ours.recv()
        return seen

    try:
        yield stop
    finally:
        process.terminate()
        process.join()


def _watch(pipe: Connection, port: int, routes: Sequence[tuple[str, str]], pause: float) -> None:
    client = Client(port)
    seen: Counter[Answer] = Counter()
    pipe.send(None)
    number = 0
    while not pipe.poll(pause):
        seen[client.ask(*routes[number % len(routes)])] += 1
        number += 1
    pipe.recv()
    pipe.send(seen)
