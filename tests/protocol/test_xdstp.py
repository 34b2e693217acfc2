"""Structured names by themselves: their one spelling, and the collection they are in."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.xdstp import canonical, collection_of


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=4))
def test_canonical_names_do_not_depend_on_the_order_and_are_their_own(parameters: dict[str, str]) -> None:
    pairs = [f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in parameters.items()]
    name = canonical("xdstp://a/T/p/x?" + "&".join(pairs))
    assert canonical("xdstp://a/T/p/x?" + "&".join(reversed(pairs))) == name
    assert canonical(name) == name
    assert collection_of(name) == canonical("xdstp://a/T/p/*?" + "&".join(pairs))


@pytest.mark.parametrize("name", ["a?b=2&a=1", "xdstp:/a/T/x?b=1&a=2", "XDSTP://a/T/x?b=1&a=2", "http://a/T/x?b=1&a=2"])
def test_other_names_are_opaque(name: str) -> None:
    assert canonical(name) == name
    assert collection_of(name) is None
