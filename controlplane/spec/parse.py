"""Texts to documents: read, validated and identified.

Called by sources, the command line and the admission of custom resources. Every error of every document is found at
once and has its position. `parse_text` never raises for what a file says: a broken document is a `Parsed` with
diagnostics, and it keeps its identity when that can be read, so that its last good version can stay in force.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from pydantic import ValidationError

from controlplane.errors import Diagnostic, InvalidInput, Place, nearest
from controlplane.names import ObjectRef
from controlplane.spec.codes import Code
from controlplane.spec.explain import explain, faults
from controlplane.spec.gateway import KINDS, Document
from controlplane.spec.pieces import Piece, split
from controlplane.spec.places import locate, locate_all, positions
from controlplane.spec.yaml import Loaded, load

__all__ = [
    "Load",
    "Parsed",
    "identity",
    "locate",
    "locate_all",
    "parse_document",
    "parse_piece",
    "parse_text",
]

Load = Callable[[str], Loaded]
"""Reads the YAML of one document, as `yaml.load` does."""


class Parsed(msgspec.Struct, frozen=True):
    """One document of a file.

    `document` is None when something is wrong with it; `ref` is None when even its identity could not be read.
    """

    ref: ObjectRef | None
    document: Document | None
    text: str
    line: int
    diagnostics: tuple[Diagnostic, ...] = ()


def parse_text(text: str, file: str, source: str = "files", load: Load = load) -> list[Parsed]:
    """Every document of a file; a file that holds none is one `Parsed` with an error."""
    try:
        pieces = split(text, file)
    except InvalidInput as error:
        return [Parsed(None, None, text, 1, error.diagnostics)]
    return [parse_piece(piece, file, source, load) for piece in pieces]


def parse_document(text: str, file: str, first_line: int = 1, source: str = "files") -> Document:
    """One document. Raises InvalidInput with all its errors."""
    parsed = parse_piece(Piece(text, first_line), file, source)
    if parsed.document is None:
        raise InvalidInput(parsed.diagnostics)
    return parsed.document


def parse_piece(piece: Piece, file: str, source: str = "files", load: Load = load) -> Parsed:
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
