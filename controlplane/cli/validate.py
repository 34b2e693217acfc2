"""`controlplane validate`: everything that can be known without an Envoy, all at once."""

from __future__ import annotations

import time
from pathlib import Path

import click

from controlplane.cli.exit import exit_code
from controlplane.cli.options import DIRECTORY, examples, output, speaking
from controlplane.cli.terminal import Paint, Terminal
from controlplane.errors import Severity


@click.command(
    epilog=examples(
        "controlplane validate specs",
        "controlplane validate gateway.yaml routes/ --secrets secrets",
        "helm template . | controlplane validate -",
        "controlplane validate specs -o github        annotations in a GitHub workflow",
    )
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--secrets", type=DIRECTORY, help="Check references to secrets against this folder too.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    show_default=True,
    help="The least severity that makes the exit code 1.",
)
@output("text", "json", "github", "sarif")
@speaking
def command(terminal: Terminal, paths: tuple[str, ...], secrets: Path | None, fail_on: str, output_format: str) -> int:
    """Check specs offline: YAML, schema, references, routes. PATH is a file, a folder, or - for stdin."""
    started = time.perf_counter()
    from controlplane.cli.ahead import ahead_of

    with ahead_of(paths) as ahead:
        from controlplane.cli import formats, render
        from controlplane.cli.documents import read
        from controlplane.cli.offline import compiled

        found = read(paths, ahead.load)
    _, diagnostics = compiled(found, secrets)
    code = exit_code(diagnostics, Severity(fail_on))
    texts = render.Texts(found.texts)
    if output_format == "text":
        for diagnostic in diagnostics:
            terminal.problem(render.text(diagnostic, texts, terminal) + "\n")
    else:
        terminal.data(formats.RENDERERS[output_format](diagnostics, texts))
    last = render.summary(diagnostics, found.files, found.routes, time.perf_counter() - started)
    terminal.say(terminal.paint(last, Paint.STRONG if diagnostics else Paint.GOOD))
    return code
