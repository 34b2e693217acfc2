"""What a client says of a response when the world has moved on since it was sent, and what is under way meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.resources import Resource
from controlplane.xds.observer import State
from tests.protocol.dialogue import (
    CDS,
    ECDS,
    EDS,
    LDS,
    PART,
    RDS,
    SRDS,
    Change,
    Delta,
    Sotw,
    cluster,
    eds_cluster,
    removed,
    resource,
)
from tests.protocol.fleet import Fleet

LONG = 1000.0


def _clusters(message: Any) -> dict[str, str]:
    """Name and content of the clusters in a response, of either variant."""
    bodies = [getattr(one, "resource", one).value for one in message.resources]
    return {one.name: one.alt_stat_name for one in map(cluster_pb2.Cluster.FromString, bodies)}


# -- a refusal -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [resource(CDS, "x", "3"), removed(CDS, "x")], ids=["mended", "removed"])
def test_what_is_blamed_by_name_may_be_mended_already_and_nobody_else_is_blamed(then: Change) -> None:
    fleet = Fleet(resource(CDS, "x", "1"), resource(CDS, "y", "1"))
    client = fleet.join()
    client.send(CDS)
    client.take(CDS, ["x", "y"])
    fleet.publish(resource(CDS, "x", "bad"), resource(CDS, "y", "2"))
    refused = client.expect(CDS)
    fleet.publish(then)
    client.nack(refused, "Error adding/updating cluster(s) x: no")
    fleet.settle()
    assert list(fleet.holds.held()) == []
    new = fleet.join(node="new")
    new.send(CDS)
    assert _clusters(new.expect(CDS))["y"] == "2"


def test_content_that_was_refused_with_others_and_comes_back_is_sent() -> None:
    """It travelled with what is to blame, another content of it waited: the client has neither."""
    fleet = Fleet(resource(CDS, "k", "1"), resource(RDS, "route/x", "1"), resource(RDS, "route/y", "1"))
    client = fleet.join()
    client.send(CDS)
    client.take(CDS, ["k"])
    client.send(RDS, ["route/x", "route/y"])
    client.take(RDS, ["route/x", "route/y"])
    fleet.publish(resource(RDS, "route/x", "2"), resource(RDS, "route/y", "bad"))
    refused = client.expect(RDS)
    fleet.publish(resource(CDS, "k", "2"), resource(RDS, "route/x", "3"))  # which waits for the ACK of the cluster
    clusters = client.expect(CDS)
    client.nack(refused, "Error adding/updating x(s) route/y: no")
    fleet.settle()
    fleet.publish(resource(RDS, "route/x", "2"))
    client.ack(clusters)
    client.take(RDS, ["route/x"])


def test_a_resource_that_was_refused_when_it_was_new_and_comes_back_is_sent() -> None:
    fleet = Fleet(resource(CDS, "k", "1"), resource(RDS, "route/y", "1"))
    client = fleet.join()
    client.send(CDS)
    client.take(CDS, ["k"])
    client.send(RDS, ["route/x", "route/y"])
    client.take(RDS, ["route/y"], ["route/x"])
    fleet.publish(resource(RDS, "route/x", "1"), resource(RDS, "route/y", "bad"))
    refused = client.expect(RDS)
    fleet.publish(removed(RDS, "route/x"))
    client.nack(refused, "Error adding/updating x(s) route/y: no")
    fleet.settle()
    fleet.publish(resource(RDS, "route/x", "1"))
    client.take(RDS, ["route/x"])


def test_what_a_client_has_of_an_earlier_process_is_removed_though_it_refused_what_came_after() -> None:
    fleet = Fleet(resource(SRDS, "x", "bad"), resource(SRDS, "y", "1"))
    client = fleet.join()
    had = {"x": Resource(SRDS, "x", b"of before").version, "y": client.version(SRDS, "y")}
    client.send(SRDS, ["*"], initial=had)
    client.advance(0.3)
    client.nack(client.expect_names(SRDS, ["x"]), "no")
    fleet.settle()
    fleet.publish(removed(SRDS, "x"))
    client.advance(LONG)
    client.take(SRDS, [], ["x"])


def test_a_revert_reaches_those_who_took_over_what_others_refused() -> None:
    fleet = Fleet(resource(SRDS, "x", "1"))
    clients = [fleet.join(node=f"n{number}") for number in range(6)]
    for client in clients:
        client.send(SRDS)
        client.take(SRDS, ["x"])
    fleet.publish(resource(SRDS, "x", "2"))
    for client in clients[3:]:
        client.take(SRDS, ["x"])
    for client in clients[:3]:
        client.nack(client.expect(SRDS), "cannot open /etc/here.lua")
        fleet.settle()
    fleet.publish(resource(SRDS, "x", "1"))
    for client in clients[3:]:
        client.take(SRDS, ["x"])


def test_who_is_shown_nothing_gets_what_is_proven_good_later() -> None:
    fleet = Fleet(resource(SRDS, "y", "1"))
    slow = fleet.join(node="slow")
    slow.send(SRDS)
    slow.take(SRDS, ["y"])
    fleet.publish(resource(SRDS, "x", "1"))
    first = slow.expect_names(SRDS, ["x"])
    fleet.publish(resource(SRDS, "x", "bad"))
    client = fleet.join(node="quick")
    client.send(SRDS)
    client.nack(client.expect_names(SRDS, ["x", "y"]), "Error adding/updating x(s) x: no")
    fleet.settle()
    client.take(SRDS, ["y"])
    slow.ack(first)
    fleet.settle()
    fleet.publish(resource(SRDS, "y", "2"))
    client.take(SRDS, ["x", "y"])


def test_an_edit_that_was_refused_and_taken_back_leaves_nothing_behind() -> None:
    fleet = Fleet(resource(CDS, "x", "1"), resource(CDS, "y", "1"))
    client = fleet.join()
    client.send(CDS)
    client.take(CDS, ["x", "y"])
    fleet.publish(resource(CDS, "x", "bad"))
    client.nack(client.expect(CDS), "Error adding/updating cluster(s) x: no")
    fleet.settle()
    assert client.status(CDS).state is State.NACK
    fleet.publish(resource(CDS, "x", "1"))
    assert client.status(CDS).state is State.SYNCED
    assert client.session.settled == fleet.store.sequence
    fleet.publish(removed(CDS, "y"))
    client.take(CDS, [], ["y"])


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("kind", "wants", "gives_up"),
    [(Delta, {}, {"unsubscribe": ["b"]}), (Sotw, {"names": ["a", "b"]}, {"names": ["a"]})],
)
def test_who_gives_up_what_it_refused_complains_of_nothing(
    kind: Any, wants: Any, gives_up: Any, together: bool
) -> None:
    """With the refusal or later: nothing will be sent that it could acknowledge."""
    client = kind(resource(EDS, "a"), resource(EDS, "b"))
    client.send(EDS, ["a", "b"])
    client.ack(client.expect(EDS), **wants)
    client.publish(resource(EDS, "b", "bad"))
    bad = client.expect(EDS)
    if together:
        client.send(EDS, nonce=bad.nonce, error="no", **gives_up)
    else:
        client.nack(bad, **wants)
        assert client.status(EDS).state is State.NACK
        client.send(EDS, nonce=bad.nonce, **gives_up)
    client.expect_nothing()
    assert client.status(EDS).state is State.SYNCED
    assert client.session.settled == client.store.sequence


def test_what_is_refused_when_it_is_gone_is_no_complaint_though_silence_says_that_it_is_gone() -> None:
    client = Sotw(resource(EDS, "a"), resource(EDS, "b"))
    client.send(EDS, ["a", "b"])
    client.take(EDS, b"1", b"1", names=["a", "b"])
    client.publish(resource(EDS, "b", "bad"))
    bad = client.expect_bodies(EDS, b"bad")
    client.publish(removed(EDS, "b"))
    client.nack(bad, ["a", "b"])
    client.expect_nothing()
    assert client.status(EDS).state is State.SYNCED
    assert client.session.settled == client.store.sequence


def test_a_full_set_is_refused_for_what_one_before_it_brought() -> None:
    """State of the world: the first answer was bad, and the next, which repeats it, went out before the client said so."""
    fleet = Fleet(resource(CDS, "x", "bad"), resource(CDS, "y", "1"))
    client = fleet.join(Sotw)
    client.send(CDS)
    first = client.expect(CDS)
    client.advance(1.0)
    fleet.publish(resource(CDS, "y", "2"))
    second = client.expect(CDS)
    for refused in (first, second):
        client.nack(refused, error="Error adding/updating cluster(s) x: no")
        fleet.settle()
    assert [held.resource.name for held in fleet.holds.held()] == ["x"]
    assert _clusters(client.expect(CDS)) == {"y": "2"}


@pytest.mark.parametrize("each", [True, False], ids=["each response", "the last one"])
def test_what_is_taken_over_when_a_newer_response_is_out_is_known_to_be_good(each: bool) -> None:
    """State of the world: gRPC asks for one cluster after the other. Else new clients would get no earlier content of it."""
    fleet = Fleet(resource(CDS, "x", "1"), resource(CDS, "y", "1"))
    client = fleet.join(Sotw)
    client.send(CDS, ["x"])
    first = client.expect(CDS)
    client.send(CDS, ["x", "y"])
    second = client.expect(CDS)
    if each:
        client.ack(first, ["x", "y"])
    client.ack(second, ["x", "y"])
    fleet.publish(resource(CDS, "x", "bad"))
    client.nack(client.expect(CDS), ["x", "y"])
    fleet.settle()
    new = fleet.join(Sotw, node="new")
    new.send(CDS, ["x"])
    assert _clusters(new.expect(CDS)) == {"x": "1"}


def test_what_was_refused_when_a_newer_response_is_out_is_not_taken_over_by_a_request_for_more() -> None:
    fleet = Fleet(resource(CDS, "x", "bad"), resource(CDS, "y", "1"))
    client = fleet.join(Sotw)
    client.send(CDS, ["x"])
    first = client.expect(CDS)
    client.send(CDS, ["x", "y"])
    client.expect(CDS)
    client.nack(first, ["x", "y"])
    client.send(CDS, ["x", "y", "z"], nonce=first.nonce)
    assert client.status(CDS).acked_nonce == ""


def test_what_a_client_comes_back_with_is_known_to_be_good() -> None:
    """State of the world: after a restart of the control plane it has everything, and is sent nothing to acknowledge."""
    fleet = Fleet(resource(CDS, "x", "1"), resource(CDS, "y", "1"))
    former = fleet.join(Sotw)
    former.send(CDS)
    version = former.expect(CDS).version_info
    client = fleet.join(Sotw, node="node-2")
    client.send(CDS, version=version)
    client.expect_nothing()
    former.end()
    fleet.publish(resource(CDS, "x", "bad"))
    client.nack(client.expect(CDS), error="Error adding/updating cluster(s) x: no")
    fleet.settle()
    new = fleet.join(node="new")
    new.send(CDS)
    assert _clusters(new.expect(CDS)) == {"x": "1", "y": "1"}


def test_a_refusal_of_named_resources_counts_when_a_newer_response_is_out() -> None:
    names = ["r/bad", "r/c", "r/d"]
    fleet = Fleet(*(resource(RDS, name, "1") for name in names))
    client = fleet.join(Sotw)
    client.send(RDS, names)
    client.ack(client.expect(RDS), names)
    fleet.publish(resource(RDS, "r/bad", "bad"), resource(RDS, "r/c", "2"))
    first = client.expect(RDS)
    client.advance(6.0)
    fleet.publish(resource(RDS, "r/d", "2"))
    second = client.expect(RDS)
    client.nack(first, names, "route r/bad: no")
    fleet.settle()
    client.ack(second, names)
    fleet.settle()
    assert [held.resource.name for held in fleet.holds.held()] == ["r/bad"]
    assert len(client.expect(RDS).resources) == 1


# -- make before break -----------------------------------------------------------------------------------------------------


def _leading_to_a(*more: Change) -> Delta:
    client = Delta(resource(CDS, "a"), resource(EDS, "zz"), resource(RDS, "r", "->a"), *more)
    client.send(CDS)
    client.take(CDS, ["a"])
    client.send(EDS, ["zz"])
    client.take(EDS, ["zz"])
    client.send(RDS, ["r"])
    client.take(RDS, ["r"])
    return client


def test_a_cluster_that_resolves_names_is_given_its_time_though_another_one_is_under_way() -> None:
    client = _leading_to_a()
    client.publish((CDS, "d", Resource(CDS, "d", cluster("d", kind="DNS"))), resource(RDS, "r", "->d"))
    named = client.expect(CDS)
    client.publish(resource(CDS, "e"))
    other = client.expect(CDS)
    client.ack(named)
    client.ack(other)
    client.expect_nothing()
    client.advance(LONG)
    client.expect_names(RDS, ["r"])


def test_the_ack_of_an_earlier_response_says_nothing_of_a_cluster_that_waits_for_its_endpoints() -> None:
    client = _leading_to_a()
    client.publish(resource(CDS, "a", "2"))
    earlier = client.expect(CDS)
    client.publish(eds_cluster("e"), resource(EDS, "e"), resource(RDS, "r", "->e"))
    later = client.expect(CDS)
    client.ack(earlier)
    client.advance(0.6)
    client.ack(later)
    client.expect_nothing()


def test_the_refusal_of_one_cluster_leaves_another_to_wait_for_its_endpoints() -> None:
    client = _leading_to_a()
    client.publish(eds_cluster("e"), resource(EDS, "e"), resource(RDS, "r", "->e"))
    waits = client.expect(CDS)
    client.publish(resource(CDS, "bad"))
    refused = client.expect(CDS)
    client.ack(waits)
    client.nack(refused, "Error adding/updating cluster(s) bad: no")
    client.expect_nothing()
    client.send(EDS, ["e"])
    client.take(EDS, ["e"])
    client.expect_names(RDS, ["r"])


@pytest.mark.parametrize("kind", ["additions", "removals"])
def test_who_acknowledges_more_slowly_than_changes_come_is_not_kept_waiting_by_what_came_later(kind: str) -> None:
    """Each change is complete in itself: it goes out one round trip after it came, not at the bound."""
    client = Delta(resource(SRDS, "k"), resource(CDS, "k"))
    client.send(CDS)
    client.take(CDS, ["k"])
    client.send(SRDS)
    client.take(SRDS, ["k"])
    under_way: list[tuple[float, Any]] = []
    came: dict[str, float] = {}
    lags: list[float] = []
    for number in range(1, 60):
        if kind == "additions":
            client.publish(resource(CDS, f"c{number}"), resource(SRDS, f"s{number}"))
            came[f"s{number}"] = client.now
        else:
            client.publish(resource(SRDS, f"s{number}"), removed(SRDS, f"s{number - 1}" if number > 1 else "k"))
            came[f"s{number - 1}" if number > 1 else "k"] = client.now
        for _ in range(4):
            while client.inbox:
                message = client.inbox.popleft()
                under_way.append((client.now + 0.25, message))
                told = [one.name for one in message.resources] if kind == "additions" else message.removed_resources
                lags += [client.now - came[name] for name in told if message.type_url == SRDS]
            client.advance(0.025)
            while under_way and under_way[0][0] <= client.now:
                client.ack(under_way.pop(0)[1])
    assert len(lags) > 50
    assert max(lags) < 1.0


def test_what_a_route_leads_to_stays_though_the_route_was_changed_again_before_it_was_sent() -> None:
    client = Delta(resource(CDS, "old"), resource(SRDS, "r1", "->old"), resource(SRDS, "r2", "->old"))
    client.send(CDS)
    client.take(CDS, ["old"])
    client.send(SRDS)
    client.take(SRDS, ["r1", "r2"])
    moved = [resource(SRDS, name, "->n1") for name in ("r1", "r2")]
    client.publish(resource(CDS, "n1"), removed(CDS, "old"), *moved)
    first = client.expect_names(CDS, ["n1"])
    client.publish(resource(CDS, "n2"), resource(SRDS, "r2", "->n2"))
    second = client.expect_names(CDS, ["n2"])
    client.ack(first)
    client.take(SRDS, ["r1"])
    client.expect_nothing()
    client.ack(second)
    client.take(SRDS, ["r2"])
    client.take(CDS, removed=["old"])


def test_what_a_route_leads_to_stays_though_the_route_was_to_go_and_came_back_before_it_went() -> None:
    """It waited as a change, as what is gone, and as a change once more; the client has it as it was, all the time."""
    client = Delta(resource(CDS, "old"), resource(SRDS, "r1", "->old"), resource(SRDS, "r2", "->old"))
    client.send(CDS)
    client.take(CDS, ["old"])
    client.send(SRDS)
    client.take(SRDS, ["r1", "r2"])
    client.publish(resource(CDS, "n1"), removed(CDS, "old"), resource(SRDS, "r1", "->n1"), resource(SRDS, "r2", "->n1"))
    clusters = client.expect_names(CDS, ["n1"])
    client.publish(removed(SRDS, "r2"))
    client.ack(clusters)
    routes = client.expect_names(SRDS, ["r1"])
    client.publish(resource(CDS, "n2"), resource(SRDS, "r2", "->n2"))
    clusters = client.expect_names(CDS, ["n2"])
    client.ack(routes)
    client.expect_nothing()
    client.ack(clusters)
    client.take(SRDS, ["r2"])
    client.take(CDS, removed=["old"])


def test_endpoints_of_who_comes_back_stay_though_their_cluster_that_was_just_sent_is_gone() -> None:
    """Its routes lead there, until they are others."""
    client = Delta(eds_cluster("c", "2"), resource(EDS, "c"), resource(SRDS, "r"))
    version = client.version(EDS, "c")
    client.send(CDS, ["*"], initial={"c": "1"})
    client.expect_names(CDS, ["c"])
    client.publish(removed(CDS, "c"), removed(EDS, "c"))
    client.send(EDS, ["c"], initial={"c": version})
    client.expect_nothing()


# -- a subscription --------------------------------------------------------------------------------------------------------


def test_what_was_asked_for_while_it_went_is_sent_when_it_comes_back() -> None:
    """The request arrives when the stream has not looked yet: nobody ever held it."""
    client = Delta(resource(CDS, "k"), resource(ECDS, "x", "1"))
    client.send(CDS)
    client.take(CDS, ["k"])
    client.store.publish({PART: [removed(ECDS, "x"), resource(CDS, "k", "2")]})
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=ECDS, resource_names_subscribe=["x"])
    client.session.receive(request.SerializeToString(), client.now)
    client.changed()
    clusters = client.expect(CDS)
    client.take(ECDS, [], ["x"])
    client.publish(resource(ECDS, "x", "1"))
    client.ack(clusters)
    client.advance(LONG)
    client.expect_names(ECDS, ["x"])


@pytest.mark.parametrize("kind", [Delta, Sotw])
def test_a_first_answer_is_whole_though_a_name_is_asked_for_beside(kind: type[Any]) -> None:
    client = kind(resource(CDS, "k"), resource(LDS, "l1"), resource(LDS, "l2"))
    client.send(CDS)
    client.ack(client.expect(CDS))
    client.publish(resource(CDS, "k", "2"))
    clusters = client.expect(CDS)
    client.send(LDS, ["*", "l1"])
    client.expect_nothing()
    client.ack(clusters)
    assert len(client.expect(LDS).resources) == 2


def test_what_is_asked_for_again_while_it_goes_is_sent_though_it_comes_back_as_it_was() -> None:
    client = Delta(resource(CDS, "k"), resource(CDS, "x", "1"), resource(SRDS, "r"))
    client.send(CDS)
    client.take(CDS, ["k", "x"])
    client.send(SRDS)
    client.take(SRDS, ["r"])
    client.publish(removed(CDS, "x"), resource(SRDS, "r", "2"))
    routes = client.expect(SRDS)
    client.send(CDS, ["x"])
    client.publish(resource(CDS, "x", "1"))
    client.take(CDS, ["x"])
    client.ack(routes)
    client.expect_nothing()
