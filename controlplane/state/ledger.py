"""What is kept on disk, and getting it there: rows that were read, what is in the file now, and what becomes of faults.

Used by `store` alone, which sees to it that one thread at a time is in here. A process that does not have the folder to
itself (`claim`) reads and waits; a file that somebody took away is written anew of what is in force.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

import structlog

from controlplane.names import ObjectRef, SecretRef
from controlplane.state import database, opening, rows
from controlplane.state.claim import Claim
from controlplane.state.content import Loaded, Note, Served
from controlplane.state.database import Database, Scan
from controlplane.state.owner import Unusable, is_damage
from controlplane.state.rows import Change, OfService, OfSource, OfVersions, Ref, Value
from controlplane.state.sealing import Sealer, Unsealable, own_key
from controlplane.state.tables import HISTORY, Row, shown

log = structlog.get_logger(__name__)

_FULL_ATTEMPTS = 3
"""Rows that do not fit, in a row, before the rest waits as well."""


class Ledger:
    """The file of one folder, and what it is known to hold."""

    def __init__(self, folder: Path, key: bytes | None, fleet: str, max_bytes: int) -> None:
        """Nothing is opened yet. `key` None: the folder's own."""
        self.file = folder / "state.sqlite"
        self._key_file = folder / "key"
        self._key = key
        self._fleet = fleet
        self._max_bytes = max_bytes
        self._claim = Claim(folder / "serving")
        self._database: Database | None = None
        self._sealer: Sealer | None = None
        self._problems: list[str] = []
        self._permanent: str | None = None
        self._passing: str | None = None
        self._aside = ""  # the suffix that what is in the place of the file gets before it is opened again
        self._kept: dict[Ref, Change] = {}
        self._unreadable: set[Ref] = set()
        self.is_held = False
        """Whether another process has the folder."""
        self.last_write: datetime | None = None
        self.mishaps = 0
        """How often the file was not what was written, since the start."""
        self.last_mishap: str | None = None

    @property
    def degraded(self) -> str | None:
        """Why something is not kept; None when everything is."""
        return self._permanent or self._passing

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._kept)

    @property
    def keeps(self) -> bool:
        """Whether what is given is kept, now or later."""
        used = self._database  # which the writing thread may take away meanwhile
        return used is not None and (used.writable or bool(used.refused))

    @property
    def waits(self) -> bool:
        """Whether the file can be read only, and opening it again may help."""
        used = self._database
        return used is not None and bool(used.refused)

    def open(self) -> None:
        """Whatever its condition: what cannot be used is said in `load`, and stays in `degraded`."""
        try:
            self._database, self._problems = self._open()
            if self._database.refused:
                self._passing = f"not written: {self._database.refused}"
                self._problems.append(self._refusal(self._database.refused))
        except Unusable as error:
            self.give_up(str(error))
        except (OSError, sqlite3.Error) as error:
            self.give_up(f"{self.file} cannot be opened: {error}")
        if self._database is not None:
            try:
                self._open_key()
            except OSError as error:
                self.give_up(f"secrets are not kept: {error}")

    def load(self) -> Loaded:
        """Everything that the previous process left intact."""
        scan = self._database.scan() if self._database is not None else Scan([], [], "")
        inputs = [row for row in scan.dropped if row.table != HISTORY]
        loaded = Loaded({}, {}, {}, list(self._problems), whole=not (scan.damage or inputs))
        for row in scan.dropped:
            loaded.problems.append(f"{row.table.name} {shown(row.key)} is dropped: its checksum does not hold")
        if self._database is not None and (scan.damage or scan.dropped):
            loaded.problems.append(self._rebuild(self._database, scan))
        for row in scan.rows:
            self._take(row, loaded)
        return loaded

    def keep(self, batch: dict[Ref, Change]) -> dict[Ref, Change]:
        """Write a batch; what is left of it could not be written now and is to be tried again."""
        if self._database is not None and self._database.writable and (lost := self._lost(self._database)):
            batch = self._lose(self._database, lost, opening.REPLACED) | batch
        if self._database is not None and self.waits and not self._reopen(self._database):
            return batch
        if self._database is None or not self._database.writable:
            return {}
        try:
            return self._write(self._database, batch)
        except sqlite3.Error as error:
            batch = self._lose(self._database, f"{self.file.name} was damaged ({error})", opening.DAMAGED) | batch
            if not self._reopen(self._database):
                return batch
        try:
            return self._write(self._database, batch)
        except sqlite3.Error as error:  # a clean file: it is not the file that is broken
            self._degrade(str(error))
            return batch

    def _write(self, used: Database, batch: dict[Ref, Change]) -> dict[Ref, Change]:
        batch = {ref: Change(None, 0.0) for ref in self._unreadable} | batch
        wanted: dict[Ref, Row] = {}
        for ref, change in batch.items():
            if change.value is not None and (kept := self._kept.get(ref)) and kept.value == change.value:
                continue
            row = rows.row(ref, change, self._sealer)
            if row is not None:
                wanted[ref] = row
        if not wanted and not self._passing:
            return {}
        written = self._apply(used, wanted)
        for ref in written:
            if batch[ref].value is None:
                self._kept.pop(ref, None)
            else:
                self._kept[ref] = batch[ref]
        self._unreadable -= written
        left = {ref: batch[ref] for ref in wanted if ref not in written}
        if self._passing and not left:
            log.info("state written again", path=str(self.file))
            self._passing = None
        return left

    def close(self) -> None:
        """Close the file, and let others have the folder."""
        if self._database is not None:
            self._close(self._database)
            self._database = None
        self._claim.release()

    def give_up(self, reason: str) -> None:
        """Something is not kept until a restart."""
        self._permanent = reason
        self._problems.append(reason)

    # -- reading -------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[Database, list[str]]:
        """The file, or what another process keeps in it."""
        if (holder := self._holder()) is not None:
            self._aside = ""  # it is another one's now
            return opening.open_held(self.file, self._fleet, holder)
        if self._aside:
            self._open_key()  # it may have gone with the folder
            made = [row for ref, one in self._kept.items() if (row := rows.row(ref, one, self._sealer)) is not None]
            rebuilt = opening.rebuild(self.file, made, self._max_bytes, self._fleet, self._aside)
            self._aside = ""
            return rebuilt, []
        return opening.open_file(self.file, self._max_bytes, self._fleet)

    def _holder(self) -> str | None:
        """Which other process has the folder."""
        try:
            holder = self._claim.take()
        except OSError:
            holder = None  # where the lock cannot be made, nothing can: opening the file says why
        self.is_held = holder is not None
        return holder

    def _refusal(self, refused: str) -> str:
        """What to say at the start of a file that can be read only for now."""
        if self.is_held:
            return (
                f"{self.file}: {refused}; this one reads what is there, and keeps nothing until that one has ended. "
                "If both are to stay, give each a folder of its own (--state)"
            )
        return (
            f"{self.file} cannot be written now ({refused}): what it holds is used, what changes "
            "is kept as soon as it can be written"
        )

    def _open_key(self) -> None:
        self._sealer = Sealer(self._key or own_key(self._key_file))

    def _take(self, row: Row, loaded: Loaded) -> None:
        """Put an intact row where it belongs."""
        ref, since = rows.ref_of(row), rows.since(row)
        value: Value
        match ref:
            case ObjectRef():
                value = loaded.objects[ref] = rows.stored_object(row)
            case SecretRef():
                try:
                    if self._sealer is None:
                        raise Unsealable("there is no key", other_key=True)
                    value = loaded.secrets[ref] = self._sealer.open(ref, rows.sealed(row))
                except Unsealable as error:
                    loaded.problems.append(f"secret {ref} is not read: {error}")
                    if not error.other_key or (self._sealer and self._key is None):
                        self._unreadable.add(ref)  # nobody will ever open it
                    return
            case OfService(name):
                service = rows.service(row)
                if service is None:
                    loaded.problems.append(f"service {name} is not read: another version of this program wrote it")
                    return
                value = loaded.services[name] = service
            case OfSource(source):
                value = loaded.seen[source] = since
            case Note():
                if (content := self._read_note(ref, row, loaded)) is None:
                    self._unreadable.add(ref)  # by the time that anybody can read it, it is not true any more
                    return
                value = loaded.history[ref] = content
            case OfVersions(source):
                value = loaded.told[source] = rows.told(row)
            case str():
                value = rows.served(row)
                loaded.served[ref] = Served(value, datetime.fromtimestamp(since, UTC))
            case _:
                assert_never(ref)
        self._kept[ref] = Change(value, since)

    def _read_note(self, note: Note, row: Row, loaded: Loaded) -> bytes | None:
        """The content of a note; of many of a kind that cannot be read, one is told."""
        why = "another version of this program wrote it"
        if rows.is_readable(row):
            try:
                if self._sealer is None:
                    raise Unsealable("there is no key", other_key=True)
                return self._sealer.open_note(note, rows.sealed(row))
            except Unsealable as error:
                why = str(error)
        problem = f"what was noted of {note.kind} is not read, and begins anew: {why}"
        if problem not in loaded.problems:
            loaded.problems.append(problem)
        return None

    # -- faults --------------------------------------------------------------------------------------------------

    def _reopen(self, reading: Database) -> bool:
        """Whether the file can be written by now; what others wrote into it meanwhile is known then."""
        try:
            opened, problems = self._open()
        except (Unusable, OSError, sqlite3.Error) as error:
            self._degrade(str(error))
            return False
        if not opened.writable:
            self._degrade(opened.refused)
            self._close(opened)
            return False
        self._close(reading)
        self._database = opened
        if self._sealer is None:  # there was no room for a key, perhaps
            with suppress(OSError):
                self._open_key()
                self._permanent = None
        scan = opened.scan()
        if scan.damage or scan.dropped:
            problems.append(self._rebuild(opened, scan))
        for problem in problems:
            log.warning("state", problem=problem)
        self._kept, passed = {}, Loaded({}, {}, {}, [])
        for row in scan.rows:
            self._take(row, passed)
        return True

    def _lost(self, used: Database) -> str | None:
        """Why what is written would not be found again."""
        holder = self._holder()
        return used.lost() if holder is None else f"another process took the folder over ({holder})"

    def _lose(self, used: Database, lost: str, aside: str) -> dict[Ref, Change]:
        """The file is none any more, and is made anew of what was kept; all of that, for when another has it by then."""
        self.mishaps += 1
        self.last_mishap = lost
        log.warning("state written anew", path=str(self.file), reason=lost)
        self._close(used)
        self._database = opening.nothing(self.file, lost)
        self._aside = aside
        return self._kept

    def _apply(self, used: Database, wanted: dict[Ref, Row]) -> set[Ref]:
        """Write rows, as many as can be; those that were. Raises sqlite3.Error when the file is damaged."""
        try:
            used.apply(wanted.values())
        except sqlite3.Error as error:
            if is_damage(error):
                raise
            self._degrade(str(error))
            return self._squeeze(used, wanted) if database.is_full(error) else set()
        self.last_write = datetime.now(UTC)
        return set(wanted)

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
            self.last_write = datetime.now(UTC)
        return written

    def _rebuild(self, damaged: Database, scan: Scan) -> str:
        """Replace a damaged file by one of its intact rows; what to say about it."""
        what = scan.damage or f"{len(scan.dropped)} rows"
        if not damaged.writable:
            return f"{self.file} is damaged ({what}); what could be read is used"
        self._close(damaged)
        try:
            self._database = opening.rebuild(self.file, scan.rows, self._max_bytes, self._fleet)
        except (OSError, sqlite3.Error) as error:
            self._database = None
            self.give_up(f"{self.file} is damaged and cannot be rebuilt: {error}")
            return f"{self.file} is damaged ({what}) and cannot be rebuilt: {error}"
        aside = f"{self.file.name}{opening.DAMAGED}"
        return f"{self.file} was damaged ({what}): kept as {aside}, rebuilt of {len(scan.rows)} intact rows"

    def _close(self, closed: Database) -> None:
        with suppress(sqlite3.Error):
            closed.close()

    def _degrade(self, reason: str) -> None:
        """Say once that nothing can be written at the moment."""
        if self._passing is None:
            log.warning("state not written", path=str(self.file), reason=reason)
        self._passing = f"not written: {reason}"
