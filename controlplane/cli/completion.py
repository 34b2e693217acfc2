"""`controlplane completion`: the script that teaches a shell our commands and options."""

from __future__ import annotations

import click

from controlplane.cli.options import examples, speaking
from controlplane.cli.terminal import Terminal

VARIABLE = "_CONTROLPLANE_COMPLETE"
"""The variable by which the script asks the program, as click derives it from the program's name."""


@click.command(
    epilog=examples(
        'eval "$(controlplane completion bash)"                      in ~/.bashrc',
        'eval "$(controlplane completion zsh)"                       in ~/.zshrc',
        "controlplane completion fish > ~/.config/fish/completions/controlplane.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@speaking
def command(terminal: Terminal, context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    root = context.find_root().command
    completion = get_completion_class(shell)
    assert completion is not None
    maker = completion(root, {}, "controlplane", VARIABLE)
    # Not `source()`: for bash that starts the bash found first on PATH to ask for its version.
    terminal.data(maker.source_template % maker.source_vars())
