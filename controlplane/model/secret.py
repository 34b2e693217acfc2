"""Secrets as sources deliver them: named pieces of bytes that are never printed; and when a certificate in one is valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """The files of one secret folder (`tls.crt`, `tls.key`, `ca.crt`, `jwks.json`, …), sorted by name."""

    items: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Secret:
        """A secret of these files."""
        return cls(tuple(sorted(files.items())))

    def get(self, key: str) -> bytes | None:
        """The bytes of one file, or None."""
        return next((value for name, value in self.items if name == key), None)

    def __iter__(self) -> Iterator[str]:
        """The names of the files."""
        return (name for name, _ in self.items)

    def __repr__(self) -> str:
        """The names of the files, never their bytes."""
        return f"Secret({', '.join(self)}: {REDACTED})"


class Period(NamedTuple):
    """When a certificate is valid, in seconds of the epoch."""

    begins: float
    ends: float

    def fault(self, now: float) -> str | None:
        """Why the certificate is of no use at this time, or None."""
        if now >= self.ends:
            return f"has expired ({utc(self.ends)})"
        return f"is not valid before {utc(self.begins)}" if now < self.begins else None


def utc(seconds: float) -> str:
    """`2026-03-01 10:00 UTC`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
