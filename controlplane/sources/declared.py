"""What the files of a folder declare, and what of it is in force: pure bookkeeping, without files or clocks.

`files` gives it the content of each file as it is read, and takes what must be said to the sink. Its rules are the
careful half of watching files: a broken document keeps its last good version, an object is removed only when nothing
doubtful is left where it was declared, and of two declarations of one object the smaller path wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from controlplane.errors import Diagnostic, Place, Severity
from controlplane.names import ObjectRef
from controlplane.sources.base import Sink, SpecObject
from controlplane.spec.codes import Code
from controlplane.spec.parse import locate

RESTING = "it was written a moment ago"
"""The doubt that time settles; nobody is told of it."""


@dataclass(frozen=True, slots=True)
class Content:
    """One file as far as it is believed.

    `objects` are its valid documents, the first of each name. `broken` are the objects whose documents have errors.
    `doubt` says why objects that it no longer declares must stay, "" when they need not.
    """

    objects: Mapping[ObjectRef, SpecObject] = field(default_factory=lambda: MappingProxyType({}))
    broken: frozenset[ObjectRef] = frozenset()
    doubt: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()


_NOTHING = Content()


class Declared:
    """All files of one source. Changes take effect in `settle`."""

    def __init__(self, source: str, restored: Iterable[ObjectRef] = ()) -> None:
        """`restored` were in force before this process started; they stay while they may still be declared."""
        self.source = source
        self._files: dict[str, Content] = {}
        self._claims: dict[ObjectRef, dict[str, SpecObject]] = {}
        self._broken: Counter[ObjectRef] = Counter()
        self._doubtful: set[str] = set()
        self._in_force: dict[ObjectRef, SpecObject] = {}
        self._restored: dict[ObjectRef, SpecObject | None] = dict.fromkeys(restored)
        self._kept: set[ObjectRef] = set()
        self._touched: set[ObjectRef] = set(self._restored)
        self._resay: set[str] = set()
        self._said: dict[str, tuple[Diagnostic, ...]] = {}

    def content(self, file: str) -> Content | None:
        """What was last said of a file."""
        return self._files.get(file)

    @property
    def keeps_restored(self) -> bool:
        """Whether something is in force as it was before this process started, and not declared."""
        return bool(self._restored)

    @property
    def in_force(self) -> int:
        """How many objects are in force."""
        return len(self._in_force)

    @property
    def kept(self) -> int:
        """How many of them no file declares."""
        return len(self._kept)

    def all_elsewhere(self, file: str) -> bool:
        """Whether other files declare every object of this one too: it was renamed, or its content moved."""
        content = self._files.get(file, _NOTHING)
        return not content.doubt and all(len(self._claims[ref]) > 1 for ref in content.objects)

    def update(self, file: str, content: Content | None) -> None:
        """A file as it is now; None when it is certainly gone."""
        old = self._files.get(file, _NOTHING)
        new = content or _NOTHING
        for ref in old.objects.keys() - new.objects.keys():
            claims = self._claims[ref]
            del claims[file]
            if not claims:
                del self._claims[ref]
            self._touched.add(ref)
            self._resay.update(claims)
        for ref, spec in new.objects.items():
            if old.objects.get(ref) is not spec:
                claims = self._claims.setdefault(ref, {})
                claims[file] = spec
                self._touched.add(ref)
                if len(claims) > 1:
                    self._resay.update(claims)
        if old.broken != new.broken:
            self._broken.subtract(old.broken)
            self._broken.update(new.broken)
            self._broken += Counter()  # without those that are zero
            self._touched |= old.broken | new.broken
        (self._doubtful.add if new.doubt else self._doubtful.discard)(file)
        if content is None:
            self._files.pop(file, None)
        else:
            self._files[file] = content
        self._resay.add(file)

    def needed(self, *, doubt: bool) -> list[ObjectRef]:
        """The restored objects that `settle` will keep; `restore` them first."""
        doubt = doubt or bool(self._doubtful)
        return [
            ref
            for ref, spec in self._restored.items()
            if spec is None and ref not in self._claims and (doubt or ref in self._broken)
        ]

    def restore(self, ref: ObjectRef, spec: SpecObject | None) -> None:
        """The last good version of a needed object; None when it cannot be used any more."""
        if spec is None:
            self._restored.pop(ref, None)
        else:
            self._restored[ref] = spec

    def settle(self, sink: Sink, *, doubt: bool, same_folder: bool = True, confirmed: bool = False) -> bool:
        """Tell the sink what changed, and whether anything did.

        `doubt`: a part of the folder cannot be read and may declare any of the restored objects. Removals are sure when
        it is the folder that it was (`same_folder`), and something is left in it; or when they are `confirmed`.
        """
        sure = confirmed or (same_folder and bool(self._claims))
        doubt = doubt or bool(self._doubtful)
        said = False
        for ref in sorted(self._touched | self._kept | self._restored.keys()):
            claims = self._claims.get(ref)
            now = claims[min(claims)] if claims else self._last_good(ref, doubt)
            before = self._in_force.get(ref)
            if now is None:
                if before is not None:
                    del self._in_force[ref]
                    sink.remove(ref, sure=sure)
                    said = True
                elif ref in self._restored:
                    sink.remove(ref, sure=confirmed)  # before this process began: nobody saw it go
                    said = True
            elif now is not before:
                self._in_force[ref] = now
                sink.put(now)
                said = True
            if claims or now is None:
                self._restored.pop(ref, None)
                if ref in self._kept:
                    self._kept.discard(ref)
                    self._resay.update((before.file,) if before else ())
            elif ref not in self._kept:
                self._kept.add(ref)
                self._resay.add(now.file)
        self._touched.clear()
        return self._say(sink) or said

    def _last_good(self, ref: ObjectRef, doubt: bool) -> SpecObject | None:
        """The version that stays of an object that no file declares now, or None when it must go."""
        restored = self._restored.get(ref)
        last = self._in_force.get(ref) or restored
        if last is None or ref in self._broken:
            return last
        if last.file in self._doubtful or (doubt and restored is not None):
            return last
        return None

    def _say(self, sink: Sink) -> bool:
        said = False
        for file in sorted(self._resay):
            diagnostics = self._diagnostics(file)
            if diagnostics != self._said.get(file, ()):
                sink.problems(self.source, file, diagnostics)
                self._said[file] = diagnostics
                said = True
                if not diagnostics:
                    del self._said[file]
        self._resay.clear()
        return said

    def _diagnostics(self, file: str) -> tuple[Diagnostic, ...]:
        content = self._files.get(file)
        if content is None:
            return ()
        found = list(content.diagnostics)
        for ref, spec in content.objects.items():
            claims = self._claims[ref]
            first = min(claims)
            if first != file:
                found.append(duplicate(ref, spec.text, Place(file, spec.line), Place(first, claims[first].line)))
        if content.doubt and content.doubt != RESTING:
            kept = sorted(str(ref) for ref in self._kept - content.broken if self._in_force[ref].file == file)
            if kept:
                names = ", ".join(kept[:8]) + (", …" if len(kept) > 8 else "")
                message = f"no longer declared here, but in force until the file is whole: {names}"
                found.append(
                    Diagnostic(
                        Code.REMOVAL_HELD, message, help=content.doubt, severity=Severity.WARNING, place=Place(file)
                    )
                )
        return tuple(found)


def duplicate(ref: ObjectRef, text: str, place: Place, other: Place) -> Diagnostic:
    """The problem of the document `text` at `place`, whose object is declared at `other` too."""
    return Diagnostic(
        Code.DUPLICATE_OBJECT,
        f"{ref} is declared at {other} too, which is used; this one is not",
        path="metadata.name",
        help="remove or rename one of them",
        subject=ref.subject,
        place=locate(text, place.file, place.line, "metadata.name"),
    )
