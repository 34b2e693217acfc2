"""`controlplane demo`: a control plane, a real Envoy and two backends on this machine, and requests that show it works.

It uses the program as a user would: `serve` in a process of its own, files that are edited, an Envoy that knows only
its bootstrap. Everything lives in one temporary folder; ports are free ones; nothing outside the machine is needed.
Read `story` first.
"""

from __future__ import annotations

from pathlib import Path

import click

from controlplane.cli.options import examples, speaking
from controlplane.cli.terminal import Terminal


@click.command(
    epilog=examples(
        "controlplane demo                        look around; Ctrl-C ends it and removes everything",
        "controlplane demo --once                 only the checks, for scripts: exit code 0 or 1",
        "controlplane demo --envoy /opt/envoy     with this Envoy",
    )
)
@click.option("--once", is_flag=True, help="Run the checks and exit.")
@click.option(
    "--envoy",
    "--envoy-path",
    "envoy",
    type=click.Path(path_type=Path),
    help="The Envoy to start (default: the installed wheel's, then `envoy` on PATH).",
)
@speaking
def command(terminal: Terminal, once: bool, envoy: Path | None) -> int:
    """See it work on this machine: requests, edits, a mistake.

    A control plane, an Envoy and two backends are started, and end with the command.
    """
    from controlplane.cli.demo.story import tell
    from controlplane.cli.envoy import find

    return tell(terminal, find(envoy), once=once)
