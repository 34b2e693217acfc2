"""The engine, rule by rule; `test_incremental.py` holds all rules together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from controlplane.graph.engine import Derived, Graph, Grouped, Index, Input, Read, WiringError
from tests.graph.held import held

Pairs = Iterable[tuple[str, int]]


class Counted:
    """A function that remembers for which keys it ran."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.ran: list[Any] = []

    def __call__(self, read: Read, key: Any, value: Any) -> Any:
        self.ran.append(key)
        return self.function(read, key, value)

    def take(self) -> list[Any]:
        ran, self.ran = self.ran, []
        return ran


def test_only_readers_of_a_changed_row_run_again() -> None:
    words: Input[str, int] = Input("words")
    factors: Input[str, int] = Input("factors")
    scaled = Counted(lambda read, key, value: [(key, value * (read.get(factors, key[0]) or 0))])
    table: Derived[Any, Any, str, int] = Derived("scaled", words, scaled)
    graph = Graph([words, factors, table])
    for key, value in {"ax": 1, "ay": 2, "bx": 3}.items():
        graph.set(words, key, value)
    graph.set(factors, "a", 10)
    graph.commit_now()
    assert table.rows == {"ax": 10, "ay": 20, "bx": 0}
    assert sorted(scaled.take()) == ["ax", "ay", "bx"]
    graph.set(factors, "b", 2)
    assert graph.commit_now() == {"factors": {"b": (None, 2)}, "scaled": {"bx": (0, 6)}}
    assert scaled.take() == ["bx"]


def test_reads_of_the_last_run_count_and_no_others() -> None:
    switch: Input[str, str] = Input("switch")
    values: Input[str, int] = Input("values")
    picked = Counted(lambda read, key, value: [(key, read.get(values, value) or 0)])
    graph = Graph([switch, values, Derived("picked", switch, picked)])
    graph.set(switch, "s", "a")
    graph.commit_now()
    graph.set(switch, "s", "b")
    graph.commit_now()
    picked.take()
    graph.set(values, "a", 1)
    graph.commit_now()
    assert picked.take() == []
    graph.set(values, "b", 1)
    graph.commit_now()
    assert picked.take() == ["s"]


def test_an_equal_result_cuts_the_sweep_off() -> None:
    numbers: Input[str, int] = Input("numbers")
    parity: Derived[Any, Any, str, int] = Derived("parity", numbers, lambda _, key, value: [(key, value % 2)])
    after = Counted(lambda _, key, value: [(key, value)])
    graph = Graph([numbers, parity, Derived("after", parity, after)])
    graph.set(numbers, "n", 1)
    graph.commit_now()
    after.take()
    graph.set(numbers, "n", 3)
    assert graph.commit_now() == {"numbers": {"n": (1, 3)}}
    assert after.take() == []


def test_an_equal_write_is_no_change() -> None:
    numbers: Input[str, int] = Input("numbers")
    graph = Graph([numbers])
    graph.set(numbers, "n", 1)
    graph.commit_now()
    graph.set(numbers, "n", 1)
    graph.delete(numbers, "absent")
    assert graph.commit_now() == {}


def test_a_row_that_came_back_within_one_commit_is_no_change() -> None:
    numbers: Input[str, int] = Input("numbers")
    graph = Graph([numbers])
    graph.set(numbers, "n", 1)
    graph.commit_now()
    graph.delete(numbers, "n")
    graph.set(numbers, "n", 1)
    assert graph.commit_now() == {}


def _reciprocal(_: Read, key: str, value: int) -> Pairs:
    return [(key, 60 // value)]


def test_an_error_keeps_the_last_good_row_and_touches_nothing_else() -> None:
    numbers: Input[str, int] = Input("numbers")
    table: Derived[Any, Any, str, int] = Derived("reciprocal", numbers, _reciprocal)
    graph = Graph([numbers, table])
    graph.set(numbers, "a", 2)
    graph.set(numbers, "b", 0)
    graph.commit_now()
    assert table.rows == {"a": 30}
    graph.set(numbers, "a", 0)
    graph.set(numbers, "b", 3)
    assert graph.commit_now()["reciprocal"] == {"b": (None, 20)}
    assert table.rows == {"a": 30, "b": 20}
    [(name, key, error)] = graph.failures()
    assert (name, key, type(error)) == ("reciprocal", "a", ZeroDivisionError)
    graph.set(numbers, "a", 1)
    graph.commit_now()
    assert table.rows == {"a": 60, "b": 20}
    assert not list(graph.failures())


def test_a_row_whose_parent_is_gone_goes_even_if_it_failed() -> None:
    numbers: Input[str, int] = Input("numbers")
    table: Derived[Any, Any, str, int] = Derived("reciprocal", numbers, _reciprocal)
    graph = Graph([numbers, table])
    for value in (2, 0):
        graph.set(numbers, "a", value)
        graph.commit_now()
    graph.delete(numbers, "a")
    graph.commit_now()
    assert table.rows == {}
    assert not list(graph.failures())


def test_what_a_failed_run_had_read_makes_it_run_again() -> None:
    numbers: Input[str, int] = Input("numbers")
    divisors: Input[str, int] = Input("divisors")
    table: Derived[Any, Any, str, int] = Derived(
        "divided", numbers, lambda read, key, value: [(key, value // (read.get(divisors, "d") or 0))]
    )
    graph = Graph([numbers, divisors, table])
    graph.set(numbers, "a", 8)
    graph.commit_now()
    assert table.rows == {}
    graph.set(divisors, "d", 2)
    graph.commit_now()
    assert table.rows == {"a": 4}


def _half_then_fail(_: Read, key: str, value: int) -> Iterator[tuple[str, int]]:
    yield f"{key}1", value
    if value < 0:
        raise ValueError(value)
    yield f"{key}2", value


def test_rows_given_before_an_error_do_not_count() -> None:
    numbers: Input[str, int] = Input("numbers")
    table: Derived[Any, Any, str, int] = Derived("two", numbers, _half_then_fail)
    graph = Graph([numbers, table])
    graph.set(numbers, "a", 1)
    graph.commit_now()
    graph.set(numbers, "a", -1)
    graph.commit_now()
    assert table.rows == {"a1": 1, "a2": 1}


@pytest.mark.parametrize("names", ["abc", "cba", "bca"])
def test_of_two_givers_of_a_key_the_smallest_wins_whatever_came_first(names: str) -> None:
    numbers: Input[str, int] = Input("numbers")
    table: Derived[Any, Any, str, int] = Derived("one", numbers, lambda _, key, value: [("only", value)])
    graph = Graph([numbers, table])
    for name in names:
        graph.set(numbers, name, ord(name))
        graph.commit_now()
    assert table.rows == {"only": ord("a")}
    graph.delete(numbers, "a")
    graph.commit_now()
    assert table.rows == {"only": ord("b")}
    graph.delete(numbers, "c")
    graph.delete(numbers, "b")
    graph.commit_now()
    assert table.rows == {}


def test_many_givers_of_one_key_cost_no_more_each_than_few() -> None:
    """Thousands of routes give the same host: comparing all of them at every edit would grow with the gateway."""
    compared = 0

    class Key(int):
        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)

        __hash__ = int.__hash__

    numbers: Input[Key, int] = Input("numbers")
    table: Derived[Any, Any, str, int] = Derived("one", numbers, lambda _, key, value: [("only", 1)])
    graph = Graph([numbers, table])
    for number in range(2000):
        graph.set(numbers, Key(number), 0)
    graph.commit_now()
    compared = 0
    graph.set(numbers, Key(1000), 1)
    graph.commit_now()
    assert compared < 50
    for number in range(1999):
        graph.delete(numbers, Key(number))
    compared = 0
    graph.commit_now()
    assert compared < 200_000
    assert table.rows == {"only": 1}


def test_groups() -> None:
    words: Input[str, int] = Input("words")
    initial = Index("initial", words, lambda key, _: key[:1])
    count = Counted(lambda _, group, members: [(group, sum(value for _, value in members))])
    table: Grouped[Any, Any, str, str, int] = Grouped("count", initial, count)
    graph = Graph([words, table])
    for key, value in {"ab": 1, "aa": 2, "b": 3}.items():
        graph.set(words, key, value)
    graph.commit_now()
    assert table.rows == {"a": 3, "b": 3}
    count.take()
    graph.delete(words, "b")
    graph.commit_now()
    assert table.rows == {"a": 3}
    assert count.take() == []
    graph.set(words, "aa", 5)
    graph.commit_now()
    assert count.take() == ["a"]
    assert table.rows == {"a": 6}


def test_members_and_reads_are_sorted() -> None:
    words: Input[str, int] = Input("words")
    everything = Index("everything", words, lambda *_: [0])
    seen: list[Any] = []

    def look(read: Read, group: int, members: Any) -> Iterable[tuple[int, int]]:
        seen.append([key for key, _ in members])
        seen.append([key for key, _ in read.find(everything, group)])
        seen.append([key for key, _ in read.all(words)])
        return []

    table: Grouped[Any, Any, int, int, int] = Grouped("look", everything, look)
    graph = Graph([words, table])
    for key in "cab":
        graph.set(words, key, 0)
    graph.commit_now()
    assert seen == [["a", "b", "c"]] * 3


def test_parents_and_what_is_read_come_first() -> None:
    words: Input[str, int] = Input("words")
    later: Derived[Any, Any, str, int] = Derived("later", words, lambda _, key, value: [(key, value)])
    reader: Derived[Any, Any, str, int] = Derived(
        "reader", words, lambda read, key, value: [(key, read.get(later, key) or 0)]
    )
    graph = Graph([words, reader, later])
    graph.set(words, "a", 1)
    with pytest.raises(WiringError, match="reader reads later"):
        graph.commit_now()
    with pytest.raises(WiringError, match="later must be declared after words"):
        Graph([later, words])
    with pytest.raises(WiringError, match="declared after"):
        Graph([later])


def test_a_table_must_not_read_itself() -> None:
    words: Input[str, int] = Input("words")

    def own(read: Read, key: str, _: int) -> Pairs:
        return [(key, read.get(table, key) or 0)]

    table: Derived[Any, Any, str, int] = Derived("own", words, own)
    graph = Graph([words, table])
    graph.set(words, "a", 1)
    with pytest.raises(WiringError, match="own reads own"):
        graph.commit_now()


def test_a_table_outside_the_graph_cannot_be_read_nor_be_left_out() -> None:
    """Its rows would never be swept: readers would see it empty for ever."""
    words: Input[str, int] = Input("words")
    stray: Input[str, int] = Input("stray")
    reader: Derived[Any, Any, str, int] = Derived(
        "reader", words, lambda read, key, value: [(key, read.get(stray, key) or 0)]
    )
    graph = Graph([words, reader])
    graph.set(words, "a", 1)
    with pytest.raises(WiringError, match="reader reads stray"):
        graph.commit_now()
    with pytest.raises(WiringError, match="reader is missing"):
        Graph([words])


def test_two_tables_of_one_name_are_refused() -> None:
    one: Input[str, int] = Input("same")
    other: Input[str, int] = Input("same")
    with pytest.raises(WiringError, match="same"):
        Graph([one, other])


def _remarks(read: Read, key: str, value: int) -> Pairs:
    if value < 0:
        read.note("negative")
    if value == 13:
        raise ValueError("unlucky")
    return [(key, abs(value))]


def test_notes_are_those_of_the_last_good_run() -> None:
    numbers: Input[str, int] = Input("numbers")
    table: Derived[Any, Any, str, int] = Derived("noted", numbers, _remarks)
    graph = Graph([numbers, table])
    graph.set(numbers, "a", -1)
    graph.set(numbers, "b", 1)
    graph.commit_now()
    assert list(graph.notes()) == [("noted", "a", "negative")]
    assert graph.take_noted() == {("noted", "a"): (("negative",), None)}
    assert graph.take_noted() == {}
    graph.set(numbers, "a", -2)
    graph.commit_now()
    assert graph.take_noted() == {}
    graph.set(numbers, "a", 13)
    graph.commit_now()
    [(place, (notes, error))] = graph.take_noted().items()
    assert (place, notes, str(error)) == (("noted", "a"), ("negative",), "unlucky")
    graph.set(numbers, "a", 1)
    graph.commit_now()
    assert graph.take_noted() == {("noted", "a"): ((), None)}
    assert list(graph.notes()) == []


def test_a_row_that_goes_takes_its_notes_along() -> None:
    numbers: Input[str, int] = Input("numbers")
    graph = Graph([numbers, Derived("noted", numbers, _remarks)])
    graph.set(numbers, "a", -1)
    graph.commit_now()
    graph.take_noted()
    graph.delete(numbers, "a")
    graph.commit_now()
    assert graph.take_noted() == {("noted", "a"): ((), None)}


def test_a_commit_yields_after_every_run() -> None:
    numbers: Input[str, int] = Input("numbers")
    graph = Graph([numbers, Derived("same", numbers, lambda _, key, value: [(key, value)])])
    for key in "abc":
        graph.set(numbers, key, 1)
    assert len(list(graph.commit())) == 3
    assert list(graph.commit()) == []


def test_everything_deleted_leaves_nothing_behind() -> None:
    numbers: Input[str, int] = Input("numbers")
    parity = Index("parity", numbers, lambda _, value: [value % 2])
    table: Derived[Any, Any, str, int] = Derived(
        "sum", numbers, lambda read, key, value: [("all", sum(v for _, v in read.find(parity, value % 2)))]
    )
    tables = [numbers, table]
    graph = Graph(tables)
    for key in "abc":
        graph.set(numbers, key, ord(key))
        graph.commit_now()
    assert held(graph, tables)
    for key in "abc":
        graph.delete(numbers, key)
    graph.commit_now()
    assert held(graph, tables) == {}
