"""`controlplane bootstrap`: what an Envoy, or gRPC without a proxy, needs to become a node of this control plane."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controlplane.cli.options import DIRECTORY, duration, examples, node_labels, speaking
from controlplane.cli.terminal import Terminal

if TYPE_CHECKING:
    from controlplane.pki.authority import Authority


@click.command(
    epilog=examples(
        "controlplane bootstrap --state state --xds cp.example.com:18000 \\",
        "    --node-id edge-1 --node-cluster edge --label role=edge > envoy.yaml",
        "envoy --config-path envoy.yaml",
        "controlplane bootstrap --certificates /etc/envoy/certs … > envoy.yaml    renewed by: controlplane pki issue --out",
        "controlplane bootstrap --grpc --certificates certs --state state --xds cp.example.com:18000 \\",
        "    --node-id till-1 --node-cluster tills --label role=edge > xds.json",
    )
)
@click.option(
    "--state", type=DIRECTORY, required=True, help="The state folder of the control plane; its authority signs."
)
@click.option("--xds", metavar="HOST:PORT", required=True, help="Where the proxy reaches the control plane.")
@click.option("--node-id", required=True, help="The proxy's name; unique in the fleet.")
@click.option("--node-cluster", metavar="NAME", required=True, help="The group that it belongs to.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="What gateways select it by; repeat it.")
@click.option("--admin", metavar="HOST:PORT", help="Envoy's own admin page, on loopback (default: a free port).")
@click.option(
    "--lifetime", metavar="DURATION", default="2160h", show_default=True, help="Of the certificate; the longest."
)
@click.option("--insecure", is_flag=True, help="Without certificates; on loopback only.")
@click.option("--grpc", is_flag=True, help="For gRPC without a proxy: a JSON document for GRPC_XDS_BOOTSTRAP.")
@click.option(
    "--certificates",
    type=DIRECTORY,
    help="Write certificates, keys and ca.crt there, to be renewed while the proxy runs, instead of into the bootstrap.",
)
@click.option(
    "--backend-ca", type=DIRECTORY, metavar="FILE", help="With --grpc: the authorities of backends (default: ca.crt)."
)
@speaking
def command(
    terminal: Terminal,
    state: Path,
    xds: str,
    node_id: str,
    node_cluster: str,
    labels: tuple[str, ...],
    admin: str | None,
    lifetime: str,
    insecure: bool,
    grpc: bool,
    certificates: Path | None,
    backend_ca: Path | None,
) -> None:
    """Print the bootstrap of one node. That of an Envoy holds a private key: keep the file to yourself."""
    from controlplane.bootstrap import address, bootstrap, render, sds_files
    from controlplane.cli.pki import authority, write_files, write_pairs
    from controlplane.cli.revoke import refuse_denied
    from controlplane.errors import ConfigurationError

    wanted = node_labels(labels)
    life = duration("--lifetime", lifetime)
    if grpc:
        _check_grpc(admin, certificates, insecure=insecure)
    elif backend_ca:
        raise click.UsageError("--backend-ca belongs to --grpc")
    elif certificates and insecure:
        raise click.UsageError("--certificates and --insecure contradict each other")
    try:
        address(xds, "--xds")
        if not insecure:
            refuse_denied(state, node_id)
        signer = None if insecure else authority(terminal, state)
        if grpc:
            node = (node_id, node_cluster, wanted)
            text = _grpc(terminal, node, xds, certificates, backend_ca, signer, life)
        else:
            document = bootstrap(
                node_id, node_cluster, wanted, xds, admin, signer, lifetime=life, certificates=certificates
            )
            if certificates is not None and signer is not None:
                pairs = {"node": signer.issue_node(node_id, node_cluster, wanted, life)}
                write_pairs(terminal, certificates, pairs, signer.trust_bundle)
                write_files(terminal, certificates, sds_files(certificates.absolute()))
            text = render(document)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    terminal.data(text)


def _grpc(
    terminal: Terminal,
    node: tuple[str, str, Mapping[str, str]],
    xds: str,
    certificates: Path | None,
    backend_ca: Path | None,
    signer: Authority | None,
    life: timedelta,
) -> str:
    """The document; a certificate is issued, and its files are written, once everything else is in order."""
    from controlplane.cli.pki import write_pairs
    from controlplane.grpc_bootstrap import grpc_bootstrap, render

    document = grpc_bootstrap(*node, xds, certificates, backend_ca, insecure=signer is None)
    if signer is not None and certificates is not None:
        pairs = {"server": signer.issue_serving(node[0], life), "node": signer.issue_node(*node, life)}
        write_pairs(terminal, certificates, pairs, signer.trust_bundle)
    return render(document)


def _check_grpc(admin: str | None, certificates: Path | None, *, insecure: bool) -> None:
    """Raises UsageError for options that do not go together."""
    if admin is not None:
        raise click.UsageError("--admin is for an Envoy; gRPC has no admin page")
    if certificates is None and not insecure:
        raise click.UsageError("gRPC reads its certificate from files: say --certificates DIR (or --insecure)")
