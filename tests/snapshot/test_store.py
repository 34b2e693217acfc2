"""The store: what is served, in parts, and what changed since a sequence number."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.resources import Resource, delimited
from controlplane.snapshot import content as content_module
from controlplane.snapshot.listing import LARGE
from controlplane.snapshot.store import Store, View

URL, OTHER = "type/A", "type/B"


def change(name: str, content: str | None = "1", url: str = URL) -> tuple[str, str, Resource | None]:
    return url, name, None if content is None else Resource(url, name, content.encode())


def version(content: str) -> str:
    return Resource(URL, "", content.encode()).version


def touched(view: View, since: int) -> set[str] | None:
    """The names that publications after `since` touched; None when that is forgotten."""
    found = view.touched_since(since)
    return None if found is None else set(found.get(URL, ()))


def test_a_publication_of_several_parts_has_one_number() -> None:
    store = Store()
    assert store.sequence == 0
    assert store.publish({"p": [change("a")], "q": [change("b"), change("c", url=OTHER)]}) == 1
    assert store.publish({"p": [change("a", "2")]}) == 2
    assert touched(store.view(["q"]), 1) == set()


@pytest.mark.parametrize(
    "changes",
    [[], [change("a")], [change("gone", None)], [change("a", "2"), change("a")], [change("b"), change("b", None)]],
)
def test_a_publication_that_changes_nothing_has_no_number(changes: list[Any]) -> None:
    store = Store()
    store.publish({"p": [change("a")]})
    assert store.publish({"p": changes}) == 1
    assert store.view(["p"]).touched_since(0) == {URL: {"a": ""}}


def test_equal_content_from_elsewhere_moves_the_origin_only() -> None:
    store = Store()
    store.publish({"p": [change("a")]})
    store.publish({"p": [(URL, "a", Resource(URL, "a", b"1", origin="line 7"))]})
    found = store.view(["p"]).get(URL, "a")
    assert store.sequence == 1
    assert found is not None
    assert found.origin == "line 7"


def test_a_resource_stands_under_its_own_name_and_nothing_is_taken_over_otherwise() -> None:
    store = Store()
    with pytest.raises(ValueError, match="published as"):
        store.publish({"p": [change("a")], "q": [(URL, "x", Resource(URL, "y", b""))]})
    assert store.sequence == 0
    assert list(store.view(["p"]).names(URL)) == []


def test_a_view_lives_on() -> None:
    store = Store()
    view = store.view(["p", "q"])
    assert (list(view.names(URL)), view.get(URL, "a"), view.types()) == ([], None, frozenset())
    store.publish({"q": [change("a")]})
    store.publish({"p": [change("b", url=OTHER)]})
    assert (list(view.names(URL)), view.types(), view.sequence) == (["a"], {URL, OTHER}, 2)
    assert store.view(["p", "q"]) is view
    del view
    gc.collect()
    assert not store._views


def test_nothing_stays_of_parts_that_were_only_looked_for() -> None:
    """A proxy says in which part it looks for what is near."""
    store = Store()
    view, other = store.view(["p", "made up"]), store.view(["made up"])
    del view
    store.publish({"p": [change("a")]})
    store.publish({"made up": [change("b")]})
    assert list(other.names(URL)) == ["b"]
    del other
    store.view(["more"])
    store.view(["and", "more"])
    gc.collect()
    assert set(store._parts) == {"p", "made up"}
    assert set(store._unpublished) <= set(store._parts)


def test_a_name_in_several_parts_is_there_until_the_last_one_drops_it() -> None:
    store = Store()
    store.publish({"p": [change("s")], "q": [change("s")]})
    view = store.view(["p", "q"])
    assert list(view.names(URL)) == ["s"]
    store.publish({"p": [change("s", None)]})
    assert view.get(URL, "s") is not None
    assert view.touched_since(1) == {URL: {"s": version("1")}}
    store.publish({"q": [change("s", None)]})
    assert view.get(URL, "s") is None
    assert view.touched_since(2) == {URL: {"s": version("1")}}
    assert view.touched_since(0) == {URL: {"s": ""}}


def test_a_listing_that_is_replaced_is_freed_at_once_and_not_when_the_collector_comes() -> None:
    store = Store()
    store.publish({"p": [change(f"r{number:02d}") for number in range(2 * LARGE)]})
    view = store.view(["p"])
    seen = weakref.ref(view.listing(URL))
    gc.disable()
    try:
        store.publish({"p": [change("r00", "2")]})
        assert len(view.listing(URL).resources) == 2 * LARGE
        assert seen() is None
    finally:
        gc.enable()


def test_what_is_forgotten_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "REMEMBERED_NAMES", 4)
    store = Store()
    for number in range(6):
        store.publish({"p": [change("a", str(number)), change(f"n{number}")]})
    view = store.view(["p"])
    assert touched(view, 3) is None
    assert touched(view, 4) == {"a", "n4", "n5"}
    store.publish({"p": [change(f"many{number}") for number in range(100)]})  # one publication is always remembered
    many = touched(view, 6)
    assert many is not None
    assert len(many) == 100


def test_small_publications_are_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes memory, however few names it has: years of single edits must not add up."""
    monkeypatch.setattr(content_module, "REMEMBERED_PUBLICATIONS", 3)
    store = Store()
    for number in range(6):
        store.publish({"p": [change("a", str(number))]})
    view = store.view(["p"])
    assert touched(view, 2) is None
    assert touched(view, 3) == {"a"}


def test_the_version_is_of_the_content_and_not_of_its_history() -> None:
    one, two = Store(), Store()
    one.publish({"p": [change("a"), change("b"), change("c", url=OTHER)]})
    two.publish({"p": [change("b", "x"), change("z")]})
    assert one.view(["p"]).version() != two.view(["p"]).version()
    two.publish({"p": [change("c", url=OTHER), change("b"), change("a"), change("z", None)]})
    assert one.view(["p"]).version() == two.view(["p"]).version()
    assert one.view(["p"]).version(URL) == two.view(["p"]).version(URL)
    assert one.view(["p"]).version(URL) != one.view(["p"]).version(OTHER)


changes = st.lists(
    st.tuples(st.sampled_from(["p", "q"]), st.sampled_from("abc"), st.sampled_from([None, "1", "2"])), max_size=4
)


@settings(deadline=None)
@given(st.lists(changes, max_size=8), st.data())
def test_changes_and_versions_equal_those_of_a_plain_dictionary(history: list[Any], data: Any) -> None:
    """`touched_since` names every name whose version differs from then, with the version of then."""
    store = Store()
    view = store.view(["p", "q"])
    past = {0: dict[str, str]()}
    for publication in history:
        by_part: dict[str, list[Any]] = {}
        for part, name, content in publication:
            by_part.setdefault(part, []).append(change(name, content))
        store.publish(by_part)
        past[store.sequence] = {name: view.get(URL, name).version for name in view.names(URL)}  # type: ignore[union-attr]
    since = data.draw(st.sampled_from(sorted(past)))
    then, now = past[since], past[store.sequence]
    changed = view.touched_since(since)
    assert changed is not None
    before = dict(changed.get(URL, {}))
    assert {name: then.get(name, "") for name in before} == before
    differing = {name for name in then.keys() | now.keys() if then.get(name) != now.get(name)}
    assert differing <= before.keys()
    fresh = Store()
    fresh.publish({part: [(r.type_url, r.name, r) for r in content.by_type.get(URL, {}).values()]
                   for part, content in store._parts.items()})  # fmt: skip
    assert fresh.view(["p", "q"]).version() == view.version()


@pytest.mark.parametrize("length", [1, 127, 128, 16_383, 16_384, 2_097_152])
def test_a_length_is_framed_as_protobuf_frames_it(length: int) -> None:
    """Shards are put together of bytes: one that is framed otherwise is no message."""
    body = b"x" * length
    assert delimited(1, body) == BytesValue(value=body).SerializeToString()


@pytest.mark.parametrize("number", [1, 15, 16, 2_047, 2_048])
def test_the_number_of_a_field_is_read_back(number: int) -> None:
    """Short and long numbers of fields: one that is unknown to a message is kept, and gives the same bytes again."""
    framed = delimited(number, b"x")
    assert BytesValue.FromString(framed).SerializeToString() == framed
