"""Objects of one kind and name from several sources: one of them is compiled, the others are told so.

A document that moves from a file into a cluster, or one repository that is applied in two clusters. Names of resources
carry no source, so two such objects would be in each other's place. Which one counts is a function of what is declared
now, never of what came first: replicas and restarts agree. (ADR 20) Used by the compiler alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from controlplane.compile.codes import NAMESAKE
from controlplane.errors import Diagnostic
from controlplane.names import FILES, ObjectRef
from controlplane.spec.rows import Row, RowKey

Rows = Mapping[RowKey, Row]
_HELP = "delete or rename one of them; what is in files or Consul comes before custom resources, the older one before the younger"


class Namesakes:
    """Every object that sources declare. The oldest claim of a name is in force: an empty one first, then by source."""

    def __init__(self) -> None:
        self.objects: dict[ObjectRef, Rows] = {}
        self._sources: set[str] = set()
        self._losing: dict[ObjectRef, ObjectRef] = {}
        """What is not compiled, and what is in its place."""
        self._noted: dict[Hashable, tuple[Diagnostic, ...]] = {}

    def rows(self, ref: ObjectRef) -> Rows | None:
        """What the object says; None when it is not declared."""
        return self.objects.get(ref)

    def put(self, ref: ObjectRef, rows: Rows | None) -> None:
        """The object as it is now; None: it is gone."""
        if rows is None:
            self.objects.pop(ref, None)
        else:
            self.objects[ref] = rows
            self._sources.add(ref.source)
        declared = self._declared(ref)
        for one in dict.fromkeys((ref, *declared)):
            self._judge(one, declared[0] if one in declared[1:] else None)

    def in_force(self, name: ObjectRef) -> ObjectRef | None:
        """The object of this kind and name that counts, whichever source `name` says."""
        return next(iter(self._declared(name)), None)

    def take_noted(self) -> dict[Hashable, tuple[Diagnostic, ...]]:
        """What is wrong with objects since this was asked last; () when it was put right."""
        noted, self._noted = self._noted, {}
        return noted

    def _declared(self, name: ObjectRef) -> list[ObjectRef]:
        """All objects of this kind and name, the one that counts first."""
        named = [ObjectRef(source, *name[1:]) for source in self._sources]
        found = [ref for ref in named if ref in self.objects]
        return found if len(found) < 2 else sorted(found, key=self._age)

    def _age(self, ref: ObjectRef) -> tuple[str, str]:
        return next((row.claim for row in self.objects[ref].values()), ""), ref.source

    def _judge(self, ref: ObjectRef, winner: ObjectRef | None) -> None:
        if winner == self._losing.get(ref):
            return
        if winner is None:
            del self._losing[ref]
            self._noted["namesakes", ref] = ()
            return
        self._losing[ref] = winner
        where = "a file" if winner.source == FILES else winner.source
        message = f"{ref} is in {where} too, which is used; nothing of this one is"
        self._noted["namesakes", ref] = (Diagnostic(NAMESAKE, message, "metadata.name", _HELP, subject=ref.subject),)
