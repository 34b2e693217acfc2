"""A compiler that lived through a history of edits gives what a fresh one gives, and works only for what changed."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlplane.compile import hosts
from controlplane.names import Family
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import rows
from tests.compile import worlds
from tests.compile.lived import CERTIFICATES, VIEWS, Lived, add_views


@settings(max_examples=60, deadline=None)
@example(47346, 1, hosts.MAX_FLOATING)  # a team's path that the gateway has in one shard and not in another
@given(st.integers(0, 2**32), st.integers(1, 14), st.sampled_from((hosts.MAX_FLOATING, 2)))
def test_a_history_of_edits_ends_where_a_fresh_compiler_begins(seed: int, steps: int, crowd: int) -> None:
    """`crowd`: hosts that become and cease to be crowded (`hosts.MAX_FLOATING`) are a part of the history."""
    with patch.object(hosts, "MAX_FLOATING", crowd):
        _live_through(Random(seed), steps)


def _live_through(random: Random, steps: int) -> None:
    lived = Lived()
    objects: dict[Any, worlds.Said] = {}
    secrets: set[str] = set()
    grpc = False
    for _ in range(steps):
        for _ in range(random.choice((1, 1, 1, 4))):
            match random.randrange(8):
                case 0 | 1 | 2:
                    said = worlds.gateway(random, random.choice(worlds.GATEWAYS))
                case 3 | 4 | 5:
                    said = worlds.route_spec(random, random.choice(sorted(worlds.SPECS)))
                case 6 if objects:
                    gone = random.choice(sorted(objects))
                    del objects[gone]
                    lived.compiler.remove(gone)
                    continue
                case _:
                    name = random.choice(worlds.SECRETS)
                    secret_ref, secret = CERTIFICATES[name]
                    if name in secrets:
                        lived.compiler.remove_secret(secret_ref)
                    else:
                        lived.compiler.put_secret(secret_ref, secret)
                    secrets ^= {name}
                    continue
            ref = worlds.ref(said)
            if ref in objects and random.random() < 0.7:
                said = worlds.changed(random, objects[ref], said)
            objects[ref] = said
            lived.compiler.put(ref, worlds.split(said))
        grpc = grpc or random.random() < 0.3  # the first such node may come late
        add_views(lived.compiler, objects, grpc=grpc)
        lived.commit()

        fresh = Lived()
        for ref, said in sorted(objects.items(), reverse=True):
            fresh.compiler.put(ref, worlds.split(said))
        for name in sorted(secrets):
            fresh.compiler.put_secret(*CERTIFICATES[name])
        history, said = lived.compiler.tables, fresh.compiler.tables  # history is an input
        for kept in ("kept_chains", "kept_limits", "kept_gateways"):
            for key, row in getattr(history, kept).rows.items():
                said.graph.set(getattr(said, kept), key, row)
        add_views(fresh.compiler, objects, grpc=grpc)
        fresh.commit()
        failures = {(table, key): error for table, key, error in fresh.compiler.tables.graph.failures()}
        assert all(table.endswith("_certificates") for table, _ in failures), failures
        assert fresh.compiler.grpc is None or not list(fresh.compiler.grpc.tables.graph.failures())
        for view in VIEWS:
            for family in Family:
                assert lived.compiler.resources(view, family) == fresh.compiler.resources(view, family)
        assert lived.published == fresh.published
        assert lived.issues == fresh.issues
    for ref in list(objects):
        lived.compiler.remove(ref)
    for name in secrets:
        lived.compiler.remove_secret(CERTIFICATES[name][0])
    lived.commit()
    for limit in list(lived.compiler.tables.kept_limits.rows):
        lived.compiler.release_limit(limit)
    lived.commit()
    assert lived.published == {}
    assert lived.issues == {}
    graphs = [lived.compiler.tables.graph, *([lived.compiler.grpc.tables.graph] if lived.compiler.grpc else [])]
    assert {table.name: table.rows for graph in graphs for table in graph.tables if table.rows} == {}


GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity: {jwt: [{name: corp, issuer: i, audiences: [a], jwks: {uri: "https://id.test/jwks"}}]}
  policies: [{name: limit, rateLimit: {local: [{requests: 1, per: minute}]}}]
  backends:
    - {name: web, members: [{static: {address: 127.0.0.1, port: 9000}}]}
  routes:
"""
ROUTE = """\
    - {name: r%d, hosts: [shop.example.com], match: [{path: {prefix: /s%d/r%d}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: web}]}
"""


def put(lived: Lived, text: str) -> tuple[int, int]:
    """Put the one document of a text; how many tasks ran and how many resources were published."""
    [parsed] = parse_text(text, "edge.yaml")
    assert parsed.ref is not None, parsed.diagnostics
    assert parsed.document is not None, parsed.diagnostics
    lived.compiler.put(parsed.ref, rows(parsed.ref, parsed.document))
    before = lived.compiler.tables.graph.runs
    published = lived.commit()
    return lived.compiler.tables.graph.runs - before, published


def test_an_edit_of_one_route_among_thousands_is_small() -> None:
    lived = Lived()
    routes = [ROUTE % (number, number % 200, number) for number in range(2000)]
    put(lived, GATEWAY + "".join(routes))
    edited = [*routes]
    edited[777] = routes[777].replace("to:", "timeouts: {request: 3s}, to:")
    runs, published = put(lived, GATEWAY + "".join(edited))
    assert (runs <= 8, published) == (True, 1)
    del edited[777]
    runs, published = put(lived, GATEWAY + "".join(edited))
    assert (runs <= 8, published) == (True, 1)
    edited.insert(5, ROUTE % (777, 999, 777))
    runs, published = put(lived, GATEWAY + "".join(edited))
    assert (runs <= 8, published) == (True, 1)
    runs, published = put(lived, (GATEWAY + "".join(edited)).replace("port: 9000", "port: 9001"))
    assert (runs <= 2010, published) == (True, 1)


def test_comments_and_order_mean_nothing() -> None:
    lived = Lived()
    routes = [ROUTE % (number, number % 4, number) for number in range(20)]
    put(lived, GATEWAY + "".join(routes))
    assert put(lived, "# a comment\n" + GATEWAY + "    # another\n" + "".join(routes)) == (0, 0)
    assert put(lived, GATEWAY + "".join(reversed(routes))) == (0, 0)


def test_a_missing_backend_costs_one_look_at_what_could_be_meant() -> None:
    """Every backend of other documents used to be compared with a misspelt name, by every route that has one."""
    lived = Lived()
    put(lived, GATEWAY + ROUTE % (1, 1, 1))
    other = GATEWAY.split("spec:", maxsplit=1)[0].replace("GatewaySpec", "RouteSpec").replace("edge", "pay")
    body = "spec:\n  gateway: platform/edge\n  backends: [{name: %s, members: [{static: {address: 127.0.0.1, port: 9000}}]}]\n  routes:\n"
    put(lived, other + body % "pay" + (ROUTE % (2, 2, 2)).replace("backend: web", "backend: gone"))
    third = other.replace("name: pay", "name: mail")
    runs, _ = put(lived, third + body % "mail" + ROUTE % (3, 3, 3))
    [issue] = [issue for found in lived.issues.values() for issue in found]
    assert issue.help == "known: pay, web"
    again, _ = put(lived, third + body % "post" + ROUTE % (3, 3, 3))
    assert again < runs
    assert [issue for found in lived.issues.values() for issue in found] == [issue]
