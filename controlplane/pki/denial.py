"""Who may not connect although a trusted authority signed for them: the deny list, and the files it is read from.

The file in the state folder is written by `controlplane pki revoke`; another may be named in the configuration, for
replicas that share one. Both are read anew when they change. The format is for people and for `grep`:

    # what follows the second word is a remark
    node edge-1      stolen, 2026-03-01T10:00:00Z
    serial 3fa1c0    its key was in a backup

Used by the running control plane and by the command line. It knows certificates by their identity only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from controlplane.errors import ConfigurationError
from controlplane.pki import files
from controlplane.pki.identity import Identity, node_uri

FILE = "denied"
"""In the state folder."""

_SERIAL = re.compile(r"[0-9a-f]{1,40}")
"""RFC 5280, 4.1.2.2: up to 20 octets."""
_MAX_BYTES = 8 << 20


class Kind(StrEnum):
    """What an entry names: a node with every certificate it has or will get, or one certificate."""

    NODE = "node"
    SERIAL = "serial"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: whom it denies, and why."""

    kind: Kind
    name: str
    remark: str = ""

    @property
    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.kind} {self.name}    {self.remark}".rstrip()


def entry(kind: Kind, name: str, remark: str = "") -> Entry:
    """An entry with its name as certificates have it. Raises ConfigurationError when no certificate can."""
    if kind is Kind.NODE:
        try:
            node_uri("any", name)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
    else:
        plain = name.lower().removeprefix("0x").replace(":", "").lstrip("0")
        if not _SERIAL.fullmatch(plain):
            raise ConfigurationError(f"{name!r} is no serial number: hexadecimal, as `openssl x509 -serial` prints it")
        name = plain
    return Entry(kind, name, " ".join(remark.split()))


def parse(text: str, file: Path) -> list[Entry]:
    """The entries of a file. Raises ConfigurationError that names the first line that is none."""
    found, problem = _parse(text, file)
    if problem:
        raise ConfigurationError(problem)
    return found


def _parse(text: str, file: Path) -> tuple[list[Entry], str]:
    """The entries of a file, and what is wrong with the first line that is none ("" when all are)."""
    found, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(None, 2)
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 1 or words[0] not in {*Kind}:
            problems.append(f'{file}:{number}: an entry is "node ID" or "serial HEX", and a remark')
            continue
        try:
            found.append(entry(Kind(words[0]), words[1], *words[2:]))
        except ConfigurationError as error:
            problems.append(f"{file}:{number}: {error}")
    return found, problems[0] if problems else ""


def add(state: Path, entries: Iterable[Entry], now: datetime) -> list[Entry]:
    """Deny these from now on; those that were not denied before. The comments of the file stay."""
    with files.locked(state):
        before = _text(state / FILE)
        known = {(one.kind, one.name) for one in parse(before, state / FILE)}
        wanted = [one for one in entries if (one.kind, one.name) not in known]
        time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines = [Entry(one.kind, one.name, f"{one.remark} {time}".strip()).line for one in wanted]
        if lines:
            files.replace(state / FILE, "\n".join([*before.splitlines(), *lines, ""]).encode())
        return wanted


def lift(state: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Deny these no longer; those that were denied before."""
    wanted = {(one.kind, one.name) for one in entries}
    with files.locked(state):
        kept, lifted = [], []
        for line in _text(state / FILE).splitlines():
            found = parse(line, state / FILE)
            if found and (found[0].kind, found[0].name) in wanted:
                lifted += found
            else:
                kept.append(line)
        if lifted:
            files.replace(state / FILE, "\n".join([*kept, ""]).encode())
        return lifted


def listed(state: Path) -> list[Entry]:
    """The entries of the state folder. Raises ConfigurationError."""
    return parse(_text(state / FILE), state / FILE)


_Keys = frozenset[tuple[Kind, str]]


@dataclass(frozen=True, slots=True)
class _Read:
    """What a file said when it was looked at."""

    stamp: files.Stamp
    denied: _Keys
    problem: str


_NEVER = _Read(None, frozenset(), "it was not read yet")


@dataclass(slots=True)
class DenyList:
    """The entries of several files in a running process, as of the last look at them."""

    files: tuple[Path, ...]
    problem: str = ""
    """Why what is in force is not what is on disk, "" when it is."""
    _read: dict[Path, _Read] = field(default_factory=dict)
    _denied: _Keys = frozenset()

    @classmethod
    def open(cls, state: Path, *others: Path) -> DenyList:
        """The list in the state folder, and others, which must be there. Raises ConfigurationError."""
        found = cls((state / FILE, *others))
        for file in others:
            if not file.is_file():
                raise ConfigurationError(f"{file}: no such deny list")
        found.look()
        if found.problem:
            raise ConfigurationError(found.problem)
        return found

    def look(self) -> bool:
        """Read what changed on disk; whether somebody else is denied now.

        While a file is missing or damaged, who was denied stays denied, and so is who can be read in it: authentication
        fails closed.
        """
        before, self.problem = self._denied, ""
        for file in self.files:
            stamp = files.stamp(file)
            known = self._read.get(file, _NEVER)
            if known.stamp != stamp or known.problem:
                self._read[file] = known = _look(file, stamp, known)
            self.problem = self.problem or known.problem
        self._denied = frozenset().union(*(read.denied for read in self._read.values()))
        return self._denied != before

    def denies(self, identity: Identity) -> bool:
        """Whether this identity, or this certificate of it, is denied."""
        denied = self._denied
        return bool(denied) and ((Kind.NODE, identity.id) in denied or (Kind.SERIAL, identity.serial) in denied)


def _look(file: Path, stamp: files.Stamp, known: _Read) -> _Read:
    """A file as it is now, on top of what was known of it when it is not whole."""
    try:
        entries, problem = _parse(_text(file), file)
    except ConfigurationError as error:
        entries, problem = [], str(error)
    if stamp is None and known.denied:
        problem = f"{file}: gone; who was denied stays denied until the next start"
    denied = frozenset((one.kind, one.name) for one in entries)
    return _Read(stamp, denied | known.denied if problem else denied, problem)


def _text(file: Path) -> str:
    """The content of a list; nothing when there is none. Raises ConfigurationError."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ConfigurationError(f"{file}: more than {_MAX_BYTES >> 20} MiB")
        return file.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: {error}") from None
