"""How far the content of a file of specs can be believed: what it says counts, what it lacks may not.

`files` calls `believed` for every file that it read; `declared` takes the result. Nothing here reads or waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from controlplane.errors import Diagnostic, Place
from controlplane.names import ObjectRef, kubernetes_source
from controlplane.sources.base import SpecObject
from controlplane.sources.declared import RESTING, Content, duplicate
from controlplane.sources.reading import Signature
from controlplane.spec.parse import Parsed, parse_piece
from controlplane.spec.pieces import Piece
from controlplane.spec.rows import Kind, rows


class Document(msgspec.Struct):
    """One document of a file: the object it declares, or its errors."""

    parsed: Parsed
    spec: SpecObject | None


@dataclass(slots=True)
class File:
    """What was last read of a file. `signature` is None while it never could be; `unread`: it could not be since."""

    signature: Signature | None = None
    documents: list[Document] = field(default_factory=list)
    in_place: bool = False
    unread: bool = False

    def is_as(self, signature: Signature | None) -> bool:
        """Whether this is what was read: there is nothing to be read anew."""
        return self.signature == signature is not None and not self.unread


def read_document(parsed: Parsed, shown: str) -> Document:
    """A document of the file `shown`, divided into rows."""
    if parsed.document is None or parsed.ref is None:
        return Document(parsed, None)
    spec = SpecObject(parsed.ref, rows(parsed.ref, parsed.document), parsed.text, shown, parsed.line)
    return Document(replace(parsed, document=None), spec)


def known_document(piece: Piece, known: Mapping[str, Document]) -> Document | None:
    """The document of this text, where it stands now, of those `known` by their text; None when it must be parsed."""
    old = known.get(piece.text)
    if old is None or old.parsed.line == piece.line:
        return old
    if old.spec is None:
        return None  # its errors have other places now
    return Document(replace(old.parsed, line=piece.line), replace(old.spec, line=piece.line))


CLAIM = "gatewayspec.dev/claim"
"""How old a custom resource's claims are, as an annotation of its text: a text from the state on disk says it too."""
RESTORED = "(last good state)"
"""What stands for the file of an object that no file declares now."""


def restored(ref: ObjectRef, text: str) -> SpecObject | None:
    """An object of its stored text; None when that is no valid document of this name any more."""
    parsed = parse_piece(Piece(text, 1), RESTORED, ref.source)
    if parsed.document is None or parsed.ref != ref:
        return None
    of_cluster = ref.source.startswith(kubernetes_source(""))  # a file has no such word, whatever it says there
    claim = parsed.document.metadata.annotations.get(CLAIM, "") if of_cluster else ""
    return SpecObject(ref, rows(ref, parsed.document, claim), text, RESTORED, 1)


def believed(shown: str, file: File, old: Content, *, rested: bool) -> tuple[Content, bool]:
    """What can be believed of a file, and whether that will be more when it has rested."""
    unsure = file.in_place and not rested
    wait = False
    objects: dict[ObjectRef, SpecObject] = {}
    broken: set[ObjectRef] = set()
    unknown = False
    diagnostics: list[Diagnostic] = []
    for document in file.documents:
        parsed, spec = document.parsed, document.spec
        diagnostics += parsed.diagnostics
        ref = parsed.ref
        if ref is None:
            unknown = True
        elif ref in objects or ref in broken:
            first = next(other.parsed for other in file.documents if other.parsed.ref == ref)
            diagnostics.append(duplicate(ref, parsed.text, Place(shown, parsed.line), Place(shown, first.line)))
        elif spec is None:
            broken.add(ref)
            if (before := old.objects.get(ref)) is not None:
                objects[ref] = before
        elif unsure and document is file.documents[-1] and _is_less(spec, old.objects.get(ref)):
            objects[ref] = old.objects[ref]
            wait = True
        else:
            objects[ref] = spec
    if unknown:
        doubt = "one of its documents does not say which object it is"
    elif file.in_place and broken:
        doubt = "one of its documents is broken"
    elif unsure and (old.doubt or not _are_renamed(old.objects, objects)):
        doubt = RESTING
        wait = True
    else:
        doubt = ""
    return Content(objects, frozenset(broken), doubt, tuple(diagnostics)), wait


def _are_renamed(before: Mapping[ObjectRef, SpecObject], now: Mapping[ObjectRef, SpecObject]) -> bool:
    """Whether all that is missing are gateways with other names, and everything that they had: the file is not cut off.

    Both at a time would be two gateways, of which one has the hosts and the other the routes of teams.
    """
    new = [spec for ref, spec in now.items() if ref not in before]
    for ref in before.keys() - now.keys():
        elements = _elements(before[ref])
        heir = next((spec for spec in new if _may_be(spec.ref, ref) and elements <= _elements(spec)), None)
        if heir is None:
            return False
        new.remove(heir)
    return True


def _may_be(now: ObjectRef, before: ObjectRef) -> bool:
    return now.kind == before.kind == "GatewaySpec" and now.namespace == before.namespace


def _elements(spec: SpecObject) -> set[tuple[Kind, str]]:
    return {(kind, key.element) for kind, key in spec.rows}


def _is_less(now: SpecObject, before: SpecObject | None) -> bool:
    """Whether the end of a file looks cut off."""
    if before is None or now.text == before.text:
        return False
    return bool(before.rows.keys() - now.rows.keys()) or before.text.startswith(now.text)
