"""What holds for every stream: who may open one, what it may send, which view it follows, what is known of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

from controlplane.xds.nodes import Denied, Ended, Locality, Status
from tests.protocol.dialogue import (
    CDS,
    EDS,
    LDS,
    RDS,
    SDS,
    SRDS,
    Delta,
    Dialogue,
    Sotw,
    cluster,
    removed,
    resource,
)

BOTH = pytest.mark.parametrize("kind", [Delta, Sotw])


def ends(status: Status, act: Callable[[], object]) -> str:
    """The reason with which the stream ends."""
    with pytest.raises(Ended) as caught:
        act()
    assert caught.value.status is status
    return caught.value.reason


@BOTH
def test_bytes_that_are_no_request(kind: type[Dialogue]) -> None:
    assert "DiscoveryRequest" in ends(Status.INVALID_ARGUMENT, lambda: kind().receive(b"\xff\xff\xff"))


@BOTH
def test_names_that_are_not_utf_8(kind: type[Dialogue]) -> None:
    field = b"\x1a"  # resource_names_subscribe = 3, resource_names = 3
    ends(Status.INVALID_ARGUMENT, lambda: kind().receive(field + b"\x02\xff\xfe"))


@BOTH
@pytest.mark.parametrize("node", [{}, {"node": {}}, {"node": {"cluster": "c"}}])
def test_the_first_request_names_the_node(kind: type[Dialogue], node: dict[str, object]) -> None:
    message_type = discovery_pb2.DeltaDiscoveryRequest if kind is Delta else discovery_pb2.DiscoveryRequest
    message = json_format.ParseDict({"type_url": CDS, **node}, message_type())
    assert "node.id" in ends(Status.INVALID_ARGUMENT, lambda: kind().receive(message.SerializeToString()))


@BOTH
def test_an_aggregated_stream_needs_a_type(kind: type[Dialogue]) -> None:
    ends(Status.INVALID_ARGUMENT, lambda: kind().send(""))


@BOTH
def test_a_stream_of_one_type_implies_it_and_refuses_others(kind: type[Dialogue]) -> None:
    client = kind(resource(LDS, "l"), only=LDS)
    client.send("")
    client.expect(LDS)
    ends(Status.INVALID_ARGUMENT, lambda: client.send(CDS))


@BOTH
def test_the_node_may_not_become_another(kind: type[Dialogue]) -> None:
    client = kind()
    client.send(CDS)
    message_type = discovery_pb2.DeltaDiscoveryRequest if kind is Delta else discovery_pb2.DiscoveryRequest
    message = message_type(type_url=CDS, node={"id": "another"})
    ends(Status.INVALID_ARGUMENT, lambda: client.receive(message.SerializeToString()))


@BOTH
def test_the_user_agent_stays_the_same(kind: type[Dialogue]) -> None:
    client = kind()
    message_type = discovery_pb2.DeltaDiscoveryRequest if kind is Delta else discovery_pb2.DiscoveryRequest

    def request(**says: str) -> bytes:
        return bytes(message_type(type_url=CDS, node={"id": "n", **says}).SerializeToString())

    client.receive(request())
    client.receive(request(user_agent_name="envoy"))
    client.receive(request(user_agent_name="envoy", cluster="another"))
    client.receive(request())
    client.receive(request(user_agent_name="envoy"))
    assert "user agent" in ends(Status.INVALID_ARGUMENT, lambda: client.receive(request(user_agent_name="gRPC C++")))


@BOTH
def test_limits_of_names_and_types(kind: type[Dialogue]) -> None:
    ends(Status.INVALID_ARGUMENT, lambda: kind(name_characters=100).send(EDS, ["x" * 101]))
    ends(Status.RESOURCE_EXHAUSTED, lambda: kind(names=3).send(EDS, list("abcd")))
    client = kind(types=2)
    client.send(CDS)
    client.send(LDS)
    ends(Status.RESOURCE_EXHAUSTED, lambda: client.send(EDS, ["a"]))


def test_names_may_not_pile_up_over_requests() -> None:
    client = Delta(names=3)
    client.send(EDS, ["a", "b"])
    client.send(EDS, ["b", "c"], ["a"])
    client.send(EDS, ["d"])
    client.send(EDS, ["d"])
    ends(Status.RESOURCE_EXHAUSTED, lambda: client.send(EDS, ["e"]))


@BOTH
def test_a_refused_peer_gets_nothing(kind: type[Dialogue]) -> None:
    client = kind(resource(CDS, "a"))
    client.refuse = Denied("not your node")
    with pytest.raises(Denied):
        client.send(CDS)
    client.expect_nothing()


@BOTH
def test_a_right_that_is_taken_away_ends_the_stream(kind: type[Dialogue]) -> None:
    client = kind(resource(CDS, "a"))
    client.send(CDS)
    client.expect(CDS)
    client.refuse = Denied("revoked")
    with pytest.raises(Denied):
        client.changed()


@BOTH
def test_a_node_without_configuration_is_kept_and_served_when_there_is_some(kind: type[Dialogue]) -> None:
    client = kind()
    client.parts = None
    client.send(CDS)
    client.send(EDS, ["a"])
    client.changed()
    client.expect_nothing()
    client.store.publish({"gateway": [resource(CDS, "a"), resource(EDS, "a")]})
    client.parts = ("gateway",)
    client.changed()
    client.expect(CDS)
    client.expect(EDS)
    client.expect_nothing()


def test_a_resume_before_there_is_configuration_is_compared_when_there_is() -> None:
    client = Delta()
    client.parts = None
    same = resource(CDS, "same")
    assert same[2] is not None
    client.send(CDS, initial={"same": same[2].version, "gone": "1"})
    client.send(EDS, ["a", "b"], initial={"a": "old"})
    client.store.publish({"gateway": [same, resource(CDS, "new"), resource(EDS, "a"), resource(EDS, "b")]})
    client.parts = ("gateway",)
    client.changed()
    client.take(CDS, ["new"])
    client.take(EDS, ["a", "b"])
    client.advance(1)
    client.take(CDS, removed=["gone"])
    client.expect_nothing()


def test_a_view_that_is_taken_away_fails_static() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS)
    client.take(CDS, ["a"])
    client.parts = None
    client.changed()
    client.expect_nothing()
    client.publish(removed(CDS, "a"))  # what is published for it still counts
    client.take(CDS, removed=["a"])


def test_another_view_is_compared_with_what_was_sent() -> None:
    client = Delta(resource(CDS, "shared"), resource(CDS, "mine", "1"), resource(EDS, "e", "1"))
    client.store.publish({"other": [resource(CDS, "shared"), resource(CDS, "theirs"), resource(EDS, "e", "2")]})
    client.send(CDS)
    client.take(CDS, ["mine", "shared"])
    client.send(EDS, ["e"])
    client.take(EDS, ["e"])
    client.parts = ("other",)
    client.changed()
    client.take(CDS, ["theirs"])
    client.take(EDS, ["e"])
    client.take(CDS, removed=["mine"])
    client.expect_nothing()
    client.publish(resource(CDS, "mine", "2"))
    client.expect_nothing()
    client.publish(resource(CDS, "theirs", "2"), part="other")
    client.take(CDS, ["theirs"])


def test_another_view_sotw() -> None:
    client = Sotw(resource(LDS, "mine", "m"))
    client.store.publish({"other": [resource(LDS, "theirs", "t")]})
    client.send(LDS)
    client.take(LDS, b"m")
    client.parts = ("other",)
    client.changed()
    client.take(LDS, b"m", b"t")
    client.take(LDS, b"t")
    client.expect_nothing()


def test_a_part_joins_and_leaves() -> None:
    client = Delta(resource(CDS, "a"))
    client.store.publish({"other": [resource(CDS, "b")]})
    client.send(CDS)
    client.take(CDS, ["a"])
    client.parts = ("gateway", "other")
    client.changed()
    client.take(CDS, ["b"])
    client.publish(resource(CDS, "b", "2"), part="other")
    client.take(CDS, ["b"])
    client.parts = ("gateway",)
    client.changed()
    client.take(CDS, removed=["b"])


def test_a_stream_that_fell_too_far_behind_is_ended_rather_than_served_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.snapshot.content.REMEMBERED_NAMES", 3)
    client = Delta(resource(CDS, "a"))
    client.send(CDS)
    client.take(CDS, ["a"])
    for name in "bcdef":
        client.store.publish({"gateway": [resource(CDS, name)]})
    ends(Status.UNAVAILABLE, client.changed)


@BOTH
def test_settled_is_what_everything_up_to_a_sequence_number_is_acknowledged(kind: type[Dialogue]) -> None:
    client = kind(resource(LDS, "l", "1"), resource(SRDS, "r", "1"))
    client.send(LDS)
    listeners = client.expect(LDS)
    client.send(SRDS)
    routes = client.expect(SRDS)
    assert client.observer.settlements == []
    client.ack(listeners)
    client.ack(routes)
    assert client.observer.settlements == [1]
    client.publish(resource(LDS, "l", "2"), resource(SRDS, "r", "2"))
    client.ack(client.expect(LDS))
    assert client.observer.settlements == [1]
    routes = client.expect(SRDS)
    client.publish(resource(RDS, "not subscribed"))
    client.ack(routes)
    assert client.observer.settlements == [1, 3]
    assert client.session.settled == 3
    client.publish(resource(RDS, "not subscribed", "2"))  # concerns it not: at once
    assert client.observer.settlements[-1] == 4


def test_refused_content_is_not_settled() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS)
    client.take(CDS, ["a"])
    client.publish(resource(CDS, "a", "bad"))
    client.nack(client.expect(CDS))
    client.changed()
    assert client.session.settled == 1
    client.publish(resource(CDS, "a", "good"))
    client.take(CDS, ["a"])
    assert client.session.settled == 3


def test_the_status_tells_where_a_stream_stands() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(EDS, ["x", "y"])
    client.send(SDS)
    client.now = 5.0
    client.send(CDS)
    states = {status.type_url: status for status in client.session.status()}
    assert (states[EDS].state, states[EDS].names, states[EDS].wildcard) == ("pending", 2, False)
    assert states[SDS].state == "not_sent"
    assert (states[CDS].state, states[CDS].since, states[CDS].wildcard) == ("pending", 5.0, True)
    client.inbox.popleft()
    client.now = 6.0
    message = client.expect(CDS)
    client.ack(message)
    status = client.status(CDS)
    assert (status.state, status.since) == ("synced", 6.0)
    assert (status.acked_nonce, status.acked_version) == (message.nonce, status.sent_version)
    assert status.sent_version == client.store.view(["gateway"]).version(CDS)


def test_what_waits_behind_a_refusal_waits_since_it_was_wanted() -> None:
    """Not since the ACK before: a change of this moment would be called stale."""
    client = Delta(resource(CDS, "a"), resource(LDS, "l"))
    client.send(CDS)
    client.take(CDS, ["a"])
    client.send(LDS)
    client.take(LDS, ["l"])
    client.now = 100.0
    client.publish(resource(CDS, "a", "bad"), resource(LDS, "l", "to a"))
    client.nack(client.expect(CDS))
    client.now = 101.0
    status = client.status(LDS)
    assert (status.state, status.since) == ("pending", 100.0)


def test_who_comes_back_with_everything_is_synced() -> None:
    """Nothing is sent then, so there is no ACK: a fleet would look stale for ever after each restart."""
    client = Delta(resource(EDS, "x"))
    client.send(EDS, ["x"], initial={"x": client.version(EDS, "x")})
    client.expect_nothing()
    assert client.status(EDS).state == "synced"
    client.publish(resource(EDS, "x", "2"))
    assert client.status(EDS).state == "pending"


def test_what_nobody_has_is_not_sent() -> None:
    client = Delta()
    client.send(EDS, ["x"], initial={"x": "1"})
    assert client.status(EDS).state != "synced"


def test_what_a_node_says_of_itself() -> None:
    client = Delta()
    text = {
        "type_url": CDS,
        "node": {
            "id": "n", "cluster": "c", "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
            "metadata": {"labels": {"tier": "edge", "number": 3, "list": ["x"]}, "other": 1},
            "user_agent_name": "envoy",
            "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 40, "patch": 2}},
            "client_features": ["f"],
        },
    }  # fmt: skip
    client.receive(json_format.ParseDict(text, discovery_pb2.DeltaDiscoveryRequest()).SerializeToString())
    node = client.session.node
    assert node is not None
    assert (node.id, node.cluster, node.locality) == ("n", "c", Locality("r", "z", "s"))
    assert (node.labels, node.version, node.user_agent) == ({"tier": "edge"}, "1.40.2", "envoy")
    assert node.features == {"f"}


@pytest.mark.parametrize("labels", ["text", 3, None, ["a"], {"nested": {"a": "b"}}])
def test_labels_of_another_shape_are_no_labels(labels: object) -> None:
    client = Delta()
    text = {"type_url": CDS, "node": {"id": "n", "metadata": {"labels": labels}}}
    client.receive(json_format.ParseDict(text, discovery_pb2.DeltaDiscoveryRequest()).SerializeToString())
    assert client.session.node is not None
    assert client.session.node.labels == {}


def test_streams_share_the_bytes_but_not_the_nonce() -> None:
    first, second = Delta(resource(CDS, "a")), Sotw(resource(CDS, "a"))
    first.send(CDS)
    second.send(CDS)
    assert first.expect(CDS).resources[0].resource.value == cluster("a")
    assert second.expect(CDS).resources[0].value == cluster("a")
