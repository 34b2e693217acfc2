"""No input, however broken, raises anything but InvalidInput or takes long."""

import time
from contextlib import suppress

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from controlplane.spec.parse import locate, parse_text
from controlplane.spec.pieces import decode
from tests.spec.documents import GATEWAY, file, routes

VALID = file(GATEWAY, routes("api"), routes("web"))
FRAGMENTS = st.sampled_from(
    ["---", "...", "&a ", "*a ", "!!str ", "!x ", "<<: ", "? ", ": ", "- ", "[", "]", "{", "}", "'", '"', "|\n", ">\n",
     "#", "%YAML 1.1\n", "\t", "\r", "\n", "\x85", "\u2028", "\ufeff", "\x00", "1e999", "null", "true", "~", ",", " "]
)  # fmt: skip
BOUNDED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)


def read(text: str) -> None:
    began = time.process_time()
    for parsed in parse_text(text, "f"):
        assert (parsed.document is None) == bool(parsed.diagnostics)
        for diagnostic in parsed.diagnostics:
            assert diagnostic.place is not None
            assert diagnostic.place.line <= text.count("\n") + text.count("\r") + len(text.splitlines()) + 1
            locate(parsed.text, "f", parsed.line, diagnostic.path)
    assert time.process_time() - began < 5


@BOUNDED
@given(st.binary(max_size=2000))
def test_arbitrary_bytes(data: bytes) -> None:
    with suppress(InvalidInput):
        read(decode(data, "f"))


@BOUNDED
@given(st.text(max_size=500))
@example("\ud800")
@example("a: \ud800")
def test_arbitrary_texts(text: str) -> None:
    read(text)


@BOUNDED
@given(st.lists(st.one_of(FRAGMENTS, st.text(max_size=5)), max_size=60))
def test_arbitrary_yaml(parts: list[str]) -> None:
    read("".join(parts))


@BOUNDED
@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), FRAGMENTS | st.text(max_size=8)), max_size=5))
def test_mutated_documents(edits: list[tuple[int, int, str]]) -> None:
    text = VALID
    for at, cut, insert in edits:
        text = text[:at] + insert + text[at + cut :]
    read(text)


@BOUNDED
@given(st.integers(0, len(VALID)))
def test_truncated_documents(end: int) -> None:
    read(VALID[:end])
