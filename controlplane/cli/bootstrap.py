"""`controlplane bootstrap`: what an Envoy needs to become a node of this control plane, certificates inline."""

from __future__ import annotations

from pathlib import Path

import click

from controlplane.cli.options import DIRECTORY, duration, examples, node_labels, speaking
from controlplane.cli.terminal import Terminal


@click.command(
    epilog=examples(
        "controlplane bootstrap --state state --xds cp.example.com:18000 \\",
        "    --node-id edge-1 --node-cluster edge --label role=edge > envoy.yaml",
        "envoy --config-path envoy.yaml",
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
) -> None:
    """Print an Envoy bootstrap for one node. It holds a private key: keep the file to yourself."""
    from controlplane.bootstrap import address, bootstrap, render
    from controlplane.cli.pki import authority
    from controlplane.cli.revoke import refuse_denied
    from controlplane.errors import ConfigurationError

    wanted = node_labels(labels)
    life = duration(lifetime)
    try:
        address(xds, "--xds")
        if not insecure:
            refuse_denied(state, node_id)
        signer = None if insecure else authority(terminal, state)
        document = bootstrap(node_id, node_cluster, wanted, xds, admin, signer, lifetime=life)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    terminal.data(render(document))
