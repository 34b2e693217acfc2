"""What is said of objects: its places, and what saying and showing it costs, counted in readings and comparisons."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from controlplane.app.problems import Problems
from controlplane.errors import Diagnostic
from controlplane.names import ObjectRef
from controlplane.sources.base import SpecObject
from controlplane.spec import places
from controlplane.spec.yaml import Loaded

REF = ObjectRef("files", "RouteSpec", "platform", "shop")
COUNT = 300


def document(routes: int = COUNT) -> SpecObject:
    listed = "".join(f"  - name: r{number}\n    to: [{{backend: wbe}}]\n" for number in range(routes))
    return SpecObject(
        REF, {}, f"metadata: {{name: shop, namespace: platform}}\nspec:\n  routes:\n{listed}", "f.yaml", 10
    )


def about(number: int) -> Diagnostic:
    return Diagnostic("GW0201", 'no backend "wbe"', f"spec.routes[r{number}].to[0].backend", subject=REF.subject)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a document was read for data or for positions since the last time somebody asked."""
    count = 0
    load, parser = places.load, places.CParser

    def counted_load(text: str) -> Loaded:
        nonlocal count
        count += 1
        return load(text)

    def counted_parser(text: str) -> object:
        nonlocal count
        count += 1
        return parser(text)

    def since() -> int:
        nonlocal count
        found, count = count, 0
        return found

    monkeypatch.setattr(places, "load", counted_load)
    monkeypatch.setattr(places, "CParser", counted_parser)
    return since


def test_a_document_is_read_once_for_all_that_is_said_of_it(readings: Callable[[], int]) -> None:
    """One misspelled backend breaks every route of a document: looking at that must not stop the process."""
    spec = document()
    register = Problems(lambda _: spec)
    register.say("compiler", [about(number) for number in range(COUNT)])
    assert readings() == 2, "once for its data, once for positions, however many are logged"
    found = asyncio.run(register.all())
    assert [str(one.place) for one in found] == [f"f.yaml:{14 + 2 * number}:20" for number in range(COUNT)]
    assert readings() == 2
    assert asyncio.run(register.all()) == found
    assert readings() == 0, "the text is the same"


def test_an_object_that_moved_has_new_places(readings: Callable[[], int]) -> None:
    spec = document()
    register = Problems(lambda _: spec)
    register.say("compiler", [about(0)])
    readings()
    spec = structs.replace(spec, line=20)
    assert str(next(iter(asyncio.run(register.all()))).place) == "f.yaml:24:20"
    assert readings() == 2


def test_places_go_with_what_was_said() -> None:
    spec = document()
    register = Problems(lambda _: spec)
    register.say("compiler", [about(0)])
    assert register._places
    register.say("compiler", ())
    assert not register._places
    register.placed([about(1)])
    assert not register._places, "nobody says it, so nobody would take it away"


def test_counting_reads_nothing(readings: Callable[[], int]) -> None:
    register = Problems(lambda _: document())
    register.say("compiler", [about(number) for number in range(COUNT)])
    readings()
    assert register.counts() == {REF.subject: COUNT}
    assert readings() == 0


def test_others_have_their_turns_while_places_are_found() -> None:
    """Five thousand broken objects are five thousand documents to read."""
    register = Problems(lambda ref: structs.replace(document(1), ref=ref))
    subjects = [REF._replace(name=f"s{number}").subject for number in range(50)]
    register.say("compiler", [replace(about(0), subject=subject) for subject in subjects])

    async def look() -> tuple[int, int]:
        task = asyncio.create_task(register.all())
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns, len(task.result())

    turns, found = asyncio.run(look())
    assert found == 50
    assert turns >= 50


def test_names_of_a_list_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = 0

    class Walked(list[object]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal walks
            walks += 1
            return super().__iter__()

    text = document().text
    data = places.load(text).data
    data["spec"]["routes"] = Walked(data["spec"]["routes"])
    monkeypatch.setattr(places, "load", lambda _: Loaded(data, ()))
    places.locate_all(text, "f.yaml", 1, [about(number).path for number in range(COUNT)])
    assert walks == 1


def test_what_is_new_is_found_without_comparing_everything() -> None:
    """A generated file with thousands of broken documents, of which one is repaired."""
    comparisons = 0

    class Counted(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return str.__eq__(self, other)

    def said(count: int) -> list[Diagnostic]:
        return [Diagnostic(Counted("GW0101"), f"unknown field {number}") for number in range(count)]

    register = Problems()
    with capture_logs() as logs:
        register.say("file", said(COUNT))
        register.say("file", [*said(COUNT - 1), Diagnostic("GW0101", "another one")])
    assert logs[-1]["detail"] == "another one"
    assert comparisons <= 4 * COUNT


def test_a_problem_is_as_old_as_the_first_who_said_it() -> None:
    """What began with the last deployment is told apart from what nobody has mended for months."""
    now = 0.0
    register = Problems(lambda _: document(), clock=lambda: now)
    for moment, speaker, said in (
        (1.0, "compiler", [about(0)]),
        (2.0, "compiler", [about(1), about(0)]),
        (3.0, "file", [about(1)]),
    ):
        now = moment
        register.say(speaker, said)

    def ages() -> list[float]:
        return list(asyncio.run(register.all()).values())

    assert ages() == [1.0, 2.0]
    register.say("compiler", [about(0)])
    assert ages() == [1.0, 3.0], "the other one says it still"
    register.say("compiler", ())
    now = 4.0
    register.say("compiler", [about(0)])
    assert ages() == [4.0, 3.0], "it was mended in between"
