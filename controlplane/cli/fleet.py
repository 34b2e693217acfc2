"""`controlplane fleet`: where every proxy stands, what one has, and waiting until a version has arrived."""

from __future__ import annotations

import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import click

from controlplane.cli.admin import Unavailable, admin, ask
from controlplane.cli.exit import Exit, Failure
from controlplane.cli.options import duration, examples, output, speaking
from controlplane.cli.render import count, visible
from controlplane.cli.tables import age, one_line, place, structured, table
from controlplane.cli.terminal import Paint, Terminal

TYPES = ("cds", "eds", "sds", "lds", "ecds", "rds", "srds", "vhds", "rtds")
STATES = ("synced", "pending", "stale", "nack", "held", "ignored", "gone")
POLL_SECONDS = 0.25
ONE_LINE = 100
"""Characters of a proxy's message in a table; all of it is in the other formats."""


@click.group(
    name="fleet",
    epilog=examples(
        "controlplane fleet status",
        "controlplane fleet get edge-1 cds",
        "controlplane fleet wait 4f0c8d1a9b7e2c35 --percent 95 --timeout 60s",
    ),
)
def command() -> None:
    """The connected proxies: where they stand, what they have."""


@command.command(
    epilog=examples(
        "controlplane fleet status",
        "controlplane fleet status --state nack --state stale",
        "controlplane fleet status --gateway platform/shop --type cds,lds -o json",
    )
)
@click.option("--node", "nodes", metavar="PATTERN", multiple=True, help="Only these nodes; * stands for anything.")
@click.option("--gateway", "gateways", metavar="NS/NAME", multiple=True, help="Only nodes that see this gateway.")
@click.option("--type", "types", metavar="TYPE[,TYPE]", multiple=True, help=f"Only these: {','.join(TYPES)}.")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only rows in this state; repeat it.")
@admin
@output("table", "json", "yaml")
@speaking
def status(
    terminal: Terminal,
    nodes: tuple[str, ...],
    gateways: tuple[str, ...],
    types: tuple[str, ...],
    states: tuple[str, ...],
    admin: str,
    output_format: str,
) -> None:
    """One row for each proxy and type: its state, and for how long.

    synced: it has everything. pending: something is on its way, or waits. stale: a response has lacked its ACK for more
    than 5 s. nack: it refused something that is held back now. held: others refused something, which is held back from
    this one, too. ignored: there are resources of this type that it has not asked for. gone: it has left within the hour.
    """
    wanted = _types(types)
    answer = ask(admin, "/v1/nodes/status")
    rows = [
        row
        for row in answer["rows"]
        if (not nodes or any(fnmatchcase(row["node"], pattern) for pattern in nodes))
        and (not gateways or set(gateways) & set(row["gateways"]))
        and (not wanted or row["type"] in wanted)
        and (not states or row["state"] in states)
    ]
    if output_format != "table":
        structured(terminal, {**answer, "rows": rows}, output_format)
        return
    header = ("NODE", "TYPE", "STATE", "AGE", "NAMES", "GATEWAYS", "DETAIL")
    cells = [
        (
            row["node"],
            row["type"] or "-",
            row["state"],
            age(row["ageSeconds"]),
            "*" if row["wildcard"] else str(row["names"]),
            ",".join(row["gateways"]) or "-",
            _detail(row),
        )
        for row in rows
    ]
    terminal.data(table(header, cells, terminal, painted=2))
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    said = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    nodes_shown = count(len({row["node"] for row in rows}), "node")
    terminal.say(f"{nodes_shown}, sequence {answer['sequence']}: {said or 'nothing to show'}")


@command.command(
    epilog=examples(
        "controlplane fleet get edge-1 cds",
        "controlplane fleet get edge-1 lds --bodies -o yaml",
    )
)
@click.argument("node")
@click.argument("kind", metavar="TYPE", type=click.Choice(TYPES, case_sensitive=False))
@click.option("--bodies", is_flag=True, help="The content too, private keys redacted; with -o json or yaml.")
@admin
@output("table", "json", "yaml")
@speaking
def get(terminal: Terminal, node: str, kind: str, bodies: bool, admin: str, output_format: str) -> None:
    """What a proxy has of a type, since when, and from where.

    AGE is how long what is offered under the name has been as it is, or the process runs; FROM the element of a spec, or the
    secret, that it was made of.

    synced: acknowledged. pending: sent or to be sent. removing: to be removed. absent: asked for, and there is none. held:
    it, or one like it, refused the newest content, and has the version shown.
    """
    if bodies and output_format == "table":
        raise click.UsageError("--bodies needs -o json or -o yaml")
    answer = ask(admin, "/v1/nodes/resources", node=node, type=kind, **({"bodies": "1"} if bodies else {}))
    if output_format != "table":
        structured(terminal, answer, output_format)
        return
    cells = sorted(
        _resource(one, certificates=kind == "sds") for one in answer["resources"]
    )  # names of shards are hashes, their titles are not
    ends = ("ENDS",) if kind == "sds" else ()
    header = ("NAME", "VERSION", "STATE", "AGE", *ends, "FROM")
    terminal.data(table(header, cells, terminal, painted=2))
    terminal.say(f"{count(len(cells), 'resource')} of type {kind} on {node}")


@command.command(
    epilog=examples(
        "controlplane fleet wait 4f0c8d1a9b7e2c35",
        "controlplane fleet wait 1841 --percent 95 --timeout 2m",
        "controlplane fleet wait $(curl -s 127.0.0.1:18080/v1/gateways | jq -r '.gateways[0].version')",
    )
)
@click.argument("version")
@click.option("--percent", type=click.FloatRange(0, 100, min_open=True), default=100.0, show_default=True,
              help="The share of the proxies that see the gateway.")  # fmt: skip
@click.option("--timeout", metavar="DURATION", default="60s", show_default=True, help="How long to wait.")
@admin
@output("text", "json", "yaml")
@speaking
def wait(terminal: Terminal, version: str, percent: float, timeout: str, admin: str, output_format: str) -> Exit:
    """Wait until proxies have acknowledged a version.

    VERSION is a gateway's, as /v1/gateways shows it (its first characters will do), or the sequence number of a publication.
    Later versions count: who has them has had this one. Exit code 0: acknowledged; 75: not in time; 79: so many proxies
    lack something that was refused that it cannot be reached; 69: no control plane answers.
    """
    deadline = time.monotonic() + duration("--timeout", timeout).total_seconds()
    answer: dict[str, Any] | None = None
    while True:
        try:
            answer = ask(admin, "/v1/nodes/progress", version=version)
        except Unavailable:
            if time.monotonic() >= deadline or answer is None:
                raise  # one that restarts meanwhile is waited for
        else:
            code = _verdict(answer, percent)
            if code is not None or time.monotonic() >= deadline:
                break
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
    code = Exit.TIMED_OUT if code is None else code
    if output_format != "text":
        structured(terminal, answer, output_format)
    if code is Exit.OK:
        terminal.say(terminal.paint(f"{_share(answer)} have acknowledged {version}", Paint.GOOD))
        return code
    raise Failure(code, *_why(answer, percent))


@command.command(
    epilog=examples(
        "controlplane fleet routes checkout",
        'controlplane fleet routes "pay-*" --spec checkout/api',
        "controlplane fleet routes --spec platform/edge -o json",
    )
)
@click.argument("route", default="*")
@click.option("--spec", metavar="NS/NAME", default="*", help="Only routes of such documents; * stands for anything.")
@admin
@output("table", "json", "yaml")
@speaking
def routes(terminal: Terminal, route: str, spec: str, admin: str, output_format: str) -> None:
    """Where a route comes from, and which proxies have it.

    A row for each route: its spec and line, since when it is as it is, and how many proxies have it.

    ROUTE and --spec are what the access log of Envoy calls them; * stands for anything. AGE is that of the newest change of
    a shard that the route stands in, or of this process. synced: all proxies of its gateway have it. pending: some have not
    acknowledged it. held: it is held back from some, because a proxy refused it. absent: some are not offered it.
    """
    answer = ask(admin, "/v1/routes", route=route, spec=spec)
    if output_format != "table":
        structured(terminal, answer, output_format)
        return
    header = ("ROUTE", "SPEC", "STATE", "AGE", "PROXIES", "AT", "DETAIL")
    terminal.data(table(header, [_route(one) for one in answer["routes"]], terminal, painted=2))
    more = f"; {answer['more']} more are like that, say more of the name" if answer["more"] else ""
    terminal.say(f"{count(len(answer['routes']), 'route')}{more}")


def _route(one: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a route. Its state is the worst that a proxy has of it."""
    proxies = one["proxies"]
    there = [state for state in proxies if proxies[state]["count"]]
    ages = [shard["ageSeconds"] for shard in one["shards"]]
    detail = [one_line(problem) for problem in one["problems"]]
    detail += [f"{state}: {', '.join(proxies[state]['nodes'][:4])}" for state in reversed(there) if state != "synced"]
    return (
        one["route"],
        one["spec"].partition(" ")[2],
        there[-1] if there else "-" if one["shards"] else "absent",
        age(min(ages)) if ages else "-",
        f"{proxies['synced']['count']}/{sum(of['count'] for of in proxies.values())}",
        place(one) or "-",
        "; ".join(detail),
    )


def _verdict(answer: dict[str, Any], percent: float) -> Exit | None:
    """None: not yet. A share of nobody is never reached."""
    nodes = answer["nodes"]
    if nodes and 100 * answer["acknowledged"] >= percent * nodes:
        return Exit.OK
    if nodes and 100 * (nodes - answer["refused"]) < percent * nodes:
        return Exit.REJECTED
    return None


def _why(answer: dict[str, Any], percent: float) -> tuple[str, str]:
    version = answer["version"]
    if not answer["published"]:
        return f'version "{version}" was not published', "/v1/gateways shows the version of each gateway"
    if not answer["nodes"]:
        return f"no proxy that {version} concerns is connected", "controlplane fleet status"
    missing = [visible(node) for node in answer["refusedBy"] + answer["waitingFor"]]
    said = f"{_share(answer)} have acknowledged {version}, {percent:g} % are needed"
    if answer["refused"]:
        said += f"; something was refused by, or is held back from, {answer['refused']}"
    return f"{said}: {', '.join(missing[:8])}{', …' if len(missing) > 8 else ''}", "controlplane fleet status"


def _share(answer: dict[str, Any]) -> str:
    return f"{answer['acknowledged']} of {answer['nodes']} proxies"


def _types(values: Iterable[str]) -> set[str]:
    wanted = {part.strip().lower() for value in values for part in value.split(",")}
    if unknown := wanted.difference(TYPES):
        raise click.UsageError(f'--type: "{min(unknown)}" is none of {", ".join(TYPES)}')
    return wanted


def _resource(one: dict[str, Any], *, certificates: bool) -> tuple[str, ...]:
    made_of, since = one["from"], one["ageSeconds"]
    others = f" and {len(made_of) - 1} more" if len(made_of) > 1 else ""
    made = f"{made_of[0]}{others}" if made_of else "-"
    cells = one["title"], one["version"] or "-", one["state"], age(since) if since is not None else "-"
    ends = one.get("notAfter")
    return (*cells, *((f"{ends[:16]}Z" if ends else "-",) if certificates else ()), made)


def _detail(row: dict[str, Any]) -> str:
    if row["detail"] is None:
        return ""
    message = " ".join(row["detail"].split())
    message = message if len(message) <= ONE_LINE else f"…{message[1 - ONE_LINE :]}"
    return ": ".join([*row["at"][:1], message])
