"""The wildcard, said or not, and by whom it is meant: rules that clients of different kinds and ages rely on."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from tests.protocol.dialogue import CDS, EDS, LDS, RDS, SDS, Delta, Dialogue, Sotw, removed, resource

BOTH = pytest.mark.parametrize("kind", [Delta, Sotw])
GRPC = {"user_agent_name": "gRPC Go", "user_agent_version": "1.70.0"}


def envoy(major: int, minor: int) -> dict[str, object]:
    version = {"version": {"major_number": major, "minor_number": minor, "patch": 0}}
    return {"user_agent_name": "envoy", "user_agent_build_version": version, "user_agent_version": ""}


@BOTH
def test_wld_10_a_grpc_client_without_names_wants_nothing(kind: type[Dialogue]) -> None:
    client = kind(resource(LDS, "a"), says=GRPC)
    client.send(LDS)
    client.expect_nothing()
    client.publish(resource(LDS, "a", "2"))
    client.expect_nothing()
    client.send(LDS, ["a"])
    assert len(client.expect(LDS).resources) == 1


def test_the_legacy_wildcard_is_there_until_a_name_is_given() -> None:
    """A first request that only unsubscribes gives none."""
    client = Delta(resource(CDS, "a"))
    client.send(CDS, unsubscribe=["phantom"])
    client.expect_nothing()
    client.send(CDS)
    client.take(CDS, ["a"])
    client.send(CDS)
    client.expect_nothing()


def test_the_legacy_wildcard_that_was_given_up_does_not_come_back_with_an_ack() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS)
    answer = client.expect_names(CDS, ["a"])
    client.send(CDS, unsubscribe=["*"])
    client.ack(answer)
    client.send(CDS)
    client.expect_nothing()
    client.publish(resource(CDS, "a", "2"))
    client.expect_nothing()


@pytest.mark.parametrize(("node", "widened"), [(envoy(1, 20), True), (envoy(1, 21), False), (envoy(1, 40), False), (GRPC, False), ({}, False)])  # fmt: skip
def test_ver_10_who_comes_back_with_names_is_not_kept_to_them_when_it_means_all(
    node: dict[str, object], widened: bool
) -> None:
    client = Delta(resource(LDS, "a"), resource(LDS, "new"), says=node)
    client.send(LDS, ["a"], initial={"a": client.version(LDS, "a")})
    if widened:
        client.take(LDS, ["new"])
    client.publish(resource(LDS, "newer"))
    if widened:
        client.take(LDS, ["newer"])
    client.expect_nothing()


def test_ver_10_names_on_a_first_connection_are_meant() -> None:
    client = Delta(resource(LDS, "a"), resource(LDS, "b"), says=envoy(1, 20))
    client.send(LDS, ["a"])
    client.take(LDS, ["a"])
    client.expect_nothing()


@pytest.mark.parametrize("exists", [False, True])
def test_sec_04_unsubscribing_under_the_wildcard_tells_nothing_of_secrets(exists: bool) -> None:
    """The wildcard never has one; what was named is gone from the client, whether there is one or not."""
    client = Delta(*([resource(SDS, "a")] if exists else []))
    client.send(SDS, ["*", "a"])
    client.take(SDS, ["a"] if exists else [], [] if exists else ["a"])
    client.send(SDS, unsubscribe=["a"])
    client.take(SDS, removed=["a"])
    client.publish(resource(SDS, "a", "2"))
    client.expect_nothing()
    client.publish(removed(SDS, "a"))
    client.expect_nothing()


@BOTH
@pytest.mark.parametrize("names", [[], ["*"]])
def test_sec_04_nobody_enumerates_secrets(kind: type[Dialogue], names: list[str]) -> None:
    client = kind(resource(SDS, "a"), resource(SDS, "b"))
    client.send(SDS, names)
    client.publish(resource(SDS, "a", "2"), resource(SDS, "c"))
    for message in client.inbox:
        assert not message.resources
        assert "removed_resources" not in message.DESCRIPTOR.fields_by_name or not message.removed_resources


@BOTH
def test_resources_may_be_named_by_locators(kind: type[Dialogue]) -> None:
    client = kind(resource(EDS, "a"), resource(EDS, "b"))
    request = discovery_pb2.DeltaDiscoveryRequest if kind is Delta else discovery_pb2.DiscoveryRequest
    field = "resource_locators_subscribe" if kind is Delta else "resource_locators"
    names = "resource_names_subscribe" if kind is Delta else "resource_names"
    locator = discovery_pb2.ResourceLocator(name="a", dynamic_parameters={"env": "prod"})
    message = request(type_url=EDS, node={"id": "n"}, **{field: [locator], names: ["b"]})
    client.receive(message.SerializeToString())
    assert len(client.expect(EDS).resources) == 2


@BOTH
def test_ver_09_names_whose_parents_are_gone_may_be_asked_for_for_ever(kind: type[Dialogue]) -> None:
    client = kind(resource(RDS, "kept"))
    for _ in range(50):
        client.send(RDS, ["gone", "kept"], nonce=client.inbox[-1].nonce if client.inbox else "")
    (status,) = client.session.status()
    assert status.names == 2
    progress = client.session._types[RDS]
    assert not progress.changed
    assert not progress.gone
    assert not progress.asked


def test_delta_responses_tell_the_version_of_their_type_for_people() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS)
    first = client.take(CDS, ["a"])
    assert first.system_version_info == client.store.view(["gateway"]).version(CDS)
    client.publish(resource(CDS, "a", "2"))
    assert client.take(CDS, ["a"]).system_version_info not in {"", first.system_version_info}
