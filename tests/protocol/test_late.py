"""What sends requests to routes is late: it comes after the routes that are new, and before those that go.

So is the table of wildcard hosts, an extension configuration as others are that routes need.
"""

from __future__ import annotations

import pytest

from controlplane.xds.bounds import Timing
from tests.protocol.dialogue import CDS, ECDS, LDS, SDS, SRDS, Delta, Sotw, removed, resource, synced


def with_table(*extra: str) -> Delta:
    """A stream that holds one resource of every type, and a table that sends requests to routes."""
    client = synced("table", *extra)
    client.publish(resource(ECDS, "table", "a", late=True))
    client.take(ECDS, ["table"])
    client.expect_nothing()
    return client


def test_what_sends_requests_to_routes_comes_after_those_that_are_new_and_before_those_that_go() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "b", late=True), resource(SRDS, "b"), removed(SRDS, "a"), removed(CDS, "a"))
    scopes = client.expect_names(SRDS, ["b"])
    client.expect_nothing()
    client.ack(scopes)
    table = client.expect_names(ECDS, ["table"])
    client.expect_nothing()
    client.ack(table)
    client.take(SRDS, removed=["a"])
    client.take(CDS, removed=["a"])
    client.expect_nothing()
    assert client.session.settled == client.store.sequence


def test_scopes_do_not_go_before_what_sends_requests_to_them_is_gone() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "", late=True), removed(SRDS, "a"))
    table = client.expect_names(ECDS, ["table"])
    client.expect_nothing()
    client.ack(table)
    client.take(SRDS, removed=["a"])
    client.expect_nothing()


def test_of_one_type_what_routes_need_goes_before_them_and_what_sends_to_them_after() -> None:
    """Requirements of tokens and the table of wildcard hosts are both extension configurations."""
    client = with_table()
    client.publish(
        resource(CDS, "a", "2"), resource(ECDS, "a", "2"), resource(ECDS, "table", "b", late=True), resource(SRDS, "b")
    )
    client.take(CDS, ["a"])
    requirements = client.expect_names(ECDS, ["a"])
    client.expect_nothing()
    client.ack(requirements)
    scopes = client.expect_names(SRDS, ["b"])
    client.expect_nothing()
    client.ack(scopes)
    client.take(ECDS, ["table"])
    client.expect_nothing()


def test_of_one_type_what_routes_need_goes_before_them_and_what_sends_to_them_after_sotw() -> None:
    client = Sotw(resource(SRDS, "a", "to a"), resource(ECDS, "jwt", "j1"), resource(ECDS, "table", "t1", late=True))
    client.send(SRDS)
    client.take(SRDS, b"to a")
    client.send(ECDS, ["jwt", "table"])
    client.take(ECDS, b"j1", b"t1", names=["jwt", "table"])
    client.publish(
        resource(ECDS, "jwt", "j2"),
        resource(ECDS, "table", "t2", late=True),
        resource(SRDS, "b", "to b"),
        removed(SRDS, "a"),
    )
    client.take(ECDS, b"j2", names=["jwt", "table"])
    scopes = client.expect_bodies(SRDS, b"to a", b"to b")
    client.expect_nothing()
    client.ack(scopes)
    table = client.expect_bodies(ECDS, b"t2")
    client.expect_nothing()
    client.ack(table, ["jwt", "table"])
    client.take(SRDS, b"to b")
    client.expect_nothing()


def test_a_change_of_routes_does_not_wait_for_what_is_late() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "b", late=True), resource(SRDS, "b"))
    client.take(SRDS, ["b"])
    client.expect_names(ECDS, ["table"])  # not acknowledged
    client.publish(resource(SRDS, "b", "2"))
    client.take(SRDS, ["b"])
    client.expect_nothing()


def test_what_is_late_and_taken_back_holds_up_nothing() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "b", late=True), resource(SRDS, "b"), removed(LDS, "a"))
    scopes = client.expect_names(SRDS, ["b"])
    client.publish(resource(ECDS, "table", "a", late=True))
    client.expect_nothing()
    client.ack(scopes)
    client.take(LDS, removed=["a"])
    client.expect_nothing()


def test_a_requirement_taken_back_while_something_late_waits_holds_up_no_routes() -> None:
    client = with_table()
    client.publish(
        resource(CDS, "b"), resource(ECDS, "a", "2"), resource(ECDS, "table", "b", late=True), resource(SRDS, "b")
    )
    clusters = client.expect_names(CDS, ["b"])
    client.publish(resource(ECDS, "a"))
    client.ack(clusters)
    client.take(SRDS, ["b"])
    client.take(ECDS, ["table"])
    client.expect_nothing()


def test_without_changes_of_routes_what_is_late_waits_for_nothing() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "b", late=True), resource(CDS, "b"))
    client.expect_names(CDS, ["b"])
    client.take(ECDS, ["table"])


def test_a_client_that_never_asked_for_routes_is_sent_what_is_late() -> None:
    client = Delta(resource(SRDS, "a"), resource(ECDS, "table", "a", late=True))
    client.send(ECDS, ["table"])
    client.take(ECDS, ["table"])
    client.publish(resource(SRDS, "b"), resource(ECDS, "table", "b", late=True))
    client.take(ECDS, ["table"])
    client.expect_nothing()


def test_on_a_stream_of_one_type_nothing_is_late() -> None:
    client = Delta(resource(ECDS, "table", "a", late=True), only=ECDS)
    client.send(ECDS, ["table"])
    client.take(ECDS, ["table"])
    client.publish(resource(SRDS, "b"), resource(ECDS, "table", "b", late=True))
    client.take(ECDS, ["table"])


def test_asking_for_what_is_late_is_answered_at_once() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "b", late=True), resource(SRDS, "b"), removed(SRDS, "a"))
    scopes = client.expect_names(SRDS, ["b"])
    client.send(ECDS, ["table"])
    table = client.expect_names(ECDS, ["table"])
    client.ack(scopes)
    client.expect_nothing()  # it is not sent twice, and what goes waits for it all the same
    client.ack(table)
    client.take(SRDS, removed=["a"])
    client.expect_nothing()


def test_giving_up_what_is_late_frees_what_waits_for_it() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "b", late=True), resource(SRDS, "b"), removed(SRDS, "a"))
    scopes = client.expect_names(SRDS, ["b"])
    client.send(ECDS, unsubscribe=["table"])
    client.ack(scopes)
    client.take(SRDS, removed=["a"])
    client.expect_nothing()


def test_a_silent_client_is_sent_what_is_late_after_the_routes_all_the_same() -> None:
    client = with_table()
    client.publish(resource(CDS, "b"), resource(SRDS, "b"), resource(ECDS, "table", "b", late=True), removed(SRDS, "a"))
    client.expect_names(CDS, ["b"])  # from here on nothing is acknowledged
    client.advance(4.9)
    client.expect_nothing()
    client.advance(0.2)
    client.expect_names(SRDS, ["b"])
    client.advance(4.8)
    client.expect_nothing()
    client.advance(0.2)
    client.expect_names(ECDS, ["table"])
    client.expect_nothing()
    client.advance(5)
    client.expect_names(SRDS, removed=["a"])
    client.expect_nothing()


def test_what_is_late_comes_after_routes_that_went_out_at_the_last_moment() -> None:
    """Each step of a change may take as long as it may at most."""
    client = with_table()
    client.publish(resource(CDS, "b"), resource(LDS, "b"), resource(SRDS, "b"), resource(ECDS, "table", "b", late=True))
    client.expect_names(CDS, ["b"])
    client.advance(5.1)
    client.expect_names(LDS, ["b"])
    client.advance(5)
    client.expect_names(SRDS, ["b"])
    client.advance(4.8)
    client.expect_nothing()
    client.advance(0.2)
    client.expect_names(ECDS, ["table"])


def test_busy_routes_hold_what_is_late_for_the_bound_only() -> None:
    client = with_table()
    client.publish(resource(SRDS, "a", "r0"), resource(ECDS, "table", "b", late=True))
    seen: list[str] = []
    for round_ in range(1, 20):
        client.advance(1)
        client.publish(resource(SRDS, "a", f"r{round_}"))  # none is acknowledged
        seen += [message.type_url for message in client.inbox]
        client.inbox.clear()
        if ECDS in seen:
            break
    assert ECDS in seen
    assert round_ <= 16


def test_routes_that_are_refused_hold_what_is_late_for_the_bound_only() -> None:
    client = with_table()
    client.publish(resource(SRDS, "a", "bad"), resource(ECDS, "table", "b", late=True), removed(CDS, "a"))
    client.nack(client.expect_names(SRDS, ["a"]))
    client.advance(4.9)
    client.expect_nothing()
    client.advance(0.2)
    client.take(ECDS, ["table"])
    client.expect_nothing()  # the client goes on with routes that may lead there


def test_of_refused_routes_the_good_ones_are_taken_over_before_what_is_late() -> None:
    client = with_table()
    client.publish(resource(SRDS, "a", "bad"), resource(SRDS, "b"), resource(ECDS, "table", "b", late=True))
    client.nack(client.expect_names(SRDS, ["a", "b"]))
    for _ in range(8):
        scopes = client.expect(SRDS)
        if any(each.resource.value == b"bad" for each in scopes.resources):
            client.nack(scopes)
        else:
            client.ack(scopes)
        if client.inbox and client.inbox[0].type_url == ECDS:
            break
    client.take(ECDS, ["table"])
    assert client.status(SRDS).held.keys() == {"a"}


def test_what_sends_requests_to_routes_keeps_them_there_when_it_is_refused() -> None:
    client = with_table()
    client.publish(resource(ECDS, "table", "bad", late=True), resource(SRDS, "b"), removed(SRDS, "a"))
    client.take(SRDS, ["b"])
    client.nack(client.expect_names(ECDS, ["table"]))
    client.advance(20)
    client.expect_nothing()
    client.publish(resource(ECDS, "table", "b", late=True))
    client.take(ECDS, ["table"])
    client.take(SRDS, removed=["a"])
    client.expect_nothing()


def test_refused_requirements_are_found_while_something_late_waits() -> None:
    client = with_table("b")
    client.publish(
        *(resource(ECDS, name, "bad" if name == "a" else "2") for name in "ab"),
        resource(ECDS, "table", "b", late=True),
        resource(SRDS, "b"),
    )
    client.nack(client.expect_names(ECDS, ["a", "b"]))
    halves = [client.expect(ECDS)]
    client.nack(halves[0]) if halves[0].resources[0].name == "a" else client.ack(halves[0])
    halves.append(client.expect(ECDS))
    client.nack(halves[1]) if halves[1].resources[0].name == "a" else client.ack(halves[1])
    assert sorted(each.name for half in halves for each in half.resources) == ["a", "b"]
    client.advance(5.1)
    client.take(SRDS, ["b"])
    client.take(ECDS, ["table"])


@pytest.mark.parametrize("first", [ECDS, SRDS])
def test_a_resume_gets_what_is_late_after_its_routes_in_whatever_order_it_asks(first: str) -> None:
    client = Delta(resource(SRDS, "b"), resource(ECDS, "a"), resource(ECDS, "table", "b", late=True))
    asks = [(ECDS, ["a", "table"], {"a": "old", "table": "old"}), (SRDS, [], {"a": "old"})]
    for url, names, had in sorted(asks, key=lambda ask: ask[0] != first):
        client.send(url, names, initial=had)
    client.take(ECDS, ["a"])
    client.take(SRDS, ["b"])
    client.expect_nothing()
    client.advance(Timing().grace + 0.01)
    table = client.expect_names(ECDS, ["table"])
    client.expect_nothing()
    client.ack(table)
    client.expect_nothing()
    client.advance(Timing().keeps)
    client.take(SRDS, removed=["a"])
    client.expect_nothing()


def test_the_certificate_of_a_new_chain_comes_after_what_sends_requests_to_its_scopes() -> None:
    client = with_table()
    client.publish(
        *(resource(url, "a", "2") for url in (LDS, SRDS)), resource(SDS, "b"), resource(ECDS, "table", "b", late=True)
    )
    listeners = client.expect_names(LDS, ["a"])
    client.send(SDS, ["b"])
    client.ack(listeners)
    client.take(SRDS, ["a"])
    table = client.expect_names(ECDS, ["table"])
    client.expect_nothing()
    client.ack(table)
    client.take(SDS, ["b"])
    client.expect_nothing()


def test_a_rotated_certificate_that_is_asked_for_again_does_not_hold_what_it_waits_for() -> None:
    client = with_table()
    client.publish(
        *(resource(url, "a", "2") for url in (LDS, SRDS)), resource(SDS, "b"), resource(ECDS, "table", "b", late=True)
    )
    listeners = client.expect_names(LDS, ["a"])
    client.send(SDS, ["b"])
    client.publish(resource(SDS, "a", "2"))
    client.ack(listeners)
    client.take(SRDS, ["a"])
    client.take(ECDS, ["table"])
    client.take(SDS, ["a", "b"])
    client.expect_nothing()
