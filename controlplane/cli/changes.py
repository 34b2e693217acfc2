"""`controlplane changes`: which edits a control plane has taken, and what each changed of what proxies are offered."""

from __future__ import annotations

from typing import Any

import click

from controlplane.cli.admin import admin, ask
from controlplane.cli.options import examples, output, speaking
from controlplane.cli.render import count
from controlplane.cli.tables import age, one_line, structured, table
from controlplane.cli.terminal import Terminal

NAMED = 3
"""Edits of one change that a table names; all of them are in the other formats."""


@click.command(
    name="changes",
    epilog=examples(
        "controlplane changes",
        "controlplane changes checkout/api --last 5",
        'controlplane changes "secret platform/*" -o json',
    ),
)
@click.argument("pattern", metavar="[OBJECT]", default="*")
@click.option("--last", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@admin
@output("table", "json", "yaml")
@speaking
def command(terminal: Terminal, pattern: str, last: int, admin: str, output_format: str) -> None:
    """The last edits, and what each changed.

    The newest below. published: proxies are offered something else, `controlplane fleet wait SEQUENCE` says whether they have it. no effect:
    it was taken, and gives the same resources. problem: from then on something was wrong, and an edit with an error was not
    taken. An edit that is not there was not seen: `controlplane sources`.

    OBJECT is NAMESPACE/NAME, of one kind "RouteSpec NAMESPACE/NAME", or the file of a problem; * stands for anything.
    Changes of endpoints alone are not edits. The control plane remembers 1,000 changes, and none from before its start.
    """
    answer = ask(admin, "/v1/changes", of=pattern, last=str(last))
    if output_format != "table":
        structured(terminal, answer, output_format)
        return
    rows = [cells for one in reversed(answer["changes"]) for cells in _rows(one)]
    terminal.data(table(("AT", "AGE", "EFFECT", "SEQUENCE", "OBJECT", "DETAIL"), rows, terminal, painted=2))
    earlier = f", {answer['more']} earlier" if answer["more"] else ""
    terminal.say(f"{count(len(answer['changes']), 'change')}{earlier}; remembered since {answer['rememberedSince']}")


def _rows(one: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for what was edited, or one for each problem."""
    when = f"{one['at'][:19]}Z", age(one["ageSeconds"])
    if one["problems"]:
        return [(*when, "problem", "-", problem["subject"] or "-", one_line(problem)) for problem in one["problems"]]
    objects = [*one["edited"], *(f"{name} (removed)" for name in one["removed"])]
    others = len(objects[NAMED:]) + one["more"]
    named = ", ".join(objects[:NAMED]) + (f" and {others} more" if others else "")
    resources = ", ".join(f"{number} {kind}" for kind, number in one["resources"].items())
    if one["sequence"] is None:
        return [(*when, "no effect", "-", named, "")]
    return [(*when, "published", str(one["sequence"]), named or "-", f"{','.join(one['gateways'])}: {resources}")]
