"""`controlplane serve`: the control plane itself."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from controlplane.cli.options import DIRECTORY, examples, speaking
from controlplane.cli.terminal import Terminal, has_color


@click.command(
    epilog=examples(
        "controlplane serve --specs specs",
        "controlplane serve --specs specs --secrets secrets --xds 0.0.0.0:18000",
        "controlplane serve --config controlplane.yaml",
    )
)
@click.option("--specs", type=DIRECTORY, help="The folder of specs.")
@click.option("--secrets", type=DIRECTORY, help="The folder of secrets: NAMESPACE/NAME/tls.crt and so on.")
@click.option("--config", type=click.Path(path_type=Path), help="The process's own configuration; flags override it.")
@click.option("--state", type=DIRECTORY, help="The folder that survives a restart (default: state).")
@click.option("--xds", metavar="HOST:PORT", help="Where proxies connect (default: 127.0.0.1:18000).")
@click.option("--admin", metavar="HOST:PORT", help="The admin API, on loopback (default: 127.0.0.1:18080).")
@click.option("--insecure", is_flag=True, help="xDS without certificates; on loopback only.")
@speaking
def command(
    terminal: Terminal,
    specs: Path | None,
    secrets: Path | None,
    config: Path | None,
    state: Path | None,
    xds: str | None,
    admin: str | None,
    insecure: bool,
) -> int:
    """Run the control plane until SIGTERM or Ctrl-C.

    Edits of specs and secrets are served in milliseconds.
    """
    from controlplane.config import Configuration, Flags, read, with_flags
    from controlplane.errors import ConfigurationError

    configuration = read(config) if config is not None else Configuration()
    try:
        configuration = with_flags(
            configuration, Flags((specs,) if specs else (), secrets, state, xds, admin, insecure)
        )
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    if not configuration.sources.have_specs:
        raise click.UsageError(
            "no specs: say --specs DIR, or in --config sources.files, a cluster with specs: true (sources.kubernetes) or a "
            "datacenter with specs: PREFIX (sources.consul)"
        )

    from controlplane.xds import environment

    environment.prepare()  # before anything imports grpc
    from controlplane.app import serve
    from controlplane.telemetry import log

    log.configure(verbosity=terminal.verbosity, color=has_color(sys.stderr, terminal.color))
    return serve(configuration)
