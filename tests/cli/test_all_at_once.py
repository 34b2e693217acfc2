"""`validate` says all that is wrong in one go: a mistake in one route hides none in another, nor in another document."""

from __future__ import annotations

import json

import pytest

from controlplane.cli.exit import Exit
from tests.cli.conftest import Run

HEAD = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: http, port: 10080, protocol: HTTP}]
  backends: [{name: web, members: [{static: {address: 127.0.0.1, port: 9001}}]}]
  routes:
"""
TEAM = """\
---
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: team, namespace: platform}
spec:
  gateway: platform/edge
  routes:
"""


def route(name: str, rest: str, path: str = "") -> str:
    return (
        f'    - {{name: {name}, hosts: ["*"], match: [{{path: {{prefix: /{path or name}}}}}], public: true, {rest}}}\n'
    )


FAULTY = route("a", "respond: {status: 999}")
LOST = route("b", "to: [{backend: nope}]")
GOOD = route("c", "to: [{backend: web}]")


def said(run: Run, text: str) -> list[tuple[int, str, str]]:
    """Line, code and severity of all that is said."""
    result = run("validate", "-", "-o", "json", stdin=text)
    assert result.returncode == Exit.PROBLEMS
    return [
        (one["range"]["start"]["line"], one["code"], one["severity"])
        for one in json.loads(result.stdout)["diagnostics"]
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + FAULTY + LOST, [(9, "GW0105"), (10, "GW0202")]),
        (HEAD + FAULTY + GOOD + TEAM + LOST, [(9, "GW0105"), (18, "GW0202")]),
        (HEAD + GOOD + TEAM + FAULTY + LOST, [(17, "GW0105"), (18, "GW0202")]),
        (HEAD + FAULTY + LOST + LOST.replace("/b", "/d"), [(9, "GW0105"), (10, "GW0202"), (11, "GW0107")]),
        (HEAD + FAULTY + route("a", "to: [{backend: web}]", "x"), [(9, "GW0105"), (10, "GW0107")]),
        (HEAD + GOOD + route("d", "to: [{backend: web}]", "c") + FAULTY, [(10, "GW0211"), (11, "GW0105")]),
        (HEAD + GOOD + TEAM + GOOD + TEAM + FAULTY, [(17, "GW0211"), (21, "GW0301"), (25, "GW0105")]),
    ],
    ids=["a route", "a document", "a team", "two names", "its name", "equal routes", "declared twice"],
)
def test_a_faulty_route_hides_no_other_mistake(run: Run, text: str, expected: list[tuple[int, str]]) -> None:
    assert said(run, text) == [(*one, "error") for one in expected]


@pytest.mark.parametrize(
    "text",
    [
        HEAD + FAULTY + route("b", "respond: {status: 200}", "a"),
        HEAD + FAULTY.replace("status: 999", "status: 200, zork: 1") + route("b", "respond: {status: 200}", "a/b"),
        HEAD + GOOD + TEAM + FAULTY.replace('"*"', "other.example.com"),
        HEAD + route("A_a", "to: [{backend: nope}]") + GOOD,
    ],
    ids=["the same match", "an unknown field", "a team", "a bad name"],
)
def test_what_stands_for_a_faulty_route_is_not_judged(run: Run, text: str) -> None:
    """Nor what a document lacks without it."""
    assert len(said(run, text)) == 1


def test_where_more_than_routes_is_wrong_no_name_is_called_unknown(run: Run) -> None:
    text = HEAD.replace("port: 9001", "port: 90000") + GOOD + TEAM + LOST
    assert said(run, text) == [(7, "GW0105", "error")]


def test_a_document_with_faulty_routes_is_in_no_result(run: Run) -> None:
    result = run("compile", "-", "--gateway", "platform/edge", stdin=HEAD + FAULTY + GOOD)
    assert result.returncode != Exit.OK
    assert "left-out" not in result.stdout + result.stderr
