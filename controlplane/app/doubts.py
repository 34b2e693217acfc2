"""Edits that proxies refuse, or may refuse yet: what the documents said before is noted on disk. (ADR 16)

The next process compiles that first and then what they say now: so it knows what was good, and keeps what that needs
(ADR 7 and 8). Most edits are taken over before the disk is written; of these nothing is noted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import structlog

from controlplane.app.fleet import RETURN_SECONDS
from controlplane.compile.rows import ResourceKey
from controlplane.names import ObjectRef
from controlplane.resources import Resource
from controlplane.snapshot.content import Touched
from controlplane.snapshot.store import Store
from controlplane.sources.base import SpecObject
from controlplane.state.content import Note

log = structlog.get_logger(__name__)

KIND = "former document"
"""Of the notes."""
KEPT = 1024
"""Documents of which it is remembered what they said before."""
KEPT_CHARACTERS = 16 * 1024 * 1024
"""Of all of them."""

Key = tuple[Hashable, str, str]
"""Part, type URL, name."""
Version = tuple[str, str, str]
"""Type URL, name and version of a resource."""


@dataclass(slots=True, eq=False)
class _Edit:
    """What one commit made of documents that said something before, and what came of it."""

    made: frozenset[Version]
    """Each resource in whose place there is something good to show."""
    left: list[tuple[Key, str]]
    """Those, with their version, that stand there and nobody has taken over: as far as has been looked at, from the end."""
    at: float


@dataclass(slots=True, eq=False)
class _Former:
    """What a document said before these edits."""

    text: str
    edits: list[_Edit]


class Doubts:
    """Told of each commit what it takes and what it changed; asked whenever the disk is written, and now and then."""

    def __init__(
        self,
        store: Store,
        note: Callable[[Note, bytes | None], None],
        texts: Mapping[ObjectRef, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`note` keeps something for the next start; `texts` are the documents in force as the last one kept them."""
        self.refused: Callable[[frozenset[Version]], Iterable[Resource]] = lambda _: ()
        """Gives those that proxies refused, whether they are there now or not."""
        self._store = store
        self._note = note
        self._clock = clock
        self._texts = dict(texts)
        self._former: dict[ObjectRef, _Former] = {}  # as long as an edit is in doubt, or young
        self._characters = 0  # of these
        self._taken: dict[ObjectRef, tuple[str | None, bool]] = {}  # what it said, and whether that was in doubt itself
        self._moved: set[ObjectRef] = set()  # since notes were made
        self._noted: dict[ObjectRef, str] = {}
        self._began = False

    @property
    def former(self) -> dict[ObjectRef, str]:
        """What documents said before, as long as an edit of them is in doubt, or young."""
        return {ref: former.text for ref, former in self._former.items()}

    def restore(self, notes: Mapping[Note, bytes]) -> None:
        """What the process before this one noted."""
        for note in [note for note in notes if note.kind == KIND]:
            try:
                ref, text = _read(note, notes[note])
            except ValueError as error:
                log.warning("state", problem=f"what was good before an edit is not known any more: {error}")
                self._note(note, None)
                continue
            if ref in self._texts:
                self._noted[ref] = text
                self._remember(ref, text)
            else:
                self._note(note, None)

    def taken(self, spec: SpecObject | ObjectRef) -> None:
        """A commit that is under way has taken this object; an ObjectRef: that it is gone."""
        ref, text = (spec.ref, spec.text) if isinstance(spec, SpecObject) else (spec, None)
        before = self._texts.pop(ref, None)
        if text is not None:
            self._texts[ref] = text
        if before != text:
            stays = text is not None and ref in self._former and (not self._began or self._is_in_doubt(ref))
            self._taken[ref] = before if text is not None else None, stays

    def committed(
        self, touched: Mapping[Hashable, Touched], former: Mapping[ResourceKey, Resource | None] | None
    ) -> None:
        """What was taken is published, and touched this; `former` is what stood there before this process began."""
        for key, resource in (former or {}).items():
            if resource is not None:
                self._store.restore(key.part, resource)
        taken, self._taken = self._taken, {}
        refs = set(taken) if self._began else {*taken, *self._former}
        self._began = True
        if not refs:
            return
        keys: Iterable[Key] = former if former is not None else _keys(touched)
        left = [(key, version) for key in keys if (version := self._store.doubted(*key))]
        made = frozenset((url, name, version) for (_, url, name), version in left)
        edits = [_Edit(made, left, self._clock())] if left else []
        for ref in refs:
            before, stays = taken.get(ref, (None, True))
            if not stays:
                self._forget(ref)
                if before is not None and edits:
                    self._remember(ref, before)
            if ref in self._former:
                self._former[ref].edits += edits
        self._moved |= refs

    def note(self) -> bool:
        """Note of what has moved what is in doubt, and forget what is not any more; whether that is other than before."""
        moved, self._moved = self._moved, set()
        noted = len(moved)
        for ref in moved:
            text = self._former[ref].text if self._is_in_doubt(ref) else None
            if self._noted.get(ref) == text:
                noted -= 1
            elif text is None:
                del self._noted[ref]
                self._note(_name(ref), None)
            else:
                self._noted[ref] = text
                self._note(_name(ref), text.encode("utf-8", "surrogatepass"))
        return noted > 0

    def look(self) -> bool:
        """Now and then: proxies take things over, and refuse them. The same of everything."""
        if not self._began:
            return False
        now = self._clock()
        self._moved |= self._former.keys()
        for ref, former in list(self._former.items()):
            former.edits = [one for one in former.edits if now - one.at < RETURN_SECONDS or self._is_doubted(one)]
            if not former.edits:
                self._forget(ref)
        return self.note()

    def _remember(self, ref: ObjectRef, text: str) -> None:
        if len(self._former) < KEPT and self._characters + len(text) <= KEPT_CHARACTERS:
            self._former[ref] = _Former(text, [])
            self._characters += len(text)

    def _forget(self, ref: ObjectRef) -> None:
        if (former := self._former.pop(ref, None)) is not None:
            self._characters -= len(former.text)

    def _is_in_doubt(self, ref: ObjectRef) -> bool:
        return ref in self._former and any(map(self._is_doubted, self._former[ref].edits))

    def _is_doubted(self, edit: _Edit) -> bool:
        """Whether something of it that stands there is refused, or was taken over by nobody."""
        while edit.left and self._store.doubted(*edit.left[-1][0]) != edit.left[-1][1]:
            edit.left.pop()
        return bool(edit.left) or any(map(self._store.has, self.refused(edit.made)))


def _keys(touched: Mapping[Hashable, Touched]) -> Iterable[Key]:
    return ((part, url, name) for part, by_type in touched.items() for url, names in by_type.items() for name in names)


def _name(ref: ObjectRef) -> Note:
    return Note(KIND, "\n".join(ref))


def _read(note: Note, content: bytes) -> tuple[ObjectRef, str]:
    """A document and what it said; raises ValueError when this is no such note."""
    source, kind, namespace, name = note.name.split("\n")
    return ObjectRef(source, kind, namespace, name), content.decode("utf-8", "surrogatepass")
