"""GatewaySpecs and RouteSpecs as custom resources: the same documents as in files, parsed by the same code.

An object that cannot be used keeps its last good version. A deletion takes effect once it is certain that somebody meant
this object: removing the definition of the custom resource deletes every object of its kind, and so do lists of a cluster
that lost its memory. https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from controlplane.errors import Diagnostic, Place, Severity
from controlplane.names import ObjectRef
from controlplane.sources.base import Sink, SpecObject
from controlplane.sources.belief import CLAIM
from controlplane.sources.kubernetes.objects import Metadata
from controlplane.spec.codes import Code
from controlplane.spec.gateway import API_VERSION, Document
from controlplane.spec.parse import parse_piece
from controlplane.spec.pieces import Piece
from controlplane.spec.rows import Row, RowKey, rows


class _Written(msgspec.Struct, frozen=True):
    """A custom resource: what people wrote, and the status as bytes."""

    metadata: Metadata
    spec: Any = msgspec.UNSET
    status: msgspec.Raw = msgspec.Raw(b"{}")


_decoder = msgspec.json.Decoder(_Written)

_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufffe\uffff]")


def text_of(document: Mapping[str, Any]) -> str:
    """The document as JSON in one line, which is YAML too: what that does not take as it is, is escaped."""
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(document, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as the API server has it now: which one it is, how often its spec changed, and its status (JSON).

    `good` is the generation of what is in force of it; 0 when nothing is, or nobody knows since when.
    """

    uid: str
    generation: int
    status: msgspec.Raw
    resource_version: str = ""
    good: int = 0


@dataclass(slots=True)
class _Object:
    """One object of the cluster, by its text; `spec` is its last good version."""

    text: str
    spec: SpecObject | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What a text says: the object, unless it cannot be used, and what is wrong with it."""

    text: str
    spec: SpecObject | None
    diagnostics: tuple[Diagnostic, ...]


class Documents:
    """The objects of one kind."""

    def __init__(
        self, source: str, kind: str, namespace: str | None, last_good: Mapping[ObjectRef, str], sink: Sink
    ) -> None:
        """`last_good` are texts of objects that were in force before, whatever their source, kind and namespace."""
        self.suspicious = False
        """The definition of the custom resource was away: what is missing now may come back."""
        self.ask_again: Callable[[], None] = lambda: None
        """Called when a second list is to say whether objects are gone."""
        self.ask_definition: Callable[[], None] = lambda: None
        """Called when objects were seen deleted: `delete` or `hold` is the answer for those that are `doubted`."""
        self.doubted: set[ObjectRef] = set()
        """Objects that were seen deleted, or were missing twice, and are in force."""
        self.ask_release: Callable[[], None] = lambda: None
        """Called when objects are held: `release` them after a while, and `judge` them once their definition is there."""
        self.noticed: Callable[[ObjectRef], None] = lambda _: None
        """Called when an object is there, or has another generation or status than before."""
        self.seen: dict[ObjectRef, Seen] = {}
        """Every object that exists, whether it can be used or not; never ahead of what is in force."""
        self._source = source
        self._kind = kind
        self._sink = sink
        self._last_good = {
            ref: text
            for ref, text in last_good.items()
            if (ref.source, ref.kind) == (source, kind) and namespace in (None, ref.namespace)
        }
        self._objects: dict[ObjectRef, _Object] = {}
        self._listed: dict[ObjectRef, Seen] = {}
        self._read: dict[ObjectRef, _Read] = {}
        self._prepared: _Read | None = None
        self._missing: set[ObjectRef] = set()
        self._held: set[ObjectRef] = set()
        self._unjudged: set[ObjectRef] = set()
        self._judging: set[ObjectRef] = set()
        self._judged: set[ObjectRef] = set()
        self._newcomers: set[ObjectRef] = set()
        """What was created since the oldest doubt that is open: it says nothing of the time before."""
        self._said: set[str] = set()
        self._dirty = False

    def begin(self) -> None:
        """A list begins."""
        self._read = {}
        self._listed = {}
        self._judged = set(self._judging)

    def prepare(self, data: msgspec.Raw) -> None:
        """Parse what comes next as `item` or `changed`: on a thread, for a large object takes seconds."""
        ref, text, _ = self._text(data)
        if self._is_news(ref, text):
            self._prepared = self._parse(ref, text)

    def item(self, data: msgspec.Raw) -> None:
        """An object of the list. It is parsed here, one at a time: all at once at the end would hold up everything else."""
        ref, text, self._listed[ref] = self._text(data)
        if self._is_news(ref, text):
            self._read[ref] = self._parse(ref, text)

    def end(self, version: int, *, rewound: bool) -> None:
        """The list is complete. What it lacks is gone when the next one lacks it too."""
        # Objects that are still the same ones say that their definition was never away: an API server that starts answers
        # 404 for a moment, too.
        for ref, seen in self._listed.items():
            self._see(ref, seen)
        listed = self._listed.keys()
        same = any(self._is_same(ref) for ref in listed - self._newcomers)
        anew = (self.suspicious or rewound) and not same
        self.suspicious = False
        for ref, read in self._read.items():
            self._put(ref, read)
        if rewound and anew:
            self.restore()
        if same:
            self._remove((self._judged & self._held) - listed)
        self._judging -= self._judged
        lacking = (self._objects.keys() | self._last_good.keys()) - listed - self._held - self.doubted
        if anew:
            self._hold(lacking & self._objects.keys(), lost=rewound)
            self._newcomers |= listed
            lacking -= self._held
        certain = lacking & self._missing
        self._missing = lacking - certain
        self._remove(certain - self._objects.keys())
        self._doubt(certain & self._objects.keys())
        for ref in self.seen.keys() - listed:
            del self.seen[ref]
        self._read, self._listed = {}, {}
        if self._missing:
            self.ask_again()

    def changed(self, data: msgspec.Raw) -> None:
        """An object as it is now."""
        ref, text, seen = self._text(data)
        self._see(ref, seen)
        known = self._objects.get(ref)
        if known is None or ref in self._held:
            self.suspicious = False  # while a definition goes, nothing is created
        if self._is_news(ref, text):
            self._put(ref, self._parse(ref, text))

    def deleted(self, data: msgspec.Raw) -> None:
        """An object is gone; whether that was meant is asked first.

        After the first one whose definition was seen to go there is nothing to ask: it may be back before the last one.
        """
        ref, _, _ = self._text(data)
        self.seen.pop(ref, None)
        if ref not in self._objects:
            return
        if self.suspicious:
            self._hold({ref})
        else:
            self._doubt({ref})

    def flush(self, event_time: float) -> None:
        """A batch ends."""
        if self._dirty:
            self._dirty = False
            self._sink.flush(event_time)

    # -- what becomes of deletions -------------------------------------------------------------------------------

    @property
    def unjudged(self) -> bool:
        """Whether objects are held of which no list has been asked whether their definition was away at all."""
        return bool(self._unjudged)

    @property
    def held(self) -> int:
        """How many objects are held."""
        return len(self._held)

    def delete(self, seen: set[ObjectRef]) -> None:
        """The definition is there: what was seen deleted was meant."""
        self._remove(seen & self.doubted)

    def hold(self) -> None:
        """The definition is going or gone: everything that was seen deleted stays, and says so."""
        self.suspicious = True
        self._hold(set(self.doubted))

    def judge(self) -> None:
        """The definition is there. When the next list has objects that are still the same ones, it was there all the time.

        What it lacks of those that are held now was deleted one by one, then: while a definition goes, none is left out.
        """
        self._judging |= self._unjudged
        self._unjudged = set()
        self.ask_again()

    def release(self) -> None:
        """What was held for long enough is gone."""
        self._remove(set(self._held))

    def restore(self) -> None:
        """The cluster cannot be read: what was in force before this process started is in force."""
        for ref, text in sorted(self._last_good.items()):
            if ref not in self._objects:
                self._put(ref, self._parse(ref, text))

    def _doubt(self, refs: set[ObjectRef]) -> None:
        self.doubted |= refs
        if refs:
            self.ask_definition()

    def _hold(self, refs: set[ObjectRef], *, lost: bool = False) -> None:
        self._held |= refs
        self._unjudged |= refs
        self.doubted -= refs
        for ref in refs:
            message = f"the definition of {self._kind} was removed from the cluster, and this object with it"
            if lost:
                message = "the data of the cluster went back (a backup, an empty disk?), and this object is not in them"
            help = "in force for now; put it back, or delete it once the definition is there again"
            said = Diagnostic(Code.REMOVAL_HELD, message, "", help, Severity.WARNING, ref.subject, self._place(ref))
            self._say(ref, (said,))
            self._dirty = True
        if refs:
            self.ask_release()

    def _remove(self, refs: set[ObjectRef]) -> None:
        for ref in sorted(refs):
            self._settled(ref)
            before = self._last_good.pop(ref, None)
            known = self._objects.pop(ref, None)
            if known is not None and known.spec is not None:
                self._sink.remove(ref, sure=True)  # seen twice, or by its own deletion
            elif before is not None:
                self._sink.remove(ref)  # before this process began, when nobody saw whether its definition went
            self._say(ref, ())
            self._dirty = True

    def _settled(self, ref: ObjectRef) -> None:
        """It is known what became of it."""
        for unsure in (self.doubted, self._missing, self._held, self._unjudged, self._judging, self._newcomers):
            unsure.discard(ref)
        if not (self.doubted or self._held):
            self._newcomers.clear()

    def _is_same(self, ref: ObjectRef) -> bool:
        """Whether the object is the one that was there before, whatever it says now; its text names its uid."""
        known, seen = self._objects.get(ref), self.seen.get(ref)
        return known is not None and seen is not None and seen.uid in known.text

    # -- objects -------------------------------------------------------------------------------------------------

    def _text(self, data: msgspec.Raw) -> tuple[ObjectRef, str, Seen]:
        """Which object it is, its text, and the rest of it."""
        written = _decoder.decode(data)
        metadata = written.metadata
        shown: dict[str, Any] = {"name": metadata.name, "namespace": metadata.namespace}
        shown["annotations"] = {CLAIM: f"{metadata.creation_timestamp}/{metadata.uid}"}
        if metadata.labels:
            shown["labels"] = metadata.labels
        document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": self._kind, "metadata": shown}
        if written.spec is not msgspec.UNSET:
            document["spec"] = written.spec
        ref = ObjectRef(self._source, self._kind, metadata.namespace, metadata.name)
        status = written.status.copy()  # else the whole list stays in memory with it
        return ref, text_of(document), Seen(metadata.uid, metadata.generation, status, metadata.resource_version)

    def _see(self, ref: ObjectRef, seen: Seen) -> None:
        before = self.seen.get(ref)
        good = before.good if before is not None and before.uid == seen.uid else 0
        self.seen[ref] = replace(seen, good=good)
        if before is None or _told(before) != _told(seen):
            self.noticed(ref)

    def _is_news(self, ref: ObjectRef, text: str) -> bool:
        """Whether it is not what is in force without a doubt."""
        known = self._objects.get(ref)
        return known is None or known.text != text or ref in self.doubted or ref in self._held

    def _parse(self, ref: ObjectRef, text: str) -> _Read:
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared.text == text:  # which names its object
            return prepared
        place = self._place(ref)
        parsed = parse_piece(Piece(text, 0), place.file, self._source)  # line 0: the places have none
        spec = None
        if parsed.document is not None:
            spec = SpecObject(ref, _rows(ref, parsed.document), text, place.file, 0)
        return _Read(text, spec, tuple(replace(one, place=place) for one in parsed.diagnostics))

    def _put(self, ref: ObjectRef, read: _Read) -> None:
        before = self._objects.get(ref)
        spec = read.spec
        same = self._is_same(ref) and ref not in self._newcomers
        self._settled(ref)
        if not same and (self.doubted or self._held):
            self._newcomers.add(ref)
        if spec is not None:
            self._sink.put(spec)
            if (seen := self.seen.get(ref)) is not None:
                self.seen[ref] = replace(seen, good=seen.generation)
        elif before is not None and before.spec is not None:
            spec = before.spec
        elif (good := self._last_good.get(ref)) is not None and good != read.text:
            spec = self._parse(ref, good).spec
            if spec is not None:
                self._sink.put(spec)
        self._last_good.pop(ref, None)
        self._objects[ref] = _Object(read.text, spec)
        self._say(ref, read.diagnostics)
        self._dirty = True

    def _place(self, ref: ObjectRef) -> Place:
        return Place(ref.subject)

    def _say(self, ref: ObjectRef, diagnostics: tuple[Diagnostic, ...]) -> None:
        subject = ref.subject
        if diagnostics or subject in self._said:
            self._sink.problems(self._source, subject, diagnostics)
            self._dirty = True
        (self._said.add if diagnostics else self._said.discard)(subject)


def _told(seen: Seen) -> tuple[str, int, bytes]:
    return seen.uid, seen.generation, bytes(seen.status)


def _rows(ref: ObjectRef, document: Document) -> dict[RowKey, Row]:
    return rows(ref, document, document.metadata.annotations.get(CLAIM, ""))
