"""Make before break on one stream: what is used is there before its user, and stays until nothing uses it."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.resources import Resource
from controlplane.xds.bounds import Timing
from tests.protocol.dialogue import (
    CDS,
    ECDS,
    EDS,
    LDS,
    RDS,
    SDS,
    SRDS,
    Delta,
    Sotw,
    cluster,
    eds_cluster,
    removed,
    resource,
    synced,
)


def test_a_change_of_all_types_goes_out_in_order_each_after_the_acks_it_needs() -> None:
    client = synced()
    client.publish(*(resource(url, "a", "2") for url in (CDS, EDS, SDS, LDS, ECDS, RDS, SRDS)))
    clusters, assignments = client.expect_names(CDS, ["a"]), client.expect_names(EDS, ["a"])
    client.take(SDS, ["a"])
    client.expect_nothing()
    client.ack(clusters)
    client.expect_nothing()
    client.ack(assignments)
    listeners, extensions = client.expect_names(LDS, ["a"]), client.expect_names(ECDS, ["a"])
    client.expect_nothing()
    client.ack(extensions)
    client.expect_nothing()
    client.ack(listeners)
    client.take(RDS, ["a"])
    client.take(SRDS, ["a"])
    client.expect_nothing()


def test_the_certificate_of_a_new_chain_comes_after_its_scopes() -> None:
    """Envoy asks for it before it acknowledges the listener, and takes connections as soon as it has it."""
    client = synced()
    client.publish(*(resource(url, "a", "2") for url in (LDS, SRDS)), resource(SDS, "b"))
    listeners = client.expect_names(LDS, ["a"])
    client.send(SDS, ["b"])
    client.expect_nothing()
    client.ack(listeners)
    scopes = client.expect_names(SRDS, ["a"])
    client.expect_nothing()
    client.ack(scopes)
    client.take(SDS, ["b"])
    client.expect_nothing()


def test_a_certificate_is_not_held_for_longer_than_the_bound() -> None:
    client = synced()
    client.publish(resource(LDS, "a", "2"), resource(SRDS, "a", "2"), resource(SDS, "b"))
    client.ack(client.expect_names(LDS, ["a"]))
    client.publish(resource(LDS, "a", "3"), resource(SRDS, "b"))
    client.expect_names(SRDS, ["a"])  # never acknowledged
    client.expect_names(LDS, ["a"])
    client.send(SDS, ["b"])
    client.expect_nothing()
    client.advance(5.1)
    client.expect_names(SDS, ["b"])


def test_the_certificate_of_a_new_cluster_waits_for_no_route() -> None:
    client = synced()
    client.publish(resource(CDS, "b"), resource(SRDS, "a", "2"), resource(SDS, "b"))
    clusters = client.expect_names(CDS, ["b"])
    client.send(SDS, ["b"])
    client.take(SDS, ["b"])
    client.ack(clusters)
    client.take(SRDS, ["a"])


@pytest.mark.parametrize("url", [CDS, EDS, SDS, LDS, ECDS, RDS, SRDS])
def test_a_change_of_one_type_waits_for_nothing(url: str) -> None:
    client = synced()
    client.publish(resource(url, "a", "2"))
    client.take(url, ["a"])
    client.expect_nothing()


def test_routes_wait_for_the_load_assignment_of_a_new_cluster() -> None:
    """Envoy asks for it once it has the cluster; before that a route to it would answer 503."""
    client = synced()
    client.publish(eds_cluster("b"), resource(EDS, "b"), resource(SRDS, "b"))
    client.take(CDS, ["b"])
    client.expect_nothing()
    client.send(EDS, ["b"])
    assignment = client.expect_names(EDS, ["b"])
    client.expect_nothing()
    client.ack(assignment)
    client.take(SRDS, ["b"])


def test_a_cluster_that_goes_and_returns_before_its_load_assignment_was_asked_for_is_still_waited_for() -> None:
    client = synced()
    client.publish(eds_cluster("b"), resource(EDS, "b"))
    clusters = client.expect_names(CDS, ["b"])
    client.publish(removed(CDS, "b"), removed(EDS, "b"))
    client.publish(eds_cluster("b"), resource(EDS, "b"), resource(SRDS, "b"))
    client.ack(clusters)
    client.expect_nothing()
    client.send(EDS, ["b"])
    client.take(EDS, ["b"])
    client.take(SRDS, ["b"])


def test_the_client_may_ask_for_the_load_assignment_before_it_acknowledges_the_cluster() -> None:
    client = synced()
    client.publish(eds_cluster("b", service="elsewhere"), resource(EDS, "elsewhere"), resource(SRDS, "b"))
    clusters = client.expect_names(CDS, ["b"])
    client.send(EDS, ["elsewhere"])
    client.take(EDS, ["elsewhere"])
    client.expect_nothing()
    client.ack(clusters)
    client.take(SRDS, ["b"])


def test_the_wait_for_a_load_assignment_that_nobody_asks_for_is_short() -> None:
    client = synced()
    client.publish(eds_cluster("b"), resource(EDS, "b"), resource(SRDS, "b"))
    client.take(CDS, ["b"])
    client.advance(0.4)
    client.expect_nothing()
    client.advance(0.2)
    client.take(SRDS, ["b"])


def test_changed_clusters_get_their_load_assignments_again() -> None:
    """A changed cluster warms anew, and Envoy does not ask for the assignment it already has."""
    client = Delta(eds_cluster("a"), eds_cluster("b"), *(resource(EDS, name) for name in "abc"))
    client.send(CDS)
    client.take(CDS, ["a", "b"])
    client.send(EDS, ["a", "b", "c"])
    client.take(EDS, ["a", "b", "c"])
    client.publish(eds_cluster("a", "2"), eds_cluster("b", "2"), resource(EDS, "b", "2"))
    client.take(CDS, ["a", "b"])
    client.take(EDS, ["a", "b"])
    client.expect_nothing()


def test_changed_clusters_get_their_load_assignments_again_sotw() -> None:
    client = Sotw(eds_cluster("a"), eds_cluster("b"), resource(EDS, "a", "a1"), resource(EDS, "b", "b1"))
    client.send(CDS)
    client.take(CDS, cluster("a", kind="EDS"), cluster("b", kind="EDS"))
    client.send(EDS, ["a", "b"])
    client.take(EDS, b"a1", b"b1", names=["a", "b"])
    client.publish(eds_cluster("a", "2"))
    client.take(CDS, cluster("a", kind="EDS", content="2"), cluster("b", kind="EDS"))
    client.take(EDS, b"a1", names=["a", "b"])
    client.expect_nothing()


def test_a_resume_whose_cluster_changed_gets_its_unchanged_load_assignment() -> None:
    client = Delta(eds_cluster("a", "2"), resource(EDS, "a"))
    client.send(CDS, initial={"a": "old"})
    clusters = client.expect_names(CDS, ["a"])
    client.send(EDS, ["a"], initial={"a": client.version(EDS, "a")})
    client.take(EDS, ["a"])
    client.ack(clusters)
    client.expect_nothing()


@pytest.mark.parametrize("kind", ["DNS", "STRICT_DNS"])
def test_routes_wait_a_moment_for_names_to_resolve(kind: str) -> None:
    """An ACK of a cluster is not "warm", and Envoy does not say when it is."""
    client = synced()
    dns = Resource(CDS, "dns", cluster("dns", kind=kind))
    client.publish((CDS, "dns", dns), resource(SRDS, "b"))
    client.take(CDS, ["dns"])
    client.advance(0.9)
    client.expect_nothing()
    client.advance(0.2)
    client.take(SRDS, ["b"])


def test_removals_go_last_routes_first_and_parents_before_their_children() -> None:
    client = synced()
    client.publish(*(removed(url, "a") for url in (CDS, EDS, SDS, LDS, ECDS, RDS, SRDS)), resource(SRDS, "b"))
    client.take(SRDS, ["b"])
    for url in (SRDS, LDS, RDS, ECDS, CDS, EDS, SDS):
        last = client.expect_names(url, removed=["a"])
        client.expect_nothing()
        client.ack(last)
    client.expect_nothing()


def test_a_backend_is_swapped_without_a_gap() -> None:
    client = synced()
    client.publish(removed(CDS, "a"), resource(CDS, "b"), resource(SRDS, "a", "to b"))
    added = client.expect_names(CDS, ["b"])
    client.expect_nothing()
    client.ack(added)
    routes = client.expect_names(SRDS, ["a"])
    client.expect_nothing()
    client.ack(routes)
    client.take(CDS, removed=["a"])


def test_a_child_that_the_client_dropped_with_its_parent_is_not_mentioned() -> None:
    client = synced()
    client.publish(removed(CDS, "a"), removed(EDS, "a"))
    clusters = client.expect_names(CDS, removed=["a"])
    client.send(EDS, unsubscribe=["a"])
    client.ack(clusters)
    client.expect_nothing()


def test_the_newest_state_wins_over_what_waited() -> None:
    client = synced()
    client.publish(resource(CDS, "a", "2"), resource(SRDS, "a", "2"))
    first = client.expect_names(CDS, ["a"])
    client.publish(resource(CDS, "b"), resource(SRDS, "a", "3"))
    second = client.expect_names(CDS, ["b"])
    client.ack(first)
    client.expect_nothing()  # the routes as they are now need b
    client.ack(second)
    routes = client.take(SRDS, ["a"])
    assert routes.resources[0].resource.value == b"3"
    client.expect_nothing()


def test_what_was_removed_and_came_back_is_not_removed() -> None:
    client = synced()
    client.publish(removed(CDS, "a"), resource(SRDS, "a", "2"))
    routes = client.expect_names(SRDS, ["a"])
    client.publish(resource(CDS, "a"))
    client.ack(routes)
    client.advance(1000)
    client.expect_nothing()


def test_a_change_taken_back_while_another_is_under_way_leaves_nothing_waiting() -> None:
    client = synced()
    client.publish(resource(CDS, "a", "2"))
    first = client.expect_names(CDS, ["a"])
    client.publish(resource(LDS, "a", "2"), resource(SRDS, "b"))
    client.publish(resource(LDS, "a"))  # taken back before it could go
    client.ack(first)
    client.take(SRDS, ["b"])
    client.expect_nothing()


def test_a_silent_client_is_not_waited_for_longer_than_the_bound() -> None:
    client = synced()
    client.publish(resource(CDS, "b"), resource(LDS, "b"), resource(SRDS, "b"), removed(CDS, "a"))
    client.expect_names(CDS, ["b"])
    client.advance(4.9)
    client.expect_nothing()
    client.advance(0.2)
    client.expect_names(LDS, ["b"])
    client.advance(5)
    client.expect_names(SRDS, ["b"])
    client.advance(5)
    client.expect_names(CDS, removed=["a"])
    client.expect_nothing()
    client.publish(resource(SRDS, "b", "2"))  # and then it is not waited for again
    client.expect_names(SRDS, ["b"])


def with_a_new_cluster() -> tuple[Delta, Any]:
    """A client that is sent a cluster, for which it has not asked the endpoints yet; with the bounds of the server."""
    client = synced(timing=Timing())
    client.publish(eds_cluster("b"), resource(EDS, "b"), resource(SRDS, "a", "2"), removed(CDS, "a"))
    return client, client.expect_names(CDS, ["b"])


def goes_on(client: Delta, clusters: Any) -> None:
    client.ack(clusters)
    client.expect_nothing()
    client.send(EDS, ["b"])
    client.take(EDS, ["b"])
    client.take(SRDS, ["a"])
    client.take(CDS, removed=["a"])
    client.expect_nothing()


@pytest.mark.parametrize("seconds", [4.0, 6.0, 24.0, 37.0])
def test_a_client_that_stands_still_gets_no_more_before_it_goes_on(seconds: float) -> None:
    """It would read all of it at once, and have routes to clusters whose endpoints it could not ask for."""
    client, clusters = with_a_new_cluster()
    client.advance(seconds)
    client.expect_nothing()
    goes_on(client, clusters)


@pytest.mark.parametrize("seconds", [5.0, 6.0, 24.0])
def test_a_client_stands_still_also_when_it_has_only_said_something_of_what_came_before(seconds: float) -> None:
    """That was on its way when it was sent what changed: of this it has read nothing."""
    client = synced(timing=Timing())
    client.publish(resource(CDS, "c"))
    before = client.expect_names(CDS, ["c"])
    client.publish(eds_cluster("b"), resource(EDS, "b"), resource(SRDS, "a", "2"), removed(CDS, "a"))
    clusters = client.expect_names(CDS, ["b"])
    client.advance(0.1)
    client.ack(before)
    client.advance(seconds - 0.1)
    client.expect_nothing()
    goes_on(client, clusters)


def test_of_a_type_that_a_client_never_acknowledges_its_silence_says_nothing() -> None:
    """What comes after that is sent in its turn, and not 40 s later."""
    client = Delta(resource(CDS, "a"), resource(SRDS, "a"), timing=Timing())
    client.send(CDS)
    client.take(CDS, ["a"])
    client.send(SRDS)
    for content in "23":
        client.expect_names(SRDS, ["a"])
        client.publish(resource(SRDS, "a", content))
    client.advance(10)
    client.expect_names(SRDS, ["a"])
    client.publish(resource(CDS, "b"))
    client.take(CDS, ["b"])


def test_a_client_that_says_nothing_for_long_is_not_waited_for_ever() -> None:
    client, _ = with_a_new_cluster()
    client.advance(39.9)
    client.expect_nothing()
    client.advance(0.2)
    client.expect_names(SRDS, ["a"])
    client.advance(5)
    client.expect_names(CDS, removed=["a"])


@pytest.mark.parametrize("seconds", [6.0, 24.0, 39.0])
def test_a_client_that_acknowledges_does_not_stand_still(seconds: float) -> None:
    """An edit some seconds after the first one waited until 40 s after it: an ACK alone did not count for a word."""
    client = synced(timing=Timing())
    for content in "23":
        client.publish(resource(SRDS, "a", content))
        client.ack(client.expect_names(SRDS, ["a"]))
        client.advance(seconds)


def test_time_in_which_this_process_stood_still_is_no_wait() -> None:
    """What the client said meanwhile is read in a moment."""
    client, clusters = with_a_new_cluster()
    client.now += 90
    client.poll()
    client.expect_nothing()
    goes_on(client, clusters)


def test_endpoints_do_not_wait_behind_an_answer_that_is_missing() -> None:
    client = synced()
    for content in "23456":
        client.publish(resource(EDS, "a", content))
        client.expect_names(EDS, ["a"])
    assert client.session.deadline is None


def test_who_never_acknowledged_anything_gets_what_depends_on_a_change_after_the_bound() -> None:
    """In real times: such a one does not stand still, it is so."""
    client = Delta(resource(CDS, "a"), resource(SRDS, "a"), timing=Timing())
    for url in (CDS, SRDS):
        client.send(url)
        client.expect_names(url, ["a"])
    client.advance(10)
    client.publish(resource(CDS, "b"), resource(SRDS, "a", "2"))
    client.expect_names(CDS, ["b"])
    client.advance(4.9)
    client.expect_nothing()
    client.advance(0.2)
    client.expect_names(SRDS, ["a"])


def test_a_client_that_never_answers_gets_the_newest_state_at_a_bounded_pace() -> None:
    client = synced()
    sent = 0
    for content in range(100):
        client.publish(resource(EDS, "a", f"v{content}"))
        sent += len(client.inbox)
        client.inbox.clear()
    assert sent == 8  # then it waits for an ACK
    client.advance(5.1)
    assert client.expect_names(EDS, ["a"]).resources[0].resource.value == b"v99"
    client.expect_nothing()


def test_routes_do_not_starve_behind_busy_endpoints() -> None:
    client = synced()
    client.publish(resource(EDS, "a", "e0"), resource(SRDS, "a", "2"))
    waiting = client.expect_names(EDS, ["a"])
    for round_ in range(1, 20):
        client.publish(resource(EDS, "a", f"e{round_}"))
        client.ack(waiting)
        urls = [message.type_url for message in client.inbox]
        if SRDS in urls:
            break
        waiting = client.expect_names(EDS, ["a"])
    else:
        pytest.fail("the routes never went out")
    assert round_ <= 2


def test_after_a_nack_the_others_go_on_but_nothing_is_removed() -> None:
    """The client goes on with the routes it has: what they lead to must stay."""
    client = synced()
    client.publish(resource(SRDS, "a", "bad"), resource(CDS, "b"), removed(CDS, "a"))
    client.take(CDS, ["b"])
    client.nack(client.expect_names(SRDS, ["a"]))
    client.advance(20)
    client.expect_nothing()
    client.publish(resource(CDS, "c"))
    client.take(CDS, ["c"])
    client.publish(resource(SRDS, "a", "good"))
    client.take(SRDS, ["a"])
    client.take(CDS, removed=["a"])
    client.expect_nothing()


@pytest.mark.parametrize("how", ["subscribe", "unsubscribe"])
def test_asking_for_what_is_gone_does_not_take_it_from_routes_that_lead_to_it(how: str) -> None:
    """As a client on demand does: it asks again, or gives the name up beside the wildcard."""
    client = Delta(resource(CDS, "a"), resource(SRDS, "r", "to a"))
    client.send(CDS, ["*", "a"])
    client.take(CDS, ["a"])
    client.send(SRDS)
    client.take(SRDS, ["r"])
    client.publish(removed(CDS, "a"), resource(SRDS, "r", "elsewhere"))
    routes = client.expect_names(SRDS, ["r"])
    client.send(CDS, **{how: ["a"]})
    client.send(CDS, ["never there"])
    client.take(CDS, removed=["never there"])
    client.expect_nothing()
    client.ack(routes)
    client.take(CDS, removed=["a"])
    client.expect_nothing()


def test_asking_for_what_is_gone_does_not_take_it_from_routes_that_lead_to_it_sotw() -> None:
    client = Sotw(resource(LDS, "l"), resource(CDS, "a"), resource(SRDS, "r", "to a"))
    client.send(CDS, ["a"])
    first = client.expect(CDS)
    client.ack(first, ["a"])
    client.send(SRDS)
    client.take(SRDS, b"to a")
    client.publish(removed(CDS, "a"), resource(SRDS, "r", "elsewhere"))
    routes = client.expect_bodies(SRDS, b"elsewhere")
    client.send(CDS, ["a", "b"], nonce=first.nonce)
    client.take(CDS, cluster("a"), names=["a", "b"])
    client.ack(routes)
    client.take(CDS, names=["a", "b"])


def test_what_goes_in_part_and_is_not_wanted_for_the_rest_holds_nothing_up() -> None:
    """The listener that went first goes alone; the one that went later, and that nobody asks for any more, never does."""
    client = Sotw(resource(LDS, "a"), resource(LDS, "b"))
    client.send(LDS)
    listeners = client.expect_bodies(LDS, b"1", b"1")
    client.publish(removed(LDS, "a"), resource(CDS, "b"))
    client.send(CDS)
    clusters = client.expect_bodies(CDS, cluster("b"))
    client.publish(removed(LDS, "b"), removed(CDS, "b"), resource(CDS, "a"))
    client.send(LDS, ["a"])
    client.ack(listeners, ["a"])
    client.ack(clusters)
    added = client.expect_bodies(CDS, cluster("a"), cluster("b"))
    client.ack(client.expect_bodies(LDS), ["a"])
    client.ack(added)
    client.take(CDS, cluster("a"))
    client.expect_nothing()


def test_a_nack_cannot_pin_what_is_removed_for_ever() -> None:
    client = synced()
    client.publish(resource(SRDS, "a", "bad"), removed(CDS, "a"))
    client.nack(client.expect_names(SRDS, ["a"]))
    client.advance(301)
    client.take(CDS, removed=["a"])


def test_a_refused_cluster_holds_its_routes_for_the_bound_only() -> None:
    client = synced()
    client.publish(resource(CDS, "a", "bad"), resource(SRDS, "a", "2"))
    client.nack(client.expect_names(CDS, ["a"]))
    client.advance(4)
    client.expect_nothing()
    client.advance(1.1)
    client.take(SRDS, ["a"])
    client.publish(resource(SRDS, "a", "3"))  # later ones do not pay again
    client.take(SRDS, ["a"])


def test_a_refused_cluster_put_right_lets_its_routes_go() -> None:
    client = synced()
    client.publish(resource(CDS, "a", "bad"), resource(SRDS, "a", "2"))
    client.nack(client.expect_names(CDS, ["a"]))
    client.publish(resource(CDS, "a", "good"))
    client.take(CDS, ["a"])
    client.take(SRDS, ["a"])


def test_a_resume_is_gated_as_any_change_is() -> None:
    """It may take long to read what it missed, and its routes are in use meanwhile."""
    client = Delta(resource(CDS, "a", "2"), resource(SRDS, "a", "2"), resource(ECDS, "a"))
    client.send(CDS, initial={"a": "old"})
    client.send(SRDS, initial={"a": "old"})
    clusters = client.expect_names(CDS, ["a"])
    client.send(ECDS, ["a"])
    client.take(ECDS, ["a"])
    client.expect_nothing()
    client.ack(clusters)
    client.take(SRDS, ["a"])

    silent = Delta(store=client.store)
    silent.send(CDS, initial={"a": "old"})
    silent.send(SRDS, initial={"a": "old"})
    silent.expect_names(CDS, ["a"])
    silent.advance(4.9)
    silent.expect_nothing()
    silent.advance(0.2)
    silent.expect_names(SRDS, ["a"])


def test_asking_is_answered_while_changes_wait() -> None:
    client = synced("late")
    client.publish(resource(CDS, "b"), resource(ECDS, "a", "2"))
    clusters = client.expect_names(CDS, ["b"])
    client.send(ECDS, ["x"])
    client.take(ECDS, removed=["x"])
    client.expect_nothing()
    client.ack(clusters)
    client.take(ECDS, ["a"])


def test_rotation_pushes_one_secret() -> None:
    client = Delta(resource(SDS, "a"), resource(SDS, "b"))
    client.send(SDS, ["a", "b"])
    client.take(SDS, ["a", "b"])
    client.publish(resource(SDS, "b", "2"))
    client.take(SDS, ["b"])
    client.expect_nothing()


def test_routes_of_a_client_that_comes_back_wait_for_it_to_ask_for_filters() -> None:
    """Envoy asks for scopes first, and a route may name what only the changed filter has: 403 until that arrives."""
    client = Delta(resource(LDS, "a"), resource(SRDS, "a", "2"), resource(ECDS, "jwt", "2"))
    client.send(LDS, initial={"a": client.version(LDS, "a")})
    client.take(LDS)
    client.send(SRDS, initial={"a": "old"})
    client.expect_nothing()
    client.send(ECDS, ["jwt"], initial={"jwt": "old"})
    filters = client.expect_names(ECDS, ["jwt"])
    client.ack(filters)
    client.take(SRDS, ["a"])
    client.expect_nothing()


def test_routes_of_a_client_that_comes_back_and_asks_for_no_filters_wait_a_moment() -> None:
    client = Delta(resource(SRDS, "a", "2"))
    client.send(SRDS, initial={"a": "old"})
    client.expect_nothing()
    client.advance(0.3)
    client.take(SRDS, ["a"])
    client.expect_nothing()


def test_routes_of_a_client_that_comes_back_with_all_of_them_are_answered_at_once() -> None:
    client = Delta(resource(SRDS, "a"))
    client.send(SRDS, initial={"a": client.version(SRDS, "a")})
    client.take(SRDS)
    client.expect_nothing()


def test_who_comes_back_with_sets_that_nobody_knows_has_endpoints_before_the_routes_that_lead_to_them() -> None:
    """As after a restart of the control plane: its routes are in use, and would lead to clusters that are not ready."""
    client = Sotw(
        eds_cluster("a"), resource(EDS, "a", "endpoints"), resource(LDS, "l", "port"), resource(SRDS, "r", "scope")
    )
    for url in (CDS, LDS, SRDS):
        client.send(url, ["*"], version="earlier")
    clusters = client.expect(CDS)
    client.advance(0.4)
    client.expect_nothing()
    client.ack(clusters, ["*"])
    client.expect_nothing()
    client.send(EDS, ["a"], version="earlier")
    endpoints = client.expect_bodies(EDS, b"endpoints")
    client.expect_nothing()
    client.ack(endpoints, ["a"])
    client.take(LDS, b"port", names=["*"])
    client.take(SRDS, b"scope", names=["*"])


def test_who_comes_back_without_a_cluster_has_endpoints_before_the_routes_that_lead_to_them() -> None:
    """Until then all of it was redirects, or its first cluster was refused."""
    client = Delta(eds_cluster("a"), resource(EDS, "a"), resource(LDS, "l"), resource(SRDS, "r"))
    client.send(CDS)
    client.send(LDS, initial={"l": client.version(LDS, "l")})
    client.send(SRDS)
    clusters = client.expect_names(CDS, ["a"])
    client.take(LDS)
    client.expect_nothing()
    client.ack(clusters)
    client.expect_nothing()
    client.send(EDS, ["a"])
    endpoints = client.expect_names(EDS, ["a"])
    client.expect_nothing()
    client.ack(endpoints)
    client.take(SRDS, ["r"])


def test_who_comes_back_and_acknowledges_nothing_is_sent_everything_in_bounded_time() -> None:
    client = Sotw(eds_cluster("a"), resource(EDS, "a"), resource(LDS, "l", "port"), resource(SRDS, "r", "scope"))
    for url in (CDS, LDS, SRDS):
        client.send(url, version="earlier")
    client.expect(CDS)
    client.advance(10.0)
    client.expect_bodies(LDS, b"port")
    client.expect_bodies(SRDS, b"scope")
