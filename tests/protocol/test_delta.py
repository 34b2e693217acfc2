"""The incremental variant, rule by rule: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol"""

from __future__ import annotations

import pytest

from controlplane.xds.bounds import Timing
from tests.protocol.dialogue import CDS, ECDS, EDS, LDS, RDS, SDS, SRDS, Delta, removed, resource


@pytest.mark.parametrize("url", [CDS, LDS, SRDS])
@pytest.mark.parametrize("subscribe", [[], ["*"]], ids=["legacy", "explicit"])
def test_wildcard_gets_everything_in_one_response(url: str, subscribe: list[str]) -> None:
    client = Delta(resource(url, "a"), resource(url, "b"))
    client.send(url, subscribe)
    client.take(url, ["a", "b"])
    client.expect_nothing()


@pytest.mark.parametrize("url", [CDS, LDS, SRDS])
@pytest.mark.parametrize("subscribe", [[], ["*"]], ids=["legacy", "explicit"])
def test_an_empty_wildcard_is_answered_so_that_the_client_can_finish_its_start(url: str, subscribe: list[str]) -> None:
    client = Delta(resource(EDS, "other"))
    client.send(url, subscribe)
    client.take(url)
    client.expect_nothing()


@pytest.mark.parametrize("url", [EDS, RDS, SDS, ECDS])
def test_no_names_of_a_named_type_means_nothing(url: str) -> None:
    """A dump of all secrets to whoever asks without a name would be a leak."""
    client = Delta(resource(url, "a"))
    client.send(url)
    client.expect_nothing()
    client.publish(resource(url, "a", "2"))
    client.expect_nothing()


def test_secrets_are_never_enumerated() -> None:
    client = Delta(resource(SDS, "a"))
    client.send(SDS, ["*"])
    client.take(SDS)
    client.publish(resource(SDS, "b"))
    client.expect_nothing()


def test_explicit_wildcard_of_a_named_type_lists_it() -> None:
    client = Delta(resource(EDS, "a"), resource(EDS, "b"))
    client.send(EDS, ["*"])
    client.take(EDS, ["a", "b"])


@pytest.mark.parametrize("url", [CDS, EDS, LDS, RDS, SDS, ECDS, SRDS])
def test_every_name_asked_for_is_answered_or_listed_as_absent(url: str) -> None:
    client = Delta(resource(url, "a"), resource(url, "unasked"))
    client.send(url, ["a", "missing"])
    client.take(url, ["a"], ["missing"])
    client.publish(resource(url, "missing"))  # springs into existence later
    client.take(url, ["missing"])
    client.publish(resource(url, "unasked", "2"))
    client.expect_nothing()


def test_a_type_that_is_not_served_has_no_resources() -> None:
    client = Delta(resource(CDS, "a"))
    client.send("type.googleapis.com/unheard.Of", ["x"])
    client.take("type.googleapis.com/unheard.Of", removed=["x"])


def test_names_are_opaque() -> None:
    name = "ns/a|b %41 *.ü\N{SNOWMAN}"
    client = Delta(resource(EDS, name))
    client.send(EDS, [name, name.upper()])
    client.take(EDS, [name], [name.upper()])


def test_acks_are_silent_and_so_is_a_publication_of_the_same() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS)
    client.take(CDS, ["a"])
    client.expect_nothing()
    client.publish(resource(CDS, "a"))
    client.changed()
    client.expect_nothing()


def test_only_what_changed_is_sent() -> None:
    client = Delta(*(resource(CDS, str(i)) for i in range(50)))
    client.send(CDS)
    client.take(CDS, map(str, range(50)))
    client.publish(resource(CDS, "7", "2"))
    client.take(CDS, ["7"])
    client.publish(resource(CDS, "new"), resource(CDS, "8", "2"))
    client.take(CDS, ["8", "new"])


def test_there_and_back_before_it_was_sent_is_nothing() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS)
    client.take(CDS, ["a"])
    client.store.publish({"gateway": [resource(CDS, "a", "2")]})
    client.store.publish({"gateway": [removed(CDS, "a")]})
    client.publish(resource(CDS, "a"))
    client.expect_nothing()


def test_a_removal_is_reported_once_and_a_return_is_pushed() -> None:
    client = Delta(resource(CDS, "a"), resource(CDS, "b"))
    client.send(CDS, ["*", "a"])
    client.take(CDS, ["a", "b"])
    client.publish(removed(CDS, "a"))
    client.take(CDS, removed=["a"])
    client.expect_nothing()
    client.publish(resource(CDS, "a"))
    client.take(CDS, ["a"])


def test_resubscribing_a_name_is_always_answered() -> None:
    """The client may have dropped the resource and regained interest before it could unsubscribe."""
    client = Delta(resource(EDS, "a"))
    client.send(EDS, ["a"])
    client.take(EDS, ["a"])
    client.send(EDS, ["a"])
    client.take(EDS, ["a"])
    client.send(EDS, ["gone"])
    client.take(EDS, removed=["gone"])
    client.send(EDS, ["gone"])
    client.take(EDS, removed=["gone"])


def test_who_comes_back_and_asks_for_the_wildcard_again_hears_of_what_went_before_the_answer() -> None:
    client = Delta(resource(CDS, "a"), resource(LDS, "k"), resource(LDS, "l"))
    client.send(CDS)
    client.take(CDS, ["a"])
    client.publish(resource(CDS, "a", "2"))
    changed = client.expect_names(CDS, ["a"])  # before its ACK listeners do not change
    client.send(LDS, ["*"], initial={"k": "old", "l": "old"})
    client.send(LDS, ["*"])
    client.publish(removed(LDS, "l"))
    client.ack(changed)
    answer = client.take(LDS, ["k"])
    assert list(answer.removed_resources) == []
    client.advance(1)  # for the requests of the other types
    client.take(LDS, removed=["l"])
    client.expect_nothing()


def test_resubscribing_the_wildcard_is_answered_in_full() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS, ["*"])
    client.take(CDS, ["a"])
    client.send(CDS, ["*"])
    client.take(CDS, ["a"])


def test_unsubscribing_is_silent_and_stays_so() -> None:
    client = Delta(resource(EDS, "a"), resource(EDS, "b"))
    client.send(EDS, ["a", "b"])
    client.take(EDS, ["a", "b"])
    client.send(EDS, unsubscribe=["a", "never subscribed"])
    client.expect_nothing()
    client.publish(resource(EDS, "a", "2"), resource(EDS, "b", "2"))
    client.take(EDS, ["b"])
    client.publish(removed(EDS, "a"))
    client.expect_nothing()


def test_one_request_may_ack_subscribe_and_unsubscribe() -> None:
    client = Delta(resource(EDS, "a"), resource(EDS, "b"))
    client.send(EDS, ["a"])
    first = client.expect_names(EDS, ["a"])
    client.send(EDS, ["b", "c"], ["a", "c"], nonce=first.nonce)
    second = client.expect_names(EDS, ["b"])
    assert client.status(EDS).acked_nonce == first.nonce
    client.ack(second)
    client.publish(resource(EDS, "a", "2"), resource(EDS, "c"))
    client.expect_nothing()


def test_unsubscribing_a_name_under_the_wildcard_tells_its_state() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS, ["*", "a", "b"])
    client.take(CDS, ["a"], ["b"])
    client.send(CDS, unsubscribe=["a"])
    client.take(CDS, ["a"])
    client.send(CDS, unsubscribe=["b"])
    client.take(CDS, removed=["b"])
    client.send(CDS, unsubscribe=["phantom"])
    client.expect_nothing()
    client.publish(resource(CDS, "a", "2"))  # still there, by the wildcard
    client.take(CDS, ["a"])


def test_the_legacy_wildcard_stays_beside_a_name_until_it_is_unsubscribed() -> None:
    client = Delta(resource(CDS, "a"), resource(CDS, "b"))
    client.send(CDS)
    client.take(CDS, ["a", "b"])
    client.send(CDS, ["a"])
    client.take(CDS, ["a"])
    client.send(CDS, unsubscribe=["*"])
    client.expect_nothing()
    client.publish(resource(CDS, "a", "2"), resource(CDS, "b", "2"))
    client.take(CDS, ["a"])
    client.send(CDS, unsubscribe=["a"])
    client.send(CDS)  # no effect: names were given on this stream
    client.publish(resource(CDS, "a", "3"))
    client.expect_nothing()
    client.send(CDS, ["*"])  # back: everything, whatever the version
    client.take(CDS, ["a", "b"])


def test_a_resume_gets_only_what_differs() -> None:
    client = Delta(resource(CDS, "same"), resource(CDS, "changed", "2"), resource(CDS, "new"))
    client.send(CDS, initial={"same": client.version(CDS, "same"), "changed": "old"})
    client.take(CDS, ["changed", "new"])
    client.advance(10)
    client.expect_nothing()


def test_a_resume_with_nothing_to_send_gets_one_empty_response() -> None:
    client = Delta(resource(CDS, "a"))
    client.send(CDS, initial={"a": client.version(CDS, "a")})
    client.take(CDS)
    client.publish(resource(CDS, "a", "2"))
    client.take(CDS, ["a"])


def test_a_resume_hears_of_what_is_gone_after_a_moment_for_the_other_types() -> None:
    """What is removed at once may be in use by routes that this client has not updated yet."""
    client = Delta(resource(CDS, "a"))
    client.send(CDS, initial={"a": client.version(CDS, "a"), "gone": "1"})
    client.expect_nothing()
    client.advance(Timing().keeps - 0.1)
    client.expect_nothing()
    client.advance(0.2)
    client.take(CDS, removed=["gone"])
    client.expect_nothing()


def test_a_resume_on_a_stream_of_one_type_does_not_wait() -> None:
    client = Delta(resource(CDS, "a"), only=CDS)
    client.send("", initial={"a": client.version(CDS, "a"), "gone": "1"})
    client.take(CDS, removed=["gone"])


def test_a_resume_by_name() -> None:
    client = Delta(resource(EDS, "same"), resource(EDS, "changed", "2"), resource(EDS, "new"), only=EDS)
    initial = {"same": client.version(EDS, "same"), "changed": "old", "gone": "1", "not subscribed": "1"}
    client.send(EDS, ["same", "changed", "new", "gone", "never"], initial=initial)
    client.take(EDS, ["changed", "new"], ["never"])
    client.take(EDS, removed=["gone"])
    client.expect_nothing()


def test_initial_versions_count_on_the_first_request_only() -> None:
    client = Delta(resource(EDS, "a"), resource(EDS, "b"))
    client.send(EDS, ["a"])
    client.take(EDS, ["a"])
    client.send(EDS, ["b"], initial={"b": client.version(EDS, "b"), "x": "1"})
    client.take(EDS, ["b"])
    client.expect_nothing()


def test_a_stale_nonce_acknowledges_nothing_but_its_subscription_counts() -> None:
    client = Delta(resource(EDS, "a"), resource(EDS, "b"))
    client.send(EDS, ["a"])
    first = client.take(EDS, ["a"])
    client.publish(resource(EDS, "a", "2"))
    second = client.expect_names(EDS, ["a"])
    client.send(EDS, ["b"], nonce=first.nonce, error="late")
    client.take(EDS, ["b"])
    assert client.status(EDS).nack is None
    assert not client.observer.refusals
    client.ack(second)
    client.expect_nothing()


def test_a_nack_is_kept_and_not_sent_again_before_its_content_changes() -> None:
    client = Delta(resource(CDS, "a"), resource(CDS, "b"))
    client.send(CDS)
    client.take(CDS, ["a", "b"])
    client.publish(resource(CDS, "a", "bad"))
    bad = client.expect_names(CDS, ["a"])
    client.nack(bad, "x" * 5000)
    status = client.status(CDS)
    assert status.state == "nack"
    assert status.nack is not None
    assert (status.nack.names, status.nack.nonce, len(status.nack.detail)) == (("a",), bad.nonce, 2000)
    client.advance(1000)
    client.changed()
    client.expect_nothing()
    client.publish(resource(CDS, "b", "2"))  # others of the type move on
    client.take(CDS, ["b"])
    assert client.status(CDS).state == "nack"  # what was refused is still held back
    client.publish(resource(CDS, "a", "mended"))
    client.take(CDS, ["a"])
    assert client.status(CDS).nack is None  # cleared by the ACK of what came instead
    client.publish(resource(CDS, "a", "good"))
    client.take(CDS, ["a"])


def test_a_nack_of_a_new_resource_ends_when_it_is_removed() -> None:
    client = Delta(resource(LDS, "good"))
    client.send(LDS)
    client.take(LDS, ["good"])
    client.publish(resource(LDS, "bad"))
    client.nack(client.expect_names(LDS, ["bad"]))
    client.publish(removed(LDS, "bad"))
    client.take(LDS, removed=["bad"])
    assert client.status(LDS).state == "synced"


def test_types_are_separate() -> None:
    client = Delta(resource(CDS, "a"), resource(LDS, "l"))
    client.send(CDS)
    client.send(LDS)
    clusters = client.expect_names(CDS, ["a"])
    listeners = client.expect_names(LDS, ["l"])
    client.send(LDS, nonce=clusters.nonce)
    assert client.status(CDS).state == "pending"
    assert client.status(LDS).state == "pending"
    client.ack(listeners)
    assert client.status(CDS).state == "pending"
    assert client.status(LDS).state == "synced"


def test_first_requests_of_all_types_are_answered_without_acks() -> None:
    urls = [CDS, EDS, LDS, ECDS, RDS, SRDS, SDS]
    client = Delta(*(resource(url, "a") for url in urls))
    for url in urls:
        client.send(url, ["a"])
    for url in urls:
        client.expect_names(url, ["a"])


def test_a_name_dropped_before_its_content_was_sent_is_not_sent() -> None:
    client = Delta(resource(CDS, "c"), resource(LDS, "l"), resource(RDS, "r"))
    for url, names in ((CDS, []), (RDS, ["r"])):
        client.send(url, names)
    client.take(CDS, ["c"])
    client.take(RDS, ["r"])
    client.publish(resource(CDS, "c", "2"), resource(RDS, "r", "2"))
    clusters = client.expect_names(CDS, ["c"])  # the route configuration waits for its ACK
    client.send(RDS, unsubscribe=["r"])
    client.ack(clusters)
    client.expect_nothing()


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_what_goes_and_returns_before_the_first_answer_is_sent(again: bool) -> None:
    """A first answer may wait for a change under way; what is then sent is not what was there when it was asked for."""
    client = Delta(resource(CDS, "c"), resource(SRDS, "r"))
    client.send(CDS)
    client.take(CDS, ["c"])
    if again:
        client.send(SRDS)
        client.take(SRDS, ["r"])
        client.send(SRDS, unsubscribe=["*"])
    client.publish(resource(CDS, "c", "2"))
    clusters = client.expect_names(CDS, ["c"])
    client.send(SRDS, ["*"])
    client.expect_nothing()
    client.publish(removed(SRDS, "r"))
    client.ack(clusters)
    client.take(SRDS)
    client.publish(resource(SRDS, "r"))
    while client.inbox:
        client.ack(message := client.inbox.popleft())
    assert [each.name for each in message.resources] == ["r"]
