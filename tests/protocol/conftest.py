"""Every dialogue is held twice: with the state machine alone, and over a gRPC stream of a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol import dialogue
from tests.protocol.link import Direct, Wire

DIALOGUES = {
    "test_delta",
    "test_variants",
    "test_sotw",
    "test_order",
    "test_late",
    "test_stream",
    "test_names",
    "test_ttl",
    "test_proxyless",
    "test_wildcard",
    "test_size",
}
LINKS = {"alone": Direct, "grpc": Wire}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in DIALOGUES:
        alone = metafunc.definition.get_closest_marker("alone")
        metafunc.parametrize("link", ["alone"] if alone else ["alone", "grpc"], indirect=True)


@pytest.fixture(autouse=True)
def link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the dialogues of a test go over."""
    opened: list[dialogue.Dialogue] = []
    monkeypatch.setattr(dialogue, "link", LINKS[getattr(request, "param", "alone")])
    monkeypatch.setattr(dialogue, "opened", opened)
    yield
    for each in opened:
        each.end()
