"""`controlplane help`: of a command, and topics that belong to no single one."""

from __future__ import annotations

import click

from controlplane.cli.exit import MEANINGS
from controlplane.cli.options import examples, speaking
from controlplane.cli.terminal import Terminal


@click.command(
    epilog=examples("controlplane help exit-codes", "controlplane help compile"),
)
@click.argument("topic", required=False)
@click.pass_context
@speaking
def command(terminal: Terminal, context: click.Context, topic: str | None) -> None:
    """Explain a command, or a topic: exit-codes."""
    parent = context.parent
    assert parent is not None
    if topic == "exit-codes":
        rows = [f"{code.value:>4}  {meaning}" for code, meaning in MEANINGS.items()]
        terminal.data("\n".join(["code  meaning", *rows]))
        return
    if topic is None:
        terminal.data(parent.get_help())
        return
    group = parent.command
    assert isinstance(group, click.Group)
    found = group.get_command(parent, topic)
    if found is None:
        raise click.UsageError(f'no command or topic "{topic}" (topics: exit-codes)', parent)
    with click.Context(found, info_name=topic, parent=parent) as inner:
        terminal.data(found.get_help(inner))
