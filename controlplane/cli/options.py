"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from controlplane.cli.terminal import Color, Terminal

Command = Callable[..., Any]

COLORS = [color.value for color in Color]


def speaking(command: Command) -> Command:
    """`-q`, `-v` and `--color`; the command gets a `Terminal` as its first argument.

    They may also stand before the command's name; then they hold unless they are repeated after it.
    """

    @click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
    @click.option("-v", "--verbose", count=True, help="Say more; repeat for still more.")
    @click.option(
        "--color", type=click.Choice(COLORS), help="When to use colours (default: auto; NO_COLOR is honoured)."
    )
    @click.pass_context
    @functools.wraps(command)
    def wrapped(
        context: click.Context, /, *args: Any, quiet: bool, verbose: int, color: Color | None, **options: Any
    ) -> Any:
        outer: Terminal = context.obj or Terminal()
        verbosity = -1 if quiet else verbose or outer.verbosity
        terminal = Terminal(Color(color) if color else outer.color, verbosity)
        return command(terminal, *args, **options)

    return wrapped


def output(*formats: str, default: str | None = None) -> Callable[[Command], Command]:
    """`-o`, with the formats that the command has; the first one is the default."""
    return click.option(
        "-o",
        "--output",
        "output_format",
        type=click.Choice(formats),
        default=default or formats[0],
        show_default=True,
        help="Output format; the exit code is the same for all.",
    )


def examples(*lines: str) -> str:
    """The `Examples` block below a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def node_labels(values: Sequence[str]) -> dict[str, str]:
    """`K=V` options as labels. Raises UsageError."""
    labels: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--label {value}: a label is KEY=VALUE, such as role=edge")
        if labels.setdefault(key, text) != text:
            raise click.UsageError(f"--label {key} is given twice")
    return labels


def duration(option: str, text: str) -> timedelta:
    """The duration that an option was given, as in specs: `1h30m`. Raises UsageError."""
    from controlplane.model.written import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option} {text}: {error}") from None


class Folder(click.ParamType[Path]):
    """The path of a folder; whether it exists is for the command to say."""

    name = "dir"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """A path that is not empty."""
        if not str(value):
            self.fail("is empty", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Folders."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


DIRECTORY = Folder()
