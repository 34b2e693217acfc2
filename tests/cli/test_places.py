"""Where `validate` points, and what finding that costs."""

from __future__ import annotations

import pytest

from controlplane.cli.exit import Exit
from controlplane.spec import places
from tests.cli.conftest import GATEWAY, Run

COUNT = 100


def test_one_misspelled_backend_of_many_routes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document is read once more for all that is wrong with it, not once for each route."""
    readings = 0
    load = places.load

    def counted(text: str) -> object:
        nonlocal readings
        readings += 1
        return load(text)

    monkeypatch.setattr(places, "load", counted)
    head, _, route = GATEWAY.partition("    - name: web\n      hosts")
    routes = "".join(
        f"    - name: r{number}\n      hosts{route}".replace("prefix: /", f"prefix: /p{number}")
        for number in range(COUNT)
    )
    result = run("validate", "-", stdin=head.replace("name: web", "name: wbe") + routes)
    assert result.returncode == Exit.PROBLEMS
    first = head.count("\n") + 5
    for number in range(COUNT):
        assert f"<stdin>:{first + 5 * number}:22\n" in result.stderr
    assert readings == 1
