"""Regexes in the syntax that Envoy's RE2 understands, and how large a program RE2 makes of them.

The documents call `check`, so that a pattern that Envoy would refuse is an error at its line. It reads a little less
than RE2 does (no Unicode classes, no quoted text), and matches nothing: no text of a tenant meets a backtracking engine.
https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

MAX_CHARACTERS = 1024
MAX_REPEAT = 1000
"""RE2's own bound of a repetition, and of nested ones multiplied."""
MAX_PROGRAM = 1000
"""Instructions of the program; the bootstrap of every proxy has the same bound (`re2.max_program_size`)."""
MAX_DEPTH = 50

_FRAME = 4
"""Instructions around any pattern."""
_BEYOND_ASCII = 10
"""Instructions, at most, of a range with characters beyond ASCII."""
_CLASSES = {"d": 1, "w": 4, "s": 3, "D": 8, "W": 12, "S": 11}
_ESCAPES = frozenset("aftnrv")
_ASSERTIONS = frozenset("AzbB")
_POSIX = frozenset(
    {"alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word"}
    | {"xdigit"}
)
_FLAGS = frozenset("imsU")


def check(text: str) -> int:
    """The number of groups of a pattern. Raises ValueError that says what RE2 does not understand, or that it is too large."""
    if not text or len(text) > MAX_CHARACTERS:
        raise ValueError(f"a regex has 1 to {MAX_CHARACTERS} characters")
    reader = _Reader(text)
    size = _FRAME + reader.alternatives(0)
    if reader.at < len(text):
        raise reader.error('")" without "("')
    if size > MAX_PROGRAM:
        raise ValueError(
            f"the regex is too large: about {size:,} instructions, at most {MAX_PROGRAM:,}; use smaller repetitions"
        )
    return reader.groups


def alternates(text: str) -> bool:
    """Whether a pattern that `check` takes is several: a bar stands outside of all groups and classes."""
    reader = _Reader(text)
    reader.alternatives(0)
    return reader.several


class _Reader:
    """Reads a pattern once, from left to right; each method returns the size of what it read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.groups = 0
        self.several = False
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

    def alternatives(self, depth: int) -> int:
        """What stands between bars, up to the end or a closing parenthesis."""
        if depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} nested groups")
        size, repeat = self._sequence(depth), self._repeat
        while self._take("|"):
            self.several |= depth == 0
            size += 1 + self._sequence(depth)
            repeat = max(repeat, self._repeat)
        self._repeat = repeat
        return size

    def _sequence(self, depth: int) -> int:
        size, repeat = 0, 1
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            self._repeat = 1
            size += self._repeated(self._atom(depth))
            repeat = max(repeat, self._repeat)
        self._repeat = repeat
        return max(size, 1)

    def _repeated(self, size: int) -> int:
        start = self.at
        if self.text[self.at : self.at + 1] in {"*", "+", "?"}:
            self.at += 1
            size += 4
        elif (bounds := self._bounds()) is not None:
            least, most = bounds
            self._repeat *= max(most or least, 1)
            if self._repeat > MAX_REPEAT:
                raise self.error(f"a repetition of more than {MAX_REPEAT}", start)
            size = max(least * size + (size + 4 if most is None else (most - least) * (size + 1)), 1)
        else:
            return size
        self._take("?")
        if self.text[self.at : self.at + 1] in {"*", "+", "?"} or self._bounds() is not None:
            raise self.error("RE2 has no possessive quantifier, and no repetition of a repetition")
        return size

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

    def _atom(self, depth: int) -> int:
        start = self.at
        if self._bounds() is not None:
            raise self.error("nothing before a repetition to repeat", start)
        character = self._next("it")
        if character == "(":
            size = self._group(depth, start)
        elif character == "[":
            size = self._folded(self._class(start))
        elif character == "\\":
            size = self._folded(self._escape(in_class=False))
        elif character == ".":
            size = _CLASSES["D"]
        elif character in "*+?":
            raise self.error(f'nothing before "{character}" to repeat', start)
        elif character in "kKsS":
            size = 4  # with (?i) they have a third form
        else:
            size = 1 if character.isascii() else self._folded(len(character.encode()))
        return size

    def _folded(self, size: int) -> int:
        """The size of something that is read without regard to case, if it is."""
        return 3 * size + 5 if self._folds else size

    def _group(self, depth: int, start: int) -> int:
        extra = 2
        if not self._take("?"):
            self.groups += 1
        elif self._take("P<") or (self.text[self.at + 1 : self.at + 2] not in {"=", "!"} and self._take("<")):
            self.groups += 1
            self._name(start)
        else:
            extra = 0
            flags = self.at
            self._folds |= "i" in self.text[flags : flags + len(_FLAGS) + 1].partition(")")[0].partition(":")[0]
            while self.at < len(self.text) and (self.text[self.at] in _FLAGS or self.text[self.at] == "-"):
                self.at += 1
            if self.text[flags : self.at].count("-") > 1 or self.text[flags : self.at].endswith("-"):
                raise self.error("flags such as (?i) or (?i-s:…) are wrong", start)
            if self._take(")"):
                if self.at == flags + 1:
                    raise self.error("flags such as (?i) are missing", start)
                if self.text[self.at : self.at + 1] in {"*", "+", "?"} or self._bounds() is not None:
                    raise self.error("nothing before a repetition to repeat")
                return 1
            if not self._take(":"):
                raise self.error(
                    "RE2 has no look-around, back-reference, condition, comment or atomic group, only the flags imsU",
                    start,
                )
        size = self.alternatives(depth + 1)
        if not self._take(")"):
            raise self.error('"(" without ")"', start)
        return size + extra

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
            return self._code(start)
        if character == "0":
            while self.at < len(self.text) and self.text[self.at] in "01234567" and self.at < start + 4:
                self.at += 1
            return 1
        if character in _ESCAPES or (character.isascii() and not character.isalnum()):
            return 1
        if character.isdigit():
            raise self.error("RE2 has no back-reference", start)
        raise self.error(f'"\\{character}" is not used here', start)

    def _code(self, start: int) -> int:
        braced = self._take("{")
        end = self.text.find("}", self.at) if braced else self.at + 2
        digits = self.text[self.at : max(end, self.at)]
        self.at = end + braced
        try:
            code = int(digits, 16) if digits.isalnum() and (braced or len(digits) == 2) else -1
        except ValueError:
            code = -1
        if not 0 <= code <= 0x10FFFF:
            raise self.error('a character is written as "\\x41" or "\\x{20AC}"', start)
        return 1 if code < 0x80 else 4

    def _class(self, start: int) -> int:
        size = 10 if self._take("^") else 0
        first = True
        while first or not self._take("]"):
            first = False
            if self._take("[:"):
                name = self.text[self.at : max(self.text.find(":]", self.at), self.at)]
                if name.removeprefix("^") not in _POSIX:
                    raise self.error('a class in a class is one such as "[:alpha:]"', start)
                self.at += len(name) + 2
                size += 12 if name.startswith("^") else 4
                continue
            low, cost = self._member(start)
            if self.text.startswith("-", self.at) and self.text[self.at + 1 : self.at + 2] not in {"", "]"}:
                self.at += 1
                high, more = self._member(start)
                if low is None or high is None or low > high:
                    raise self.error("a range in a class goes from a character to a later one", start)
                cost = max(cost, more)
            size += cost
        return max(size, 1)

    def _member(self, start: int) -> tuple[str | None, int]:
        """One member of a class: its character (None for a class such as one of digits), and its size."""
        character = self._next("a class in brackets")
        if character != "\\":
            return character, 1 if character.isascii() else _BEYOND_ASCII
        at = self.at
        size = self._escape(in_class=True)
        written = self.text[at : self.at]
        if written in _CLASSES:
            return None, size
        return _character(written), 1 if size == 1 else _BEYOND_ASCII


def _character(escape: str) -> str:
    """The character that an escape stands for."""
    if escape[0] == "x":
        return chr(int(escape[1:].strip("{}"), 16))
    if escape[0] == "0":
        return chr(int(escape, 8))
    return dict(zip("aftnrv", "\a\f\t\n\r\v", strict=True)).get(escape, escape)
