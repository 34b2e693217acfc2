"""Delegation: what a grant covers, who keeps a path that two want, and that deletion hands over."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2

from controlplane.compile.compiler import Compiler, issues_of
from controlplane.compile.grants import Grant, is_reserved, within
from controlplane.compile.offline import compile_objects
from controlplane.compile.xds_types import LOAD_ASSIGNMENT
from controlplane.names import GatewayName
from controlplane.spec.delegation import Delegate
from controlplane.spec.gateway import KINDS
from controlplane.spec.match import PathMatch
from controlplane.spec.rows import rows
from tests.compile import worlds
from tests.support.services import ref as service_ref
from tests.support.services import service


@pytest.mark.parametrize(
    ("prefix", "path", "granted"),
    [
        ("/pay", {"prefix": "/pay"}, True),
        ("/pay", {"exact": "/pay"}, True),
        ("/pay", {"exact": "/pay/x"}, True),
        ("/pay", {"exact": "/payments"}, False),
        ("/pay", {"prefix": "/"}, False),
        ("/pay/", {"exact": "/pay"}, False),
        ("/pay/", {"prefix": "/pay/"}, True),
        ("/pay", {"template": "/pay/{id}"}, True),
        ("/pay", {"template": "/{team}/pay"}, False),
        ("/pay", {"regex": "/pay/.*"}, True),
        ("/pay", {"regex": "/pay/(a|b)"}, True),
        ("/pay", {"regex": "/pay"}, True),
        ("/pay", {"regex": "/pay.*"}, False),
        ("/pay", {"regex": "/pay/?.*"}, False),
        ("/pay", {"regex": "/pay/.*|/admin"}, False),
        ("/pay", {"regex": "(/pay/.*)|(/admin)"}, False),
        ("/pay", {"regex": "/pay/[|a]x"}, True),
        ("/pay", {"regex": "/pay/[]|]x"}, True),
        ("/pay", {"regex": "/pay/[](]|/admin.*"}, False),
        ("/pay", {"regex": "/pay/[^](]|/admin.*"}, False),
        ("/pay", {"regex": "/pay/[[:alpha:](]|/admin.*"}, False),
        ("/pay", {"regex": "(?i)/pay/x"}, False),
        ("/pay", {"regex": ".*/pay/.*"}, False),
        ("/a.b", {"regex": r"/a\.b/.*"}, True),
        ("/a.b", {"regex": "/a.b/.*"}, False),
        ("/", {"regex": ".*"}, True),
    ],
)
def test_every_path_of_the_match_lies_below_the_prefix(prefix: str, path: dict[str, str], granted: bool) -> None:
    """One path outside of the grant would take requests from others."""
    assert within(prefix, PathMatch.model_validate(path)) is granted


def grant(**said: Any) -> Grant:
    delegate = {"name": "team", "namespaces": ["team"], "hosts": ["*.example.com"], **said}
    return Grant("team", (Delegate.model_validate(delegate),))


@pytest.mark.parametrize(
    ("networks", "address", "granted"),
    [
        ([], "192.0.2.1", False),
        (["192.0.2.0/24"], "192.0.2.1", True),
        (["0.0.0.0/0"], "192.0.2.1", True),
        (["0.0.0.0/0"], "127.0.0.1", False),
        (["0.0.0.0/0"], "169.254.169.254", False),
        (["0.0.0.0/0"], "168.63.129.16", False),
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["::/0"], "::1", False),
        (["::/0"], "fd00:ec2::254", False),
        (["::/0"], "2001:db8::1", True),
        (["::1/128"], "::1", True),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["0.0.0.0/0"], "192.0.0.192", False),
        (["::/0", "fd00::/8"], "fd20:ce::254", False),
        (["::/0", "fd00::/8"], "fd00:c1::a9fe:a9fe", False),
        (["::/0", "0.0.0.0/0"], "64:ff9b::a9fe:a9fe", False),
        (["::/0", "64:ff9b::/96"], "64:ff9b:1::a9fe:a9fe", False),
        (["::/0", "2002::/16"], "2002:7f00:1::", False),
        (["::/0"], "::7f00:1", False),
        (["::/0"], "::ffff:0:a9fe:a9fe", False),
        (["::/0"], "::ffff:0:c000:201", True),
        (["::/0"], "::ffff:192.0.2.1", False),
        (["64:ff9b::/96"], "64:ff9b::192.0.2.1", True),
        (["64:ff9b::/96", "127.0.0.0/8"], "64:ff9b::7f00:1", True),
        (["fd20:ce::254/128"], "fd20:ce::254", True),
    ],
)
def test_reserved_addresses_are_granted_by_name_only(networks: list[str], address: str, granted: bool) -> None:
    """A wide network is no permission to reach this machine, its links, or where credentials are told."""
    assert grant(addresses=networks).address(address) is granted
    assert grant(addresses=networks).reserved(address) is (is_reserved(address) and not granted)


@pytest.mark.parametrize(
    ("names", "host", "granted"),
    [
        (["*"], "db.example.net", True),
        (["*.example.net"], "db.example.net", True),
        (["*.example.net"], "example.net", False),
        (["*"], "192.0.2.1", True),
        (["*"], "198.51.100.1", False),
        (["198.51.100.1"], "198.51.100.1", False),
        (["*"], "127.0.0.1", False),
        (["*"], "127.1", False),
        (["*"], "2130706433", False),
        (["*"], "0x7f.0.0.1", False),
        (["*"], "0300.0.2.1", False),
        (["*"], "1.2.3.4.in-addr.example.net", True),
        (["*"], "localhost", False),
        (["*"], "x.localhost", False),
        (["*"], "localhost.localdomain", False),
        (["*"], "ip6-localhost", False),
        (["*"], "localhost6", False),
        (["ip6-localhost"], "ip6-localhost", True),
        (["*"], "metadata", False),
        (["*"], "instance-data", False),
        (["*"], "metadata.tencentyun.com", False),
        (["*"], "metadata.example.net", True),
        (["localhost"], "localhost", True),
        (["*.localhost"], "x.localhost", True),
        (["*", "*.internal", "*.google.internal"], "metadata.google.internal", False),
        (["metadata.google.internal"], "metadata.google.internal", True),
        (["*.internal"], "db.internal", True),
    ],
)
def test_a_name_that_is_an_address_or_means_a_reserved_one_is_no_name_like_others(
    names: list[str], host: str, granted: bool
) -> None:
    """`*` is every name of the world, as `0.0.0.0/0` is every address: neither is this machine, nor what tells credentials."""
    assert grant(dnsHosts=names, addresses=["192.0.2.0/24"]).dns(host) is granted


def test_services_of_the_own_namespace_are_granted() -> None:
    mine = grant(services=[{"kubernetes": {"cluster": "aws-*", "namespace": "shared", "service": "cache"}}])
    assert mine.kubernetes("any", "team", "api")
    assert mine.kubernetes("aws-eu", "shared", "cache")
    assert not mine.kubernetes("gcp", "shared", "cache")
    assert not mine.kubernetes("aws-eu", "shared", "vault")
    assert mine.consul("dc1", "team")
    assert not mine.consul("dc1", "api")
    assert grant(services=[{"consul": {"datacenter": "dc1", "service": "api-*"}}]).consul("dc1", "api-2")


TEAMS = {"name": "teams", "namespaces": ["one", "two"], "hosts": ["a.test"], "pathPrefixes": ["/pay"]}


def gateway(*delegates: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "GatewaySpec",
        "metadata": {"name": "edge", "namespace": "platform"},
        "spec": {
            "fleet": {"selector": {"matchLabels": {"role": "edge"}}},
            "delegates": list(delegates),
            "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}],
        },
    }


def team(namespace: str, name: str = "pay", **match: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "RouteSpec",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "gateway": "platform/edge",
            "routes": [
                {
                    "name": "pay",
                    "hosts": ["a.test"],
                    "match": [{"path": {"prefix": "/pay"}, **match}],
                    "public": True,
                    "respond": {"status": 200, "body": namespace},
                }
            ],
        },
    }


class Lived:
    def __init__(self) -> None:
        self.compiler = Compiler()
        self.problems: dict[Any, Any] = {}

    def put(self, document: dict[str, Any], claim: str = "") -> None:
        ref = worlds.ref(document)
        self.compiler.put(ref, rows(ref, KINDS[document["kind"]].model_validate(document), claim))

    def served(self) -> tuple[set[str], list[str]]:
        """Whose answers are in what a node gets, and who is told of a conflict."""
        self.problems.update(self.compiler.commit_now().issues)
        bodies = self.bodies()
        told = [issue.subject for found in self.problems.values() for issue in found if issue.code == "GW0213"]
        return {name for name in ("one", "two") if f"routespec/{name}/".encode() in bodies}, told

    def bodies(self) -> bytes:
        return b"".join(resource.body for resource in self.compiler.resources((GatewayName("platform/edge"),)))


def test_the_older_claim_keeps_the_path_and_deletion_hands_it_over() -> None:
    """Whatever came first, whatever the names: also after a restart, which sees objects in another order."""
    for order in (("one", "two"), ("two", "one")):
        lived = Lived()
        lived.put(gateway(TEAMS))
        for namespace in order:
            age = {"one": "2026-02-01T00:00:00Z/b", "two": "2026-01-01T00:00:00Z/a"}[namespace]
            lived.put(team(namespace), age)
        assert lived.served() == ({"two"}, ["RouteSpec one/pay"])
        lived.compiler.remove(worlds.ref(team("two")))
        assert lived.served() == ({"one"}, [])


def test_a_narrower_condition_takes_nothing_from_the_owner() -> None:
    lived = Lived()
    lived.put(gateway(TEAMS))
    lived.put(team("one"), "2026-01-01T00:00:00Z/a")
    lived.put(team("two", methods=["GET"]), "2026-02-01T00:00:00Z/b")
    assert lived.served() == ({"one"}, ["RouteSpec two/pay"])


def wants(namespace: str, path: dict[str, str], host: str = "a.test", **match: Any) -> dict[str, Any]:
    document = team(namespace, **{"path": path, **match})
    document["spec"]["routes"][0]["hosts"] = [host]
    return document


def delegate(namespace: str, host: str, *prefixes: str) -> dict[str, Any]:
    return {"name": f"{namespace}-{len(host)}", "namespaces": [namespace], "hosts": [host], "pathPrefixes": [*prefixes]}


BOTH = ("a.test", "/pay"), ("a.test", "/pay")


@pytest.mark.parametrize(
    ("first", "second", "granted", "served"),
    [
        # Inside of what the older serves, by whatever kind of match: refused.
        (wants("one", {"prefix": "/pay"}), wants("two", {"prefix": "/pay/admin"}), BOTH, {"one"}),
        (wants("one", {"prefix": "/pay"}), wants("two", {"exact": "/pay/admin"}), BOTH, {"one"}),
        (wants("one", {"prefix": "/pay"}), wants("two", {"exact": "/pay/admin"}, methods=["PUT"]), BOTH, {"one"}),
        (wants("one", {"prefix": "/pay/x"}), wants("two", {"template": "/pay/{id}"}), BOTH, {"one"}),
        (wants("one", {"prefix": "/pay/x"}), wants("two", {"regex": "/pay/.*"}), BOTH, {"one"}),
        (wants("one", {"template": "/pay/{id}"}), wants("two", {"exact": "/pay/x"}), BOTH, {"one"}),
        (wants("one", {"regex": "/pay/[0-9]+"}), wants("two", {"regex": "/pay/x.*"}), BOTH, {"one"}),
        # Around it, or beside it: it takes nothing.
        (wants("one", {"prefix": "/pay/admin"}), wants("two", {"prefix": "/pay"}), BOTH, {"one", "two"}),
        (wants("one", {"exact": "/pay"}), wants("two", {"prefix": "/pay/"}), BOTH, {"one", "two"}),
        (wants("one", {"prefix": "/pay/ab"}), wants("two", {"prefix": "/pay/a"}), BOTH, {"one", "two"}),
        (wants("one", {"template": "/pay/{id}/x"}), wants("two", {"exact": "/pay/1/y"}), BOTH, {"one", "two"}),
        (wants("one", {"template": "/pay/{id}/x"}), wants("two", {"template": "/pay/{id}"}), BOTH, {"one", "two"}),
        (wants("one", {"template": "/pay/**"}), wants("two", {"exact": "/pay/1/2"}), BOTH, {"one"}),
        # A part that was granted to the younger alone, by path or by host: it is meant to have it, but for the same path.
        (
            wants("one", {"prefix": "/pay"}), wants("two", {"prefix": "/pay/admin"}),
            (("a.test", "/pay"), ("a.test", "/pay/admin")), {"one", "two"},
        ),
        (
            wants("one", {"prefix": "/pay/admin"}), wants("two", {"prefix": "/pay/admin"}),
            (("a.test", "/pay"), ("a.test", "/pay/admin")), {"one"},
        ),
        (
            wants("one", {"prefix": "/pay/admin"}), wants("two", {"prefix": "/pay/admin/x"}),
            (("a.test", "/pay/admin"), ("a.test", "/pay")), {"one"},
        ),
        (
            wants("one", {"prefix": "/pay"}, "*.test"), wants("two", {"prefix": "/pay"}),
            (("*.test", "/pay"), ("a.test", "/pay")), {"one", "two"},
        ),
        # Below a wildcard of the older: refused; above a narrower host of the older: it takes nothing.
        (
            wants("one", {"prefix": "/pay"}, "*.test"), wants("two", {"prefix": "/pay"}),
            (("*.test", "/pay"), ("*.test", "/pay")), {"one"},
        ),
        (
            wants("one", {"prefix": "/pay/x"}, "*.test"), wants("two", {"prefix": "/pay"}),
            (("*.test", "/pay"), ("*.test", "/pay")), {"one"},
        ),
        (
            wants("one", {"prefix": "/pay"}, "*"), wants("two", {"exact": "/pay/x"}, "*.test"),
            (("*", "/pay"), ("*", "/pay")), {"one"},
        ),
        (
            wants("one", {"prefix": "/pay"}), wants("two", {"prefix": "/pay"}, "*.test"),
            (("*.test", "/pay"), ("*.test", "/pay")), {"one", "two"},
        ),
        # Whole hosts: also what has no literal first segment.
        (wants("one", {"prefix": "/pay"}), wants("two", {"regex": ".*"}), (("a.test", "/"), ("a.test", "/")), {"one"}),
        (wants("one", {"prefix": "/pay"}), wants("two", {"prefix": "/"}), (("a.test", "/"), ("a.test", "/")), {"one", "two"}),
        (wants("one", {"prefix": "/"}), wants("two", {"prefix": "/pay"}), (("a.test", "/"), ("a.test", "/")), {"one"}),
        (wants("one", {"prefix": "/"}), wants("two", {"prefix": "/pay"}), (("a.test", "/"), ("a.test", "/pay")), {"one", "two"}),
        (
            wants("one", {"prefix": "/pay"}, "*.test"), wants("two", {"prefix": "/"}),
            (("*.test", "/pay"), ("*.test", "/")), {"one"},
        ),
    ],
)  # fmt: skip
def test_the_younger_takes_no_request_from_the_older(
    first: dict[str, Any], second: dict[str, Any], granted: tuple[tuple[str, str], tuple[str, str]], served: set[str]
) -> None:
    """Whoever comes first to the control plane; and when the older goes, what was refused is served."""
    for order in ((first, second), (second, first)):
        lived = Lived()
        lived.put(gateway(delegate("one", *granted[0]), delegate("two", *granted[1])))
        for document in order:
            lived.put(
                document,
                {"one": "2026-01-01T00:00:00Z/a", "two": "2026-02-01T00:00:00Z/b"}[document["metadata"]["namespace"]],
            )
        assert lived.served() == (served, [] if "two" in served else ["RouteSpec two/pay"])
        lived.compiler.remove(worlds.ref(first))
        assert lived.served() == ({"two"}, [])


def test_a_third_is_refused_by_what_is_served_alone() -> None:
    """Two is refused for one; three, which would take from two alone, is served."""
    lived = Lived()
    lived.put(gateway(*(delegate(name, "a.test", "/pay") for name in ("one", "two", "three"))))
    lived.put(wants("one", {"exact": "/pay/x"}), "1")
    lived.put(wants("two", {"template": "/pay/{id}"}), "2")
    lived.put(wants("three", {"exact": "/pay/y"}), "3")
    assert lived.served() == ({"one", "two"}, ["RouteSpec three/pay"])
    lived.put(wants("one", {"prefix": "/pay/x"}), "1")
    assert lived.served()[1] == ["RouteSpec two/pay"]
    assert b"routespec/three/" in lived.bodies()


def test_an_edit_of_one_team_costs_nothing_for_the_others() -> None:
    """A thousand teams below one wildcard; the gateway's routes for it, and a team's, change: one shard each."""
    lived = Lived()
    home = {"name": "home", "hosts": ["*.test"], "match": [{"path": {"prefix": "/"}}], "public": True}
    document = gateway(delegate("one", "*.test", "/pay"))
    document["spec"]["routes"] = [{**home, "respond": {"status": 200, "body": "1"}}]
    lived.put(document)
    for number in range(1000):
        one = wants("one", {"prefix": "/pay"}, f"h{number}.test")
        one["metadata"]["name"] = f"n{number}"
        lived.put(one)
    lived.compiler.commit_now()
    graph = lived.compiler.tables.graph

    def cost() -> tuple[int, int]:
        before = graph.runs
        publication = lived.compiler.commit_now().publication
        return graph.runs - before, sum(len(entries) for entries in publication.values())

    document["spec"]["routes"] = [{**home, "respond": {"status": 200, "body": "2"}}]
    lived.put(document)
    runs, published = cost()
    assert (runs < 10, published) == (True, 1)
    one = wants("one", {"prefix": "/pay"}, "h7.test", methods=["GET"])
    one["metadata"]["name"] = "n7"
    lived.put(one)
    runs, published = cost()
    assert (runs < 10, published) == (True, 1)


@pytest.mark.parametrize("prefix", ["/caf%C3%A9", "/a;b", "/a:b/x", "/" + "s" * 256])
def test_a_granted_path_begins_with_a_plain_segment(prefix: str) -> None:
    """Whatever has no shard of its own would take a whole host."""
    with pytest.raises(ValueError, match="begins with a segment of plain characters"):
        grant(pathPrefixes=[prefix])


def test_a_revoked_grant_takes_the_routes_away() -> None:
    lived = Lived()
    lived.put(gateway(TEAMS))
    lived.put(team("one"))
    assert lived.served()[0] == {"one"}
    lived.put(gateway())
    assert lived.served()[0] == set()
    assert [issue.code for found in lived.problems.values() for issue in found] == ["GW0220"]


@pytest.mark.parametrize(
    ("namespace", "port", "served"), [("team", 8500, None), ("team", 8080, 8080), ("platform", 8500, 8500)]
)
def test_a_service_of_consul_is_the_ports_that_it_registers(namespace: str, port: int, served: int | None) -> None:
    """Another one of the same node may be anybody's: only the gateway's own documents may say it."""
    consul = {"datacenter": "dc", "service": "team", "port": port}
    document = team(namespace)
    document["spec"]["backends"] = [{"name": "own", "members": [{"consul": consul}]}]
    documents = [gateway({**TEAMS, "namespaces": ["team"]}), document]
    known = service({"ports": {"": 8080}, "endpoints": ["10.9.9.9"]})
    compiled = compile_objects(
        {worlds.ref(one): worlds.split(one) for one in documents},
        {},
        (GatewayName("platform/edge"),),
        services={service_ref("consul/dc", "team"): known},
    )
    [body] = [
        one.body for one in compiled.resources((GatewayName("platform/edge"),)) if one.type_url == LOAD_ASSIGNMENT
    ]
    found = endpoint_pb2.ClusterLoadAssignment.FromString(body).endpoints
    ports = [one.endpoint.address.socket_address.port_value for level in found for one in level.lb_endpoints]
    assert ports == ([served] if served else [])
    told = [(one.code, one.path) for one in compiled.diagnostics]
    assert told == ([] if served else [("GW0223", "spec.backends[own].members[0].consul.port")])


@pytest.mark.parametrize(("name", "served"), [("team/own", [8500]), ("other/shared", [])])
def test_a_service_without_ports_of_another_namespace_was_not_granted_with_all_ports(
    name: str, served: list[int]
) -> None:
    document = team("team")
    member = {"kubernetes": {"cluster": "eu", "service": name, "port": 8500}}
    document["spec"]["backends"] = [{"name": "own", "members": [member]}]
    more = {"namespaces": ["team"], "services": [{"kubernetes": {"namespace": "other"}}]}
    documents = [gateway({**TEAMS, **more}), document]
    compiled = compile_objects(
        {worlds.ref(one): worlds.split(one) for one in documents},
        {},
        (GatewayName("platform/edge"),),
        services={service_ref("kubernetes/eu", name): service({"endpoints": ["10.9.9.9"]})},
    )
    [body] = [
        one.body for one in compiled.resources((GatewayName("platform/edge"),)) if one.type_url == LOAD_ASSIGNMENT
    ]
    found = endpoint_pb2.ClusterLoadAssignment.FromString(body).endpoints
    assert [one.endpoint.address.socket_address.port_value for level in found for one in level.lb_endpoints] == served
    assert [one.code for one in compiled.diagnostics] == ([] if served else ["GW0223"])


@pytest.mark.parametrize(
    ("endpoints", "networks", "served", "told"),
    [
        (["127.0.0.1"], [], [], ("error", "at 127.0.0.1 are left out: ", "; it has no others")),
        (
            ["169.254.1.1", "127.0.0.1"],
            [],
            [],
            ("error", "at 127.0.0.1 and 1 more are", "; it has no others"),
        ),
        (["127.0.0.1", "10.0.0.1"], ["0.0.0.0/0"], ["10.0.0.1"], ("warning", "at 127.0.0.1 are", ' namespace "team"')),
        # Of those that are not chosen nothing is left out, and none is another.
        (["10.0.0.1", {"address": "127.0.0.1", "tags": []}], [], ["10.0.0.1"], None),
        (
            ["127.0.0.1", {"address": "10.0.0.1", "tags": []}],
            [],
            [],
            ("error", "at 127.0.0.1 are", "; it has no others"),
        ),
        (["127.0.0.1"], ["127.0.0.0/8"], ["127.0.0.1"], None),
        (["10.0.0.1"], [], ["10.0.0.1"], None),
        ([], [], [], None),
    ],
)
@pytest.mark.parametrize("namespace", ["team", "platform"])
def test_endpoints_at_addresses_that_are_not_granted_are_left_out_and_named(
    namespace: str, endpoints: list[Any], networks: list[str], served: list[str], told: tuple[str, str, str] | None
) -> None:
    """Else a route answers 503, and nothing says why. The gateway's own documents may lead anywhere."""
    document = team(namespace)
    consul = {"datacenter": "dc", "service": "team", "tags": ["x"]}
    document["spec"]["backends"] = [{"name": "own", "members": [{"consul": consul}]}]
    documents = [gateway({**TEAMS, "namespaces": ["team"], "addresses": networks}), document]
    found = [{"tags": ["x"], **({"address": one} if isinstance(one, str) else one)} for one in endpoints]
    compiled = compile_objects(
        {worlds.ref(one): worlds.split(one) for one in documents},
        {},
        (GatewayName("platform/edge"),),
        services={service_ref("consul/dc", "team"): service({"ports": {"": 8080}, "endpoints": found})},
    )
    [body] = [
        one.body for one in compiled.resources((GatewayName("platform/edge"),)) if one.type_url == LOAD_ASSIGNMENT
    ]
    levels = endpoint_pb2.ClusterLoadAssignment.FromString(body).endpoints
    addresses = [one.endpoint.address.socket_address.address for level in levels for one in level.lb_endpoints]
    if namespace == "platform":
        assert len(addresses) == sum("x" in one["tags"] for one in found)
        assert compiled.diagnostics == ()
        return
    assert addresses == served
    said = [(str(one.severity), one.code, one.path) for one in compiled.diagnostics]
    assert said == ([(told[0], "GW0220", "spec.backends[own].members[0].consul.service")] if told else [])
    for one in compiled.diagnostics if told else ():
        assert told is not None
        assert told[1] in one.message
        assert one.message.endswith(told[2])
        assert "spec.delegates[].addresses" in one.help


def test_what_is_left_out_of_a_service_is_said_anew_only_when_that_is_another() -> None:
    """Others come and go all the time."""
    lived = Lived()
    document = team("team")
    document["spec"]["backends"] = [{"name": "own", "members": [{"consul": {"datacenter": "dc", "service": "team"}}]}]
    lived.put(gateway({**TEAMS, "namespaces": ["team"]}))
    lived.put(document)
    lived.compiler.commit_now()
    said = []
    for endpoints in (["127.0.0.1", "10.0.0.1"], ["127.0.0.1", "10.0.0.2", "10.0.0.3"], ["10.0.0.2"]):
        known = service({"ports": {"": 8080}, "endpoints": endpoints})
        lived.compiler.endpoints.put(service_ref("consul/dc", "team"), known)
        lived.compiler.endpoints.commit()
        issues = issues_of(lived.compiler.endpoints.tables.graph)
        said.append([[one.code for one in found] for found in issues.values()])
    assert said == [[["GW0220"]], [], [[]]], "nothing new the second time, taken back the third time"
