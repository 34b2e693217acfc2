"""Diagnostics: a person sees where, what and what would work; a program sees the same."""

from __future__ import annotations

import json

import pytest

from controlplane.cli import formats
from controlplane.cli.render import Texts, snippet, summary, text, token_width
from controlplane.cli.tables import age, table
from controlplane.cli.terminal import Color, Terminal
from controlplane.errors import Diagnostic, Place, Severity
from tests.cli.conftest import GATEWAY, Run

SOURCE = 'spec:\n  routes:\n    - name: checkout\n      retires: 3\n      path: "a b"\n'
PLAIN = Terminal(Color.NEVER)


def _diagnostic(line: int = 4, column: int = 7, message: str = 'unknown field "retires"') -> Diagnostic:
    return Diagnostic(
        "GW0101",
        message,
        path="spec.routes[checkout]",
        help='did you mean "retry"?',
        subject="GatewaySpec platform/edge",
        place=Place("shop.yaml", line, column),
    )


def test_the_layout() -> None:
    assert text(_diagnostic(), Texts({"shop.yaml": SOURCE}), PLAIN) == (
        'error[GW0101]: unknown field "retires"\n'
        " --> shop.yaml:4:7\n"
        "  |\n"
        "4 |       retires: 3\n"
        "  |       ^^^^^^^\n"
        "  = in GatewaySpec platform/edge, spec.routes[checkout]\n"
        '  = help: did you mean "retry"?'
    )


def test_without_the_text_there_is_no_snippet() -> None:
    shown = text(_diagnostic(), Texts({}), PLAIN)
    assert "shop.yaml:4:7" in shown
    assert "^" not in shown


def test_colours_only_when_asked_for() -> None:
    assert "\x1b" not in text(_diagnostic(), Texts({"shop.yaml": SOURCE}), PLAIN)
    assert "\x1b[1;31m" in text(_diagnostic(), Texts({"shop.yaml": SOURCE}), Terminal(Color.ALWAYS))


def test_control_characters_cannot_reach_the_terminal() -> None:
    """A spec may come from a stranger; its text must not clear the screen of whoever validates it."""
    evil = "a: \x1b[2Jgone\x9b2J\n"
    shown = text(_diagnostic(1, 4, "bad \x1b[2J value"), Texts({"shop.yaml": evil}), PLAIN)
    assert "\x1b" not in shown
    assert "\x9b" not in shown


@pytest.mark.parametrize(
    ("line", "column", "width"),
    [
        ("retires: 3", 1, 7),
        ('path: "a b"', 7, 5),
        ("path: 'it''s'", 7, 7),
        ("a: [x, y]", 5, 1),
        ("a: [x, y]", 4, 1),
        ("a: {b: c}", 8, 1),
        ("url: http://a:80/x", 6, 13),
        ("a:", 99, 1),
        ('a: "open', 4, 5),
    ],
)
def test_the_caret_covers_the_token(line: str, column: int, width: int) -> None:
    assert token_width(line, column) == width


def test_a_long_line_is_cut_around_the_error() -> None:
    shown, carets = snippet("x" * 5000 + " wrong " + "y" * 5000, 5002)
    assert len(shown) < 140
    at = carets.index("^")
    assert shown[at : at + 5] == "wrong"


def test_wide_characters_keep_the_caret_in_place() -> None:
    _, carets = snippet("名: wrong", 4)
    assert carets == "    ^^^^^"


def test_the_summary_counts() -> None:
    warning = Diagnostic("GW0212", "never matches", severity=Severity.WARNING)
    assert summary([], 3, 41, 0.081) == "OK: 3 files, 41 routes, 0 problems (0.08 s)"
    assert summary([_diagnostic(), _diagnostic()], 3, 0, 0.081) == "2 errors, 0 warnings in 3 files (0.08 s)"
    assert summary([_diagnostic(), warning], 1, 0, 0.081) == "1 error, 1 warning in 1 file (0.08 s)"


def test_json_has_terraforms_shape() -> None:
    found = json.loads(formats.as_json([_diagnostic()], Texts({"shop.yaml": SOURCE})))
    assert found["formatVersion"] == "1.0"
    assert (found["valid"], found["errorCount"], found["warningCount"]) == (False, 1, 0)
    (diagnostic,) = found["diagnostics"]
    assert diagnostic["range"] == {
        "filename": "shop.yaml",
        "start": {"line": 4, "column": 7},
        "end": {"line": 4, "column": 14},
    }
    offsets = diagnostic["snippet"]["highlightStartOffset"], diagnostic["snippet"]["highlightEndOffset"]
    assert diagnostic["snippet"]["code"][slice(*offsets)] == "retires"


def test_json_of_nothing_is_valid() -> None:
    found = json.loads(formats.as_json([], Texts({})))
    assert found["valid"] is True
    assert found["diagnostics"] == []


def test_github_annotations_are_escaped() -> None:
    diagnostic = Diagnostic("GW0101", "50% of\nlines", place=Place("a,b:c.yaml", 1, 2))
    assert formats.as_github([diagnostic], Texts({})) == (
        "::error title=GW0101,file=a%2Cb%3Ac.yaml,line=1,col=2::50%25 of%0Alines\n"
    )


def test_sarif_names_the_rule_and_the_place() -> None:
    found = json.loads(formats.as_sarif([_diagnostic()], Texts({"shop.yaml": SOURCE})))
    (run,) = found["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["GW0101"]
    region = run["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 4, "startColumn": 7, "endColumn": 14}


def test_data_goes_to_stdout_and_everything_else_to_stderr(run: Run, tmp_path: object) -> None:
    broken = GATEWAY.replace("public: true", "pubic: true")
    shown = run("validate", "-", stdin=broken)
    assert not shown.stdout
    assert "<stdin>:14:7" in shown.stderr
    assert "^^^^^" in shown.stderr
    as_json = run("validate", "-", "-o", "json", stdin=broken)
    assert json.loads(as_json.stdout)["errorCount"] >= 1
    assert "in 1 file" in as_json.stderr
    quiet = run("-q", "validate", "-", "-o", "json", stdin=broken)
    assert not quiet.stderr
    assert quiet.returncode == as_json.returncode == shown.returncode


def test_every_error_of_every_document_comes_at_once(run: Run) -> None:
    broken = GATEWAY.replace("public: true", "pubic: true").replace("port: 10080", "port: eighty")
    shown = run("validate", "-", stdin=f"{broken}---\nkind: [\n").stderr
    assert 'unknown field "pubic"' in shown
    assert "<stdin>:6:" in shown
    assert "error[GW0005]" in shown


def test_colour_switches(run: Run) -> None:
    broken = GATEWAY.replace("public: true", "pubic: true")
    for arguments, variables, colored in [
        ((), {}, False),
        (("--color", "always"), {}, True),
        (("--color", "always"), {"NO_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (("--color", "never"), {"FORCE_COLOR": "1"}, False),
    ]:
        shown = run("validate", "-", *arguments, stdin=broken, **variables).stderr
        assert ("\x1b[" in shown) == colored, (arguments, variables)


def test_a_reference_to_an_unreadable_gateway_is_not_reported_twice(run: Run) -> None:
    """The gateway that a route names may be in the broken document: one cause, one error."""
    routes = GATEWAY.split("---", maxsplit=1)[0].replace("kind: GatewaySpec", "kind: Gateway")
    team = (
        "apiVersion: gatewayspec.dev/v1alpha1\nkind: RouteSpec\nmetadata: {name: team}\nspec:\n"
        "  gateway: platform/edge\n  routes:\n    - name: a\n      hosts: ['*']\n      match: [{path: {prefix: /a}}]\n"
        "      public: true\n      respond: {status: 200}\n"
    )
    shown = run("validate", "-", stdin=f"{routes}---\n{team}").stderr
    assert "GW0108" in shown
    assert "GW0201" not in shown
    assert "GW0201" in run("validate", "-", stdin=team).stderr


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (12.9, "12s"), (61, "1m01s"), (7260, "2h01m"), (90_000, "1d01h")]
)
def test_ages_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_what_proxies_say_does_not_steer_the_terminal() -> None:
    shown = table(("NODE", "STATE"), [("a\x1b[2Jb\r", "nack")], Terminal(Color.NEVER), painted=1)
    assert shown.splitlines()[1].split() == ["a\ufffd[2Jb\ufffd", "nack"]
