"""Consul's answers as services: what is an endpoint, where it is, how well it is, and what is none."""

import json
from typing import Any

import pytest

from controlplane.model.endpoint import NOWHERE, Health, Locality, Service, ServicePort
from controlplane.sources.consul.answers import Reading, checks, entries, instances, names, reading, with_missing
from tests.support.fake_consul import instance


def read(*found: dict[str, Any], locality: Locality = NOWHERE, tagged: str | None = None) -> Reading:
    return reading(instances(json.dumps(found).encode()), locality, tagged)


def check(status: str, name: str = "check:a") -> dict[str, str]:
    return {"Node": "n", "CheckID": name, "Status": status}


def with_checks(*statuses: dict[str, str]) -> dict[str, Any]:
    return {**instance("10.0.0.1"), "Checks": list(statuses)}


@pytest.mark.parametrize(
    ("found", "health"),
    [
        ([], Health.HEALTHY),  # registered in the catalog only
        ([check("passing"), check("passing", "serfHealth")], Health.HEALTHY),
        ([check("passing"), check("warning", "disk")], Health.DEGRADED),
        ([check("warning"), check("critical", "disk")], Health.UNHEALTHY),
        ([check("passing"), check("critical", "serfHealth")], Health.UNHEALTHY),
        ([check("passing"), check("critical", "_service_maintenance:a")], Health.DRAINING),
        ([check("passing"), check("critical", "_node_maintenance")], Health.DRAINING),
        ([check("critical"), check("critical", "_node_maintenance")], Health.UNHEALTHY),
        ([check("something new")], Health.UNHEALTHY),
    ],
)
def test_health_is_that_of_the_worst_check(found: list[dict[str, str]], health: Health) -> None:
    (endpoint,) = read(with_checks(*found)).service.endpoints
    assert endpoint.health is health


def test_checks_may_be_null() -> None:
    found = {**instance("10.0.0.1"), "Checks": None}
    assert read(found).service.endpoints[0].health is Health.HEALTHY


def test_an_instance_without_an_address_has_that_of_its_node() -> None:
    found = instance("10.0.0.1", Tags=["b", "a", "b"], Meta={"version": "2", "color": "blue"})
    found["Service"]["Address"] = ""
    found["Node"]["Address"] = "2001:DB8::0:1"
    (endpoint,) = read(found).service.endpoints
    assert endpoint.address == "2001:db8::1"
    assert endpoint.tags == ("a", "b")
    assert endpoint.meta == (("color", "blue"), ("version", "2"))
    assert endpoint.ports == (("", 80),)


@pytest.mark.parametrize(
    ("address", "port"),
    [("db.example.com", 80), ("10.0.0.1", 0), ("10.0.0.1", 70000), ("0.0.0.0", 80), ("fe80::1%eth0", 80), ("", 80)],
)
def test_what_cannot_be_an_endpoint_is_named(address: str, port: int) -> None:
    found = instance("10.0.0.2", port)
    found["Service"]["Address"] = found["Node"]["Address"] = address
    result = read(found, instance("10.0.0.7", name="b"))
    assert [endpoint.address for endpoint in result.service.endpoints] == ["10.0.0.7"]
    assert result.unusable == (f"a on node-10.0.0.2: {address or 'no address'}:{port}",)


def test_an_address_that_is_registered_twice_is_one_endpoint_of_the_better_health() -> None:
    """The record of a node that was replaced stays until somebody removes it; its successor works."""
    old, new = instance("10.0.0.1", status="critical", name="old"), instance("10.0.0.1", name="new")
    for order in ([old, new], [new, old]):
        (endpoint,) = read(*order).service.endpoints
        assert endpoint.health is Health.HEALTHY


def test_a_warning_counts_with_its_own_weight() -> None:
    weights = {"Passing": 10, "Warning": 2}
    found = [instance("10.0.0.1", Weights=weights), instance("10.0.0.2", status="warning", Weights=weights)]
    assert [endpoint.weight for endpoint in read(*found).service.endpoints] == [10, 2]
    (endpoint,) = read(instance("10.0.0.1", Weights={"Passing": 99999999})).service.endpoints
    assert endpoint.weight == 65535


@pytest.mark.parametrize(
    ("status", "weights", "health"),
    [
        ("passing", {"Passing": 0, "Warning": 1}, Health.DRAINING),
        ("passing", {"Passing": 1, "Warning": 0}, Health.HEALTHY),
        ("warning", {"Passing": 1, "Warning": 0}, Health.DRAINING),
        ("warning", {"Passing": -3, "Warning": 1}, Health.DEGRADED),
        ("critical", {"Passing": 0, "Warning": 0}, Health.UNHEALTHY),
    ],
)
def test_what_weighs_nothing_gets_nothing_while_others_are_there(
    status: str, weights: dict[str, int], health: Health
) -> None:
    (endpoint,) = read(instance("10.0.0.1", status=status, Weights=weights)).service.endpoints
    assert (endpoint.health, endpoint.weight) == (health, 1)


def test_locality_is_that_of_the_instance_or_its_node_or_the_source() -> None:
    own = instance("10.0.0.1", Locality={"Region": "eu", "Zone": "eu-1"})
    own["Node"]["Locality"] = {"Region": "us", "Zone": "us-1"}
    of_node = instance("10.0.0.2")
    of_node["Node"]["Locality"] = {"Region": "us", "Zone": "us-1"}
    found = read(own, of_node, instance("10.0.0.3"), locality=Locality("ap", "ap-2")).service.endpoints
    assert [endpoint.locality for endpoint in found] == [
        Locality("eu", "eu-1"),
        Locality("us", "us-1"),
        Locality("ap", "ap-2"),
    ]


def test_the_tagged_address_is_used_when_asked_for() -> None:
    tagged = {"wan": {"Address": "203.0.113.1", "Port": 8443}}
    found = [instance("10.0.0.1", TaggedAddresses=tagged), instance("10.0.0.2")]
    by_node = instance("10.0.0.3")
    by_node["Service"]["Address"] = ""
    by_node["Node"]["TaggedAddresses"] = {"wan": "203.0.113.3"}
    seen = [(one.address, one.ports[0][1]) for one in read(*found, by_node, tagged="wan").service.endpoints]
    assert seen == [("10.0.0.2", 80), ("203.0.113.1", 8443), ("203.0.113.3", 80)]
    assert [one.address for one in read(*found).service.endpoints] == ["10.0.0.1", "10.0.0.2"]


def test_the_order_of_the_answer_does_not_matter() -> None:
    found = [instance(f"10.0.0.{number}", name=str(number), Tags=["x"]) for number in range(9)]
    assert read(*found).service == read(*reversed(found)).service
    assert read(*found).service.ports == (ServicePort("", 80),)
    assert read(instance("10.0.0.1", 80), instance("10.0.0.1", 81)).service.ports == ()


def test_in_doubt_nothing_that_was_there_is_missing() -> None:
    before = read(instance("10.0.0.1"), instance("10.0.0.2")).service
    now = read(instance("10.0.0.2", status="critical"), instance("10.0.0.3")).service
    both = with_missing(now, before)
    assert [(one.address, one.health) for one in both.endpoints] == [
        ("10.0.0.1", Health.HEALTHY),
        ("10.0.0.2", Health.UNHEALTHY),
        ("10.0.0.3", Health.HEALTHY),
    ]
    assert with_missing(both, before) is both
    assert with_missing(Service(), before) == before


def test_lists_may_be_null() -> None:
    assert checks(b"null") == frozenset()
    assert names(b'{"web": null, "api": ["b", "a"]}') == {"web": (), "api": ("a", "b")}
    assert entries(b"null") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"error": "x"}', b'[{"Node": {}}]', b"\xff"])
def test_what_is_no_answer_raises(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are msgspec's
        instances(body)
