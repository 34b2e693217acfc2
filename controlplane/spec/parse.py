"""Files to documents: bytes are decoded, split at document marks, read, validated and identified.

Called by sources, the command line and the admission of custom resources. Every error of every document is found at
once and has its position. `parse_text` never raises for what a file says: a broken document is a `Parsed` with
diagnostics, and it keeps its identity when that can be read, so that its last good version can stay in force.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from pydantic import ValidationError

from controlplane.errors import Diagnostic, InvalidInput, Place, nearest
from controlplane.names import ObjectRef
from controlplane.spec.codes import Code
from controlplane.spec.explain import explain, faults
from controlplane.spec.gateway import KINDS, Document
from controlplane.spec.places import locate, locate_all, positions
from controlplane.spec.yaml import MAX_DOCUMENT, load

__all__ = [
    "Parsed",
    "Piece",
    "decode",
    "identity",
    "locate",
    "locate_all",
    "parse_document",
    "parse_piece",
    "parse_text",
    "split",
]

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


class Parsed(msgspec.Struct, frozen=True):
    """One document of a file.

    `document` is None when something is wrong with it; `ref` is None when even its identity could not be read.
    """

    ref: ObjectRef | None
    document: Document | None
    text: str
    line: int
    diagnostics: tuple[Diagnostic, ...] = ()


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


def parse_text(text: str, file: str, source: str = "files") -> list[Parsed]:
    """Every document of a file; a file that holds none is one `Parsed` with an error."""
    try:
        pieces = split(text, file)
    except InvalidInput as error:
        return [Parsed(None, None, text, 1, error.diagnostics)]
    return [parse_piece(piece, file, source) for piece in pieces]


def parse_document(text: str, file: str, first_line: int = 1, source: str = "files") -> Document:
    """One document. Raises InvalidInput with all its errors."""
    parsed = parse_piece(Piece(text, first_line), file, source)
    if parsed.document is None:
        raise InvalidInput(parsed.diagnostics)
    return parsed.document


def parse_piece(piece: Piece, file: str, source: str = "files") -> Parsed:
    """One document, or all its errors."""
    text, line = piece
    loaded = load(text)
    data = loaded.data
    ref = identity(data, source)
    if not loaded.faults and ref is not None:
        try:
            document = KINDS[ref.kind].model_validate(data)
            return Parsed(ref, document, text, line)
        except ValidationError as error:
            diagnostics = explain(KINDS[ref.kind], error, text, data, file, line, ref.subject)
            return Parsed(ref, None, text, line, tuple(diagnostics))
    subject = ref.subject if ref else ""
    found = faults(loaded.faults, data, file, line, subject)
    if not any(fault.code in _BROKEN_OFF for fault in loaded.faults):
        found += _schema_errors(data, text, file, line, subject)
    found.sort(key=lambda diagnostic: diagnostic.place or Place(file))
    return Parsed(ref, None, text, line, tuple(found))


_BROKEN_OFF = frozenset(
    {Code.SYNTAX, Code.TAB, Code.TOO_LARGE, Code.TOO_DEEP, Code.CONTROL_CHARACTER, Code.NOT_UTF8, Code.ALIAS}
)
"""After these the data is a part of the document: what the schema says of it would mislead."""


def _schema_errors(data: Any, text: str, file: str, line: int, subject: str) -> list[Diagnostic]:
    if not isinstance(data, dict):
        message = "a document is a mapping with apiVersion, kind, metadata and spec"
        row, column = positions(text, [()])[()]
        return [Diagnostic(Code.UNKNOWN_KIND, message, place=Place(file, line + row, column + 1))]
    kind = data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        row, column = positions(text, [("kind",)])[("kind",)]
        message = f'unknown kind "{kind[:80]}"' if isinstance(kind, str) else 'missing field "kind"'
        help = nearest(kind if isinstance(kind, str) else "", KINDS)
        path = "kind" if isinstance(kind, str) else ""
        place = Place(file, line + row, column + 1)
        return [Diagnostic(Code.UNKNOWN_KIND, message, path, help, subject=subject, place=place)]
    try:
        model.model_validate(data)
    except ValidationError as error:
        return explain(model, error, text, data, file, line, subject)
    return []


_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


def identity(data: Any, source: str) -> ObjectRef | None:
    """Which object a document is, however broken the rest of it may be."""
    if not isinstance(data, dict):
        return None
    kind, metadata = data.get("kind"), data.get("metadata")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(metadata, dict):
        return None
    name, namespace = metadata.get("name"), metadata.get("namespace", "default")
    if not isinstance(name, str) or not isinstance(namespace, str):
        return None
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(namespace):
        return None
    return ObjectRef(source, kind, namespace, name)
