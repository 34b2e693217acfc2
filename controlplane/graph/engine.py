"""Keyed tables, recorded reads and one forward sweep: the cost of a commit grows with the change.

The one clever file. It knows no word of the domain, no clock, no task and no lock.

`Input` tables are written from outside. A `Derived` table runs a pure function for every row of its parent table; a
`Grouped` table runs one for every group of an index. A function may read tables declared *before* its own through
`Read`; each read is recorded, so exactly the rows that read something that changed run again. A result equal to the
former one cuts the sweep off. A function that raises keeps the last good rows of that parent and touches nothing
else. When two parents give rows for one key, the parent with the smallest key wins, whatever came first.

The theorem the tests hold this file to: *incremental equals from scratch*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Generic, TypeVar, cast

from controlplane.graph.givers import Givers

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
PK = TypeVar("PK", bound=Hashable)
PV = TypeVar("PV")
G = TypeVar("G", bound=Hashable)


_BATCH = 512
"""Keys that are put in order: no step of a commit may take long. More of them run in the order in which they came."""


class WiringError(Exception):
    """A table reads or derives from one that is declared after it: a mistake of the programmer, never of a row."""


class _Task:
    """One unit of work: a function, bound to one parent key or group, with what its last good run gave and read."""

    __slots__ = ("failure", "given", "key", "notes", "reads", "table")

    def __init__(self, table: _Computed[Any, Any], key: Any) -> None:
        self.table = table
        self.key = key
        self.given: dict[Any, Any] = {}
        self.notes: tuple[object, ...] = ()
        self.failure: Exception | None = None
        self.reads: list[tuple[_Readers, Any]] = []

    def forget_reads(self) -> None:
        for readers, key in self.reads:
            if tasks := readers.get(key):
                tasks.discard(self)
                if not tasks:
                    del readers[key]
        self.reads = []


_Readers = dict[Any, set[_Task]]


class _Table(Generic[K, V]):
    """Rows by key, and who read them: by key, and (under None) those who read all rows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[K, V] = {}
        self.order = -1
        self.indexes: list[Index[K, V, Any]] = []
        self.children: list[_Computed[Any, Any]] = []
        self.readers: _Readers = {}
        self.all_readers: _Readers = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self.rows)} rows>"


class Input(_Table[K, V]):
    """A table written from outside, by `Graph.set` and `Graph.delete`."""


class Index(Generic[K, V, G]):
    """The rows of a table by group: `groups(key, value)` names the groups a row belongs to."""

    def __init__(self, name: str, table: _Table[K, V], groups: Callable[[K, V], Iterable[G]]) -> None:
        """Attach the index to its table; the table must still be empty."""
        self.name = name
        self.table = table
        self.groups = groups
        self.members: dict[G, dict[K, V]] = {}
        self.readers: _Readers = {}
        self.children: list[_Computed[Any, Any]] = []
        table.indexes.append(self)


class _Computed(_Table[K, V]):
    """A table whose rows are made by a function, run once per task key (a parent's key, or a group)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.dirty: dict[Any, None] = {}  # task keys, in the order in which they came
        self.tasks: dict[Any, _Task] = {}
        self.givers: dict[K, _Task | Givers] = {}  # by row key; most rows have one giver

    def origin(self) -> _Table[Any, Any]:
        """The table whose rows make the task keys."""
        raise NotImplementedError

    def run(self, read: Read, task_key: Any) -> Iterable[tuple[K, V]]:
        raise NotImplementedError

    def exists(self, task_key: Any) -> bool:
        raise NotImplementedError


class Derived(_Computed[K, V], Generic[PK, PV, K, V]):
    """`function(read, key, value)` for every row of `parent`; it yields the rows that this parent row gives."""

    def __init__(
        self, name: str, parent: _Table[PK, PV], function: Callable[[Read, PK, PV], Iterable[tuple[K, V]]]
    ) -> None:
        """Attach the table to its parent."""
        super().__init__(name)
        self.parent = parent
        self.function = function
        parent.children.append(self)

    def origin(self) -> _Table[Any, Any]:
        """The parent."""
        return self.parent

    def run(self, read: Read, task_key: Any) -> Iterable[tuple[K, V]]:
        """The rows of one parent row."""
        return self.function(read, task_key, self.parent.rows[task_key])

    def exists(self, task_key: Any) -> bool:
        """Whether the parent row is there."""
        return task_key in self.parent.rows


class Grouped(_Computed[K, V], Generic[PK, PV, G, K, V]):
    """`function(read, group, members)` for every non-empty group of `index`; members are sorted by key."""

    def __init__(
        self,
        name: str,
        index: Index[PK, PV, G],
        function: Callable[[Read, G, tuple[tuple[PK, PV], ...]], Iterable[tuple[K, V]]],
    ) -> None:
        """Attach the table to its index."""
        super().__init__(name)
        self.index = index
        self.function = function
        index.children.append(self)

    def origin(self) -> _Table[Any, Any]:
        """The table under the index."""
        return self.index.table

    def run(self, read: Read, task_key: Any) -> Iterable[tuple[K, V]]:
        """The rows of one group."""
        return self.function(read, task_key, _sorted(self.index.members[task_key]))

    def exists(self, task_key: Any) -> bool:
        """Whether the group has members."""
        return task_key in self.index.members


class Read:
    """What a function may look at. Every look is recorded."""

    __slots__ = ("_notes", "_task")

    def __init__(self, task: _Task) -> None:
        """Record for `task`."""
        self._task = task
        self._notes: list[object] = []

    def get(self, table: _Table[K, V], key: K) -> V | None:
        """The row of `key`, or None."""
        self._record(table, table.readers, key)
        return table.rows.get(key)

    def all(self, table: _Table[K, V]) -> tuple[tuple[K, V], ...]:
        """Every row, sorted by key. The reader runs again whenever any row changes: for small tables only."""
        self._record(table, table.all_readers, None)
        return _sorted(table.rows)

    def find(self, index: Index[K, V, G], group: G) -> tuple[tuple[K, V], ...]:
        """The rows of one group of an index, sorted by key."""
        self._record(index.table, index.readers, group)
        return _sorted(index.members.get(group, {}))

    def note(self, note: object) -> None:
        """Leave a remark beside the rows of this run; `Graph.notes` gives it back."""
        self._notes.append(note)

    def _record(self, table: _Table[Any, Any], readers: _Readers, key: Any) -> None:
        if not 0 <= table.order < self._task.table.order:
            raise WiringError(f"{self._task.table.name} reads {table.name}, which is not declared before it")
        tasks = readers.get(key)
        if tasks is None:
            readers[key] = {self._task}
        elif self._task in tasks:
            return
        else:
            tasks.add(self._task)
        self._task.reads.append((readers, key))


Changes = Mapping[str, Mapping[Any, tuple[Any, Any]]]
"""By table name and key: the former and the new row; None stands for no row."""


class Graph:
    """Tables in the order in which they are swept; parents and everything read come before their readers."""

    def __init__(self, tables: Iterable[_Table[Any, Any]]) -> None:
        """Fix the order, and check that every parent precedes its children and that none of these is missing."""
        self.tables = tuple(tables)
        if repeated := [name for name, count in Counter(table.name for table in self.tables).items() if count > 1]:
            raise WiringError(f"several tables have the name {repeated[0]}")
        for order, table in enumerate(self.tables):
            table.order = order
        self._computed = tuple(table for table in self.tables if isinstance(table, _Computed))
        for computed in self._computed:
            if not 0 <= computed.origin().order < computed.order:
                raise WiringError(f"{computed.name} must be declared after {computed.origin().name}")
        for table in self.tables:
            for child in (*table.children, *(child for index in table.indexes for child in index.children)):
                if child not in self.tables:
                    raise WiringError(f"{child.name} is missing: {table.name} is its parent")
        self._changes: dict[str, dict[Any, tuple[Any, Any]]] = {}
        self._noted: dict[tuple[str, Any], tuple[tuple[object, ...], Exception | None]] = {}
        self.runs = 0

    def set(self, table: Input[K, V], key: K, value: V) -> None:
        """Write a row; an equal one changes nothing. It takes effect at the next commit."""
        self._write(table, key, value)

    def delete(self, table: Input[K, V], key: K) -> None:
        """Remove a row, if it is there."""
        self._write(table, key, None)

    def commit(self) -> Generator[None, None, Changes]:
        """Sweep once, yielding after every run so that a large commit can share its thread; returns the changes.

        Rows must not be written between the first step and the last. A commit that is closed halfway is taken up by
        the next one.
        """
        for table in self._computed:
            if not table.dirty:
                continue
            for key in sorted(table.dirty) if len(table.dirty) <= _BATCH else list(table.dirty):
                table.dirty.pop(key, None)
                self._run(table, key)
                yield
            table.dirty.clear()  # nothing is left in it, but one that was large stays slow to go through
        changes, self._changes = self._changes, {}
        return {name: rows for name, rows in changes.items() if rows}

    def commit_now(self) -> Changes:
        """Sweep to the end in one go."""
        steps = self.commit()
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return cast(Changes, done.value)

    def take_noted(self) -> Mapping[tuple[str, Any], tuple[tuple[object, ...], Exception | None]]:
        """By table name and task key, the remarks and failures that changed since this was asked last."""
        noted, self._noted = self._noted, {}
        return noted

    def notes(self) -> Iterator[tuple[str, Any, object]]:
        """Every remark that the last good runs left: table name, task key, remark."""
        for table in self._computed:
            for key, task in table.tasks.items():
                for note in task.notes:
                    yield table.name, key, note

    def failures(self) -> Iterator[tuple[str, Any, Exception]]:
        """Every run that raised the last time it ran: table name, task key, exception."""
        for table in self._computed:
            for key, task in table.tasks.items():
                if task.failure is not None:
                    yield table.name, key, task.failure

    def _run(self, table: _Computed[Any, Any], task_key: Any) -> None:
        task = table.tasks.pop(task_key, None) or _Task(table, task_key)
        task.forget_reads()
        former = task.given
        if not table.exists(task_key):
            if task.notes or task.failure:
                self._noted[table.name, task_key] = ((), None)
            task.given, task.notes, task.failure = {}, (), None
        else:
            self.runs += 1
            read = Read(task)
            try:
                task.given = dict(table.run(read, task_key))
            except WiringError:
                raise
            except Exception as error:  # noqa: BLE001  one bad row degrades only itself: it keeps its last good rows
                task.failure = error
                table.tasks[task_key] = task
                self._noted[table.name, task_key] = (task.notes, error)
                return
            notes = tuple(read._notes)
            if task.failure is not None or notes != task.notes:
                self._noted[table.name, task_key] = (notes, None)
            task.notes, task.failure = notes, None
            if task.given or task.reads or notes:  # else there is nothing to remember
                table.tasks[task_key] = task
        if former:
            for key in former.keys() - task.given.keys():
                self._withdraw(table, task, key)
        for key, value in task.given.items():
            if key in former and former[key] == value:
                task.given[key] = former[key]
            else:
                self._give(table, task, key, value)

    def _give(self, table: _Computed[Any, Any], task: _Task, key: Any, value: Any) -> None:
        givers = table.givers.setdefault(key, task)
        if givers is task:
            self._write(table, key, value)
            return
        if isinstance(givers, Givers):
            givers.add(task.key)
        else:
            table.givers[key] = Givers(givers.key, task.key)
        self._write_winner(table, key)

    def _withdraw(self, table: _Computed[Any, Any], task: _Task, key: Any) -> None:
        givers = table.givers[key]
        if isinstance(givers, Givers):
            givers.discard(task.key)
            if len(givers) == 1:
                table.givers[key] = table.tasks[givers.smallest()]
            self._write_winner(table, key)
        else:
            del table.givers[key]
            self._write(table, key, None)

    def _write_winner(self, table: _Computed[Any, Any], key: Any) -> None:
        giver = table.givers[key]
        task = table.tasks[giver.smallest()] if isinstance(giver, Givers) else giver
        self._write(table, key, task.given[key])

    def _write(self, table: _Table[Any, Any], key: Any, value: Any) -> None:
        former = table.rows.get(key)
        if former is value or (former is not None and value is not None and former == value):
            return
        if value is None:
            del table.rows[key]
        else:
            table.rows[key] = value
        changes = self._changes.setdefault(table.name, {})
        first, _ = changes.pop(key, (former, None))
        if first != value:  # some come back to where they were within one commit
            changes[key] = (first, value)
        for child in table.children:
            child.dirty[key] = None
        _wake(table.readers, key)
        _wake(table.all_readers, None)
        for index in table.indexes:
            _reindex(index, key, former, value)


def _reindex(index: Index[Any, Any, Any], key: Any, former: Any, value: Any) -> None:
    before = () if former is None else set(index.groups(key, former))
    after = () if value is None else set(index.groups(key, value))
    for group in before:
        if group not in after:
            members = index.members[group]
            del members[key]
            if not members:
                del index.members[group]
    for group in after:
        index.members.setdefault(group, {})[key] = value
    for group in (*before, *after):
        for child in index.children:
            child.dirty[group] = None
        _wake(index.readers, group)


def _wake(readers: _Readers, key: Any) -> None:
    if readers and key in readers:
        for task in readers[key]:
            task.table.dirty[task.key] = None


def _sorted(rows: Mapping[Any, Any]) -> tuple[tuple[Any, Any], ...]:
    if len(rows) < 2:
        return tuple(rows.items())
    return tuple(sorted(rows.items(), key=itemgetter(0)))
