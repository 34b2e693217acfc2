"""The theorem the engine is held to: incremental equals from scratch, and only what depends on a change runs again."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.graph.engine import Input
from tests.graph.held import held
from tests.graph.plans import KEYS, Oracle, Wired, edits, plans, wire


def _write(wired: Wired, writes: list[tuple[int, int, int | None]]) -> None:
    for table, key, value in writes:
        if value is None:
            wired.graph.delete(wired.tables[table], key)
        else:
            wired.graph.set(wired.tables[table], key, value)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_incremental_equals_from_scratch(data: st.DataObject) -> None:
    plan = data.draw(plans())
    wired, oracle = wire(plan), Oracle(plan)
    said: dict[tuple[str, int], tuple[tuple[object, ...], str | None]] = {}
    for writes in data.draw(edits(plan.inputs)):
        before = deepcopy(oracle)
        expected = oracle.commit(writes)
        wired.ran.clear()
        runs = wired.graph.runs
        _write(wired, writes)
        changes = wired.graph.commit_now()

        assert [dict(table.rows) for table in wired.tables] == oracle.rows
        assert changes == expected
        notes: dict[tuple[str, int], tuple[object, ...]] = {}
        for name, key, note in wired.graph.notes():
            notes[name, key] = (*notes.get((name, key), ()), note)
        assert notes == oracle.notes
        assert {(name, key): str(error) for name, key, error in wired.graph.failures()} == oracle.failures
        for place, (remarks, failure) in wired.graph.take_noted().items():
            said[place] = (remarks, None if failure is None else str(failure))
        assert {place: pair for place, pair in said.items() if pair != ((), None)} == {
            place: (oracle.notes.get(place, ()), oracle.failures.get(place))
            for place in oracle.notes.keys() | oracle.failures.keys()
        }
        # Nothing runs twice in a commit, and nothing runs that saw nothing of the change.
        may_run = oracle.justified(before)
        if len({(table, key) for table, key, _ in writes}) == len(writes):
            assert set(wired.ran) <= may_run
            assert wired.graph.runs - runs <= len(may_run)
        assert len(wired.ran) == len(set(wired.ran))
    for number in range(plan.inputs):
        for key in KEYS:
            table = wired.tables[number]
            assert isinstance(table, Input)
            wired.graph.delete(table, key)
    wired.graph.commit_now()
    wired.graph.take_noted()
    assert held(wired.graph, wired.tables) == {}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_order_of_arrival_means_nothing(data: st.DataObject) -> None:
    """As long as nothing failed: a failing row keeps what history gave it."""
    plan = data.draw(plans())
    commits = data.draw(edits(plan.inputs))
    slowly, oracle = wire(plan), Oracle(plan)
    final: dict[tuple[int, int], int | None] = {}
    for writes in commits:
        oracle.commit(writes)
        _write(slowly, writes)
        slowly.graph.commit_now()
        final |= {(table, key): value for table, key, value in writes}
    at_once = wire(plan)
    _write(at_once, [(table, key, value) for (table, key), value in sorted(final.items(), reverse=True)])
    at_once.graph.commit_now()
    if not oracle.failures:
        assert [dict(table.rows) for table in slowly.tables] == [dict(table.rows) for table in at_once.tables]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_abandoned_commit_is_finished_by_the_next(data: st.DataObject) -> None:
    plan = data.draw(plans())
    wired, whole = wire(plan), wire(plan)
    commits = data.draw(edits(plan.inputs))
    for writes in commits:
        _write(wired, writes)
        _write(whole, writes)
        steps = wired.graph.commit()
        for _ in range(data.draw(st.integers(0, 4))):
            if next(steps, "done") == "done":
                break
        steps.close()
    wired.graph.commit_now()
    whole.graph.commit_now()
    if not list(whole.graph.failures()):
        assert [dict(table.rows) for table in wired.tables] == [dict(table.rows) for table in whole.tables]
