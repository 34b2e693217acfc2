"""`controlplane sources`: where specs, secrets and endpoints come from, and how old the word of each is."""

from __future__ import annotations

from typing import Any

import click

from controlplane.cli.admin import admin, ask
from controlplane.cli.exit import Exit
from controlplane.cli.options import examples, output, speaking
from controlplane.cli.tables import age, structured, table
from controlplane.cli.terminal import Paint, Terminal


@click.command(
    name="sources",
    epilog=examples(
        "controlplane sources",
        "controlplane sources -o json",
    ),
)
@admin
@output("table", "json", "yaml")
@speaking
def command(terminal: Terminal, admin: str, output_format: str) -> int:
    """One row for each source: its state, and what it delivers.

    works: it can be read. waiting: it has not said everything yet. failed: it cannot be read; what it said last is in
    force. AGE is how long ago it said something, or could be read if it cannot be now. HELD counts specs and endpoints that
    are gone, and stay until that is confirmed or the guard's time is over. The exit code is 1 when a source has failed.
    """
    answer = ask(admin, "/v1/sources")
    sources: list[dict[str, Any]] = answer["sources"]
    if output_format == "table":
        header = ("SOURCE", "STATE", "AGE", "OBJECTS", "SECRETS", "SERVICES", "ENDPOINTS", "HELD", "FAILURE")
        terminal.data(table(header, [_cells(one) for one in sources], terminal, painted=1))
        if degraded := answer["state"]["degraded"]:
            terminal.problem(f"{terminal.paint('warning', Paint.WARNING)}: the state on disk: {degraded}")
    else:
        structured(terminal, answer, output_format)
    return Exit.PROBLEMS if any(one["failure"] for one in sources) else Exit.OK


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    state = "failed" if one["failure"] else "works" if one["synced"] and one.get("caughtUp", True) else "waiting"
    lost = one["lostSeconds"]
    return (
        one["name"],
        state,
        age(one["ageSeconds"] if lost is None else lost),
        str(one["objects"]),
        str(one.get("secrets", "-")),
        str(one.get("services", "-")),
        str(one.get("endpoints", "-")),
        str(one["heldObjects"] + one.get("heldEndpoints", 0)),
        one["failure"] or "-",
    )
