"""The rules of Envoy's messages: each kind is found, where Envoy finds it, and nothing that we compile breaks one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2  # noqa: F401  named in an Any
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor

from controlplane.compile import backends, cluster
from controlplane.compile.checks import checked, violations
from controlplane.compile.compiler import Compiler
from controlplane.compile.offline import MESSAGES, decoded
from controlplane.compile.xds_types import CLUSTER
from controlplane.errors import InvalidInput
from controlplane.names import GatewayName
from tests.compile import worlds
from tests.e2e.plane import gateway
from tests.golden.cases import Case, cases
from tests.support.envoy import validate

NAMED = {"name": "c", "connect_timeout": "1s"}
ROUTE: dict[str, Any] = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}
JWT = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"

CLUSTERS = [
    ({"connect_timeout": "1s"}, "name", "length must be at least 1"),
    ({**NAMED, "connect_timeout": "0s"}, "connect_timeout", "must be greater than 0s"),
    ({**NAMED, "lb_policy": 77}, "lb_policy", "must be a defined value"),
    ({**NAMED, "health_checks": [{}]}, "health_checks[0].timeout", "must be set"),
    ({**NAMED, "outlier_detection": {"max_ejection_percent": 101}}, "outlier_detection.max_ejection_percent", "must be at most 100"),
    ({**NAMED, "transport_socket": {}}, "transport_socket.name", "length must be at least 1"),
    ({**NAMED, "load_assignment": {"cluster_name": "c", "endpoints": [{"priority": 129}]}}, "load_assignment.endpoints[0].priority", "must be at most 128"),
]  # fmt: skip
"""Cluster, path, rule: also judged by a real Envoy."""

OTHERS: list[tuple[Any, dict[str, Any], str, str]] = [
    (route_components_pb2.Route, {"match": {"prefix": "/"}}, "action", "one of its members must be set"),
    (route_components_pb2.Route, {"route": {"cluster": "c"}}, "match", "must be set"),
    (route_components_pb2.Route, {**ROUTE, "match": {"safe_regex": {}}}, "match.safe_regex.regex", "length must be at least 1"),
    (route_components_pb2.Route, {**ROUTE, "request_headers_to_remove": ["a\nb"]}, "request_headers_to_remove[0]", "must not hold NUL, CR or LF"),
    (route_components_pb2.Route, {**ROUTE, "match": {"prefix": "/", "headers": [{"name": "a\0"}]}}, "match.headers[0].name", "must not hold NUL, CR or LF"),
    (route_components_pb2.Route, {"match": {"prefix": "/"}, "direct_response": {"status": 99}}, "direct_response.status", "must be at least 200"),
    (route_components_pb2.Route, {**ROUTE, "typed_per_filter_config": {"j": {"@type": JWT, "requirement_name": ""}}}, "typed_per_filter_config[j].requirement_name", "length must be at least 1"),
    (route_components_pb2.VirtualHost, {"name": "v"}, "domains", "must have at least 1 items"),
    (route_pb2.RouteConfiguration, {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{}]}]}, "virtual_hosts[0].routes[0].match", "must be set"),
    (listener_components_pb2.ListenerFilter, {}, "name", "length must be at least 1"),
    (endpoint_pb2.ClusterLoadAssignment, {}, "cluster_name", "length must be at least 1"),
    (base_pb2.HeaderValue, {"key": "k" * 16385}, "key", "bytes must be at most 16384"),
    (manager_pb2.HttpConnectionManager, {"stat_prefix": "s"}, "route_specifier", "one of its members must be set"),
    (protocol_pb2.UpstreamHttpProtocolOptions, {"override_auto_sni_header": "a b"}, "override_auto_sni_header", "must be the name of a header"),
    (protocol_pb2.UpstreamHttpProtocolOptions, {"override_auto_sni_header": ":authority\n"}, "override_auto_sni_header", "must be the name of a header"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "path", "rule"), CLUSTERS, ids=[path for _, path, _ in CLUSTERS])
def test_a_cluster_that_breaks_a_rule_is_refused_by_envoy_too(
    content: dict[str, Any], path: str, rule: str, tmp_path: Path
) -> None:
    assert (path, rule) in violations(json_format.ParseDict(content, cluster_pb2.Cluster()))
    said = validate({"static_resources": {"clusters": [content]}}, tmp_path)
    assert said is not None
    assert "ValidationError" in said or "Invalid duration" in said


@pytest.mark.parametrize(
    ("kind", "content", "path", "rule"),
    OTHERS,
    ids=[f"{k.__name__}-{p}-{number}" for number, (k, _, p, _) in enumerate(OTHERS)],
)
def test_a_broken_rule_is_found(kind: Any, content: dict[str, Any], path: str, rule: str) -> None:
    assert (path, rule) in violations(json_format.ParseDict(content, kind()))


def test_rules_of_what_is_not_selected_do_not_hold() -> None:
    assert violations(json_format.ParseDict(ROUTE, route_components_pb2.Route())) == ()
    assert violations(json_format.ParseDict(NAMED, cluster_pb2.Cluster())) == ()


def test_an_any_of_an_unknown_type_is_left_to_envoy() -> None:
    route = json_format.ParseDict(ROUTE, route_components_pb2.Route())
    route.typed_per_filter_config["x"].type_url = "type.googleapis.com/nobody.knows.This"
    assert violations(route) == ()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_nothing_that_is_compiled_breaks_a_rule(case: Case, tmp_path: Path) -> None:
    compiled = case.compile(tmp_path)
    for name in compiled.gateways:
        for resource in compiled.resources((name,)):
            assert violations(decoded(resource)) == (), resource.name


def test_every_rule_that_can_be_met_is_known() -> None:
    """A new version of xds-protos that brings another kind of rule must not be taken for one without."""
    for message in MESSAGES.values():
        for kind in _reachable(message.DESCRIPTOR):
            violations(kind._concrete_class())  # makes its plan


def _reachable(kind: Descriptor, seen: set[str] | None = None) -> Iterator[Any]:
    seen = set() if seen is None else seen
    if kind.full_name not in seen:
        seen.add(kind.full_name)
        yield kind
        for field in kind.fields:
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                yield from _reachable(field.message_type, seen)


def test_the_element_is_named() -> None:
    with pytest.raises(InvalidInput) as raised:
        checked(cluster_pb2.Cluster(), "GatewaySpec platform/edge", "spec.backends[web]")
    (one,) = raised.value.diagnostics
    assert (one.code, one.subject, one.path) == ("GW0298", "GatewaySpec platform/edge", "spec.backends[web]")
    assert one.message == "what would be sent to Envoy breaks the rules of its Cluster: name: length must be at least 1"


def test_a_row_that_breaks_a_rule_keeps_its_last_good_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours degrades one element, and says so; nothing of it reaches a proxy."""
    compiler = Compiler()

    def put(port: int) -> None:
        members = [{"static": {"address": "127.0.0.1", "port": port}}]
        said = gateway(backends=[{"name": name, "members": members} for name in ("one", "two")])
        compiler.put(worlds.ref(said), worlds.split(said))

    def clusters() -> dict[str, bytes]:
        view = (GatewayName("platform/edge"),)
        return {one.name: one.body for one in compiler.resources(view) if one.type_url == CLUSTER}

    put(1)
    compiler.commit_now()
    before = clusters()
    make = cluster.cluster

    def broken(*arguments: Any) -> Any:
        message = make(*arguments)
        if message.name.endswith("/one"):
            message.connect_timeout.FromSeconds(-1)
        else:
            message.alt_stat_name = "edited"
        return message

    monkeypatch.setattr(backends, "cluster", broken)
    put(2)
    commit = compiler.commit_now()
    after = clusters()
    one, two = sorted(before)
    assert after[one] == before[one]
    assert after[two] != before[two]
    (said,) = [one for issues in commit.issues.values() for one in issues if one.code == "GW0298"]
    assert said.path == "spec.backends[one]"
