"""The state store: last good inputs and what was served, written behind by one thread, read once at the next start.

`app` opens it, loads what the previous process left, and hands over every accepted change. `write` only notes what
changed; the thread encrypts and writes it some moments later, so that no fsync and no full disk is ever on the path of
a change. Whatever goes wrong on disk is said once (what `load` finds by its caller, what happens later in the log), stays
in `status`, and the process goes on from memory.

What survives: kill -9 loses the last moments (`linger`), a power cut some seconds, and neither leaves half a
transaction. A row whose checksum does not hold is dropped by name; a damaged file is put aside and rebuilt of the rest.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

import structlog

from controlplane.names import ObjectRef, SecretRef
from controlplane.state import database, rows
from controlplane.state.content import Loaded, StateChanges, Status
from controlplane.state.database import Database, Scan
from controlplane.state.owner import Unusable, is_damage
from controlplane.state.rows import Change, OfService, OfSource, Ref
from controlplane.state.sealing import Sealer, Unsealable, given_key, own_key
from controlplane.state.tables import Row

log = structlog.get_logger(__name__)

MAX_BYTES = 512 * 1024 * 1024
"""The bound of the database: ten times what 20,000 routes take. What does not fit is served, but not kept."""

LINGER_SECONDS = 0.1
"""How long changes gather before they are written: a push is over by then, and a storm is one transaction."""

RETRY_SECONDS = 30.0
"""Between attempts while the disk is full or read-only."""

_FULL_ATTEMPTS = 3
"""Rows that do not fit, in a row, before the rest waits as well."""


class State:
    """The state of one folder. `write`, `flush`, `status` and `close` may be called from any thread."""

    def __init__(
        self, file: Path, fleet: str, max_bytes: int, linger: float, retry_after: float, clock: Callable[[], float]
    ) -> None:
        """Use `open`."""
        self._file = file
        self._fleet = fleet
        self._max_bytes = max_bytes
        self._linger = linger
        self._retry_after = retry_after
        self._clock = clock
        self._database: Database | None = None
        self._sealer: Sealer | None = None
        self._own_key = True
        self._problems: list[str] = []
        self._permanent: str | None = None
        self._passing: str | None = None
        self._last_write: datetime | None = None
        self._fingerprints: dict[Ref, bytes] = {}
        self._file_lock = threading.Lock()
        self._changed = threading.Condition()
        self._pending: dict[Ref, Change] = {}
        self._writing: dict[Ref, Change] = {}
        self._write_at = 0.0  # of time.monotonic
        self._flushes_wanted = 0
        self._flushes_done = 0
        self._closing = False
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
        state = cls(folder / "state.sqlite", fleet, max_bytes, linger, retry_after, clock)
        key = given_key(key_file) if key_file else None
        state._own_key = key is None
        try:
            state._database, state._problems = database.open_file(state._file, max_bytes, fleet)
            if state._database.refused:
                state._passing = f"not written: {state._database.refused}"
                state._problems.append(
                    f"{state._file} cannot be written now ({state._database.refused}): what it holds is used, what changes "
                    "is kept as soon as it can be written"
                )
            elif not state._database.writable:
                state._give_up(f"{folder} is read-only: nothing is kept")
        except Unusable as error:
            state._give_up(str(error))
        except (OSError, sqlite3.Error) as error:
            state._give_up(f"{state._file} cannot be opened: {error}")
        if state._database is not None:
            try:
                state._sealer = Sealer(key or own_key(folder / "key"))
            except OSError as error:
                state._give_up(f"secrets are not kept: {error}")
        state._write_at = time.monotonic() + retry_after
        state._thread.start()
        return state

    def load(self) -> Loaded:
        """Everything that the previous process left intact. Call it before the first `write`, and say its problems."""
        loaded = Loaded({}, {}, {}, list(self._problems))
        with self._file_lock:
            if self._database is None:
                return loaded
            scan = self._database.scan()
            loaded.problems.extend(f"{name} is dropped: its checksum does not hold" for name in scan.dropped)
            if scan.damage or scan.dropped:
                loaded.problems.append(self._rebuild(self._database, scan))
            for row in scan.rows:
                self._take(row, loaded)
        return loaded

    def write(self, changes: StateChanges) -> None:
        """Keep these from now on. Returns at once; only the last of several changes of a thing is written."""
        with self._changed:
            if self._closing or self._database is None or not (self._database.writable or self._refused):
                return
            if not self._pending and not self._refused:
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
        if self._thread.is_alive():
            log.warning("state not written before exit", path=str(self._file), pending=self.status().pending)

    def status(self) -> Status:
        """How the store is; costs two stat calls."""
        with self._changed:
            pending = len(self._pending | self._writing)
        degraded = self._permanent or self._passing
        return Status(
            self._file, degraded, len(self._fingerprints), database.size(self._file), pending, self._last_write
        )

    def _take(self, row: Row, loaded: Loaded) -> None:
        """Put an intact row where it belongs."""
        match ref := rows.ref_of(row):
            case ObjectRef():
                loaded.objects[ref] = stored = rows.stored_object(row)
                self._fingerprints[ref] = rows.fingerprint(stored)
            case SecretRef():
                try:
                    if self._sealer is None:
                        raise Unsealable("there is no key", other_key=True)
                    loaded.secrets[ref] = secret = self._sealer.open(ref, rows.sealed(row))
                    self._fingerprints[ref] = rows.fingerprint(secret)
                except Unsealable as error:
                    loaded.problems.append(f"secret {ref} is not read: {error}")
                    if not error.other_key or (self._sealer and self._own_key):
                        self.write(StateChanges(secrets={ref: None}))  # nobody will ever open it
            case OfService(name):
                if (service := rows.service(row)) is None:
                    loaded.problems.append(f"service {name} is not read: another version of this program wrote it")
                else:
                    loaded.services[name] = service
                    self._fingerprints[ref] = rows.fingerprint(service)
            case OfSource(source):
                loaded.seen[source] = at = rows.seen(row)
                self._fingerprints[ref] = rows.fingerprint(at)
            case str():
                loaded.served[ref] = served = rows.served(row)
                self._fingerprints[ref] = rows.fingerprint(served.version)
            case _:
                assert_never(ref)

    def _run(self) -> None:
        """The writing thread."""
        closing = False
        while not closing:
            with self._changed:
                self._wait()
                closing, flush = self._closing, self._flushes_wanted
                batch, self._pending = self._pending, {}
                self._writing = batch
            try:
                left = self._keep(batch)
            except Exception:  # the thread must outlive its own mistakes; the process serves on without it
                log.exception("state writing failed", path=str(self._file))
                self._give_up("writing failed, see the log: nothing of that batch is kept")
                left = {}
            with self._changed:
                self._writing = {}
                self._pending = left | self._pending
                if left or self._refused:
                    self._write_at = time.monotonic() + self._retry_after
                self._flushes_done = flush
                self._changed.notify_all()
        with self._file_lock:
            if self._database is not None:
                self._close(self._database)
                self._database = None

    def _wait(self) -> None:
        """Until there is something to do: the pending changes are due, or somebody waits."""
        while not (self._closing or self._flushes_wanted > self._flushes_done):
            remaining = self._write_at - time.monotonic() if self._pending or self._refused else None
            if remaining is not None and remaining <= 0:
                return
            self._changed.wait(remaining)

    def _keep(self, batch: dict[Ref, Change]) -> dict[Ref, Change]:
        """Write a batch; what is left of it could not be written now and is to be tried again."""
        with self._file_lock:
            if self._database is not None and self._refused and not self._reopen(self._database):
                return batch
            if self._database is None or not self._database.writable:
                return {}
            fingerprints = {ref: rows.fingerprint(c.value) for ref, c in batch.items() if c.value is not None}
            wanted: dict[Ref, Row] = {}
            for ref, change in batch.items():
                if ref in fingerprints and self._fingerprints.get(ref) == fingerprints[ref]:
                    continue
                row = rows.row(ref, change, self._sealer)
                if row is not None:
                    wanted[ref] = row
            if not wanted and not self._passing:
                return {}
            written = self._apply(wanted)
            for ref in written:
                if ref in fingerprints:
                    self._fingerprints[ref] = fingerprints[ref]
                else:
                    self._fingerprints.pop(ref, None)
            left = {ref: batch[ref] for ref in wanted if ref not in written}
            if self._passing and not left and self._database is not None:
                log.info("state written again", path=str(self._file))
                self._passing = None
            return left

    @property
    def _refused(self) -> bool:
        """Whether the file can be read only, and opening it again may help."""
        return self._database is not None and bool(self._database.refused)

    def _reopen(self, reading: Database) -> bool:
        """Whether the file can be written by now; what others wrote into it meanwhile is known then."""
        try:
            opened, problems = database.open_file(self._file, self._max_bytes, self._fleet)
        except (Unusable, OSError, sqlite3.Error) as error:
            self._degrade(str(error))
            return False
        if not opened.writable:
            self._degrade(opened.refused or "read-only")
            self._close(opened)
            return False
        self._close(reading)
        self._database = opened
        scan = opened.scan()
        if scan.damage or scan.dropped:
            problems.append(self._rebuild(opened, scan))
        for problem in problems:
            log.warning("state", problem=problem)
        self._fingerprints, passed = {}, Loaded({}, {}, {}, [])
        for row in scan.rows:
            self._take(row, passed)
        return True

    def _apply(self, wanted: dict[Ref, Row], *, mended: bool = False) -> set[Ref]:
        """Write rows, as many as can be; those that were."""
        if self._database is None:
            return set()
        try:
            self._database.apply(wanted.values())
        except sqlite3.Error as error:
            self._degrade(str(error))
            if database.is_full(error):
                return self._squeeze(self._database, wanted)
            if is_damage(error) and not mended:
                self._mend(self._database)
                return self._apply(wanted, mended=True)
            return set()
        self._last_write = datetime.now(UTC)
        return set(wanted)

    def _mend(self, damaged: Database) -> None:
        """Go on with a clean file of what is intact: what was lost is kept again when it changes."""
        scan = damaged.scan()
        log.warning("state damaged", problem=self._rebuild(damaged, scan))
        before, intact = len(self._fingerprints), set(map(rows.ref_of, scan.rows))
        self._fingerprints = {ref: digest for ref, digest in self._fingerprints.items() if ref in intact}
        lost = before - len(self._fingerprints)
        if lost and self._database is not None:
            self._permanent = f"the file was damaged: {lost} rows are missing until they change or a restart"

    def _squeeze(self, full: Database, wanted: dict[Ref, Row]) -> set[Ref]:
        """What still fits: removals first, then row by row."""
        written: set[Ref] = set()
        removals = {ref: row for ref, row in wanted.items() if row.values is None}
        refused = 0
        with suppress(sqlite3.Error):
            full.apply(removals.values())
            written |= set(removals)
            for ref, row in wanted.items():
                if row.values is None:
                    continue
                try:
                    full.apply([row])
                    written.add(ref)
                    refused = 0
                except sqlite3.Error:
                    refused += 1
                    if refused == _FULL_ATTEMPTS:
                        break
        if written:
            self._last_write = datetime.now(UTC)
        return written

    def _rebuild(self, damaged: Database, scan: Scan) -> str:
        """Replace a damaged file by one of its intact rows; what to say about it."""
        what = scan.damage or f"{len(scan.dropped)} rows"
        if not damaged.writable:
            return f"{self._file} is damaged ({what}); what could be read is used"
        self._close(damaged)
        try:
            self._database = database.rebuild(self._file, scan.rows, self._max_bytes, self._fleet)
        except (OSError, sqlite3.Error) as error:
            self._database = None
            self._give_up(f"{self._file} is damaged and cannot be rebuilt: {error}")
            return f"{self._file} is damaged ({what}) and cannot be rebuilt: {error}"
        aside = f"{self._file.name}{database.DAMAGED}"
        return f"{self._file} was damaged ({what}): kept as {aside}, rebuilt of {len(scan.rows)} intact rows"

    def _close(self, closed: Database) -> None:
        with suppress(sqlite3.Error):
            closed.close()

    def _degrade(self, reason: str) -> None:
        """Say once that nothing can be written at the moment."""
        if self._passing is None:
            log.warning("state not written", path=str(self._file), reason=reason)
        self._passing = f"not written: {reason}"

    def _give_up(self, reason: str) -> None:
        """Something is not kept until a restart."""
        self._permanent = reason
        self._problems.append(reason)
