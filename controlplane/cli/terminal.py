"""What goes to the terminal and how: colours, verbosity, messages on stderr, data on stdout."""

from __future__ import annotations

import os
import sys
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


def has_color(stream: TextIO, wish: Color) -> bool:
    """Whether `stream` gets colours. The flag wins, then NO_COLOR, then FORCE_COLOR, then what the stream is.

    https://no-color.org: any non-empty value of NO_COLOR switches colours off.
    """
    if wish is not Color.AUTO:
        return wish is Color.ALWAYS
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") != "0":
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True, slots=True)
class Terminal:
    """How one invocation speaks. `verbosity` is -1 for `-q`, 0, or the number of `-v`."""

    color: Color = Color.AUTO
    verbosity: int = 0

    def paint(self, text: str, paint: Paint, stream: TextIO | None = None) -> str:
        """The text in this colour, or as it is."""
        return f"{paint}{text}{Paint.RESET}" if has_color(stream or sys.stderr, self.color) else text

    def data(self, text: str) -> None:
        """What was asked for, on stdout; nothing for an empty text."""
        if not text:
            return
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A message for people, on stderr; not with `-q`."""
        if self.verbosity >= 0:
            sys.stderr.write(text + "\n")

    def explain(self, text: str) -> None:
        """A detail for people, on stderr, with `-v`."""
        if self.verbosity > 0:
            sys.stderr.write(text + "\n")

    def problem(self, text: str) -> None:
        """What is wrong, on stderr, whatever the verbosity."""
        sys.stderr.write(text + "\n")
