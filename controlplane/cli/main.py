"""The entry point: finds the command, runs it, and turns every way of ending into an exit code of the one table.

A command is one module, named in `COMMANDS`, that imports click and nothing heavy; what it needs is imported when it
runs, so that `--help` of anything answers at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from controlplane import __version__
from controlplane.cli.exit import Exit, Failure, exit_code
from controlplane.cli.options import COLORS, examples
from controlplane.cli.render import Texts, text
from controlplane.cli.terminal import Color, Terminal, silence
from controlplane.errors import ControlPlaneError, InvalidInput

COMMANDS = {
    "demo": "controlplane.cli.demo",
    "init": "controlplane.cli.init",
    "validate": "controlplane.cli.validate",
    "compile": "controlplane.cli.compile",
    "schema": "controlplane.cli.schema",
    "serve": "controlplane.cli.serve",
    "fleet": "controlplane.cli.fleet",
    "changes": "controlplane.cli.changes",
    "sources": "controlplane.cli.sources",
    "bootstrap": "controlplane.cli.bootstrap",
    "pki": "controlplane.cli.pki",
    "version": "controlplane.cli.version",
    "completion": "controlplane.cli.completion",
    "help": "controlplane.cli.help",
}
"""Command name → module; the module's `command` is the command. In the order of a first acquaintance."""

PROGRAM = "controlplane"

_CLICK_PRINTS = frozenset({"-h", "--help", "--version"})
"""What click answers itself; everything else is printed by a `Terminal`."""


class Commands(click.Group):
    """The group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called; of one that is not there, which of ours are like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "controlplane demo                        see it work, here and now",
        "controlplane init shop                   begin a project",
        "controlplane validate shop/specs         check it",
        "controlplane serve --specs shop/specs    run it",
        "controlplane help exit-codes             what the exit codes mean",
    ),
)
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.option("-v", "--verbose", count=True, help="Say more; repeat for still more.")
@click.option("--color", type=click.Choice(COLORS), default="auto", help="When to use colours.", show_default=True)
@click.pass_context
def cli(context: click.Context, quiet: bool, verbose: int, color: str) -> None:
    """An Envoy control plane: GatewaySpecs in, configuration of real Envoys out."""
    context.obj = Terminal(Color(color), -1 if quiet else verbose)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one invocation and give its exit code; never raises for what a user can cause."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    terminal = _terminal_of(arguments)

    complain = terminal.error
    try:
        result = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        return int(result or Exit.OK)
    except SystemExit as ended:
        # So click ends when whoever read its own texts has gone, with 1, which means something else here.
        if ended.code == 1 and _CLICK_PRINTS.intersection(arguments):
            silence(sys.stdout)
            return Exit.OK
        raise
    except click.exceptions.NoArgsIsHelpError as error:
        terminal.problem(error.format_message())
        return Exit.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        complain(error.format_message(), f"{path} --help")
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except Failure as error:
        complain(str(error), error.help)
        return error.code
    except InvalidInput as error:
        for diagnostic in error.diagnostics:
            terminal.problem(text(diagnostic, Texts({}), terminal))
        return max(exit_code(error.diagnostics), Exit.PROBLEMS)
    except ControlPlaneError as error:
        complain(str(error))
        return Exit.FAILED
    except PermissionError as error:
        complain(_reason(error))
        return Exit.DENIED
    except OSError as error:
        complain(_reason(error))
        return Exit.FAILED
    except Exception as error:  # noqa: BLE001  the last line of defence: a bug must still end with a code of the table
        if terminal.verbosity > 0:
            import traceback

            terminal.problem(traceback.format_exc())
        complain(f"internal error: {type(error).__name__}: {error}", "this is a bug; -v shows where")
        return Exit.FAILED


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    gc.set_threshold(1_000_000, 1_000, 1_000)  # what a command reads it keeps until it ends: a tenth of `validate`
    os.environ.setdefault(
        "PYDANTIC_DISABLE_PLUGINS", "__all__"
    )  # nobody's business here, and searched for in every package
    code = int(run(arguments))
    gc.freeze()  # nor is it searched for cycles on the way out, which took as long again as to write the report
    sys.exit(code)


def _reason(error: OSError) -> str:
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return error.strerror or str(error)


def _terminal_of(arguments: Sequence[str]) -> Terminal:
    """How to speak of errors that click finds before any option is known."""
    verbosity, color = 0, Color.AUTO
    for index, argument in enumerate(arguments):
        following: Any = arguments[index + 1] if index + 1 < len(arguments) else ""
        value = argument.removeprefix("--color=") if argument.startswith("--color=") else following
        if argument.startswith("--color") and value in COLORS:
            color = Color(value)
        if argument in {"-v", "--verbose", "-vv", "-vvv"}:
            verbosity = 1
    return Terminal(color, verbosity)
