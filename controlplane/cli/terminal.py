"""What goes to the terminal and how: colours, verbosity, messages on stderr, data on stdout."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO


class Color(StrEnum):
    """When colours are used."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Paint(StrEnum):
    """ANSI sequences by what they mean."""

    ERROR = "\x1b[1;31m"
    WARNING = "\x1b[1;33m"
    GOOD = "\x1b[1;32m"
    FRAME = "\x1b[1;34m"
    STRONG = "\x1b[1m"
    FAINT = "\x1b[2m"
    RESET = "\x1b[0m"


def has_color(stream: TextIO | None, wish: Color) -> bool:
    """Whether `stream` gets colours. The flag wins, then NO_COLOR, then FORCE_COLOR, then what the stream is.

    https://no-color.org: any non-empty value of NO_COLOR switches colours off.
    """
    if wish is not Color.AUTO:
        return wish is Color.ALWAYS
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "") not in {"", "0"}:
        return True
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True, slots=True)
class Terminal:
    """How one invocation speaks. `verbosity` is -1 for `-q`, 0, or the number of `-v`."""

    color: Color = Color.AUTO
    verbosity: int = 0

    def paint(self, text: str, paint: Paint, stream: TextIO | None = None) -> str:
        """The text in this colour, or as it is."""
        return f"{paint}{text}{Paint.RESET}" if has_color(stream or sys.stderr, self.color) else text

    def data(self, text: str) -> None:
        """What was asked for, on stdout; nothing for an empty text. Raises OSError when it cannot be written.

        Whoever has gone without reading it (EPIPE) does not change what the command ends with.
        """
        if not text:
            return
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        try:
            sys.stdout.write(_encodable(text if text.endswith("\n") else text + "\n", sys.stdout))
            sys.stdout.flush()
        except BrokenPipeError:
            silence(sys.stdout)
        except OSError as error:
            silence(sys.stdout)
            raise OSError(error.errno, f"standard output cannot be written: {error.strerror}") from error

    def say(self, text: str) -> None:
        """A message for people, on stderr; not with `-q`."""
        if self.verbosity >= 0:
            _tell(text)

    def explain(self, text: str) -> None:
        """A detail for people, on stderr, with `-v`."""
        if self.verbosity > 0:
            _tell(text)

    def problem(self, text: str) -> None:
        """What is wrong, on stderr, whatever the verbosity."""
        _tell(text)

    def error(self, message: str, help: str = "") -> None:
        """What is wrong with how the command was called, and what would work."""
        self.problem(f"{self.paint('error', Paint.ERROR)}: {message}" + (f"\n  = help: {help}" if help else ""))


def _tell(text: str) -> None:
    """A message on stderr. Where nobody can hear it, the exit code still says what the command found."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO | None) -> None:
    """Nothing can be written there any more, not even what the interpreter flushes at its end."""
    with suppress(AttributeError, OSError, ValueError):  # a stream that is no file needs no silence
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def writes_unicode() -> bool:
    """Whether stdout can have every character, or YAML has to spell them in ASCII."""
    try:
        "\N{REPLACEMENT CHARACTER}".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _encodable(text: str, stream: TextIO) -> str:
    """The text with what the stream's encoding lacks as four hexadecimal digits, which is how JSON writes it."""
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        codecs.register_error("as-json", _as_json)
        return text.encode(encoding, "as-json").decode(encoding)
    return text


def _as_json(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end
