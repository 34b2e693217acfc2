"""What gRPC clients and servers without a proxy get: the same calls by the same routes, or a failure, never another route."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.compile import codes
from controlplane.compile.compiler import Compiler
from controlplane.compile.proxyless.cluster import load_assignment
from controlplane.compile.proxyless.route import EARLY, converted
from controlplane.compile.xds_types import CLUSTER, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION
from controlplane.filters.envoy import serialised
from controlplane.names import Family, GatewayName, grpc_server_listener
from controlplane.resources import Resource
from tests.compile import worlds
from tests.compile.grpc_lookup import Answer, GrpcLookup, decided
from tests.compile.reference import Request, decide, normalised
from tests.compile.shard_cases import AUTH, KEY_SET, _like, gateway, routes

SHOP = GatewayName("platform/shop")
VIEW = (SHOP,)
BACKEND = {"name": "web", "protocol": "GRPC", "members": [{"static": {"address": "127.0.0.1", "port": 9000}}]}


class Compiled:
    """What gRPC nodes of a gateway get, and what is said."""

    def __init__(self, said: dict[str, Any], *others: dict[str, Any]) -> None:
        self.compiler = Compiler()
        view = [f"platform/{one['metadata']['name']}" for one in (said, *others)]
        for one in (said, *others):
            self.compiler.put(worlds.ref(one), worlds.split(one))
        self.compiler.add_view(tuple(map(GatewayName, sorted(view))), Family.GRPC)
        commit = self.compiler.commit_now()
        assert self.compiler.grpc is not None
        assert not list(self.compiler.grpc.tables.graph.failures())
        self.notes = [one for found in commit.issues.values() for one in found if one.code == codes.WITHHELD]
        self.resources = self.compiler.resources(tuple(map(GatewayName, sorted(view))), Family.GRPC)
        self.client = GrpcLookup(self.resources)

    def message(self, url: str, name: str, kind: Any) -> Any:
        return kind.FromString(self.client.resources[url, name].body)

    def server(
        self, address: str, authority: str, path: str, headers: Mapping[str, str] | None = None
    ) -> Answer | None:
        """What a server on this address does with a call; None: no virtual host."""
        found = self.message(ROUTE_CONFIGURATION, f"grpc/server/{address}", route_pb2.RouteConfiguration)
        best = None
        for host in found.virtual_hosts:
            for domain in host.domains:
                rank = _rank(domain, authority)
                if rank and (best is None or rank < best[0]):
                    best = (rank, host)
        if best is None:
            return None
        for route in best[1].routes:
            # For the model of clients, what a server does is turned round: what it takes is what a client forwards.
            if route.WhichOneof("action") == "non_forwarding_action":
                route.route.cluster = "taken"
            else:
                route.non_forwarding_action.SetInParent()
        return decided(best[1].routes, path, headers or {})


def _rank(domain: str, authority: str) -> tuple[int, int] | None:
    """GRPC's order of domains: whole, `*suffix`, `prefix*`, `*`; the longest of a kind."""
    if domain == authority:
        return 0, 0
    if domain == "*":
        return 3, 0
    if domain.startswith("*"):
        return (1, -len(domain)) if authority.endswith(domain[1:]) else None
    if domain.endswith("*"):
        return (2, -len(domain)) if authority.startswith(domain[:-1]) else None
    return None


def route(name: str = "r", path: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A public route of shop.example.com to the backend."""
    said = {"name": name, "hosts": ["shop.example.com"], "match": [{"path": path or {"prefix": "/"}}], **more}
    said |= {} if "auth" in more else {"public": True}
    return said if {"to", "respond", "redirect"} & said.keys() else {**said, "to": [{"backend": "web"}]}


def compiled(*said: dict[str, Any], **more: Any) -> Compiled:
    return Compiled(gateway(list(said), **{"backends": [BACKEND], **more}))


# -- the same routes -------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_calls_take_the_routes_that_they_take_through_envoy(seed: int, count: int) -> None:
    random = Random(seed)
    said = routes(random, count)
    forwarded = [{**one, "to": [{"backend": "web"}]} for one in said]
    for one in forwarded:
        del one["respond"]
    found = compiled(*forwarded).client
    declared = {host for one in said for host in one["hosts"]} - {"*"}
    for host in sorted(declared):
        for _ in range(12):
            path = _like(random, random.choice(random.choice(said)["match"]))
            if path != normalised(path):
                continue  # Envoy changes such a path; a client does not
            headers: dict[str, str] = random.choice(({}, {"x-team": "red"}, {"x-team": "blue"}))
            expected = decide(said, Request(host.replace("*", "w"), path, "POST", headers))
            if host.startswith("*.") and host.replace("*", "w") in declared:
                continue
            assert found.decide(host, path, headers) == Answer(expected.route, expected.status == 401), path


PATHS = (
    "/", "/pay", "/pay/", "/pay.Pay", "/pay.Pay/", "/pay.Pay/Do", "/pay.Pay/Do/", "/pay.Pay/Do/more", "/pay.PayX/Do",
    "/payXPay/Do", "/other.Other/Do", "//pay.Pay/Do", "/pay.Pay//Do",
)  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        {"exact": "/pay.Pay/Do"}, {"exact": "/pay.Pay"}, {"exact": "/pay.Pay/Do/more"}, {"exact": "/"},
        {"prefix": "/pay.Pay"}, {"prefix": "/pay.Pay/"}, {"prefix": "/pay.Pay/Do"}, {"prefix": "/pay.Pay/Do/"},
        {"prefix": "/pay.Pay/Do/more"}, {"template": "/pay.Pay/{method}"}, {"template": "/*/Do"},
        {"template": "/{service}/**"}, {"regex": "/pay[.].*"},
    ],
    ids=str,
)  # fmt: skip
def test_a_withheld_route_takes_its_calls_whatever_its_shape(path: dict[str, str]) -> None:
    """What gRPC ignores would fall through to the public route behind it."""
    guarded = compiled(route("all"), route("guarded", path, auth=AUTH)).client
    open_route = compiled(route("all"), route("guarded", path)).client
    taken = 0
    for called in PATHS:
        answer = open_route.decide("shop.example.com", called)
        assert guarded.decide("shop.example.com", called) == Answer(answer.route, answer.route == "guarded"), called
        taken += answer.route == "guarded"
    assert taken


def test_not_red_holds_without_the_header() -> None:
    """GRPC lets no condition on a text hold for an absent header, inverted or not."""
    red = {"name": "x-color", "exact": "red", "invert": True}
    found = compiled(route("any"), route("not-red", match=[{"path": {"prefix": "/"}, "headers": [red]}])).client
    assert found.decide("shop.example.com", "/a.A/B").route == "not-red"
    assert found.decide("shop.example.com", "/a.A/B", {"x-color": "blue"}).route == "not-red"
    assert found.decide("shop.example.com", "/a.A/B", {"x-color": "red"}).route == "any"


def test_an_inverted_condition_that_nothing_satisfies_does_not_hold_without_the_header() -> None:
    some = {"name": "x-color", "regex": ".*", "invert": True}
    found = compiled(route("any"), route("some", match=[{"path": {"prefix": "/"}, "headers": [some]}])).client
    assert found.decide("shop.example.com", "/a.A/B").route == "any"


@pytest.mark.parametrize(
    ("pattern", "empty"),
    [
        ("a{,3}", False), ("a{0,3}", True), ("[[:alpha:]]*", True), ("[[:digit:]]", False), ("(?:a|)", True),
        ("[^[:alpha:]]*", True), ("^$", True), (r"\B", True), (r"\z", True), (r"\b", None), (r"\b.*", None),
        (r"\bred\b", False),
    ],
)  # fmt: skip
def test_what_a_pattern_makes_of_nothing_is_what_re2_makes_of_it(pattern: str, empty: bool | None) -> None:
    """Python reads some patterns in another way; guessed wrong, a guarded route lets calls without the header pass."""
    header = {"name": "x-kind", "regex": pattern, "invert": True}
    guarded = route("guarded", match=[{"path": {"prefix": "/"}, "headers": [header]}], auth=AUTH)
    public = {key: value for key, value in guarded.items() if key != "auth"} | {"name": "public", "public": True}
    over = compiled(route("any"), guarded).server("0.0.0.0:8080", "shop.example.com", "/a.A/B")
    assert over == (Answer("any") if empty else Answer("guarded", withheld=True))
    under = compiled(route("any", auth=AUTH), public)
    assert under.server("0.0.0.0:8080", "shop.example.com", "/a.A/B") == (
        Answer("any", withheld=True) if empty else Answer("public", withheld=empty is None)
    )
    assert ("is not known" in str([one.message for one in under.notes])) is (empty is None)


@pytest.mark.parametrize("name", ["user-agent", "x-request-id", "x-forwarded-for", "token-bin", "grpc-timeout"])
def test_a_route_with_a_condition_that_clients_cannot_see_fails(name: str) -> None:
    """It takes every call that it might take, rather than none."""
    header = {"name": name, "present": True}
    found = compiled(route("any"), route("some", match=[{"path": {"prefix": "/"}, "headers": [header]}]))
    assert found.client.decide("shop.example.com", "/a.A/B") == Answer("some", withheld=True)
    assert [name in one.message for one in found.notes] == [True]


def test_many_inverted_conditions_fail_rather_than_multiply() -> None:
    headers = [{"name": f"x-{number}", "exact": "a", "invert": True} for number in range(4)]
    found = compiled(route("any"), route("some", match=[{"path": {"prefix": "/"}, "headers": headers}]))
    assert found.client.decide("shop.example.com", "/a.A/B", {"x-0": "a"}) == Answer("some", withheld=True)
    assert len(found.client.routes("shop.example.com").virtual_hosts[0].routes) == 2


def test_matches_that_no_grpc_request_satisfies_take_none() -> None:
    query, method = {"query": [{"name": "v", "exact": "2"}]}, {"methods": ["GET", "PUT"]}
    for condition in (query, method):
        found = compiled(route("any"), route("some", match=[{"path": {"prefix": "/a.A"}, **condition}], auth=AUTH))
        assert found.client.decide("shop.example.com", "/a.A/B").route == "any"
        assert not found.notes


def test_a_path_that_another_namespace_has_stays_its_own() -> None:
    """Also when the owner's match is one that gRPC never makes."""
    owner = gateway([route("home", match=[{"path": {"prefix": "/a.A"}, "methods": ["GET"]}])], backends=[BACKEND])
    other = {
        "apiVersion": "gatewayspec.dev/v1alpha1", "kind": "RouteSpec", "metadata": {"name": "t", "namespace": "team"},
        "spec": {"gateway": SHOP, "routes": [route("theirs", {"prefix": "/a.A"}), route("other", {"prefix": "/b.B"})]},
    }  # fmt: skip
    grant = {"name": "team", "namespaces": ["team"], "hosts": ["shop.example.com"], "backends": ["web"]}
    owner["spec"]["delegates"] = [grant]
    compiler = Compiler()
    for one in (owner, other):
        compiler.put(worlds.ref(one), worlds.split(one))
    compiler.add_view(VIEW, Family.GRPC)
    compiler.commit_now()
    found = GrpcLookup(compiler.resources(VIEW, Family.GRPC))
    assert found.decide("shop.example.com", "/b.B/B") == Answer("other")
    assert found.decide("shop.example.com", "/a.A/B") == Answer()


def test_what_is_granted_by_paths_leaves_the_rest_of_the_host_to_the_wildcard() -> None:
    """For clients that ask for the host, and at servers that are called by it."""
    owner = gateway([route("home", hosts=["*.example.com"])], backends=[BACKEND])
    owner["spec"]["delegates"] = [
        {"name": "t", "namespaces": ["team"], "hosts": ["*.example.com"], "pathPrefixes": ["/a.A"], "backends": ["web"]}
    ]
    theirs = route("theirs", {"prefix": "/a.A/B"}, hosts=["x.example.com"])
    team = {
        "apiVersion": "gatewayspec.dev/v1alpha1", "kind": "RouteSpec", "metadata": {"name": "t", "namespace": "team"},
        "spec": {"gateway": SHOP, "routes": [theirs]},
    }  # fmt: skip
    compiler = Compiler()
    for one in (owner, team):
        compiler.put(worlds.ref(one), worlds.split(one))
    compiler.add_view(VIEW, Family.GRPC)
    compiler.commit_now()
    resources = compiler.resources(VIEW, Family.GRPC)
    for path, expected in (("/a.A/B", "theirs"), ("/a.A/C", "home"), ("/b.B/B", "home")):
        assert GrpcLookup(resources).decide("x.example.com", path) == Answer(expected)


# -- what is withheld ------------------------------------------------------------------------------------------------

LIMIT = {"name": "limit", "rateLimit": {"local": [{"requests": 1, "per": "minute"}]}}
WITHHELD = {
    "auth": {"auth": AUTH},
    "use": {"use": ["limit"]},
    "respond": {"respond": {"status": 200}},
    "redirect": {"redirect": {"path": {"replaceFull": "/x"}}},
    "transform.request": {"transform": {"request": {"host": "a.test"}}},
    "transform": {"transform": {"response": {"headers": {"remove": ["server"]}}}},
    "to": {"to": [{"backend": "old"}]},
}


@pytest.mark.parametrize("path", WITHHELD)
@pytest.mark.parametrize("matches", [1, 2])
def test_what_grpc_would_not_do_is_withheld_and_said(path: str, matches: int) -> None:
    match = [{"path": {"prefix": "/a.A"}}, {"path": {"prefix": "/b.B"}}][:matches]  # limits of two are shared
    more = {"policies": [LIMIT], "backends": [BACKEND, {**BACKEND, "name": "old", "protocol": "HTTP1"}]}
    found = compiled(route("any"), route("some", match=match, **WITHHELD[path]), **more)
    assert found.client.decide("shop.example.com", "/a.A/B") == Answer("some", withheld=True)
    assert [one.path for one in found.notes] == [f"spec.routes[some].{path}"]
    body = found.client.routes("shop.example.com").virtual_hosts[0].routes[0]
    assert list(body.metadata.filter_metadata["gatewayspec"]["withheld"])


def test_a_rate_limit_on_a_listener_withholds_its_routes() -> None:
    listeners = [{"name": "http", "port": 8080, "protocol": "HTTP", "use": ["limit"]}]
    found = compiled(route(), listeners=listeners, policies=[LIMIT])
    assert found.client.decide("shop.example.com", "/a.A/B") == Answer("r", withheld=True)


def test_a_route_with_an_error_of_its_own_fails_and_is_not_said_twice() -> None:
    found = compiled(route("any"), route("some", {"prefix": "/a.A"}, to=[{"backend": "gone"}]))
    assert found.client.decide("shop.example.com", "/a.A/B") == Answer("some", withheld=True)
    assert not found.notes


def test_what_nobody_thought_of_is_withheld() -> None:
    """A field or filter that is added to Envoy's routes later is closed for gRPC until somebody says what it means."""
    known = route_components_pb2.Route(match={"prefix": "/"}, route={"cluster": "c"})
    known.typed_per_filter_config["gatewayspec/jwt"].CopyFrom(_public())

    def withheld(change: Any) -> bool:
        message = route_components_pb2.Route()
        message.CopyFrom(known)
        change(message)
        return bool(converted(serialised(message), lambda _: None, None).reasons)

    assert not withheld(lambda _: None)
    assert withheld(lambda message: message.typed_per_filter_config["new.filter"].CopyFrom(_public()))
    assert withheld(lambda message: message.typed_per_filter_config.clear())
    assert withheld(lambda message: message.request_headers_to_remove.append("x"))
    assert withheld(lambda message: setattr(message.route, "cluster_header", "x"))
    assert withheld(lambda message: message.route.rate_limits.add())
    assert withheld(lambda message: message.match.tls_context.SetInParent())
    assert withheld(lambda message: message.match.connect_matcher.SetInParent())


def _public() -> Any:
    from controlplane.filters.jwt.compile import public

    return public()


def test_cors_and_websockets_mean_nothing_to_grpc() -> None:
    cors = {"name": "cors", "cors": {"origins": ["https://a.test"]}}
    found = compiled(route(use=["cors"], websocket=True), policies=[cors])
    assert found.client.decide("shop.example.com", "/a.A/B") == Answer("r")
    assert len(found.client.routes("shop.example.com").virtual_hosts[0].routes) == 1


def test_nothing_is_compiled_or_said_for_grpc_before_a_grpc_node_asks() -> None:
    said = gateway([route(auth=AUTH)], backends=[BACKEND])
    compiler = Compiler()
    compiler.put(worlds.ref(said), worlds.split(said))
    commit = compiler.commit_now()
    assert compiler.grpc is None
    assert not [one for found in commit.issues.values() for one in found if one.code == codes.WITHHELD]
    assert not compiler.resources(VIEW, Family.GRPC)


# -- actions ---------------------------------------------------------------------------------------------------------


def action(said: dict[str, Any], **more: Any) -> Any:
    answer = compiled(said, **more).client.decide("shop.example.com", "/a.A/B")
    assert answer == Answer("r")
    return answer.action


def test_weights_are_those_of_the_spec() -> None:
    other = {**BACKEND, "name": "other"}
    to = [{"backend": "web", "weight": 3}, {"backend": "other", "weight": 1}]
    clusters = action(route(to=to), backends=[BACKEND, other]).weighted_clusters.clusters
    assert {one.name.rpartition("/")[2]: one.weight.value for one in clusters} == {"web": 3, "other": 1}


@pytest.mark.parametrize(("said", "seconds"), [("3s", 3 + EARLY.total_seconds()), ("0s", 0)])
def test_a_timeout_ends_a_call(said: str, seconds: float) -> None:
    found = action(route(timeouts={"request": said})).max_stream_duration.max_stream_duration
    assert found.ToTimedelta().total_seconds() == seconds


def test_retries_are_those_that_grpc_knows() -> None:
    retry = {"attempts": 2, "when": ["unavailable", "5xx", "internal"], "backoff": {"base": "50ms", "max": "1s"}}
    found = action(route(retry=retry)).retry_policy
    assert found.retry_on == "internal,unavailable"
    assert found.num_retries.value == 2
    assert found.retry_back_off.base_interval.ToMilliseconds() == 50
    assert not found.retry_host_predicate
    assert not action(route(retry={"attempts": 2, "when": ["5xx"]})).HasField("retry_policy")


# -- names -----------------------------------------------------------------------------------------------------------


def test_a_host_is_asked_for_alone_or_with_the_port_of_a_listener() -> None:
    listeners = [
        {"name": "two", "port": 9090, "protocol": "HTTP"},
        {"name": "one", "port": 8080, "protocol": "HTTP"},
    ]
    found = compiled(route("any"), route("only", {"prefix": "/a.A"}, listeners=["two"]), listeners=listeners).client
    assert sorted(found.names()) == ["shop.example.com", "shop.example.com:8080", "shop.example.com:9090"]
    assert found.decide("shop.example.com", "/a.A/B").route == "any"
    assert found.decide("shop.example.com:8080", "/a.A/B").route == "any"
    assert found.decide("shop.example.com:9090", "/a.A/B").route == "only"


def test_all_hosts_are_asked_for_with_a_port_alone() -> None:
    """`*` as a name means every listener, in the protocol."""
    assert compiled(route(hosts=["*", "*.a.test"])).client.names() == ["*.a.test", "*.a.test:8080", "*:8080"]


def test_a_host_of_two_gateways_is_that_of_one() -> None:
    first = gateway([route("ours")], backends=[BACKEND])
    second = gateway([route("theirs"), route("more", hosts=["x.test"])], backends=[BACKEND])
    second["metadata"]["name"] = "shop2"
    found = Compiled(first, second).client
    assert found.decide("shop.example.com", "/a.A/B").route == "ours"
    assert found.decide("x.test", "/a.A/B").route == "more"


# -- clusters --------------------------------------------------------------------------------------------------------


def cluster(**more: Any) -> Any:
    found = compiled(route(), backends=[{**BACKEND, **more}])
    [name] = [name for url, name in found.client.resources if url == CLUSTER]
    return found.message(CLUSTER, name, cluster_pb2.Cluster)


def test_endpoints_come_over_the_same_stream() -> None:
    found = cluster()
    assert found.type == cluster_pb2.Cluster.EDS
    assert found.eds_cluster_config.eds_config.HasField("ads")
    assert found.lb_policy == cluster_pb2.Cluster.ROUND_ROBIN
    assert [one.max_requests.value for one in found.circuit_breakers.thresholds] == [1024]


def test_one_dns_name_is_resolved_by_the_client() -> None:
    found = cluster(members=[{"dns": {"host": "a.test", "port": 80}}])
    assert found.type == cluster_pb2.Cluster.LOGICAL_DNS
    [locality] = found.load_assignment.endpoints
    [endpoint] = locality.lb_endpoints
    assert endpoint.endpoint.address.socket_address.address == "a.test"


def test_several_dns_names_are_withheld() -> None:
    members = [{"dns": {"host": "a.test", "port": 80}}, {"dns": {"host": "b.test", "port": 80}}]
    found = compiled(route(), backends=[{**BACKEND, "members": members}])
    assert found.client.decide("shop.example.com", "/a.A/B") == Answer("r", withheld=True)
    assert not [name for url, name in found.client.resources if url == CLUSTER]


def test_a_service_and_a_dns_name_are_tried_in_their_order() -> None:
    """A backend of several parts is a cluster for each, and one that chooses: gRPC knows that too."""
    members = [
        {"kubernetes": {"cluster": "one", "service": "a/web", "port": 80}},
        {"dns": {"host": "a.test", "port": 80}, "priority": 1},
    ]
    found = compiled(route(), backends=[{**BACKEND, "members": members}])
    answer = found.client.decide("shop.example.com", "/a.A/B")
    assert answer == Answer("r")
    chosen = found.message(CLUSTER, answer.action.cluster, cluster_pb2.Cluster)
    config = aggregate_pb2.ClusterConfig()
    assert chosen.cluster_type.typed_config.Unpack(config)
    parts = [found.message(CLUSTER, name, cluster_pb2.Cluster) for name in config.clusters]
    assert [one.type for one in parts] == [cluster_pb2.Cluster.EDS, cluster_pb2.Cluster.LOGICAL_DNS]
    old = compiled(route(), backends=[{**BACKEND, "protocol": "HTTP1", "members": members}])
    assert old.client.decide("shop.example.com", "/a.A/B") == Answer("r", withheld=True)
    assert not [name for url, name in old.client.resources if url == CLUSTER]
    assert 'backend "web" speaks HTTP1' in old.notes[0].message


def test_weights_of_members_are_weights_of_localities() -> None:
    members = [
        {"static": {"address": f"10.0.0.{number}", "port": 80}, "weight": weight, "priority": priority}
        for number, (weight, priority) in enumerate([(1, 0), (4, 0), (4, 0), (1, 1)])
    ]
    found = compiled(route(), backends=[{**BACKEND, "members": members}])
    cluster = found.message(CLUSTER, "gatewayspec/platform/shop/web", cluster_pb2.Cluster)
    name = cluster.eds_cluster_config.service_name
    assignment = found.message(LOAD_ASSIGNMENT, name, endpoint_pb2.ClusterLoadAssignment)
    localities = [
        (one.priority, one.load_balancing_weight.value, len(one.lb_endpoints)) for one in assignment.endpoints
    ]
    assert localities == [(0, 1, 1), (0, 8, 2), (1, 1, 1)]
    names = [(one.priority, one.locality.sub_zone) for one in assignment.endpoints]
    assert len(set(names)) == 3
    assert all(one.HasField("locality") for one in assignment.endpoints)


def test_one_endpoint_that_grpc_refuses_does_not_cost_the_others() -> None:
    """It refuses a whole load assignment for an address that stands in it twice, and for a name or an empty priority."""
    envoy = endpoint_pb2.ClusterLoadAssignment(cluster_name="c")
    for priority, addresses in ((0, ["a.test"]), (1, ["10.0.0.1", "10.0.0.1"]), (2, ["10.0.0.1", "10.0.0.2"])):
        locality = envoy.endpoints.add(priority=priority)
        for address in addresses:
            endpoint = locality.lb_endpoints.add()
            endpoint.endpoint.address.socket_address.address = address
            endpoint.endpoint.address.socket_address.port_value = 80
    found = endpoint_pb2.ClusterLoadAssignment.FromString(load_assignment(envoy.SerializeToString()))
    assert [
        (one.priority, [each.endpoint.address.socket_address.address for each in one.lb_endpoints])
        for one in found.endpoints
    ] == [(0, ["10.0.0.1"]), (1, ["10.0.0.2"])]


def test_states_and_shares_of_endpoints_are_kept() -> None:
    """GRPC has no degraded endpoints, and drops what is not healthy."""
    envoy = endpoint_pb2.ClusterLoadAssignment(cluster_name="c")
    states = health_check_pb2
    for place, weight, endpoints in (
        (
            "a",
            3000,
            [("10.0.0.1", 1, states.UNKNOWN), ("10.0.0.2", 3, states.UNKNOWN), ("10.0.0.3", 1, states.DRAINING)],
        ),
        ("b", 1000, [("10.0.0.4", 1, states.HEALTHY), ("10.0.0.5", 1, states.UNHEALTHY)]),
        ("c", 1000, [("10.0.0.6", 1, states.DEGRADED)]),
    ):
        locality = envoy.endpoints.add(locality={"sub_zone": place}, load_balancing_weight={"value": weight})
        for address, own, state in endpoints:
            endpoint = locality.lb_endpoints.add(health_status=state, load_balancing_weight={"value": own})
            endpoint.endpoint.address.socket_address.address = address
            endpoint.endpoint.address.socket_address.port_value = 80
    found = endpoint_pb2.ClusterLoadAssignment.FromString(load_assignment(envoy.SerializeToString()))
    assert [(one.priority, one.locality.sub_zone, one.load_balancing_weight.value) for one in found.endpoints] == [
        (0, "a/weight-1", 750), (0, "a/weight-3", 2250), (0, "b", 1000), (1, "c", 1000),
    ]  # fmt: skip
    assert {each.health_status for one in found.endpoints for each in one.lb_endpoints} == {states.UNKNOWN}
    assert sum(len(one.lb_endpoints) for one in found.endpoints) == 4


def test_tls_is_that_of_the_clients_own_bootstrap() -> None:
    tls = {"mode": "mutual", "sni": "a.test", "sanMatch": ["spiffe://td/node/b"], "ca": {"secretRef": "ca"}}
    found = cluster(tls={**tls, "clientCertificate": {"secretRef": "me"}})
    context = tls_pb2.UpstreamTlsContext()
    assert found.transport_socket.typed_config.Unpack(context)
    common = context.common_tls_context
    assert common.tls_certificate_provider_instance.instance_name == "default"
    assert common.validation_context.ca_certificate_provider_instance.instance_name == "default"
    assert [one.exact for one in common.validation_context.match_subject_alt_names] == ["spiffe://td/node/b"]
    assert {one.name for one, _ in common.ListFields()} == {"tls_certificate_provider_instance", "validation_context"}
    simple = cluster(tls={"sni": "a.test"})
    assert simple.transport_socket.typed_config.Unpack(context)
    assert not context.common_tls_context.HasField("tls_certificate_provider_instance")
    assert [one.exact for one in context.common_tls_context.validation_context.match_subject_alt_names] == ["a.test"]


# -- servers ---------------------------------------------------------------------------------------------------------


def test_a_server_takes_what_it_need_not_do_anything_about() -> None:
    old = {**BACKEND, "name": "old", "protocol": "HTTP1"}
    found = compiled(
        route("any"),
        route("guarded", {"prefix": "/a.A"}, auth=AUTH),
        route("moved", {"prefix": "/b.B"}, respond={"status": 200}),
        route("old", {"prefix": "/c.C"}, to=[{"backend": "old"}]),  # where others send it is not its concern
        backends=[BACKEND, old],
    )
    for authority in ("shop.example.com", "shop.example.com:8080", "shop.example.com:9"):
        assert found.server("0.0.0.0:8080", authority, "/z.Z/Z") == Answer("any")
        assert found.server("0.0.0.0:8080", authority, "/a.A/B") == Answer("guarded", withheld=True)
        assert found.server("0.0.0.0:8080", authority, "/b.B/B") == Answer("moved", withheld=True)
        assert found.server("0.0.0.0:8080", authority, "/c.C/B") == Answer("old")
    assert found.server("0.0.0.0:8080", "other.example.com", "/z.Z/Z") is None


def test_a_server_refuses_calls_that_say_who_calls() -> None:
    """Envoy removes the header; a handler would believe a client that says `x-user: admin`."""
    corp = {"name": "corp", "issuer": "i", "audiences": ["a"], "jwks": {"inline": KEY_SET}}
    claims = {"sub": "x-user", "email": "x-mail"}

    def edge(claims: dict[str, str]) -> dict[str, Any]:
        return gateway([route("any")], backends=[BACKEND], identity={"jwt": [{**corp, "claimsToHeaders": claims}]})

    found = Compiled(edge(claims))
    address, host = "0.0.0.0:8080", "shop.example.com"
    for header in ("x-user", "x-mail"):
        answer = found.server(address, host, "/a.A/B", {header: "admin"})
        assert answer == Answer(f"identity header {header}", withheld=True)
    assert found.server(address, host, "/a.A/B", {"x-other": "a"}) == Answer("any")
    # An edit of the provider alone reaches servers.
    said = edge({"sub": "x-name"})
    found.compiler.put(worlds.ref(said), worlds.split(said))
    found.compiler.commit_now()
    found.client = GrpcLookup(found.compiler.resources(VIEW, Family.GRPC))
    assert found.server(address, host, "/a.A/B", {"x-user": "admin"}) == Answer("any")
    assert found.server(address, host, "/a.A/B", {"x-name": "admin"}) == Answer("identity header x-name", withheld=True)
    # What gRPC does not look at cannot be told from its absence.
    found = Compiled(edge({"sub": "x-user-bin"}))
    assert found.server(address, host, "/a.A/B") == Answer("identity header x-user-bin", withheld=True)


def test_the_listener_of_a_server_is_that_of_its_address() -> None:
    found = compiled(route())
    for address in ("0.0.0.0", "::"):
        name = grpc_server_listener(f"[{address}]:8080" if ":" in address else f"{address}:8080")
        listener = found.message(LISTENER, name, listener_pb2.Listener)
        assert listener.address.socket_address.address == address  # gRPC refuses one for another address
        [chain] = listener.filter_chains
        assert len(chain.filters) == 1
        assert not chain.HasField("transport_socket")
        assert not chain.HasField("filter_chain_match")


def test_a_server_of_https_shows_its_own_certificate() -> None:
    entry = {"hosts": ["shop.example.com"], "certificate": {"secretRef": "shop"}}
    https = {"name": "https", "port": 8443, "protocol": "HTTPS", "address": "127.0.0.1", "tls": [entry]}
    found = compiled(route(), listeners=[https])
    listener = found.message(LISTENER, grpc_server_listener("127.0.0.1:8443"), listener_pb2.Listener)
    context = tls_pb2.DownstreamTlsContext()
    assert listener.filter_chains[0].transport_socket.typed_config.Unpack(context)
    assert context.common_tls_context.tls_certificate_provider_instance.instance_name == "server"
    assert found.server("127.0.0.1:8443", "shop.example.com", "/a.A/B") == Answer("r")


def test_a_strange_port_leads_to_no_broader_host() -> None:
    """A wildcard host on any port is more than gRPC can say: the routes of all hosts would take such a call."""
    guarded = route("guarded", hosts=["*.example.com"], auth=AUTH)
    found = compiled(guarded, route("exact", hosts=["shop.example.com"], auth=AUTH), route("all", hosts=["*"]))
    for authority in ("a.example.com", "a.example.com:8080", "shop.example.com:8080", "shop.example.com:9"):
        answer = found.server("0.0.0.0:8080", authority, "/a.A/B")
        assert answer is not None
        assert answer.withheld
    assert found.server("0.0.0.0:8080", "a.example.com:9", "/a.A/B") is None
    assert any("servers" in one.message for one in found.notes)


def test_two_gateways_on_a_port_are_one_listener_for_a_server() -> None:
    first = gateway([route("ours")], backends=[BACKEND])
    second = gateway([route("theirs"), route("more", hosts=["x.test"])], backends=[BACKEND])
    second["metadata"]["name"] = "shop2"
    found = Compiled(first, second)
    assert found.server("0.0.0.0:8080", "shop.example.com", "/a.A/B") == Answer("ours")
    assert found.server("0.0.0.0:8080", "x.test", "/a.A/B") == Answer("more")


# -- cost ------------------------------------------------------------------------------------------------------------


def test_an_edit_costs_the_edit() -> None:
    hosts = [f"h{number}.example.com" for number in range(300)]
    said = gateway([route(f"r{number}", hosts=[host]) for number, host in enumerate(hosts)], backends=[BACKEND])
    found = Compiled(said)
    edited = {**said, "spec": {**said["spec"], "routes": [*said["spec"]["routes"]]}}
    edited["spec"]["routes"][7] = route("r7", hosts=["h7.example.com"], timeouts={"request": "3s"})
    assert found.compiler.grpc is not None
    before = found.compiler.grpc.tables.graph.runs
    found.compiler.put(worlds.ref(edited), worlds.split(edited))
    published = found.compiler.commit_now().publication
    assert found.compiler.grpc.tables.graph.runs - before <= 5
    names = [name for part, changes in published.items() if Family.GRPC in part for _, name, _ in changes]
    assert names == ["grpc/0.0.0.0:8080/h7.example.com"]  # what servers take has not changed


def test_resources_are_named_once() -> None:
    found = compiled(route(), route("all", hosts=["*", "*.example.com"]))
    assert all(isinstance(one, Resource) for one in found.resources)
    assert len({(one.type_url, one.name) for one in found.resources}) == len(found.resources)
