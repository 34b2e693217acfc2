"""Dividing files costs what their documents cost, whatever else stands in them."""

import re
from collections.abc import Iterator

import pytest

from controlplane.spec import pieces
from controlplane.spec.codes import Code
from controlplane.spec.parse import parse_text
from controlplane.spec.pieces import split


def test_marks_are_looked_for_no_further_than_they_may_be_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 MiB of `---` held up the edits of all other files for 50 s: documents without content count, too."""
    found = 0
    beginnings = pieces._beginnings

    def counted(text: str, sign: str) -> Iterator[int]:
        nonlocal found
        for start in beginnings(text, sign):
            found += 1
            yield start

    monkeypatch.setattr(pieces, "_beginnings", counted)
    monkeypatch.setattr(pieces, "MAX_MARKS", 100)
    (parsed,) = parse_text("a: 1\n" + "---\n" * 10_000 + "...\n" * 10_000, "f")
    (diagnostic,) = parsed.diagnostics
    assert (diagnostic.code, str(diagnostic.place)) == (Code.TOO_MANY_DOCUMENTS, "f:102")
    assert found <= 103
    assert len(split("---\n" * 99 + "a: 1\n...\n", "f")) == 1


@pytest.mark.parametrize("line", ["#\n", " \n", "%a\n"])
def test_what_has_no_content_may_not_be_longer_than_a_document(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else looking through 60 MiB of comments takes long, and the next file waits."""
    searched = 0
    has_line = pieces._has_line

    def counted(text: str, begins: re.Pattern[str]) -> bool:
        nonlocal searched
        searched += len(text)
        return has_line(text, begins)

    monkeypatch.setattr(pieces, "_has_line", counted)
    monkeypatch.setattr(pieces, "MAX_DOCUMENT", 1000)
    long = line * 1000
    divided = split(f"{long}---\n{line * 10}---\na: 1\n---\n{long}", "f")
    assert divided[0].text.startswith(long)
    assert divided[-1].text == long
    assert searched < 1000


def test_content_is_found_behind_many_comments() -> None:
    """The text is searched in stretches."""
    comments = "# word\n" * 20_000
    assert len(comments) > 2 * pieces._STRETCH
    assert split(f"{comments}---\n{comments}", "f") == []
    assert [piece.line for piece in split(f"{comments}a: 1\n---\n{comments}  b: 1\n", "f")] == [1, 20_003]
    assert len(split(f"%YAML 1.2\n{comments}---\na: 1\n", "f")) == 1
