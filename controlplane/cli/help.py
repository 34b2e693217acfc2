"""`controlplane help`: of a command, and topics that belong to no single one."""

from __future__ import annotations

import click

from controlplane.cli.exit import MEANINGS
from controlplane.cli.options import examples, speaking
from controlplane.cli.terminal import Terminal


@click.command(
    epilog=examples("controlplane help exit-codes", "controlplane help compile", "controlplane help pki rotate"),
)
@click.argument("topic", metavar="[TOPIC]", nargs=-1)
@click.pass_context
@speaking
def command(terminal: Terminal, context: click.Context, topic: tuple[str, ...]) -> None:
    """Explain a command, or a topic: exit-codes."""
    parent = context.parent
    assert parent is not None
    if topic == ("exit-codes",):
        rows = [f"{code.value:>4}  {meaning}" for code, meaning in MEANINGS.items()]
        terminal.data("\n".join(["code  meaning", *rows]))
        return
    inner = parent
    for at, word in enumerate(topic):
        group = inner.command
        found = group.get_command(inner, word) if isinstance(group, click.Group) else None
        if found is None:
            raise click.UsageError(f'no command or topic "{" ".join(topic[: at + 1])}" (topics: exit-codes)', parent)
        inner = click.Context(found, info_name=word, parent=inner)
    terminal.data(inner.get_help())
