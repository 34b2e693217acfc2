"""`controlplane init`: a starter project that `validate` accepts as it stands."""

from __future__ import annotations

from pathlib import Path

import click

from controlplane.cli.exit import Exit, Failure
from controlplane.cli.options import DIRECTORY, examples, speaking
from controlplane.cli.terminal import Terminal

FILES = ("README.md", "specs/gateway.yaml", "specs/hello.yaml")
"""What is written; the originals lie in `starter/`."""

IGNORED = "# Private keys and the state of the control plane are nobody's but this machine's.\n/secrets/\n/state/\n"


@click.command(epilog=examples("controlplane init shop", "controlplane init . --dry-run"))
@click.argument("directory", metavar="[DIR]", type=DIRECTORY, default=".")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@speaking
def command(terminal: Terminal, directory: Path, dry_run: bool, force: bool) -> None:
    """Write a commented starter project.

    A gateway, a team's routes, a README.
    """
    originals = Path(__file__).parent / "starter"
    contents = {name: (originals / name).read_text(encoding="utf-8") for name in FILES} | {".gitignore": IGNORED}
    present = [name for name in contents if (directory / name).exists()]
    if present and not force:
        raise Failure(
            Exit.FAILED, f"{directory / present[0]} is there already; nothing was written", "--force replaces"
        )
    for name, content in contents.items():
        file = directory / name
        if not dry_run:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        terminal.say(f"{'would write' if dry_run else 'wrote'} {file}")
    if not dry_run:
        secrets = directory / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        terminal.say(f"next: controlplane validate {directory / 'specs'}")
