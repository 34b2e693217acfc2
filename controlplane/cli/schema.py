"""`controlplane schema`: JSON Schema of what users write, so that editors complete and check."""

from __future__ import annotations

from typing import Any

import click

from controlplane.cli.options import examples, output, speaking
from controlplane.cli.terminal import Terminal

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@click.command(
    epilog=examples(
        "controlplane schema > gatewayspec.schema.json",
        "controlplane schema --kind RouteSpec -o yaml",
        "controlplane schema --kind Configuration      of the file for serve --config",
    )
)
@click.option(
    "--kind",
    type=click.Choice(["all", "GatewaySpec", "RouteSpec", "Configuration"]),
    default="all",
    show_default=True,
    help="Which kind; all is either document kind.",
)
@output("json", "yaml")
@speaking
def command(terminal: Terminal, kind: str, output_format: str) -> None:
    """Print the JSON Schema of a kind."""
    from controlplane.cli.documents import structured

    terminal.data(structured(schema(kind), output_format))


def schema(kind: str = "all") -> dict[str, Any]:
    """The schema of a kind, or of any document."""
    from pydantic import TypeAdapter

    from controlplane.spec.gateway import KINDS

    if kind == "Configuration":
        from controlplane.config import Configuration

        return {"$schema": DIALECT, **Configuration.model_json_schema(by_alias=True)}
    if kind in KINDS:
        return {"$schema": DIALECT, **KINDS[kind].model_json_schema(by_alias=True)}
    both: Any = KINDS["GatewaySpec"] | KINDS["RouteSpec"]
    return {"$schema": DIALECT, "title": "gatewayspec.dev/v1alpha1", **TypeAdapter(both).json_schema(by_alias=True)}
