"""Random wirings of tables, and a naive interpreter of them: the oracle of the graph engine.

A plan says which tables there are and what their functions read. `wire` makes a graph of it; `Oracle` replays the same
commits, and computes everything again each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from zlib import crc32

from hypothesis import strategies as st

from controlplane.graph.engine import Derived, Graph, Grouped, Index, Input, Read

KEYS = range(5)
GROUPINGS: tuple[Callable[[int, int], list[int]], ...] = (
    lambda key, value: [value % 3],
    lambda key, value: [value % 2, key % 2],
    lambda key, value: [] if value % 3 == 0 else [value % 4],
)
Rows = Mapping[int, int]


class Look(Protocol):
    """How a function of a plan sees other tables, by their numbers."""

    def get(self, table: int, key: int) -> int | None: ...
    def find(self, table: int, grouping: int, group: int) -> tuple[tuple[int, int], ...]: ...
    def all(self, table: int) -> tuple[tuple[int, int], ...]: ...
    def note(self, note: object) -> None: ...


@dataclass(frozen=True)
class Reading:
    """One look at another table; `only_if` makes it depend on what was seen before."""

    how: str
    table: int
    grouping: int
    key: int
    only_if: int


@dataclass(frozen=True)
class Computed:
    """A table made of `parent`, by row or (with `grouping`) by group."""

    parent: int
    grouping: int | None
    readings: tuple[Reading, ...]
    salt: int
    fails: int

    def run(self, look: Look, key: int, value: object) -> Iterator[tuple[int, int]]:
        """0 to 3 rows with keys that others may give too; sometimes a note, sometimes an error halfway."""
        seen = crc32(repr((self.salt, key, value)).encode())
        for reading in self.readings:
            if reading.only_if and seen % reading.only_if:
                continue
            match reading.how:
                case "get":
                    found: object = look.get(reading.table, (reading.key + key) % len(KEYS))
                case "find":
                    found = look.find(reading.table, reading.grouping, (reading.key + key) % 4)
                case _:
                    found = look.all(reading.table)
            seen = crc32(repr((seen, found)).encode())
        if seen % 4 == 0:
            look.note(("note", seen % 3))
        for number in range(seen % 4):
            if self.fails and seen % self.fails == 0 and number == 1:
                raise ValueError(seen % 5)
            yield (seen >> (3 * number)) % len(KEYS), (seen >> number) % 6


@dataclass(frozen=True)
class Plan:
    """Inputs first, then computed tables; tables are known by their number."""

    inputs: int
    computed: tuple[Computed, ...]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    inputs = draw(st.integers(1, 3))
    computed: list[Computed] = []
    for number in range(inputs, inputs + draw(st.integers(1, 5))):
        earlier = st.integers(0, number - 1)
        reading = st.builds(
            Reading,
            st.sampled_from(["get", "get", "find", "all"]),
            earlier,
            st.integers(0, len(GROUPINGS) - 1),
            st.integers(0, 4),
            st.integers(0, 2),
        )
        computed.append(
            Computed(
                draw(earlier),
                draw(st.one_of(st.none(), st.integers(0, len(GROUPINGS) - 1))),
                tuple(draw(st.lists(reading, max_size=3))),
                draw(st.integers(0, 1000)),
                draw(st.sampled_from([0, 2, 3, 7])),
            )
        )
    return Plan(inputs, tuple(computed))


Edit = tuple[int, int, int | None]


def edits(tables: int) -> st.SearchStrategy[list[list[Edit]]]:
    """Commits of writes: input table, key, new value or None."""
    one = st.tuples(st.integers(0, tables - 1), st.sampled_from(KEYS), st.one_of(st.none(), st.integers(0, 9)))
    return st.lists(st.lists(one, max_size=6), min_size=1, max_size=12)


@dataclass
class Wired:
    """A graph of a plan; `ran` lists the runs since it was emptied."""

    graph: Graph
    tables: list[Any]
    indexes: list[list[Index[int, int, int]]]
    ran: list[tuple[int, int]] = field(default_factory=list)


class _EngineLook:
    def __init__(self, wired: Wired, read: Read) -> None:
        self._wired, self._read = wired, read

    def get(self, table: int, key: int) -> int | None:
        found: int | None = self._read.get(self._wired.tables[table], key)
        return found

    def find(self, table: int, grouping: int, group: int) -> tuple[tuple[int, int], ...]:
        return self._read.find(self._wired.indexes[table][grouping], group)

    def all(self, table: int) -> tuple[tuple[int, int], ...]:
        return self._read.all(self._wired.tables[table])

    def note(self, note: object) -> None:
        self._read.note(note)


def wire(plan: Plan) -> Wired:
    """The plan as a graph."""
    wired = Wired(Graph(()), [], [])

    def add(table: Any) -> None:
        wired.tables.append(table)
        wired.indexes.append([Index(f"{table.name}/{n}", table, grouping) for n, grouping in enumerate(GROUPINGS)])

    for number in range(plan.inputs):
        add(Input(str(number)))
    for computed in plan.computed:

        def function(
            read: Read, key: int, value: object, computed: Computed = computed, number: int = len(wired.tables)
        ) -> Iterable[tuple[int, int]]:
            wired.ran.append((number, key))
            return computed.run(_EngineLook(wired, read), key, value)

        name = str(len(wired.tables))
        if computed.grouping is None:
            add(Derived(name, wired.tables[computed.parent], function))
        else:
            add(Grouped(name, wired.indexes[computed.parent][computed.grouping], function))
    wired.graph = Graph(wired.tables)
    return wired


Touched = tuple[str, int, int, int]
"""What a task saw: ("row", table, key, 0), ("all", table, 0, 0) or ("group", table, grouping, group)."""


class _OracleLook:
    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.seen: set[Touched] = set()
        self.notes: list[object] = []

    def get(self, table: int, key: int) -> int | None:
        self.seen.add(("row", table, key, 0))
        return self._oracle.rows[table].get(key)

    def find(self, table: int, grouping: int, group: int) -> tuple[tuple[int, int], ...]:
        self.seen.add(("group", table, grouping, group))
        return self._oracle.group(table, grouping, group)

    def all(self, table: int) -> tuple[tuple[int, int], ...]:
        self.seen.add(("all", table, 0, 0))
        return tuple(sorted(self._oracle.rows[table].items()))

    def note(self, note: object) -> None:
        self.notes.append(note)


class Oracle:
    """Computes every table again at each commit; remembers nothing but the last good rows of each task."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        count = plan.inputs + len(plan.computed)
        self.rows: list[dict[int, int]] = [{} for _ in range(count)]
        self.given: list[dict[int, dict[int, int]]] = [{} for _ in range(count)]
        self.seen: list[dict[int, set[Touched]]] = [{} for _ in range(count)]
        self.notes: dict[tuple[str, int], tuple[object, ...]] = {}
        self.failures: dict[tuple[str, int], str] = {}

    def group(self, table: int, grouping: int, group: int) -> tuple[tuple[int, int], ...]:
        rows = self.rows[table].items()
        return tuple(sorted((key, value) for key, value in rows if group in GROUPINGS[grouping](key, value)))

    def commit(self, writes: Iterable[Edit]) -> dict[str, dict[int, tuple[int | None, int | None]]]:
        """Apply the writes; what changed, as the engine says it."""
        before = [dict(rows) for rows in self.rows]
        for table, key, value in writes:
            if value is None:
                self.rows[table].pop(key, None)
            else:
                self.rows[table][key] = value
        for number, computed in enumerate(self.plan.computed, self.plan.inputs):
            self._compute(number, computed)
        return {
            str(number): changed
            for number, rows in enumerate(self.rows)
            if (
                changed := {
                    key: (before[number].get(key), rows.get(key))
                    for key in before[number].keys() | rows.keys()
                    if before[number].get(key) != rows.get(key)
                }
            )
        }

    def _compute(self, number: int, computed: Computed) -> None:
        parent = self.rows[computed.parent]
        tasks: dict[int, object]
        if computed.grouping is None:
            tasks = dict(parent)
            parts: dict[int, Touched] = {key: ("row", computed.parent, key, 0) for key in tasks}
        else:
            groups = {group for key, value in parent.items() for group in GROUPINGS[computed.grouping](key, value)}
            tasks = {group: self.group(computed.parent, computed.grouping, group) for group in groups}
            parts = {group: ("group", computed.parent, computed.grouping, group) for group in groups}
        former = self.given[number]
        self.given[number], self.seen[number] = {}, {}
        name = str(number)
        for key in former.keys() - tasks.keys():
            self.notes.pop((name, key), None)
            self.failures.pop((name, key), None)
        for key, value in tasks.items():
            look = _OracleLook(self)
            try:
                self.given[number][key] = dict(computed.run(look, key, value))
            except ValueError as error:
                self.given[number][key] = former.get(key, {})
                self.failures[name, key] = str(error)
            else:
                self.failures.pop((name, key), None)
                self.notes.pop((name, key), None)
                if look.notes:
                    self.notes[name, key] = tuple(look.notes)
            self.seen[number][key] = {*look.seen, parts[key]}
        rows: dict[int, int] = {}
        for task in sorted(self.given[number], reverse=True):
            rows |= self.given[number][task]
        self.rows[number] = rows

    def justified(self, before: Oracle) -> set[tuple[int, int]]:
        """The tasks that may run in the commit that led from `before` to here: what they saw was touched."""
        touched: set[Touched] = set()
        may_run: set[tuple[int, int]] = set()
        for number, rows in enumerate(self.rows):
            if number >= self.plan.inputs:
                computed = self.plan.computed[number - self.plan.inputs]
                kind: tuple[Any, ...] = ("row", computed.parent) if computed.grouping is None else (
                    "group", computed.parent, computed.grouping
                )  # fmt: skip
                gone = before.given[number].keys() | self.given[number].keys()
                for task in gone:
                    part = (*kind, task, 0) if len(kind) == 2 else (*kind, task)
                    saw = before.seen[number].get(task, set()) | {part}
                    if saw & touched:
                        may_run.add((number, task))
            for key in KEYS:
                values: set[int | None] = {before.rows[number].get(key), rows.get(key)}
                if number >= self.plan.inputs:
                    old = {task: given.get(key) for task, given in before.given[number].items()}
                    new = {task: given.get(key) for task, given in self.given[number].items()}
                    if all(old.get(task) == new.get(task) for task in old.keys() | new.keys()):
                        continue
                    values |= {*old.values(), *new.values()}
                elif len(values) == 1:
                    continue
                touched |= {("row", number, key, 0), ("all", number, 0, 0)}
                for grouping, function in enumerate(GROUPINGS):
                    for value in values - {None}:
                        assert value is not None
                        touched |= {("group", number, grouping, group) for group in function(key, value)}
        return may_run
