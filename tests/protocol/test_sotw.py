"""The state-of-the-world variant, rule by rule."""

from __future__ import annotations

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2

from tests.protocol.dialogue import CDS, ECDS, EDS, LDS, PART, RDS, SDS, SRDS, Sotw, cluster, removed, resource


@pytest.mark.parametrize("url", [LDS, SRDS])
@pytest.mark.parametrize("names", [[], ["*"]], ids=["legacy", "explicit"])
def test_wildcard_gets_everything_and_again_everything(url: str, names: list[str]) -> None:
    client = Sotw(resource(url, "a", "a1"), resource(url, "b", "b1"))
    client.send(url, names)
    first = client.take(url, b"a1", b"b1", names=names)
    client.expect_nothing()
    client.publish(resource(url, "a", "a2"))
    second = client.take(url, b"a2", b"b1", names=names)
    assert second.version_info != first.version_info
    client.publish(resource(url, "a", "a1"))
    third = client.take(url, b"a1", b"b1", names=names)
    assert third.version_info == first.version_info  # versions come from content
    client.publish(removed(url, "b"))
    client.take(url, b"a1", names=names)
    client.publish(removed(url, "a"))
    client.take(url, names=names)
    client.expect_nothing()


def test_an_empty_wildcard_is_answered() -> None:
    client = Sotw(resource(EDS, "x"))
    client.send(CDS)
    client.take(CDS)


@pytest.mark.parametrize("url", [EDS, RDS, SDS, ECDS])
def test_no_names_of_a_named_type_means_nothing(url: str) -> None:
    client = Sotw(resource(url, "a"))
    client.send(url)
    client.expect_nothing()


def test_named_listeners_are_answered_alone_and_deleted_by_omission() -> None:
    """A gRPC client begins with exactly one listener name."""
    client = Sotw(resource(LDS, "mine", "m"), resource(LDS, "other", "o"))
    client.send(LDS, ["mine"])
    client.take(LDS, b"m", names=["mine"])
    client.publish(resource(LDS, "other", "o2"))
    client.expect_nothing()
    client.publish(removed(LDS, "mine"))
    client.take(LDS, names=["mine"])


def test_absent_listeners_are_answered_by_an_empty_set() -> None:
    client = Sotw(resource(LDS, "other"))
    client.send(LDS, ["missing"])
    client.take(LDS, names=["missing"])
    client.publish(resource(LDS, "missing", "m"))
    client.take(LDS, b"m", names=["missing"])


def test_a_changed_assignment_is_sent_alone() -> None:
    client = Sotw(resource(EDS, "a", "a1"), resource(EDS, "b", "b1"), resource(EDS, "c", "c1"))
    client.send(EDS, ["a", "b"])
    client.take(EDS, b"a1", b"b1", names=["a", "b"])
    client.publish(resource(EDS, "a", "a2"), resource(EDS, "c", "c2"))
    client.take(EDS, b"a2", names=["a", "b"])


def test_a_new_name_is_answered_and_a_dropped_one_is_silent() -> None:
    client = Sotw(resource(EDS, "a", "a1"), resource(EDS, "b", "b1"))
    client.send(EDS, ["a"])
    first = client.expect_bodies(EDS, b"a1")
    client.ack(first, ["a", "b"])
    client.take(EDS, b"b1", names=["b"])
    client.expect_nothing()
    client.publish(resource(EDS, "a", "a2"))
    client.expect_nothing()
    client.send(EDS, ["a", "b"], nonce=client.status(EDS).sent_nonce)  # asked for anew: answered, changed or not
    client.take(EDS, b"a2", names=["a", "b"])


def test_absence_of_a_named_resource_is_silent() -> None:
    """Deletion is expressed by the parent; an invented empty response would take endpoints from live routes."""
    client = Sotw(resource(EDS, "a", "a1"))
    client.send(EDS, ["a", "missing"])
    client.take(EDS, b"a1", names=["a", "missing"])
    client.publish(removed(EDS, "a"))
    client.expect_nothing()
    client.publish(resource(EDS, "missing", "m"))
    client.take(EDS, b"m", names=["a", "missing"])


def test_names_beside_the_wildcard_and_the_way_back() -> None:
    client = Sotw(resource(LDS, "a", "a"), resource(LDS, "b", "b"))
    client.send(LDS)
    client.take(LDS, b"a", b"b")
    nonce = client.status(LDS).sent_nonce
    client.send(LDS, ["*", "a"], nonce=nonce)
    client.take(LDS, b"a", b"b", names=["*", "a"])
    client.send(LDS, ["a"], nonce=client.status(LDS).sent_nonce)
    client.expect_nothing()
    client.publish(resource(LDS, "b", "b2"))
    client.expect_nothing()
    client.send(LDS, [], nonce=client.status(LDS).sent_nonce)  # not the wildcard any more: nothing is wanted
    client.publish(resource(LDS, "a", "a2"))
    client.expect_nothing()
    client.send(LDS, ["*"], nonce=client.status(LDS).sent_nonce)
    client.take(LDS, b"a2", b"b2", names=["*"])


def test_a_stale_nonce_is_ignored() -> None:
    client = Sotw(resource(EDS, "a", "a1"), resource(EDS, "b", "b1"))
    client.send(EDS, ["a"])
    first = client.take(EDS, b"a1", names=["a"])
    client.publish(resource(EDS, "a", "a2"))
    second = client.expect_bodies(EDS, b"a2")
    client.send(EDS, ["a", "b"], nonce=first.nonce, error="late")
    client.expect_nothing()
    assert client.status(EDS).state == "pending"
    client.ack(second, ["a", "b"])
    client.take(EDS, b"b1", names=["a", "b"])


def test_a_nack_is_known_by_its_error_detail_alone() -> None:
    client = Sotw(resource(EDS, "a", "a1"), resource(EDS, "b", "b1"))
    client.send(EDS, ["a"])
    first = client.expect_bodies(EDS, b"a1")
    client.send(EDS, ["a", "b"], version="older", nonce=first.nonce)  # a subscription change, not a NACK
    assert client.status(EDS).nack is None
    second = client.expect_bodies(EDS, b"b1")
    client.nack(second, ["a", "b"], "bad")
    status = client.status(EDS)
    assert status.nack is not None
    assert (status.nack.version, status.nack.names) == (second.version_info, ("b",))
    client.advance(1000)
    client.expect_nothing()
    client.publish(resource(EDS, "b", "b2"))
    client.take(EDS, b"b2", names=["a", "b"])
    assert client.status(EDS).nack is None


def test_the_first_request_is_answered_whatever_version_it_claims() -> None:
    client = Sotw(resource(EDS, "a", "a1"))
    client.send(EDS, ["a"], version="from another stream", nonce="from another stream")
    client.take(EDS, b"a1", names=["a"])


def test_a_republication_is_silent() -> None:
    client = Sotw(resource(CDS, "a"))
    client.send(CDS)
    client.take(CDS, cluster("a"))
    client.publish(resource(CDS, "a"))
    client.changed()
    client.expect_nothing()


def test_what_is_removed_stays_in_the_set_until_the_routes_are_acknowledged() -> None:
    client = Sotw(resource(CDS, "old"), resource(SRDS, "r", "old"))
    client.send(CDS)
    client.take(CDS, cluster("old"))
    client.send(SRDS)
    client.take(SRDS, b"old")
    client.publish(removed(CDS, "old"), resource(CDS, "new"), resource(SRDS, "r", "new"))
    both = client.expect_bodies(CDS, cluster("old"), cluster("new"))
    client.expect_nothing()
    client.ack(both)
    routes = client.expect_bodies(SRDS, b"new")
    client.expect_nothing()
    client.ack(routes)
    client.take(CDS, cluster("new"))
    client.expect_nothing()


@pytest.mark.parametrize("url", [CDS, LDS, SRDS])
@pytest.mark.parametrize("names", [[], ["*"]], ids=["legacy", "explicit"])
def test_a_client_that_comes_back_with_everything_is_sent_what_changes(url: str, names: list[str]) -> None:
    """As when a proxy moves to another replica."""
    before = Sotw(resource(url, "a", "a1"), resource(url, "b", "b1"))
    before.send(url, names)
    version = before.take(url, *bodies(before, url), names=names).version_info
    client = Sotw(store=before.store)
    client.send(url, names, version=version)
    client.expect_nothing()
    (status,) = client.session.status()
    assert (status.state, status.acked_version) == ("synced", version)
    assert client.session.settled == client.store.sequence
    client.publish(resource(url, "c", "c1"))
    client.take(url, *bodies(client, url), names=names)
    client.publish(removed(url, "a"))
    client.take(url, *bodies(client, url), names=names)
    client.expect_nothing()


def test_a_client_that_comes_back_with_something_else_is_sent_everything() -> None:
    before = Sotw(resource(LDS, "a", "a1"))
    before.send(LDS)
    version = before.take(LDS, b"a1").version_info
    before.store.publish({"gateway": [resource(LDS, "a", "a2")]})
    client = Sotw(store=before.store)
    client.send(LDS, version=version)
    client.take(LDS, b"a2")
    later = Sotw()
    later.parts = None
    later.send(LDS, version=version)
    later.expect_nothing()
    later.parts = ("gateway",)
    later.publish(resource(LDS, "a", "a1"))  # there when it is again what the client has
    later.expect_nothing()
    later.publish(resource(LDS, "a", "a3"))
    later.take(LDS, b"a3")


@pytest.mark.parametrize("url", [EDS, RDS, SDS, ECDS])
def test_what_is_asked_for_by_name_is_answered_at_any_version(url: str) -> None:
    before = Sotw(resource(url, "a", "a1"))
    before.send(url, ["a"])
    version = before.take(url, b"a1", names=["a"]).version_info
    client = Sotw(store=before.store)
    client.send(url, ["a"], version=version)
    client.take(url, b"a1", names=["a"])


def bodies(client: Sotw, url: str) -> list[bytes]:
    view = client.store.view(("gateway",))
    return [one.body for one in view.listing(url).resources]


@pytest.mark.parametrize("again", [["a", "b"], ["*"]], ids=["a name", "the wildcard"])
def test_what_a_stale_request_left_out_is_sent_when_it_is_asked_for_again(again: list[str]) -> None:
    """It is not answered; but the client has dropped it, and waits for it."""
    url = EDS if again == ["a", "b"] else LDS
    client = Sotw(resource(url, "a", "a1"), resource(url, "b", "b1"))
    client.send(url, again)
    first = client.take(url, b"a1", b"b1", names=again)
    client.publish(resource(url, "a", "a2"))
    second = client.expect(url)
    client.send(url, ["a"], version=first.version_info, nonce=first.nonce)
    client.send(url, again, version=first.version_info, nonce=first.nonce)
    client.expect_nothing()
    client.ack(second, again)
    assert b"b1" in [each.value for each in client.expect(url).resources]


def test_a_stale_request_without_names_ends_the_wildcard() -> None:
    client = Sotw(resource(LDS, "a", "a1"))
    client.send(LDS, ["*"])
    first = client.take(LDS, b"a1", names=["*"])
    client.publish(resource(LDS, "a", "a2"))
    second = client.expect(LDS)
    client.send(LDS, [], version=first.version_info, nonce=first.nonce)
    client.ack(second)
    client.publish(resource(LDS, "a", "a3"))
    client.expect_nothing()


def test_an_envoy_that_comes_back_and_waits_for_a_cluster_that_is_gone_is_told_so_by_its_endpoints() -> None:
    """It asks for no clusters while one of its own warms: it would never hear that this one is gone, nor of new ones."""
    client = Sotw(resource(CDS, "a"), resource(EDS, "a"), says={"user_agent_name": "envoy"})
    client.send(EDS, ["a", "gone"])
    message = client.expect(EDS)
    sent = [one.value for one in message.resources]
    assert endpoint_pb2.ClusterLoadAssignment(cluster_name="gone").SerializeToString() in sent
    assert len(sent) == 2
    client.ack(message, ["a", "gone"])
    client.send(CDS)
    assert len(client.expect(CDS).resources) == 1


def test_what_it_waits_for_has_the_endpoints_of_before_as_far_as_they_are_known() -> None:
    """Routes that it has may lead to another cluster that is gone: that one is not to lose its endpoints before they are others."""
    before = Sotw(resource(CDS, "gone"), resource(EDS, "gone"), says={"user_agent_name": "envoy"})
    before.send(CDS)
    before.ack(before.expect(CDS))
    before.send(EDS, ["gone"])
    had = before.expect(EDS)
    before.ack(had, ["gone"])
    before.end()
    before.store.publish({PART: [removed(CDS, "gone"), removed(EDS, "gone")]})
    client = Sotw(store=before.store, says={"user_agent_name": "envoy"})
    client.send(EDS, ["gone"])
    assert client.expect(EDS).resources == had.resources
