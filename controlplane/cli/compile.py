"""`controlplane compile`: what Envoy would get, for review, golden files and an Envoy without a control plane."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.exit import Exit, Failure, exit_code
from controlplane.cli.options import DIRECTORY, examples, output, speaking
from controlplane.cli.terminal import Terminal

if TYPE_CHECKING:
    from controlplane.names import GatewayName, View
    from controlplane.resources import Resource

TYPES = ("lds", "srds", "cds", "eds", "sds", "ecds")
"""In the order in which they are printed."""
GRPC_TYPES = ("lds", "rds", "cds", "eds")
"""What gRPC without a proxy gets."""
CLIENTS = ("envoy", "grpc")
"""`names.Family`, which is not imported for the sake of `--help`."""


def _types(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """`lds,cds` as a tuple; all types when nothing is said."""
    if value is None:
        return TYPES
    wanted = [part.strip().lower() for part in value.split(",")]
    known = dict.fromkeys((*TYPES, *GRPC_TYPES))
    unknown = [part for part in wanted if part not in known]
    if unknown:
        raise click.BadParameter(f'"{unknown[0]}" is none of {", ".join(known)}', context, parameter)
    return tuple(one for one in known if one in wanted)


@click.command(
    epilog=examples(
        "controlplane compile specs --gateway platform/shop",
        "controlplane compile specs --type lds,srds -o json",
        "controlplane compile specs --client grpc --type rds",
        "controlplane compile specs --secrets secrets --static > envoy.yaml && envoy -c envoy.yaml",
    )
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--gateway",
    "gateways",
    metavar="NS/NAME",
    multiple=True,
    help="Whose resources; several are merged as one proxy sees them. Default: the only one.",
)
@click.option("--type", "types", metavar="TYPE[,TYPE]", callback=_types, help=f"Only these: {','.join(TYPES)}.")
@click.option(
    "--client",
    type=click.Choice(CLIENTS),
    default="envoy",
    show_default=True,
    help="Whose form: an Envoy's, or that of gRPC without a proxy, with what is withheld from it.",
)
@click.option("--static", is_flag=True, help="One standalone Envoy configuration that needs no control plane.")
@click.option("--secrets", type=DIRECTORY, help="The folder of secrets; bytes of private keys are never printed.")
@output("yaml", "json")
@speaking
def command(
    terminal: Terminal,
    paths: tuple[str, ...],
    gateways: tuple[str, ...],
    types: tuple[str, ...],
    client: str,
    static: bool,
    secrets: Path | None,
    output_format: str,
) -> int:
    """Print what Envoy gets; equal specs give equal bytes. PATH is a file, a folder, or -."""
    from controlplane.cli.ahead import ahead_of
    from controlplane.names import GATEWAY_KIND, Family

    if static and types != TYPES:
        raise click.UsageError("--static is a whole configuration; --type does not go with it")
    family = Family(client)
    if family is Family.GRPC:
        if static:
            raise click.UsageError("--static is a configuration of Envoy; gRPC has none")
        types = GRPC_TYPES if types == TYPES else types
    with ahead_of(paths) as ahead:
        from controlplane.bootstrap import hardening
        from controlplane.cli import render
        from controlplane.cli.documents import read, structured
        from controlplane.cli.offline import compiled
        from controlplane.compile.standalone import standalone

        found = read(paths, ahead.load)
    view = _sorted_names(gateways)
    there = _sorted_names(one.ref.full_name for one in found.objects if one.ref.kind == GATEWAY_KIND)
    seen = view or (there if len(there) == 1 else None)
    result, diagnostics = compiled(found, secrets, seen, family, says_what_is_left_out=True)
    code = exit_code(diagnostics)
    texts = render.Texts(found.texts)
    for diagnostic in diagnostics:
        terminal.problem(render.text(diagnostic, texts, terminal) + "\n")
    broken = {diagnostic.subject for diagnostic in diagnostics}
    misnamed = [name for name in view if name not in result.gateways and f"{GATEWAY_KIND} {name}" not in broken]
    chosen = _chosen(view, misnamed, result.gateways, code, terminal)
    if chosen:
        resources = result.resources(chosen, family)
        folder = secrets.absolute() if secrets else None
        if static:
            content = _sorted_maps(standalone(resources, folder) | hardening())
        else:
            content = _listed(chosen, resources, types)
        terminal.data(structured(content, output_format))
    return code


def _sorted_names(names: Iterable[str]) -> View:
    from controlplane.names import GatewayName

    return tuple(GatewayName(name) for name in sorted(set(names)))


def _chosen(view: View, misnamed: list[GatewayName], known: list[GatewayName], code: Exit, terminal: Terminal) -> View:
    """The gateways to print; () when there is none because of problems that were shown."""
    from controlplane.errors import nearest

    for name in misnamed:
        message, help = f'no gateway "{name}" in these specs', nearest(name, known)
        if code is Exit.OK:
            raise Failure(Exit.USAGE, message, help)
        terminal.error(message, help)
    if any(name not in known for name in view):
        return ()
    if view or len(known) == 1:
        return view or tuple(known)
    if not known:
        if code is not Exit.OK:
            return ()
        raise Failure(Exit.PROBLEMS, "no GatewaySpec in these specs", "a RouteSpec is compiled with its gateway")
    raise Failure(Exit.USAGE, "several gateways: which one?", f"--gateway {' or '.join(known[:8])}")


def _listed(view: View, resources: list[Resource], types: tuple[str, ...]) -> dict[str, Any]:
    from controlplane.compile.offline import SHORT_NAMES, as_dict

    by_type: dict[str, list[dict[str, Any]]] = {short: [] for short in types}
    short_names = {url: short for short, url in SHORT_NAMES.items()}
    for resource in resources:
        if (short := short_names[resource.type_url]) in by_type:
            entry = {"name": resource.name, "version": resource.version, "resource": _sorted_maps(as_dict(resource))}
            by_type[short].append(entry)
    return {"formatVersion": "1.0", "gateways": list(view), "resources": by_type}


def _sorted_maps(value: Any) -> Any:
    """The keys of protobuf maps come in any order; sorted, equal resources are equal texts."""
    if isinstance(value, dict):
        return {key: _sorted_maps(value[key]) for key in sorted(value, key=lambda key: (key not in _FIRST, key))}
    if isinstance(value, list):
        return [_sorted_maps(element) for element in value]
    return value


_FIRST = frozenset({"@type", "name"})
"""Keys that people look for first."""
