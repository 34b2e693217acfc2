"""Regexes in the syntax that Envoy's RE2 understands, and how large a program RE2 makes of them.

The documents call `check`, so that a pattern that Envoy would refuse is an error at its line. It reads a little less
than RE2 does (no Unicode classes, no quoted text), and matches nothing: no text of a tenant meets a backtracking engine.
Envoy's RE2 compares bytes: a character beyond ASCII is several, which a class or a repetition would take apart.
What a pattern could match is known roughly, and never too little: whether it can match anything made of given
characters (`read`), and how that, and each of its groups, may begin.
https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from controlplane.model.characters import EVERY, POSIX, Characters, characters, of_class, with_other_case

MAX_CHARACTERS = 1024
MAX_REPEAT = 1000
"""RE2's own bound of a repetition, and of nested ones multiplied."""
MAX_PROGRAM = 1000
"""Instructions of the program; the bootstrap of every proxy has the same bound (`re2.max_program_size`)."""
MAX_DEPTH = 50

_FRAME = 4
"""Instructions around any pattern."""
_CLASSES = {"d": 1, "w": 4, "s": 3, "D": 8, "W": 12, "S": 11}
_ESCAPES = frozenset("aftnrv")
_ASSERTIONS = frozenset("AzbB")
_FLAGS = frozenset("imsU")


class Part(NamedTuple):
    """What is known of a pattern, or of a part of it: the size of its program, and which texts it may match."""

    size: int
    empty: bool = True
    """It may match nothing at all, which is something else than not to match."""
    first: Characters = 0
    """What a text that it matches may begin with, of the characters that texts are made of."""
    possible: bool = True
    """It may match some text made of these characters."""


@dataclass(slots=True)
class Groups:
    """What is known of the groups of a pattern, by number."""

    parts: dict[int, Part] = field(default_factory=dict)
    leading: set[int] = field(default_factory=set)
    """They begin where the match begins."""
    optional: set[int] = field(default_factory=set)
    """They may take no part in a match."""
    follows: dict[int, Part] = field(default_factory=dict)
    """What comes behind a leading one, as far as the group reaches that both stand in."""


def check(text: str) -> int:
    """The number of groups of a pattern. Raises ValueError that says what RE2 does not understand, or that it is too large."""
    return len(read(text)[1].parts)


def read(text: str, made_of: Characters = EVERY) -> tuple[Part, Groups]:
    """What is known of a pattern and its groups, for texts made of these characters. Raises as `check` does."""
    if not text or len(text) > MAX_CHARACTERS:
        raise ValueError(f"a regex has 1 to {MAX_CHARACTERS} characters")
    reader = _Reader(text, made_of)
    whole = reader.alternatives(0)
    if reader.at < len(text):
        raise reader.error('")" without "("')
    if (size := _FRAME + whole.size) > MAX_PROGRAM:
        raise ValueError(
            f"the regex is too large: about {size:,} instructions, at most {MAX_PROGRAM:,}; use smaller repetitions"
        )
    return whole, reader.known


@lru_cache(maxsize=4096)  # asked for each place that a route may take, and a large one takes milliseconds
def alternates(text: str) -> bool:
    """Whether a pattern that `check` takes is several: a bar stands outside of all groups and classes."""
    reader = _Reader(text)
    reader.alternatives(0)
    return reader.several


_LITERAL = re.compile(r"\^?((?:[A-Za-z0-9_~/-]|\\[.-])*)")


def literal(text: str) -> tuple[str, bool]:
    """The text that every match of a pattern begins with, and whether the pattern is nothing but that text."""
    if alternates(text):
        return "", False
    found = _LITERAL.match(text)
    assert found is not None
    beginning, rest = found[1], text[found.end() :]
    if rest[:1] in {"*", "?", "+", "{"} and beginning:
        beginning = beginning[:-2] if beginning[-2:-1] == "\\" else beginning[:-1]
    return beginning.replace("\\", ""), rest in {"", "$"}


class _Reader:
    """Reads a pattern once, from left to right; each method returns what is known of the part that it read."""

    def __init__(self, text: str, made_of: Characters = EVERY) -> None:
        self.text = text
        self.at = 0
        self.known = Groups()
        self.several = False
        self._made_of = made_of
        self._groups = 0
        self._leads = True  # nothing that takes characters stands before
        self._names: set[str] = set()
        self._folds = False
        self._repeat = 1  # the largest product of nested repetitions in what was read last

    def error(self, what: str, at: int | None = None) -> ValueError:
        """What is wrong, and where."""
        return ValueError(f"{what}, at character {(self.at if at is None else at) + 1} of the regex")

    def _take(self, literal: str) -> bool:
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def _next(self, inside: str) -> str:
        if self.at == len(self.text):
            raise self.error(f"{inside} is not complete")
        self.at += 1
        return self.text[self.at - 1]

    def alternatives(self, depth: int) -> Part:
        """What stands between bars, up to the end or a closing parenthesis."""
        if depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} nested groups")
        leads, groups = self._leads, self._groups
        found, repeat = [self._sequence(depth)], self._repeat
        while self._take("|"):
            self.several |= depth == 0
            self._leads = leads
            found.append(self._sequence(depth))
            repeat = max(repeat, self._repeat)
        self._repeat = repeat
        if len(found) == 1:
            return found[0]
        self._may_be_left_out(groups)
        size = sum(part.size for part in found) + len(found) - 1
        possible = [part for part in found if part.possible]
        first = 0
        for part in possible:
            first |= part.first
        return Part(size, any(part.empty for part in possible), first, bool(possible))

    def _may_be_left_out(self, groups: int) -> None:
        """The groups that were opened since there were so many."""
        self.known.optional.update(range(groups + 1, self._groups + 1))

    def _sequence(self, depth: int) -> Part:
        size, repeat = 0, 1
        empty, first, possible = True, 0, True
        followed: list[int] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            self._repeat = 1
            groups = self._groups
            opens = self._leads and self.text.startswith("(", self.at) and not self.text.startswith("(?", self.at)
            part = self._repeated(self._atom(depth), groups)
            for number in followed:
                before = self.known.follows[number]
                if before.empty:
                    self.known.follows[number] = Part(0, part.empty, before.first | part.first)
            if opens:
                followed.append(groups + 1)
                self.known.follows[groups + 1] = Part(0)
            repeat = max(repeat, self._repeat)
            size += part.size
            if empty:
                first |= part.first
            empty &= part.empty
            possible &= part.possible
            self._leads &= part.empty and not part.first
        self._repeat = repeat
        return Part(max(size, 1), empty, first if possible else 0, possible)

    def _repeated(self, part: Part, groups: int) -> Part:
        start = self.at
        size, least, most = part.size, 1, None
        if self.text[self.at : self.at + 1] in {"*", "+", "?"}:
            least, most = int(self.text[self.at] == "+"), 1 if self.text[self.at] == "?" else None
            self.at += 1
            size += 4
        elif (bounds := self._bounds()) is not None:
            least, most = bounds
            self._repeat *= max(most or least, 1)
            if self._repeat > MAX_REPEAT:
                raise self.error(f"a repetition of more than {MAX_REPEAT}", start)
            size = max(least * size + (size + 4 if most is None else (most - least) * (size + 1)), 1)
        else:
            return part
        self._take("?")
        if self._at_repetition():
            raise self.error("RE2 has no possessive quantifier, and no repetition of a repetition")
        if most != 1:  # a group holds what its last repetition matched
            self.known.leading.difference_update(range(groups + 1, self._groups + 1))
        if least == 0:
            self._may_be_left_out(groups)
            return Part(size, empty=True, first=0 if most == 0 else part.first)
        return part._replace(size=size)

    def _at_repetition(self) -> bool:
        return self.text[self.at : self.at + 1] in {"*", "+", "?"} or self._bounds() is not None

    def _bounds(self) -> tuple[int, int | None] | None:
        """`{2}`, `{2,}` or `{2,5}`; anything else in braces is text, as it is for RE2."""
        end = self.text.find("}", self.at)
        if not self.text.startswith("{", self.at) or end < 0:
            return None
        least, comma, most = self.text[self.at + 1 : end].partition(",")
        if not all(part.isascii() and part.isdigit() for part in (least, *([most] if most else []))):
            return None
        if len(least) > 4 or len(most) > 4 or (most and int(most) < int(least)):
            raise self.error("a repetition has a lower and an upper bound of at most 1000, in this order")
        self.at = end + 1
        return int(least), int(most) if most else None if comma else int(least)

    def _one_of(self, size: int, members: Characters) -> Part:
        """One character of these."""
        if self._folds:
            size = 3 * size + 5
            members = with_other_case(members)
        members &= self._made_of
        return Part(size, empty=False, first=members, possible=bool(members))

    def _atom(self, depth: int) -> Part:
        start = self.at
        if self._bounds() is not None:
            raise self.error("nothing before a repetition to repeat", start)
        character = self._next("it")
        if character == "(":
            return self._group(depth, start)
        if character == "[":
            return self._one_of(*self._class(start))
        if character == "\\":
            return self._escaped()
        if character in "^$":
            return Part(1)
        if character == ".":
            return Part(_CLASSES["D"], empty=False, first=self._made_of, possible=bool(self._made_of))
        if character in "*+?":
            raise self.error(f'nothing before "{character}" to repeat', start)
        part = self._one_of(len(character.encode()), characters(character))
        if character.isascii():
            # With (?i) a letter is a class of two; two letters have a third form, beyond ASCII.
            return part._replace(size=4 if character in "kKsS" else 1)
        if self._at_repetition():
            message = "Envoy compares bytes: to repeat a character beyond ASCII, write a group such as (?:€)+"
            raise self.error(message, start)
        return part

    def _escaped(self) -> Part:
        """An escape outside of classes."""
        at = self.at
        size = self._escape(in_class=False)
        written = self.text[at : self.at]
        if written in _ASSERTIONS:
            return Part(size)
        if written in _CLASSES:
            return self._one_of(size, of_class(written))
        return self._one_of(size, characters(_character(written)))

    def _group(self, depth: int, start: int) -> Part:
        number = None
        leads = self._leads
        if not self._take("?"):
            number = self._open()
        elif self._take("P<") or (self.text[self.at + 1 : self.at + 2] not in {"=", "!"} and self._take("<")):
            number = self._open()
            self._name(start)
        else:
            flags = self.at
            self._folds |= "i" in self.text[flags : flags + len(_FLAGS) + 1].partition(")")[0].partition(":")[0]
            while self.at < len(self.text) and (self.text[self.at] in _FLAGS or self.text[self.at] == "-"):
                self.at += 1
            if self.text[flags : self.at].count("-") > 1 or self.text[flags : self.at].endswith("-"):
                raise self.error("flags such as (?i) or (?i-s:…) are wrong", start)
            if self._take(")"):
                if self.at == flags + 1:
                    raise self.error("flags such as (?i) are missing", start)
                if self._at_repetition():
                    raise self.error("nothing before a repetition to repeat")
                return Part(1)
            if not self._take(":"):
                raise self.error(
                    "RE2 has no look-around, back-reference, condition, comment or atomic group, only the flags imsU",
                    start,
                )
        part = self.alternatives(depth + 1)
        if not self._take(")"):
            raise self.error('"(" without ")"', start)
        if number is None:
            return part
        self.known.parts[number] = part
        if leads:
            self.known.leading.add(number)
        return part._replace(size=part.size + 2)

    def _open(self) -> int:
        self._groups += 1
        return self._groups

    def _name(self, start: int) -> None:
        end = self.text.find(">", self.at)
        name = self.text[self.at : max(end, self.at)]
        if end < 0 or not name.isascii() or not name.replace("_", "a").isalnum() or name in self._names:
            raise self.error("a group has a name of letters, digits and _, its own", start)
        self._names.add(name)
        self.at = end + 1

    def _escape(self, *, in_class: bool) -> int:
        start = self.at - 1
        character = self._next('"\\"')
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _ASSERTIONS and not in_class:
            return 1
        if character == "x":
            self._code(start)
        elif character == "0":
            while self.at < len(self.text) and self.text[self.at] in "01234567" and self.at < start + 4:
                self.at += 1
        elif character.isdigit():
            raise self.error("RE2 has no back-reference", start)
        elif character not in _ESCAPES and (character.isalnum() or not character.isascii()):
            raise self.error(f'"\\{character}" is not used here', start)
        return 1

    def _code(self, start: int) -> None:
        braced = self._take("{")
        end = self.text.find("}", self.at) if braced else self.at + 2
        digits = self.text[self.at : max(end, self.at)]
        self.at = end + braced
        if not re.fullmatch(r"0*[0-9A-Fa-f]{1,2}" if braced else "[0-9A-Fa-f]{2}", digits):
            message = r'a byte is written as "\x41" or "\x{41}", at most FF; a character beyond ASCII as itself'
            raise self.error(message, start)

    def _class(self, start: int) -> tuple[int, Characters]:
        negated = self._take("^")
        size, members = 10 if negated else 0, 0
        first = True
        while first or not self._take("]"):
            first = False
            if self._take("[:"):
                name = self.text[self.at : max(self.text.find(":]", self.at), self.at)]
                if (known := POSIX.get(name.removeprefix("^"))) is None:
                    raise self.error('a class in a class is one such as "[:alpha:]"', start)
                self.at += len(name) + 2
                size += 12 if name.startswith("^") else 4
                members |= EVERY & ~known if name.startswith("^") else known
                continue
            low, cost = self._member(start)
            if self.text.startswith("-", self.at) and self.text[self.at + 1 : self.at + 2] not in {"", "]"}:
                self.at += 1
                high, more = self._member(start)
                if not (isinstance(low, str) and isinstance(high, str)) or low > high:
                    raise self.error("a range in a class goes from a character to a later one", start)
                cost = max(cost, more)
                members |= (1 << min(ord(high), 128) + 1) - (1 << min(ord(low), 128))
            else:
                members |= characters(low) if isinstance(low, str) else low
            size += cost
        return max(size, 1), EVERY & ~members if negated else members

    def _member(self, start: int) -> tuple[str | Characters, int]:
        """One member of a class: its character, or the set of a class such as one of digits, and its size."""
        character = self._next("a class in brackets")
        if not character.isascii():
            message = "Envoy compares bytes: write a character beyond ASCII outside of a class, such as (?:€|[a-z])"
            raise self.error(message, start)
        if character != "\\":
            return character, 1
        at = self.at
        size = self._escape(in_class=True)
        written = self.text[at : self.at]
        if written in _CLASSES:
            return of_class(written), size
        return _character(written), 1


def _character(escape: str) -> str:
    """The character that an escape stands for."""
    if escape[0] == "x":
        return chr(int(escape[1:].strip("{}"), 16))
    if escape[0] == "0":
        return chr(int(escape, 8))
    return dict(zip("aftnrv", "\a\f\t\n\r\v", strict=True)).get(escape, escape)
