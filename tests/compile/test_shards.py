"""Shards hold what one plain table would hold: compiled scopes, looked up as Envoy does, against the plain matcher."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from envoy.config.route.v3 import scoped_route_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.compile import codes, hosts
from controlplane.compile.compiler import Compiler
from controlplane.compile.match import order, segment
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.names import ElementKey, GatewayName
from controlplane.spec.match import Match
from tests.compile import worlds
from tests.compile.lookup import Lookup
from tests.compile.reference import Outcome, Request, decide
from tests.compile.shard_cases import AUTH, GROUP, gateway, request, routes


def lookup(said: list[dict[str, Any]]) -> Lookup:
    document = gateway(said)
    compiler = Compiler()
    compiler.put(worlds.ref(document), worlds.split(document))
    compiler.commit_now()
    assert not list(compiler.tables.graph.failures())
    return Lookup(compiler.resources((GatewayName("platform/shop"),)), GROUP)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.sampled_from((hosts.MAX_FLOATING, 3)))
def test_shards_hold_what_one_plain_table_holds(seed: int, count: int, crowd: int) -> None:
    random = Random(seed)
    said = routes(random, count)
    with patch.object(hosts, "MAX_FLOATING", crowd):
        shards = lookup(said)
    for _ in range(60):
        asked = request(random, said)
        assert shards.decide(asked) == decide(said, asked), asked


def route(name: str, path: dict[str, str], host: str = "a.test", **more: Any) -> dict[str, Any]:
    route = {"name": name, "hosts": [host], "match": [{"path": path}], "respond": {"status": 200, "body": name}, **more}
    return route if "auth" in more else {**route, "public": True}


def test_the_longer_of_two_prefixes_wins_whatever_their_names() -> None:
    shards = lookup([route("a", {"prefix": "/api"}), route("b", {"prefix": "/api/"})])
    assert shards.decide(Request("a.test", "/api/x")) == Outcome(200, "b")
    assert shards.decide(Request("a.test", "/api")) == Outcome(200, "a")


def test_a_path_of_slashes_is_sent_to_the_root() -> None:
    """Envoy leaves `//`; an exact `/` with auth must not be passed by on the way to a public prefix."""
    shards = lookup([route("root", {"exact": "/"}, auth={"anyOf": [{"jwt": "corp"}]}), route("open", {"prefix": "/"})])
    assert shards.decide(Request("a.test", "/")) == Outcome(401, "root")
    for path in ("//", "///", "//./", "/x/..//"):
        assert shards.decide(Request("a.test", path)) == Outcome(307)
    assert shards.decide(Request("b.test", "//")) == Outcome(404)


def test_a_miss_inside_a_known_host_falls_through_to_no_other_host() -> None:
    shards = lookup(
        [
            route("named", {"prefix": "/only"}, "x.a.test"),
            route("wild", {"prefix": "/"}, "*.a.test"),
            route("any", {"prefix": "/"}, "*"),
        ]
    )
    for spelling in ("x.a.test", "X.A.test", "x.a.test:80", "x.a.test.", "X.a.test.:80"):
        assert shards.decide(Request(spelling, "/other")) == Outcome(404)
        assert shards.decide(Request(spelling, "/only/x")) == Outcome(200, "named")
    assert shards.decide(Request("y.a.test", "/only")) == Outcome(200, "wild")
    assert shards.decide(Request("test", "/only")) == Outcome(200, "any")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ({"prefix": "/"}, None),
        ({"exact": "/"}, None),
        ({"prefix": "/api"}, "api"),
        ({"prefix": "/api/"}, "api"),
        ({"exact": "/api/x"}, "api"),
        ({"prefix": "/a;b"}, None),
        ({"prefix": "/caf%C3%A9"}, None),
        ({"prefix": "/" + "s" * 255}, "s" * 255),
        ({"prefix": "/" + "s" * 256}, None),
        ({"template": "/{a}/x"}, None),
        ({"template": "/api/{a}"}, "api"),
        ({"template": "/**"}, None),
        ({"regex": "/api/.*"}, "api"),
        ({"regex": "^/api/x$"}, "api"),
        ({"regex": "/api"}, "api"),
        ({"regex": r"/b\.c/.*"}, "b.c"),
        ({"regex": "/b.c/.*"}, None),
        ({"regex": "/api.*"}, None),
        ({"regex": "/api/?"}, None),
        ({"regex": "/api/*x"}, None),
        ({"regex": "/api/{0,1}x"}, None),
        ({"regex": "/api/+x"}, None),
        ({"regex": "/api|/b"}, None),
        ({"regex": "/api/(x|y)"}, "api"),
        ({"regex": "/api/[(]x|/y"}, None),
        ({"regex": "(?i)/api/x"}, None),
        ({"regex": "/(api)/x"}, None),
        ({"regex": "/api$"}, None),
    ],
)
def test_the_literal_first_segment(path: dict[str, str], expected: str | None) -> None:
    """Whatever could match a path of another segment floats; floating is never wrong, only slower."""
    assert segment(Match.model_validate({"path": path}).path) == expected


def test_floating_routes_do_not_multiply_without_bound() -> None:
    """One more than a host may copy into its segments: one table, the same answers, and somebody is told."""
    segments = [route(f"s{number:03}", {"prefix": f"/s{number}"}) for number in range(50)]
    floating = [route(f"f{number:03}", {"regex": f".*[.]{number}"}, auth=AUTH) for number in range(hosts.MAX_FLOATING)]
    few, many = [*segments, *floating], [*segments, *floating, route("last", {"regex": ".*[.]last"}, auth=AUTH)]
    for said, shards in ((few, len(segments) + 1), (many, 1)):
        found = lookup(said)
        assert len(found.scopes) == shards + 1  # and the last resort of the port
        for target in ("/s7/x", "/s7/x.3", "/x.3", "/s7", "/x"):
            assert found.decide(Request("a.test", target)) == decide(said, Request("a.test", target))
    document = gateway(many)
    compiler = Compiler()
    compiler.put(worlds.ref(document), worlds.split(document))
    [(_, [said])] = compiler.commit_now().issues.items()
    assert (said.code, said.path) == (codes.CROWDED, "spec.routes[last].match[0].path")
    assert "65 matches without a literal first segment" in said.message


def test_names_decide_only_between_equals() -> None:
    def key(name: str, **said: Any) -> Any:
        match = Match.model_validate({"path": {"prefix": "/api"}, **said})
        return order(match, "", ElementKey(worlds.ref(gateway([])), name), 0)

    conditions = {"headers": [{"name": "x", "present": True}]}
    assert key("b", methods=["GET"]) < key("a")
    assert key("b", **conditions) < key("a")
    assert key("b", query=[{"name": "v", "present": True}]) < key("a")
    assert key("b", methods=["GET"]) < key("a", **conditions)
    assert key("a") < key("b")


def test_spliced_bytes_are_those_of_the_whole_message() -> None:
    """Shards are put together as bytes; another serialiser of the same content must give the same versions."""
    document = gateway([route("a", {"prefix": "/api"}), route("b", {"template": "/{x}"}, "*.b.test")])
    compiler = Compiler()
    compiler.put(worlds.ref(document), worlds.split(document))
    compiler.commit_now()
    shards = [one for one in compiler.resources((GatewayName("platform/shop"),)) if one.type_url == SCOPED_ROUTE]
    assert len(shards) == 4
    for shard in shards:
        message = scoped_route_pb2.ScopedRouteConfiguration.FromString(shard.body)
        assert message.SerializeToString(deterministic=True) == shard.body
