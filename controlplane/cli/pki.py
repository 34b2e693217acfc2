"""`controlplane pki`: the private authority of a state folder: what it holds, new certificates, a new authority."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controlplane.cli.exit import Exit, Failure
from controlplane.cli.options import DIRECTORY, duration, examples, node_labels, output, speaking
from controlplane.cli.revoke import refuse_denied, revoke
from controlplane.cli.terminal import Paint, Terminal

if TYPE_CHECKING:
    from controlplane.pki.authority import Authority, CertificateStatus, Issued

STATE = click.option("--state", type=DIRECTORY, default="state", show_default=True, help="The state folder.")


@click.group(
    name="pki",
    epilog=examples(
        "controlplane pki show --state state",
        "controlplane pki rotate --state state",
    ),
)
def command() -> None:
    """Certificates of the control plane and its proxies."""


command.add_command(revoke)


def authority(terminal: Terminal, state: Path, *, make: bool = True) -> Authority:
    """The authority of a state folder; it says so when it had to be made. Raises Failure when it cannot be used."""
    from controlplane.errors import ConfigurationError
    from controlplane.pki.authority import Authority

    present = (state / "ca" / "ca.key").exists()
    if not present and not make:
        raise Failure(Exit.FAILED, f"no certificate authority in {state}", "serve, bootstrap and pki issue make one")
    try:
        found = Authority.open(state)
    except ConfigurationError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    if not present:
        terminal.say(f"made a certificate authority in {found.folder}")
    return found


@command.command(
    epilog=examples(
        "controlplane pki show --state state", "controlplane pki show -o json", "controlplane pki show --warn-days 30"
    )
)
@STATE
@click.option(
    "--warn-days", type=click.IntRange(0), default=0, show_default=True, help="Exit 1 when one ends this soon."
)
@output("table", "json", "yaml")
@speaking
def show(terminal: Terminal, state: Path, warn_days: int, output_format: str) -> Exit:
    """List certificates and how long they live; never a key. Exit code 1 when one has ended, or cannot be read."""
    statuses = authority(terminal, state, make=False).certificates()
    soon = timedelta(days=min(warn_days, timedelta.max.days))
    ending = [status for status in statuses if status.remaining <= soon]
    unreadable = _unreadable(state, statuses)
    code = Exit.PROBLEMS if ending or unreadable else Exit.OK
    if output_format == "table":
        terminal.data(_table(statuses, unreadable))
    else:
        from controlplane.cli.documents import structured

        listed = [
            {
                "role": status.role,
                "subject": status.subject,
                "fingerprint": status.fingerprint,
                "serial": status.serial,
                "notBefore": status.not_before.isoformat(),
                "notAfter": status.not_after.isoformat(),
                "daysLeft": status.remaining.days,
                "expired": status.expired,
                "names": list(status.names),
            }
            for status in statuses
        ]
        also = [{"role": "server", "file": str(file)} for file in unreadable]
        terminal.data(structured({"formatVersion": "1.0", "certificates": listed, "unreadable": also}, output_format))
    for file in unreadable:
        warning = terminal.paint("warning", Paint.WARNING)
        terminal.problem(f"{warning}: {file} cannot be read as a certificate with its key; serve would make another")
    for status in ending:
        state_word = "has ended" if status.expired else f"ends in {status.remaining.days} days"
        terminal.problem(f"{terminal.paint('warning', Paint.WARNING)}: {status.role} {status.subject} {state_word}")
    return code


def _unreadable(state: Path, statuses: list[CertificateStatus]) -> list[Path]:
    """The file of the server's certificate, when it is there and no status is of it."""
    file = state / "server" / "server.pem"
    return [] if any(status.role == "server" for status in statuses) or not os.path.lexists(file) else [file]


def _table(statuses: list[CertificateStatus], unreadable: list[Path]) -> str:
    header = ("ROLE", "SUBJECT", "FINGERPRINT", "ENDS", "DAYS LEFT", "NAMES")
    rows = [
        (
            status.role,
            status.subject,
            status.fingerprint[:16],
            status.not_after.date().isoformat(),
            str(status.remaining.days),
            ", ".join(status.names),
        )
        for status in statuses
    ]
    rows += [("server", "unreadable", "-", "-", "-", str(file)) for file in unreadable]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


@command.command(
    epilog=examples(
        "controlplane pki issue --node-id edge-1 --node-cluster edge --label role=edge --out edge-1",
    )
)
@STATE
@click.option("--node-id", required=True, help="The proxy's name.")
@click.option("--node-cluster", metavar="NAME", required=True, help="The group that it belongs to.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="What the certificate attests; repeat it.")
@click.option("--lifetime", metavar="DURATION", default="2160h", show_default=True, help="Up to 2160h (90 days).")
@click.option("--out", type=DIRECTORY, required=True, help="The folder for node.crt, node.key (0600) and ca.crt.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@speaking
def issue(
    terminal: Terminal,
    state: Path,
    node_id: str,
    node_cluster: str,
    labels: tuple[str, ...],
    lifetime: str,
    out: Path,
    dry_run: bool,
) -> None:
    """Issue a certificate for a proxy, into files."""
    from controlplane.errors import ConfigurationError

    wanted = node_labels(labels)
    life = duration("--lifetime", lifetime)
    refuse_denied(state, node_id)
    signer = authority(terminal, state, make=not dry_run)
    try:
        issued = signer.issue_node(node_id, node_cluster, wanted, life)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    write_pairs(terminal, out, {"node": issued}, signer.trust_bundle, dry_run=dry_run)
    terminal.say(f"serial {signer.inspect(issued.certificate).serial}")


def write_pairs(
    terminal: Terminal, out: Path, pairs: Mapping[str, Issued], trust_bundle: bytes, *, dry_run: bool = False
) -> None:
    """The files of a node, which only their owner can read: whom it trusts, and certificates with their keys."""
    contents = {"ca.crt": trust_bundle}
    for name, issued in pairs.items():
        # The key last: whoever waits for it finds the others.
        contents |= {f"{name}.crt": issued.certificate, f"{name}.key": issued.key}
    _write(terminal, out, contents, dry_run=dry_run)


def write_files(terminal: Terminal, out: Path, texts: Mapping[str, str]) -> None:
    """What stands beside them."""
    _write(terminal, out, {name: text.encode() for name, text in texts.items()}, dry_run=False)


def _write(terminal: Terminal, out: Path, contents: Mapping[str, bytes], *, dry_run: bool) -> None:
    for name, content in contents.items():
        if not dry_run:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(out / name, content)
        terminal.say(f"{'would write' if dry_run else 'wrote'} {out / name}")


def _replace(file: Path, content: bytes) -> None:
    """Write a file that only its owner can read, in one step; nothing that somebody else put there is written to."""
    descriptor, beside = tempfile.mkstemp(
        prefix=f".{file.name}.", dir=file.parent
    )  # mode 0600, and never one that is there
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(beside).replace(file)
    finally:
        Path(beside).unlink(missing_ok=True)


@command.command(
    epilog=examples(
        "controlplane pki rotate --state state",
        "controlplane pki rotate --state state --distrust 3fa1…    once every proxy has a new certificate",
    )
)
@STATE
@click.option("--distrust", metavar="FINGERPRINT", help="Instead, trust this old authority no longer.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@speaking
def rotate(terminal: Terminal, state: Path, distrust: str | None, dry_run: bool) -> None:
    """Let a new authority issue from now on.

    The old one stays trusted until you distrust it.
    """
    from controlplane.errors import ConfigurationError

    signer = authority(terminal, state, make=False)
    if distrust is not None:
        fingerprint = _trusted_fingerprint(signer, distrust)
        if not dry_run:
            try:
                signer.distrust(fingerprint)
            except ConfigurationError as error:
                raise click.UsageError(str(error)) from error
        terminal.say(f"{'would distrust' if dry_run else 'distrusted'} {distrust}")
        return
    if dry_run:
        terminal.say(f"would make a new authority in {signer.folder}; the present one would stay trusted")
        return
    old = signer.rotate()
    terminal.data(old)
    terminal.say("a new authority issues; running control planes take it over by themselves")
    terminal.say(
        f"next: give each proxy a new bootstrap, then: controlplane pki rotate --state {state} --distrust {old}"
    )


def _trusted_fingerprint(signer: Authority, beginning: str) -> str:
    """The fingerprint of the one old authority that begins so. Raises UsageError."""
    roles = {one.fingerprint: one.role for one in signer.certificates() if one.role != "server"}
    found = [one for one in roles if one.startswith(beginning.lower())]
    if len(found) != 1 or len(beginning) < 8:
        known = (
            ", ".join(f"{one[:16]}…" for one, role in roles.items() if role == "trusted")
            or "none beside the one that issues"
        )
        reason = "several authorities begin so" if len(found) > 1 else "no old authority has this fingerprint"
        raise click.UsageError(f"--distrust {beginning}: {reason}; at least 8 characters (known: {known})")
    if roles[found[0]] == "issuing":
        raise click.UsageError(
            f"--distrust {beginning}: this authority issues; rotate first, then distrust the old one"
        )
    return found[0]
