"""`controlplane schema`: JSON Schema of what users write, so that editors complete and check."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from controlplane.cli.options import examples, output, speaking
from controlplane.cli.terminal import Terminal


@click.command(
    epilog=examples(
        "controlplane schema > gatewayspec.schema.json",
        "controlplane schema --kind RouteSpec -o yaml",
        "controlplane schema --kind Configuration      of the file for serve --config",
        "controlplane schema --crd | kubectl apply -f -",
    )
)
@click.option(
    "--kind",
    type=click.Choice(["all", "GatewaySpec", "RouteSpec", "Configuration"]),
    default="all",
    show_default=True,
    help="Which kind; all is either document kind.",
)
@click.option("--crd", is_flag=True, help="CustomResourceDefinitions instead; -o json gives one list.")
@output("json", "yaml")
@speaking
def command(terminal: Terminal, kind: str, crd: bool, output_format: str) -> None:
    """Print the JSON Schema of a kind."""
    from controlplane.cli.documents import structured

    if crd:
        asked = click.get_current_context().get_parameter_source("output_format") is not ParameterSource.DEFAULT
        terminal.data(_resource_definitions(kind, output_format if asked else "yaml"))
        return
    terminal.data(structured(_of_configuration() if kind == "Configuration" else _of_documents(kind), output_format))


def _resource_definitions(kind: str, output_format: str) -> str:
    """As `kubectl apply -f -` takes them: YAML documents, or a list in JSON."""
    from controlplane.cli.documents import structured
    from controlplane.spec.crd import definitions

    found = definitions()
    if kind != "all" and kind not in found:
        raise click.UsageError(f"there is no custom resource of kind {kind}")
    wanted = found.values() if kind == "all" else [found[kind]]
    if output_format == "json":
        return structured({"apiVersion": "v1", "kind": "List", "items": list(wanted)}, "json")
    return "---\n".join(structured(one, "yaml") for one in wanted)


def _of_documents(kind: str) -> dict[str, Any]:
    from controlplane.spec.schema import schema

    found = schema()
    if kind == "all":
        return found
    return {**{key: value for key, value in found.items() if key != "oneOf"}, "$ref": f"#/$defs/{kind}"}


def _of_configuration() -> dict[str, Any]:
    from pydantic.json_schema import GenerateJsonSchema

    from controlplane.config import Configuration, Endpoint
    from controlplane.model.written import format_duration
    from controlplane.spec.schema import DIALECT

    class Written(GenerateJsonSchema):
        """Defaults as one would write them."""

        def default_schema(self, schema: Any) -> Any:
            found = super().default_schema(schema)
            if found.get("type") == "string" and isinstance(found.get("default"), float):  # a percentage
                found["default"] = f"{found['default']:g}%"
            return found

        def encode_default(self, dft: Any) -> Any:
            if isinstance(dft, timedelta):
                return format_duration(dft)
            return str(dft) if isinstance(dft, Endpoint | Path) else super().encode_default(dft)

    return {"$schema": DIALECT, **Configuration.model_json_schema(by_alias=True, schema_generator=Written)}
