"""The state store: last good inputs and what was served, written behind by one thread, read once at the next start.

`app` opens it, loads what the previous process left, and hands over every accepted change. `write` only notes what
changed; the thread encrypts and writes it some moments later, so that no fsync and no full disk is ever on the path of
a change. Whatever goes wrong on disk is said once (what `load` finds by its caller, what happens later in the log), stays
in `status`, and the process goes on from memory.

What survives: kill -9 loses the last moments (`linger`), a power cut some seconds, and neither leaves half a
transaction. A row whose checksum does not hold is dropped by name; a damaged file is put aside and rebuilt of the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from controlplane.state import database, rows
from controlplane.state.content import Loaded, StateChanges, Status
from controlplane.state.ledger import Ledger
from controlplane.state.rows import Change, Ref
from controlplane.state.sealing import given_key

log = structlog.get_logger(__name__)

MAX_BYTES = 512 * 1024 * 1024
"""The bound of the database: ten times what 20,000 routes take. What does not fit is served, but not kept."""

LINGER_SECONDS = 0.1
"""How long changes gather before they are written: a push is over by then, and a storm is one transaction."""

RETRY_SECONDS = 30.0
"""Between attempts while the disk is full or read-only."""

ANSWER_SECONDS = 10.0
"""How long one write may take before that is said."""

HELD_SECONDS = 1.0
"""Between attempts while another process has the folder: it costs one system call, and that one may be ending."""


class State:
    """The state of one folder. `write`, `flush`, `status` and `close` may be called from any thread."""

    def __init__(self, ledger: Ledger, linger: float, retry_after: float, clock: Callable[[], float]) -> None:
        """Use `open`."""
        self._ledger = ledger
        self._linger = linger
        self._retry_after = retry_after
        self._clock = clock
        self._file_lock = threading.Lock()
        self._changed = threading.Condition()
        self._pending: dict[Ref, Change] = {}
        self._writing: dict[Ref, Change] = {}
        self._write_at = 0.0  # of time.monotonic
        self._flushes_wanted = 0
        self._flushes_done = 0
        self._closing = False
        self._bytes = database.size(ledger.file)
        self._busy_since: float | None = None  # while the thread is at the disk
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)

    @classmethod
    def open(
        cls,
        folder: Path,
        key_file: Path | None = None,
        *,
        fleet: str = "",
        max_bytes: int = MAX_BYTES,
        linger: float = LINGER_SECONDS,
        retry_after: float = RETRY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> State:
        """The state of a folder, whatever its condition: what cannot be used is said in `load` and `status`.

        What another `fleet` kept is not used.

        Only a `key_file` that is given and cannot be used raises (ConfigurationError): to go on would mean to encrypt
        with a key that nobody chose.
        """
        ledger = Ledger(folder, given_key(key_file) if key_file else None, fleet, max_bytes)
        ledger.open()
        state = cls(ledger, linger, retry_after, clock)
        state._write_at = time.monotonic() + state._pause
        state._thread.start()
        return state

    def load(self) -> Loaded:
        """Everything that the previous process left intact. Call it before the first `write`, and say its problems."""
        with self._file_lock:
            return self._ledger.load()

    def write(self, changes: StateChanges) -> None:
        """Keep these from now on. Returns at once; only the last of several changes of a thing is written."""
        with self._changed:
            if self._closing or not self._ledger.keeps:
                return
            if not self._pending and not self._ledger.waits:
                self._write_at = time.monotonic() + self._linger
            self._pending |= rows.changes(changes, self._clock())
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Write what waits, now; whether all of it was on disk within the timeout (seconds)."""
        with self._changed:
            self._flushes_wanted += 1
            wanted = self._flushes_wanted
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._flushes_done >= wanted, timeout)
            return done and not self._pending

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits and close the file, within the timeout (seconds); the rest is lost, as if killed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive() or self._pending:
            log.warning("state not written before exit", path=str(self._ledger.file), pending=self.status().pending)

    def status(self) -> Status:
        """How the store is, without a question to the disk, which may never answer."""
        with self._changed:
            pending = len(self._pending | self._writing)
            busy = time.monotonic() - self._busy_since if self._busy_since is not None else 0.0
        ledger = self._ledger
        hangs = f"not written: the disk has not answered for {busy:.0f} s" if busy > ANSWER_SECONDS else None
        return Status(
            ledger.file,
            ledger.degraded or hangs,
            ledger.rows,
            self._bytes,
            pending,
            ledger.last_write,
            ledger.mishaps,
            ledger.last_mishap,
        )

    @property
    def _pause(self) -> float:
        """Between two attempts to write."""
        return min(HELD_SECONDS, self._retry_after) if self._ledger.is_held else self._retry_after

    def _run(self) -> None:
        """The writing thread."""
        closing = False
        while not closing:
            with self._changed:
                self._wait()
                closing, flush = self._closing, self._flushes_wanted
                batch, self._pending = self._pending, {}
                self._writing = batch
                self._busy_since = time.monotonic()
            try:
                with self._file_lock:
                    left = self._ledger.keep(batch)
                    self._bytes = database.size(self._ledger.file)
            except Exception:  # the thread must outlive its own mistakes; the process serves on without it
                log.exception("state writing failed", path=str(self._ledger.file))
                self._ledger.give_up("writing failed, see the log: nothing of that batch is kept")
                left = {}
            with self._changed:
                self._busy_since = None
                self._writing = {}
                self._pending = left | self._pending
                if left or self._ledger.waits:
                    self._write_at = time.monotonic() + self._pause
                self._flushes_done = flush
                self._changed.notify_all()
        with self._file_lock:
            self._ledger.close()

    def _wait(self) -> None:
        """Until there is something to do: the pending changes are due, or somebody waits."""
        while not (self._closing or self._flushes_wanted > self._flushes_done):
            remaining = self._write_at - time.monotonic() if self._pending or self._ledger.waits else None
            if remaining is not None and remaining <= 0:
                return
            self._changed.wait(remaining)
