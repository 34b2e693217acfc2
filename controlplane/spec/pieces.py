"""Files to texts of documents: bytes are decoded and divided at document marks, before anything is read of them.

Everything but strict UTF-8 is refused here, and what is larger than anybody means. It knows no YAML but the marks.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from controlplane.errors import Diagnostic, InvalidInput, Place
from controlplane.spec.codes import Code
from controlplane.spec.yaml import MAX_DOCUMENT

MAX_FILE = 64 * 1024 * 1024
"""Bytes of a file."""
MAX_DOCUMENTS = 50_000
"""Documents of a file."""
MAX_MARKS = 4 * MAX_DOCUMENTS
"""Lines of a file that begin as document marks do: also documents without content cost time."""


class Piece(NamedTuple):
    """One document's text, and the line of the file on which it begins, from 1."""

    text: str
    line: int


_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def decode(data: bytes, file: str) -> str:
    """The text of a file; a byte order mark of UTF-8 is accepted and removed. Raises InvalidInput."""

    def refused(code: Code, message: str, index: int, help: str = "") -> InvalidInput:
        start = data.rfind(b"\n", 0, index) + 1
        column = len(data[start:index].decode(errors="replace")) + 1
        place = Place(file, data.count(b"\n", 0, index) + 1, column)
        return InvalidInput([Diagnostic(code, message, help=help, place=place)])

    if len(data) > MAX_FILE:
        raise too_large(file, len(data))
    if data.startswith(_BOMS) or data[1:2] == b"\0" or data[:1] == b"\0":
        raise refused(Code.NOT_UTF8, "the file is UTF-16 or UTF-32 or binary", 0, "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        index = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        message = f"the byte 0x{data[index]:02x} is not UTF-8"
        raise refused(Code.NOT_UTF8, message, index, "save the file as UTF-8") from None
    if (index := data.find(b"\0")) >= 0:
        raise refused(Code.CONTROL_CHARACTER, "a NUL character", index, "the file is binary, or was cut by a crash")
    return text


def too_large(file: str, size: int) -> InvalidInput:
    """The error of a file of `size` bytes that nobody will read."""
    message = f"the file has {size / 1024 / 1024:,.0f} MiB; at most {MAX_FILE // 1024 // 1024} are read"
    return InvalidInput([Diagnostic(Code.TOO_LARGE, message, help="split it", place=Place(file))])


_MARK = re.compile(r"(---|\.\.\.)(?=[ \t\r\n]|\Z)([ \t]*(?:#[^\n]*|\r)?(?:\n|\Z))?")


def split(text: str, file: str) -> list[Piece]:
    """The documents of a file that hold more than comments, in order.

    Raises InvalidInput for a file without anything, not even a comment, and for one with too many documents or marks.
    """
    if not text or text.isspace():
        help = "delete it if nothing is meant"
        raise InvalidInput([Diagnostic(Code.EMPTY_FILE, "the file is empty", help=help, place=Place(file))])
    pieces = list(islice(_pieces(text, file), MAX_DOCUMENTS + 1))
    if len(pieces) > MAX_DOCUMENTS:
        message = f"the file has more than {MAX_DOCUMENTS:,} documents"
        place = Place(file, pieces[-1].line)
        raise InvalidInput([Diagnostic(Code.TOO_MANY_DOCUMENTS, message, help="split it", place=place)])
    return pieces


def _pieces(text: str, file: str) -> Iterator[Piece]:
    """The documents, divided at marks.

    A line that begins with `---` or `...` is a mark wherever it stands, in block scalars too. (YAML 1.2.2, 9.1.2)
    """
    start = 0  # of the piece that is being collected
    line = 1
    marked = False  # it begins with "---"
    for match in _marks(text, file):
        begin = match.start()
        piece = text[start:begin]
        if match[1] == "---" and not marked and _is_directives(piece):
            marked = True  # directives belong to the document that follows
            continue
        if not _is_blank(piece):
            yield Piece(piece, line)
        # A mark alone on its line is no part of the document; content may also stand beside it.
        following = match.end() if match[2] is not None else begin if match[1] == "---" else match.end()
        line += text.count("\n", start, following)
        start = following
        marked = match[1] == "---"
    piece = text[start:]
    if not _is_blank(piece):
        yield Piece(piece, line)


def _marks(text: str, file: str) -> Iterator[re.Match[str]]:
    """The marks of a text in order; found by plain search, which is quicker than a pattern."""
    for count, start in enumerate(heapq.merge(_beginnings(text, "---"), _beginnings(text, "..."))):
        if count == MAX_MARKS:
            message = f"the file has more than {MAX_MARKS:,} lines that begin with --- or ..."
            place = Place(file, text.count("\n", 0, start) + 1)
            help = "split it, and leave out documents without content"
            raise InvalidInput([Diagnostic(Code.TOO_MANY_DOCUMENTS, message, help=help, place=place)])
        if (match := _MARK.match(text, start)) is not None:
            yield match


def _beginnings(text: str, sign: str) -> Iterator[int]:
    """Where lines begin with this sign."""
    if text.startswith(sign):
        yield 0
    at = text.find(f"\n{sign}")
    while at >= 0:
        yield at + 1
        at = text.find(f"\n{sign}", at + 1)


_MAY_BE_BLANK = frozenset(("", "#", " ", "\t", "\r", "\n", "\f", "\v"))
_CONTENT = re.compile(r"^[^\S\n]*[^\s#]", re.MULTILINE)
_BESIDE_DIRECTIVES = re.compile(r"^(?!%)[^\S\n]*[^\s#]", re.MULTILINE)
_STRETCH = 64 * 1024
"""Characters that are searched at once: a search does not let other threads run."""


def _is_blank(piece: str) -> bool:
    """Only white space and comments, and no more of them than a document may have."""
    return piece[:1] in _MAY_BE_BLANK and len(piece) <= MAX_DOCUMENT and not _has_line(piece, _CONTENT)


def _is_directives(piece: str) -> bool:
    """Only directives, white space and comments, and at least one directive."""
    if not piece.startswith("%") and "\n%" not in piece:
        return False
    return len(piece) <= MAX_DOCUMENT and not _has_line(piece, _BESIDE_DIRECTIVES)


def _has_line(text: str, begins: re.Pattern[str]) -> bool:
    """Whether a line begins so."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _STRETCH)
        end = len(text) if end < 0 else end + 1
        if begins.search(text, start, end) is not None:
            return True
        start = end
    return False
