"""Sets of characters, for what regexes may match: one bit for each character of ASCII, and one for all others together."""

from __future__ import annotations

import string
from collections.abc import Iterable

Characters = int


def characters(text: Iterable[str]) -> Characters:
    """The set of the characters of a text."""
    found = 0
    for character in text:
        found |= 1 << min(ord(character), 128)
    return found


EVERY: Characters = (1 << 129) - 1
VISIBLE = characters(map(chr, range(0x21, 0x7F)))
"""Printable ASCII but for the space."""
BEYOND_ASCII = 1 << 128

_LETTERS = string.ascii_letters

POSIX = {
    "alnum": characters(_LETTERS + string.digits),
    "alpha": characters(_LETTERS),
    "ascii": EVERY & ~BEYOND_ASCII,
    "blank": characters(" \t"),
    "cntrl": characters(map(chr, (*range(0x20), 0x7F))),
    "digit": characters(string.digits),
    "graph": VISIBLE,
    "lower": characters(string.ascii_lowercase),
    "print": VISIBLE | characters(" "),
    "punct": characters(string.punctuation),
    "space": characters(" \t\n\v\f\r"),
    "upper": characters(string.ascii_uppercase),
    "word": characters(_LETTERS + string.digits + "_"),
    "xdigit": characters(string.hexdigits),
}
_PERL = {"d": POSIX["digit"], "w": POSIX["word"], "s": characters(" \t\n\f\r")}


def of_class(letter: str) -> Characters:
    r"""What `\d` or `\W` stands for."""
    members = _PERL[letter.lower()]
    return members if letter.islower() else EVERY & ~members


def with_other_case(members: Characters) -> Characters:
    """A set that does not tell its letters apart by case."""
    return members | characters(letter.swapcase() for letter in _LETTERS if members >> ord(letter) & 1)
