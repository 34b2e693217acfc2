"""`controlplane pki`: the private authority of a state folder: what it holds, new certificates, a new authority."""

from __future__ import annotations

import os
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
    """The authority of a state folder; it says so when it had to be made. Raises Failure and ConfigurationError."""
    from controlplane.pki.authority import Authority

    present = (state / "ca" / "ca.key").exists()
    if not present and not make:
        raise Failure(Exit.FAILED, f"no certificate authority in {state}", "serve, bootstrap and pki issue make one")
    found = Authority.open(state)
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
    """List certificates and how long they live; never a key. Exit code 1 when one has ended."""
    statuses = authority(terminal, state, make=False).certificates()
    ending = [status for status in statuses if status.remaining <= timedelta(days=warn_days)]
    code = Exit.PROBLEMS if ending else Exit.OK
    if output_format == "table":
        terminal.data(_table(statuses, terminal))
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
        terminal.data(structured({"formatVersion": "1.0", "certificates": listed}, output_format))
    for status in ending:
        state_word = "has ended" if status.expired else f"ends in {status.remaining.days} days"
        terminal.problem(f"{terminal.paint('warning', Paint.WARNING)}: {status.role} {status.subject} {state_word}")
    return code


def _table(statuses: list[CertificateStatus], terminal: Terminal) -> str:
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
    life = duration(lifetime)
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
    """Write a file that only its owner can read, in one step."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    beside.replace(file)


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
    """Let a new authority issue from now on; the old one stays trusted until you distrust it."""
    from controlplane.errors import ConfigurationError

    signer = authority(terminal, state, make=False)
    if distrust is not None:
        if not dry_run:
            try:
                signer.distrust(_whole_fingerprint(signer, distrust))
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
    terminal.say("next: give each proxy a new bootstrap, then: controlplane pki rotate --distrust " + old)


def _whole_fingerprint(signer: Authority, beginning: str) -> str:
    """The fingerprint that begins so, when there is only one; else the text as it is."""
    found = [one.fingerprint for one in signer.certificates() if one.fingerprint.startswith(beginning.lower())]
    return found[0] if len(found) == 1 and len(beginning) >= 8 else beginning
