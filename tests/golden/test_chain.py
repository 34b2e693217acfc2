"""The order of HTTP filters: what stands before what decides who is asked for a token, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlplane.compile.offline import as_dict
from controlplane.compile.xds_types import EXTENSION, LISTENER, SCOPED_ROUTE
from controlplane.filters.chain import http_filters
from tests.golden.cases import Case, resources

ORDER = [
    # The route that is taken in the end is known before any other filter looks at it.
    "gatewayspec/shard",
    "gatewayspec/shard",
    "gatewayspec/shard",
    # What only the gateway may say is removed before anybody believes it.
    "gatewayspec/identity-headers",
    # Floods end before expensive work.
    "gatewayspec/listener-limits/0.0.0.0:8080",
    # Browsers ask without credentials.
    "envoy.filters.http.cors",
    "gatewayspec/query-token",
    "gatewayspec/jwt",
    "gatewayspec/query-token",
    # Limits of routes count those who may call.
    "gatewayspec/route-limits",
    "envoy.filters.http.header_mutation",
    "envoy.filters.http.router",
]


def managers(case: str, folder: Path) -> list[dict[str, Any]]:
    """The HTTP connection managers of a case."""
    return [
        network_filter["typed_config"]
        for resource in resources(Case(case).compile(folder))
        if resource.type_url == LISTENER
        for chain in as_dict(resource)["filter_chains"]
        for network_filter in chain["filters"]
        if network_filter["name"] == "envoy.filters.network.http_connection_manager"
    ]


def test_order_of_the_chain(tmp_path: Path) -> None:
    (manager,) = managers("gateway/least", tmp_path)
    assert [one["name"] for one in manager["http_filters"]] == ORDER


@pytest.mark.parametrize("case", ["listener/sni", "listener/address", "jwt/combined", "ratelimit/listener"])
def test_every_chain_has_every_filter(case: str, tmp_path: Path) -> None:
    """Nothing that a spec says adds or removes one: security filters are always there and read the route's wishes."""
    for manager in managers(case, tmp_path):
        found = [one["name"].partition("listener-limits/")[0] for one in manager["http_filters"]]
        assert found == [name.partition("listener-limits/")[0] for name in ORDER]
        by_route = {one["name"] for one in manager["http_filters"] if one.get("disabled")}
        assert by_route == {"gatewayspec/query-token"}, "what guards must not wait for a route to ask for it"
        assert not any(one.get("is_optional") for one in manager["http_filters"])


def test_stages_are_the_order() -> None:
    stages = [http_filter.stage for http_filter in http_filters()]
    assert stages == sorted(stages)
    assert len(set(stages)) == len(stages), (
        "two filters of one stage would depend on the order in which they are listed"
    )


def test_every_delivered_configuration_is_there(tmp_path: Path) -> None:
    """Envoy waits for each without end: one that is missing would keep a listener from opening."""
    found = resources(Case("listener/sni").compile(tmp_path))
    wanted = {
        one["name"]
        for manager in managers("listener/sni", tmp_path)
        for one in manager["http_filters"]
        if "config_discovery" in one
    }
    assert wanted <= {one.name for one in found if one.type_url == EXTENSION}


@pytest.mark.parametrize(
    "case", ["jwt/combined", "cors/methods", "bad/provider", "listener/https_and_redirect", "route/websocket"]
)
def test_every_route_says_who_may_call(case: str, tmp_path: Path) -> None:
    """A route that says nothing is refused by the filter; that no route relies on it is checked all the same."""
    for resource in resources(Case(case).compile(tmp_path)):
        if resource.type_url == SCOPED_ROUTE:
            for host in as_dict(resource)["route_configuration"]["virtual_hosts"]:
                for route in host["routes"]:
                    says = route["typed_per_filter_config"]["gatewayspec/jwt"]
                    assert says.get("disabled") or says["requirement_name"]


def test_without_a_word_from_the_route_nobody_passes(tmp_path: Path) -> None:
    (jwt,) = (
        as_dict(one)["typed_config"]
        for one in resources(Case("jwt/combined").compile(tmp_path))
        if one.name == "gatewayspec/jwt"
    )
    assert jwt["rules"] == [{"match": {"prefix": "/"}, "requires": {"provider_name": "nobody"}}]
    assert not jwt.get("bypass_cors_preflight"), (
        "preflights are answered before this filter; what passes is no preflight"
    )
