"""One open stream between its session and the transport: what is to be written, and what wakes its writer.

Used by the server only. It imports no grpc: what it gets and gives are bytes.
"""

from __future__ import annotations

import asyncio

from controlplane.xds.admission import Account
from controlplane.xds.nodes import Denied, Ended, Peer
from controlplane.xds.session import Session
from controlplane.xds.turns import Turn


class Stream:
    """One open stream: its session, what is to be written, and what wakes its writer."""

    __slots__ = (
        "_awake", "_loop", "_sleeper", "account", "connected", "failure", "finished", "method", "number", "outbox", "outdated", "owed",
        "peer", "reading", "sent", "session", "task", "turn", "writing",
    )  # fmt: skip

    def __init__(self, number: int, method: str, session: Session, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.method = method
        self.session = session
        self.peer = peer
        self.turn: Turn | None = None  # while it begins
        self.account: Account | None = None  # of its identity, once it is known
        self.owed = 0  # responses that the peer has still to acknowledge
        self.connected = loop.time()
        self.outdated = False  # the store or the directory changed since the session looked
        self.finished = False  # the client half-closed, or the server drains: end with OK
        self.sent = False  # it has had a response
        self.reading = False  # the next request is waited for
        self.writing = False  # nothing may be asked of the session: what it says now would wait in memory
        self.outbox: list[bytes] = []
        self.failure: Ended | Denied | None = None
        self.task = asyncio.current_task()  # that serves it, and waits while the peer does not read
        self._loop = loop
        self._awake = False
        self._sleeper: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Have the writer look at the session."""
        self._awake = True
        if (sleeper := self._sleeper) is not None and not sleeper.done():
            sleeper.set_result(None)

    def fail(self, failure: Ended | Denied) -> None:
        """End it with a status, and not only once the peer has read what is being written."""
        self.failure = self.failure or failure
        self.wake()
        if self.writing and self.task is not None:
            self.task.cancel()

    def heard(self) -> None:
        """The session has taken in a request: wake the writer if there is something to do for it.

        Most requests are ACKs, after which there is nothing to say.
        """
        if self.writing or self.outbox or self.outdated or self.finished:
            self.wake()
            return
        before = self.session.deadline
        self.outbox = self.session.poll(self._loop.time())
        if self.outbox or self.session.deadline != before:
            self.wake()
        else:
            self.begun()

    def begun(self) -> None:
        """Its first answer is out, or there is none to give: the next stream may begin."""
        if self.turn is not None and self.session.node is not None:
            self.turn.end()
            self.turn = None

    def take(self) -> list[bytes]:
        """What is to be written now; responses leave the memory of the stream one by one."""
        if self.outdated:
            self.outdated = False
            self.session.changed(self._loop.time())
        outbox, self.outbox = self.outbox, []
        outbox += self.session.poll(self._loop.time())
        outbox.reverse()
        return outbox

    async def sleep(self) -> None:
        """Until woken, or until the session's deadline."""
        if not self._awake:
            deadline = self.session.deadline
            timer = self._loop.call_at(deadline, self.wake) if deadline is not None else None
            self._sleeper = self._loop.create_future()
            try:
                await self._sleeper
            finally:
                self._sleeper = None
                if timer is not None:
                    timer.cancel()
        self._awake = False
