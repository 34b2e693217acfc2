"""GatewaySpecs from the key-value store: each key under a prefix is a file, and is always written whole.

Pure bookkeeping: `source` hands it what the store answers. What stays of a broken or missing document is decided in
`declared`, as for files; in addition, what vanishes with everything else under the prefix is not believed to be gone before a second look.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Collection, Mapping

from controlplane.errors import Diagnostic, InvalidInput, Place, Severity
from controlplane.names import ObjectRef
from controlplane.sources.base import Sink
from controlplane.sources.belief import RESTORED, Document, File, believed, known_document, read_document
from controlplane.sources.consul.answers import Entry
from controlplane.sources.declared import RESTING, Content, Declared
from controlplane.spec.codes import Code
from controlplane.spec.parse import parse_piece
from controlplane.spec.pieces import Piece, decode, split

_LARGE = 64 * 1024
"""Characters of a value that is parsed beside the event loop."""


class Specs:
    """The documents under one prefix of one datacenter."""

    def __init__(self, source: str, prefix: str, last_good: Mapping[ObjectRef, str] | None = None) -> None:
        """`last_good`: texts of objects of this source that were in force before the process started."""
        self.source = source
        self.prefix = prefix
        self._last_good = dict(last_good or {})
        self._declared = Declared(source, self._last_good)
        self._keys: dict[str, int] = {}
        self._documents: dict[str, dict[str, Document]] = {}  # by key and text
        self._expected = bool(self._last_good)  # something was here before
        self._held = False
        self._vanished: set[str] = set()  # keys that were gone with all others and are not back, while others are
        self._returning = False  # not everything need be back yet that was gone at once

    @property
    def held(self) -> bool:
        """Whether everything vanished at once, and is kept, or what is not back of it."""
        return self._held or bool(self._vanished) or (self._returning and self._declared.keeps_restored)

    @property
    def held_objects(self) -> int:
        """How many objects that is."""
        return self._declared.in_force if self._held else self._declared.kept if self.held else 0

    async def update(self, found: Collection[Entry], sink: Sink, *, sure: bool, doubt: bool) -> bool:
        """The store as it is now; returns whether anything was said.

        `sure`: this was read to confirm that what is held is gone. `doubt`: the store may have lost keys.
        """
        entries = {entry.key: entry for entry in found if not entry.key.endswith("/")}
        said, was_held = self._said(), self._held
        self._held = not entries and self._expected and not sure
        self._expected = self._held or bool(entries)
        gone = self._keys.keys() - entries.keys()
        if was_held and entries:
            self._vanished, self._returning = set(gone), True  # who puts keys back does so one by one
        if sure or self._held:
            self._vanished, self._returning = set(), False
        self._vanished &= gone
        for key, entry in entries.items():
            if doubt or self._keys.get(key) != entry.modify_index:  # an index of other data says nothing
                await self._read(key, entry)
        if not self._held and not doubt:
            for key in gone - self._vanished:
                del self._keys[key]
                self._documents.pop(key, None)
                self._declared.update(self._shown(key), None)
            for key in self._vanished:
                self._declared.update(self._shown(key), Content(doubt=RESTING))  # another key may declare it now
        settled = self._settle(sink, doubt=doubt or self._held or self._returning, confirmed=sure)
        if (now := self._said()) != said:
            sink.problems(self.source, self.prefix, now)
        return settled or now != said

    def unreadable(self, sink: Sink) -> bool:
        """The store cannot be read: what was in force before the process started is in force; returns as `update`."""
        return self._settle(sink, doubt=True)

    def _settle(self, sink: Sink, *, doubt: bool, confirmed: bool = False) -> bool:
        for ref in self._declared.needed(doubt=doubt):
            self._restore(ref)
        return self._declared.settle(sink, doubt=doubt, confirmed=confirmed)

    async def _read(self, key: str, entry: Entry) -> None:
        shown = self._shown(key)
        self._keys[key] = entry.modify_index
        old = self._declared.content(shown) or Content()
        try:
            text = decode(b64decode(entry.value or "", validate=True), shown)
            pieces = split(text, shown)
        except (InvalidInput, binascii.Error) as error:
            diagnostics = (
                error.diagnostics
                if isinstance(error, InvalidInput)
                else (Diagnostic(Code.UNREADABLE, "not base64", place=Place(shown)),)
            )
            doubt = "its value cannot be read"
            self._declared.update(shown, Content(old.objects, old.broken, doubt, tuple(diagnostics)))
            return
        known = self._documents.get(key, {})
        documents = [known_document(piece, known) or await self._document(piece, shown) for piece in pieces]
        self._documents[key] = {document.parsed.text: document for document in documents}
        content, _ = believed(shown, File(documents=documents), old, rested=True)
        self._declared.update(shown, content)

    async def _document(self, piece: Piece, shown: str) -> Document:
        if len(piece.text) > _LARGE:
            return read_document(await asyncio.to_thread(parse_piece, piece, shown, self.source), shown)
        await asyncio.sleep(0)  # others have a turn between documents
        return read_document(parse_piece(piece, shown, self.source), shown)

    def _restore(self, ref: ObjectRef) -> None:
        document = read_document(parse_piece(Piece(self._last_good[ref], 1), RESTORED, self.source), RESTORED)
        spec = document.spec if document.spec is not None and document.spec.ref == ref else None
        self._declared.restore(ref, spec)

    def _shown(self, key: str) -> str:
        """`consul/gcp-dc2:gateways/shop`: how people find the key; line and column follow."""
        return f"{self.source}:{key}"

    def _said(self) -> list[Diagnostic]:
        if not self.held:
            return []
        if self._held:
            message = f"no key is left under {self.prefix}, where there were some; what they declared stays in force"
        else:
            listed = sorted(self._vanished)
            names = f": {', '.join(listed[:8])}{', …' if len(listed) > 8 else ''}" if listed else ""
            message = f"not everything that was gone at once under {self.prefix} is back, and stays in force{names}"
        help = "put it back; when it is not meant to be served, this is believed after a while"
        place = Place(self._shown(self.prefix))
        return [Diagnostic(Code.REMOVAL_HELD, message, help=help, severity=Severity.WARNING, place=place)]
