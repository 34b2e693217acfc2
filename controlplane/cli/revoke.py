"""`controlplane pki revoke`: who may not connect any more, in the state folder of a control plane."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controlplane.cli.exit import Exit, Failure
from controlplane.cli.options import DIRECTORY, examples, speaking
from controlplane.cli.terminal import Terminal

if TYPE_CHECKING:  # loads cryptography
    from controlplane.pki.denial import Entry

_OF_A_STATE_FOLDER = ("ca", "state.sqlite", "denied")
"""One of them is in every state folder. Elsewhere a control plane would never read who is denied."""


@click.command(
    epilog=examples(
        "controlplane pki revoke --state state --node-id edge-1 --reason 'stolen'",
        "controlplane pki revoke --state state --serial $(openssl x509 -in node.crt -noout -serial | cut -d= -f2)",
        "controlplane pki revoke --state state --list",
        "controlplane pki revoke --state state --node-id edge-1 --lift",
    )
)
@click.option("--state", type=DIRECTORY, default="state", show_default=True, help="The state folder.")
@click.option("--node-id", "nodes", metavar="ID", multiple=True, help="A node, whatever its certificate; repeat it.")
@click.option("--serial", "serials", metavar="HEX", multiple=True, help="One certificate, in hexadecimal; repeat it.")
@click.option("--reason", metavar="TEXT", default="", help="A remark for whoever reads the list.")
@click.option("--lift", is_flag=True, help="Let them in again.")
@click.option("--list", "listing", is_flag=True, help="Only print who is denied.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@speaking
def revoke(
    terminal: Terminal,
    state: Path,
    nodes: tuple[str, ...],
    serials: tuple[str, ...],
    reason: str,
    lift: bool,
    listing: bool,
    dry_run: bool,
) -> None:
    """Deny a node or a certificate from now on.

    A running control plane ends its streams within seconds, and lets it in no more.
    """
    from controlplane.errors import ConfigurationError
    from controlplane.pki import denial

    if listing and (nodes or serials or reason or lift or dry_run):
        raise click.UsageError("--list only prints; nothing but --state goes with it")
    wanted = _wanted(nodes, serials, reason)
    if not wanted and not listing:
        raise click.UsageError("whom? say --node-id ID or --serial HEX (`pki issue` and /v1/nodes print both)")
    _check_folder(state)
    try:
        known = denial.listed(state)
        if listing:
            terminal.data("\n".join(one.line for one in known))
            return
        if dry_run:
            denied = {(one.kind, one.name) for one in known}
            changed = [one for one in wanted if ((one.kind, one.name) in denied) is lift]
        else:
            changed = denial.lift(state, wanted) if lift else denial.add(state, wanted, datetime.now(UTC))
    except ConfigurationError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    _say(terminal, wanted, changed, lift=lift, dry_run=dry_run)


def _wanted(nodes: Sequence[str], serials: Sequence[str], reason: str) -> list[Entry]:
    """Whom the options name. Raises UsageError for what cannot be in the list."""
    from controlplane.errors import ConfigurationError
    from controlplane.pki import denial

    try:
        named = [denial.entry(denial.Kind.NODE, name, reason) for name in nodes]
        return named + [denial.entry(denial.Kind.SERIAL, name, reason) for name in serials]
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _check_folder(state: Path) -> None:
    """Raises Failure for a folder that no control plane would read."""
    if not any((state / name).exists() for name in _OF_A_STATE_FOLDER):
        what = f"{state} is no state folder of a control plane" if state.is_dir() else f"no state folder {state}"
        raise Failure(Exit.FAILED, what, "serve and bootstrap make one; say which with --state")


def _say(terminal: Terminal, wanted: Sequence[Entry], changed: Sequence[Entry], *, lift: bool, dry_run: bool) -> None:
    """A line for each that was named, whether or not it changed anything."""
    word = ("would lift" if dry_run else "lifted") if lift else ("would deny" if dry_run else "denied")
    done = {(one.kind, one.name) for one in changed}
    for one in wanted:
        if (one.kind, one.name) in done:
            terminal.say(f"{word} {one.kind} {one.name}")
        else:
            terminal.say(f"{'not denied:' if lift else 'denied already:'} {one.kind} {one.name}")
    if changed and not lift and not dry_run:
        terminal.say("running control planes of this state folder end its streams within seconds")


def refuse_denied(state: Path, node_id: str) -> None:
    """Whoever is denied gets no certificate, which would be refused. Raises UsageError, and Failure."""
    from controlplane.errors import ConfigurationError
    from controlplane.pki import denial

    try:
        denied = any(one.kind is denial.Kind.NODE and one.name == node_id for one in denial.listed(state))
    except ConfigurationError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    if denied:
        lift = f"controlplane pki revoke --state {state} --node-id {node_id} --lift"
        raise click.UsageError(
            f"node {node_id} is denied, so its certificate would be refused; to let it in again: {lift}"
        )
