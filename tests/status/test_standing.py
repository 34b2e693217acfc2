"""What a custom resource is told of itself: bounded, the worst first, and equal when nothing changed."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.errors import Diagnostic, Severity
from controlplane.status.standing import MAX_MESSAGE, Proxies, Standing, status

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def said(
    *diagnostics: Diagnostic, proxies: Proxies | None = None, before: Any = None, now: str = NOW
) -> dict[str, Any]:
    return status(Standing(3, diagnostics, proxies or Proxies()), before or {}, now)


def condition(found: dict[str, Any], kind: str) -> tuple[str, str]:
    (one,) = (one for one in found["conditions"] if one["type"] == kind)
    return one["status"], one["reason"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("GW0101", "Invalid"),
        ("GW0005", "Invalid"),
        ("GW0202", "Unresolved"),
        ("GW0213", "Conflict"),
        ("GW0220", "NotGranted"),
        ("GW0217", "RefusedByProxy"),
    ],
)
def test_an_error_says_what_kind_it_is(code: str, reason: str) -> None:
    found = said(Diagnostic(code, "no", "spec.routes[web]"))
    assert condition(found, "Compiled") == ("False", reason)
    assert found["lastError"]["path"] == "spec.routes[web]"
    assert found["errors"] == 1


def test_what_disables_the_whole_object_is_the_worst() -> None:
    found = said(Diagnostic("GW0202", "no backend"), Diagnostic("GW0103", "not a number", "spec.x"))
    assert found["lastError"]["code"] == "GW0103"
    assert found["errors"] == 2


def test_an_object_that_stands_back_is_not_said_to_be_served() -> None:
    """Whatever else is wrong with it: another source has one of its name, and that one counts."""
    found = said(Diagnostic("GW0226", "is in a file too"), Diagnostic("GW0103", "not a number"), proxies=Proxies(3, 3))
    assert condition(found, "Compiled") == ("False", "Conflict")
    assert condition(found, "Programmed") == ("False", "Conflict")
    assert found["conditions"][0]["message"] == "is in a file too (and 1 more)"


BROKEN, LOST = Diagnostic("GW0101", 'unknown field "x"'), Diagnostic("GW0201", 'no gateway "a/b"')


@pytest.mark.parametrize(
    ("errors", "standing", "programmed", "compiled", "message"),
    [
        ((BROKEN,), {"in_force": False}, "Invalid", "; nothing of it is in force", "there is no good version of it"),
        (
            (BROKEN,), {"good": 2}, "LastGood", "; the last good version is in force",
            "no proxy gets generation 3: generation 2, the last good one, stays in force",
        ),
        (
            (BROKEN,), {}, "LastGood", "; the last good version is in force",
            "no proxy gets generation 3: the last good version stays in force",
        ),
        ((LOST,), {"good": 3}, "UnknownGateway", "; nothing of it is served until there is one", "no such gateway"),
        ((BROKEN, LOST), {"good": 2}, "UnknownGateway", " (and 1 more); the last good version is in force", "no such gateway"),
    ],
)  # fmt: skip
def test_what_no_proxy_gets_is_not_programmed(
    errors: tuple[Diagnostic, ...], standing: Any, programmed: str, compiled: str, message: str
) -> None:
    """Whoever reads of generation 3 must learn whether an older one serves, and which."""
    found = status(Standing(3, errors, Proxies(2, 2), **standing), {}, NOW)
    assert condition(found, "Programmed") == ("False", programmed)
    assert found["conditions"][0]["message"].endswith(compiled)
    assert found["conditions"][1]["message"].endswith(message)
    assert all(one["observedGeneration"] == 3 for one in found["conditions"])


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (("GW0220",), "NotGranted"),
        (("GW0213", "GW0220"), "Conflict"),
        (("GW0211",), "Conflict"),
        (("GW0202",), "Unresolved"),
        ((), "NoListener"),
    ],
)
def test_what_serves_nothing_is_not_programmed(errors: tuple[str, ...], reason: str) -> None:
    """Whoever waits for it with kubectl would go on; and nothing else of it is served."""
    found = status(
        Standing(3, tuple(Diagnostic(code, "no") for code in errors), Proxies(2, 2), is_served=False), {}, NOW
    )
    assert condition(found, "Programmed") == ("False", reason)
    assert found["conditions"][0]["message"].endswith("; nothing of it is served" if errors else "compiled")


def test_which_generation_was_good_stays_said_after_a_restart() -> None:
    first = status(Standing(3, (BROKEN,), Proxies(), good=2), {}, NOW)
    assert status(Standing(3, (BROKEN,), Proxies()), first, LATER) == first
    assert "generation 2" not in str(status(Standing(4, (BROKEN,), Proxies()), first, LATER))


def test_warnings_are_no_errors() -> None:
    found = said(Diagnostic("GW0212", "shadowed", severity=Severity.WARNING))
    assert condition(found, "Compiled") == ("True", "Compiled")
    assert "lastError" not in found


@pytest.mark.parametrize(
    ("proxies", "expected"),
    [
        (Proxies(), ("True", "NoProxies")),
        (Proxies(3, 3), ("True", "Programmed")),
        (Proxies(3, 2), ("False", "Pending")),
        (Proxies(3, 2, 1), ("False", "Refused")),
    ],
)
def test_programmed_is_what_every_proxy_has(proxies: Proxies, expected: tuple[str, str]) -> None:
    assert condition(said(proxies=proxies), "Programmed") == expected


def test_equal_standings_are_equal_statuses_and_only_a_turn_moves_the_time() -> None:
    first = said()
    assert said(before=first, now=LATER) == first
    turned = said(Diagnostic("GW0202", "no backend"), before=first, now=LATER)
    times = {one["type"]: one["lastTransitionTime"] for one in turned["conditions"]}
    assert times == {"Compiled": LATER, "Programmed": NOW}


@pytest.mark.parametrize("proxies", [Proxies(), Proxies(3, 2)])
def test_what_proxies_have_of_a_route_stays_said_while_they_come_and_go(proxies: Proxies) -> None:
    """They all do when replicas restart: it would be two writes for every route."""
    first = said(proxies=Proxies(3, 3))
    assert said(proxies=proxies, before=first, now=LATER) == first
    newer = status(Standing(4, (), proxies), first, LATER)
    assert condition(newer, "Programmed") == condition(said(proxies=proxies), "Programmed")
    gateway = status(Standing(3, (), proxies, counts=True), first, LATER)
    assert condition(gateway, "Programmed") == condition(newer, "Programmed")
    assert condition(said(proxies=Proxies(3, 2, 1), before=first), "Programmed") == ("False", "Refused")


def test_it_is_bounded() -> None:
    """The API server refuses a status that is too large, and then nobody learns anything."""
    found = said(*(Diagnostic("GW0202", "x" * 10_000, "p" * 5_000, "h" * 5_000) for _ in range(300)))
    assert len(found["lastError"]["message"]) == MAX_MESSAGE
    assert all(len(one["message"]) <= MAX_MESSAGE for one in found["conditions"])
    assert len(str(found)) < 12_000


@pytest.mark.parametrize(
    "conditions", [None, 5, "no", {}, [None, 5, {}, {"type": []}, {"type": "Compiled", "status": {}}]]
)
def test_a_status_that_makes_no_sense_is_written_anew(conditions: Any) -> None:
    """Whoever may write a status may write anything where the definition does not check it."""
    assert said(before={"conditions": conditions}) == said()
