"""Resources that live only as long as we repeat them: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ttl"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.resources import Resource
from tests.protocol.dialogue import CDS, EDS, LDS, RTDS, SRDS, Delta, Sotw, removed, resource

ENVOY = {"client_features": ["envoy.lb.does_not_support_overprovisioning", "xds.config.resource-in-sotw"]}
DOCUMENTED = {"client_features": ["xds.config.supports-resource-ttl"]}
NAMED_WRAPPER = {"client_features": ["xds.config.supports-resource-in-sotw"]}


def unwrapped(entry: Any) -> discovery_pb2.Resource:
    """What a state-of-the-world response wraps."""
    assert entry.type_url == "type.googleapis.com/envoy.service.discovery.v3.Resource"
    return discovery_pb2.Resource.FromString(entry.value)


def heartbeats(client: Delta, url: str) -> list[discovery_pb2.Resource]:
    message = client.expect(url)
    assert not message.removed_resources
    client.ack(message)
    return list(message.resources)


@pytest.mark.parametrize("node", [ENVOY, DOCUMENTED, NAMED_WRAPPER])
def test_ttl_02_a_resource_with_a_ttl_is_refreshed_well_before_it_expires(node: dict[str, list[str]]) -> None:
    client = Delta(resource(EDS, "mortal", ttl=9.5), resource(EDS, "immortal"), says=node)
    client.send(EDS, ["mortal", "immortal"])
    first = client.take(EDS, ["mortal", "immortal"])
    ttls = {each.name: each.ttl.ToTimedelta() for each in first.resources if each.HasField("ttl")}
    assert ttls == {"mortal": timedelta(seconds=9.5)}
    client.advance(3)
    client.expect_nothing()
    for _ in range(20):
        client.advance(9.5 / 3)
        (beat,) = heartbeats(client, EDS)
        assert (beat.name, beat.version) == ("mortal", client.version(EDS, "mortal"))
        assert not beat.HasField("resource")
        assert beat.ttl.ToTimedelta() == timedelta(seconds=9.5)
        client.expect_nothing()


@pytest.mark.parametrize("kind", [Delta, Sotw])
def test_ttl_01_a_client_that_does_not_know_of_ttls_hears_of_none(kind: type[Delta] | type[Sotw]) -> None:
    client = kind(resource(EDS, "a", "a1", ttl=3))
    client.send(EDS, ["a"])
    message = client.expect(EDS)
    if isinstance(client, Delta):
        assert not message.resources[0].HasField("ttl")
    else:
        assert (message.resources[0].type_url, message.resources[0].value) == (EDS, b"a1")
    client.advance(10)
    client.expect_nothing()


@pytest.mark.parametrize("node", [ENVOY, NAMED_WRAPPER])
def test_ttl_01_a_client_that_takes_wrapped_resources_gets_those_with_a_ttl_wrapped(node: dict[str, list[str]]) -> None:
    client = Sotw(resource(EDS, "a", "a1", ttl=3), resource(EDS, "b", "b1"), says=node)
    client.send(EDS, ["a", "b"])
    message = client.expect(EDS)
    client.ack(message, ["a", "b"])
    wrapped, plain = message.resources
    assert (plain.type_url, plain.value) == (EDS, b"b1")
    assert unwrapped(wrapped).name == "a"
    assert unwrapped(wrapped).resource.value == b"a1"
    assert unwrapped(wrapped).ttl.seconds == 3


def test_ttl_01_to_know_ttls_is_not_to_take_wrapped_resources() -> None:
    client = Sotw(resource(EDS, "a", "a1", ttl=3), says=DOCUMENTED)
    client.send(EDS, ["a"])
    client.take(EDS, b"a1", names=["a"])
    client.advance(10)
    client.expect_nothing()


def test_ttl_02_in_the_state_of_the_world_the_content_is_repeated() -> None:
    """Envoy 1.40 does not let a TTL begin anew for a resource without content in this variant."""
    client = Sotw(resource(RTDS, "layer", "x", ttl=3), resource(RTDS, "other", "o"), says=ENVOY)
    client.send(RTDS, ["layer", "other"])
    first = client.expect(RTDS)
    client.ack(first, ["layer", "other"])
    for _ in range(5):
        client.advance(1.01)
        beat = client.expect(RTDS)
        assert beat.version_info == first.version_info  # heartbeats do not move it
        assert list(beat.resources) == [first.resources[0]]
        assert unwrapped(beat.resources[0]).resource.value == b"x"
        client.ack(beat, ["layer", "other"])
        client.expect_nothing()


@pytest.mark.parametrize("url", [CDS, LDS, SRDS])
def test_ttl_03_a_heartbeat_of_a_full_state_type_leaves_nothing_out(url: str) -> None:
    """Envoy takes what a full set leaves out for deleted, and a heartbeat within it for left out."""
    client = Sotw(resource(url, "a", "a1", ttl=3), resource(url, "b", "b1"), says=ENVOY)
    client.send(url)
    first = client.expect(url)
    client.ack(first)
    client.advance(1.01)
    beat = client.expect(url)
    client.ack(beat)
    assert beat.version_info == first.version_info
    assert list(beat.resources) == list(first.resources)
    client.expect_nothing()


def test_ttl_03_heartbeats_are_no_changes_and_their_acks_say_nothing_of_contents() -> None:
    client = Delta(resource(EDS, "a", ttl=3), resource(EDS, "b"), says=ENVOY)
    client.send(EDS, ["a", "b"])
    client.take(EDS, ["a", "b"])
    settled = list(client.observer.settlements)
    client.publish(resource(EDS, "b", "bad"))
    client.nack(client.expect_names(EDS, ["b"]))
    acks = list(client.observer.acks)
    client.advance(1.01)
    beat = client.expect(EDS)
    assert client.status(EDS).state == "nack"
    client.ack(beat)
    assert client.status(EDS).state == "nack"
    assert (client.observer.acks, client.observer.settlements) == (acks, settled)
    client.publish(resource(EDS, "b", "good"))
    client.take(EDS, ["b"])
    assert client.status(EDS).state == "synced"


def test_heartbeats_do_not_wait_for_acks_and_hold_up_nothing() -> None:
    client = Sotw(resource(EDS, "a", "a1", ttl=3), resource(EDS, "b", "b1"), says=ENVOY)
    client.send(EDS, ["a", "b"])
    client.ack(client.expect(EDS), ["a", "b"])
    for _ in range(4):  # none is acknowledged
        client.advance(1.01)
        client.expect(EDS)
    assert client.status(EDS).state == "synced"
    client.publish(resource(EDS, "b", "b2"))
    client.take(EDS, b"b2", names=["a", "b"])


@pytest.mark.parametrize("after", [6, None])
def test_ttl_04_a_ttl_that_changes_or_ends_is_told_with_the_content(after: float | None) -> None:
    client = Delta(resource(EDS, "a", ttl=3), says=ENVOY)
    client.send(EDS, ["a"])
    client.take(EDS, ["a"])
    client.publish(resource(EDS, "a", ttl=after))
    (told,) = client.take(EDS, ["a"]).resources
    assert told.resource.value == b"1"
    assert told.HasField("ttl") == (after is not None)
    client.advance(1.9)
    client.expect_nothing()
    client.advance(0.2)
    if after is None:
        client.expect_nothing()
    else:
        assert heartbeats(client, EDS)[0].ttl.seconds == after


def test_ttl_04_a_ttl_that_ended_while_the_client_was_away_is_told() -> None:
    before = Resource(EDS, "a", b"1", ttl=timedelta(seconds=3))
    client = Delta(resource(EDS, "a"), says=ENVOY)
    client.send(EDS, ["a"], initial={"a": before.version})
    assert not client.take(EDS, ["a"]).resources[0].HasField("ttl")


@pytest.mark.parametrize("names", [["a"], ["*"]])
def test_ttl_05_a_resume_gets_what_may_have_expired_in_full(names: list[str]) -> None:
    client = Delta(resource(CDS, "a", ttl=3), resource(CDS, "b"), says=ENVOY)
    initial = {name: client.version(CDS, name) for name in "ab"}
    client.send(CDS, names, initial=initial)
    (told,) = client.take(CDS, ["a"]).resources
    assert told.HasField("resource")
    client.expect_nothing()
    client.advance(1.01)
    assert not heartbeats(client, CDS)[0].HasField("resource")


def test_what_waits_to_be_changed_or_removed_lives_until_then() -> None:
    """Make before break: a cluster that routes still lead to must not expire before its removal is due."""
    client = Delta(resource(CDS, "a", ttl=3), resource(SRDS, "r"), says=ENVOY)
    client.send(CDS)
    client.take(CDS, ["a"])
    client.send(SRDS)
    client.take(SRDS, ["r"])
    client.publish(removed(CDS, "a"), resource(SRDS, "r", "elsewhere"))
    routes = client.expect_names(SRDS, ["r"])
    client.advance(1.01)
    assert [each.name for each in heartbeats(client, CDS)] == ["a"]
    client.ack(routes)
    client.take(CDS, removed=["a"])
    client.advance(10)
    client.expect_nothing()


@pytest.mark.parametrize("kind", [Delta, Sotw])
def test_what_is_gone_or_not_wanted_any_more_gets_no_heartbeat(kind: type[Delta] | type[Sotw]) -> None:
    client = kind(resource(EDS, "a", ttl=3), resource(EDS, "b", ttl=3), says=ENVOY)
    client.send(EDS, ["a", "b"])
    message = client.expect(EDS)
    if isinstance(client, Delta):
        client.ack(message)
        client.send(EDS, unsubscribe=["a"])
    else:
        client.ack(message, ["b"])
    client.publish(removed(EDS, "b"))
    client.inbox.clear()
    client.advance(10)
    client.expect_nothing()


def test_refused_content_is_not_kept_alive_but_what_the_client_had_before() -> None:
    client = Delta(resource(EDS, "a", ttl=3), says=ENVOY)
    client.send(EDS, ["a", "b"])
    old = client.take(EDS, ["a"], ["b"]).resources[0].version
    for name in "ab":
        client.publish(resource(EDS, name, "bad", ttl=3))
        client.nack(client.expect_names(EDS, [name]))
    client.expect_nothing()
    client.advance(1.01)
    (beat,) = heartbeats(client, EDS)
    assert (beat.name, beat.version) == ("a", old)


@pytest.mark.alone
def test_the_bytes_with_ttls_are_not_those_of_clients_without() -> None:
    """Shared answers are kept by all that decided them."""
    knows, knows_not = Delta(resource(EDS, "a", ttl=3), says=ENVOY), Delta()
    knows_not.store, knows_not.session._encoder = knows.store, knows.session._encoder
    for client, told in ((knows, True), (knows_not, False)):
        client.send(EDS, ["a"])
        assert client.take(EDS, ["a"]).resources[0].HasField("ttl") is told


def test_a_ttl_is_more_than_nothing() -> None:
    with pytest.raises(ValueError, match="TTL"):
        Resource(EDS, "a", b"", ttl=timedelta(0))
