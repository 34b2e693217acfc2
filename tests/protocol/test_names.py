"""Names that are more than bytes: aliases, virtual hosts on demand, structured names and their collections."""

from __future__ import annotations

import pytest

from controlplane.xds import subscription
from controlplane.xds.nodes import Ended
from controlplane.xdstp import collection_of
from tests.protocol.dialogue import CDS, EDS, LDS, PART, RDS, RTDS, SDS, VHDS, Delta, Sotw, removed, resource

# -- aliases ---------------------------------------------------------------------------------------------------------


def test_del_13_an_alias_is_answered_by_its_resource_with_name_and_aliases() -> None:
    client = Delta(resource(EDS, "a", aliases=("also", "or")), resource(EDS, "b"))
    client.send(EDS, ["also"])
    (told,) = client.take(EDS, ["a"]).resources
    assert list(told.aliases) == ["also", "or"]
    client.publish(resource(EDS, "a", "2", aliases=("also", "or")), resource(EDS, "b", "2"))
    client.take(EDS, ["a"])
    client.send(EDS, ["also"])  # again: the client may have forgotten it
    client.take(EDS, ["a"])
    client.publish(removed(EDS, "a"))
    client.take(EDS, removed=["a"])
    client.publish(resource(EDS, "a", "3", aliases=("also",)))
    client.take(EDS, ["a"])


def test_del_13_name_and_alias_together_are_one_resource() -> None:
    """The same name twice in one response is an error of the server."""
    client = Delta(resource(EDS, "a", aliases=("also",)))
    client.send(EDS, ["a", "also"])
    client.take(EDS, ["a"])
    client.send(EDS, unsubscribe=["a"])
    client.take(EDS, ["a"])  # still there by its alias, which the client cannot know
    client.publish(resource(EDS, "a", "2", aliases=("also",)))
    client.take(EDS, ["a"])
    client.send(EDS, unsubscribe=["also"])
    client.expect_nothing()
    client.publish(resource(EDS, "a", "3", aliases=("also",)))
    client.expect_nothing()


def test_del_13_a_name_that_is_given_up_may_be_reached_by_an_alias_that_came_later() -> None:
    client = Delta(resource(EDS, "a"))
    client.send(EDS, ["a", "also"])
    client.take(EDS, ["a"], removed=["also"])
    client.publish(resource(EDS, "a", "2", aliases=("also",)))
    client.take(EDS, ["a"])
    client.send(EDS, unsubscribe=["a"])
    client.take(EDS, ["a"])
    client.publish(resource(EDS, "a", "3", aliases=("also",)))
    client.take(EDS, ["a"])


def test_del_13_an_alias_that_nobody_has_is_absent_until_somebody_has_it() -> None:
    client = Delta(resource(EDS, "a"))
    client.send(EDS, ["also"])
    client.take(EDS, removed=["also"])
    client.publish(resource(EDS, "a", aliases=("also",)))  # the content is the same
    client.take(EDS, ["a"])
    client.publish(resource(EDS, "a"))
    client.take(EDS, removed=["a"])  # not reached any more
    client.publish(resource(EDS, "a", "2"))
    client.expect_nothing()
    client.publish(resource(EDS, "b", aliases=("also",)))
    client.take(EDS, ["b"])


@pytest.mark.parametrize("first", ["loses", "gains"])
def test_an_alias_that_moves_brings_one_and_takes_the_other(first: str) -> None:
    """In whatever order they are published."""
    client = Delta(resource(EDS, "a", aliases=("x",)), resource(EDS, "b"))
    client.send(EDS, ["x"])
    client.take(EDS, ["a"])
    loses, gains = resource(EDS, "a"), resource(EDS, "b", aliases=("x",))
    client.publish(*((loses, gains) if first == "loses" else (gains, loses)))
    client.take(EDS, ["b"])
    client.take(EDS, removed=["a"])
    client.expect_nothing()


def test_an_alias_that_was_lost_and_made_up_for_by_the_wildcard_holds_up_no_removal() -> None:
    client = Delta(resource(EDS, "a", aliases=("x",)), resource(RTDS, "t"))
    client.send(RTDS, ["t"])
    client.take(RTDS, ["t"])
    client.send(EDS, ["x"])
    answer = client.expect_names(EDS, ["a"])
    client.publish(resource(EDS, "a"))  # goes when the answer is acknowledged
    client.send(EDS, ["*"])
    client.ack(answer)
    client.take(EDS, ["a"])
    client.publish(removed(RTDS, "t"))
    client.take(RTDS, removed=["t"])
    client.expect_nothing()


def test_aliases_are_looked_up_anew_in_another_view() -> None:
    client = Delta(resource(EDS, "a", aliases=("x",)))
    client.store.publish({"other": [resource(EDS, "b", aliases=("x",))]})
    client.send(EDS, ["x"])
    client.take(EDS, ["a"])
    client.parts = ("other",)
    client.changed()
    client.take(EDS, ["b"])
    client.take(EDS, removed=["a"])
    client.expect_nothing()


def test_a_resume_by_alias_gets_only_what_differs() -> None:
    client = Delta(resource(EDS, "a", aliases=("x",)), resource(EDS, "b", aliases=("y",)), only=EDS)
    client.send(EDS, ["x", "y"], initial={"a": client.version(EDS, "a"), "b": "old"})
    client.take(EDS, ["b"])
    client.expect_nothing()


@pytest.mark.parametrize("kind", [Delta, Sotw])
def test_an_alias_before_there_is_a_view(kind: type[Delta] | type[Sotw]) -> None:
    client = kind()
    client.parts = None
    client.send(EDS, ["x"])
    client.store.publish({"gateway": [resource(EDS, "a", "a1", aliases=("x",))]})
    client.parts = ("gateway",)
    client.changed()
    assert len(client.expect(EDS).resources) == 1


# -- virtual hosts on demand -----------------------------------------------------------------------------------------


def test_ond_04_a_host_is_found_by_its_name_and_by_its_domains() -> None:
    client = Delta(resource(VHDS, "a/b/shop", aliases=("a/b/shop.test", "a/b/www.shop.test")))
    client.send(VHDS, ["a/b/www.shop.test"])
    (told,) = client.take(VHDS, ["a/b/shop"]).resources
    assert set(told.aliases) == {"a/b/shop", "a/b/shop.test", "a/b/www.shop.test"}
    client.send(VHDS, ["a/b/shop"])
    assert "a/b/shop" in client.take(VHDS, ["a/b/shop"]).resources[0].aliases


def test_ond_05_an_unknown_host_is_answered_without_content_so_that_the_request_goes_on() -> None:
    client = Delta(resource(VHDS, "rc/known"))
    client.send(VHDS, ["rc/known"])
    client.take(VHDS, ["rc/known"])
    for _ in range(2):  # a second request that waits is answered too
        client.send(VHDS, ["rc/unknown"])
        message = client.expect(VHDS)
        client.ack(message)
        (told,) = message.resources
        assert (told.name, list(told.aliases), told.HasField("resource")) == ("rc/unknown", ["rc/unknown"], False)
        assert not message.removed_resources
    client.publish(resource(VHDS, "rc/unknown"))
    client.take(VHDS, ["rc/unknown"])
    client.publish(removed(VHDS, "rc/unknown"))
    client.take(VHDS, removed=["rc/unknown"])  # gone is gone: nobody waits for it


def test_ond_05_a_host_that_is_asked_for_while_it_goes_holds_up_nothing_that_goes_later() -> None:
    client = Delta(resource(CDS, "a"), resource(CDS, "b"), resource(RDS, "r"), resource(VHDS, "r/h"))
    client.send(CDS)
    client.take(CDS, ["a", "b"])
    client.send(RDS, ["r"])
    client.take(RDS, ["r"])
    client.send(VHDS, ["r/h"])
    client.take(VHDS, ["r/h"])
    client.publish(resource(CDS, "b", "2"), removed(VHDS, "r/h"))
    changed = client.expect_names(CDS, ["b"])  # the host goes when this is acknowledged
    client.send(VHDS, ["r/h"])
    absent = client.expect(VHDS)
    assert not absent.resources[0].HasField("resource")
    client.ack(absent)
    client.ack(changed)
    client.publish(removed(CDS, "a"))
    client.take(CDS, removed=["a"])
    client.expect_nothing()


def test_ond_06_hosts_are_sent_again_after_their_route_configuration() -> None:
    client = Delta(resource(RDS, "a/rc"), resource(RDS, "rc"), *(resource(VHDS, name) for name in ("a/rc/h", "rc/h")))
    client.send(RDS, ["a/rc", "rc"])
    client.take(RDS, ["a/rc", "rc"])
    client.send(VHDS, ["a/rc/h", "rc/h", "a/rc/none"])
    client.ack(client.expect(VHDS))
    client.publish(resource(RDS, "a/rc", "2"))
    client.take(RDS, ["a/rc"])
    message = client.expect(VHDS)
    assert [(each.name, each.HasField("resource")) for each in message.resources] == [("a/rc/h", True), ("a/rc/none", False)]  # fmt: skip
    client.ack(message)
    client.expect_nothing()


def test_ond_07_a_first_request_without_names_gets_a_host_of_each_route_configuration() -> None:
    client = Delta(resource(RDS, "rc"), resource(RDS, "other"), *(resource(VHDS, f"{rc}/{host}") for rc in ("rc", "other") for host in "ab"))  # fmt: skip
    client.send(RDS, ["rc"])
    client.take(RDS, ["rc"])
    client.send(VHDS)
    client.take(VHDS, ["rc/a"])
    client.publish(resource(VHDS, "rc/a", "2"), resource(VHDS, "rc/b", "2"))
    client.take(VHDS, ["rc/a"])  # known to the client, so kept up to date
    client.send(RDS, ["other"])  # another listener, for which Envoy does not ask again
    client.take(RDS, ["other"])
    client.take(VHDS, ["other/a"])
    client.expect_nothing()


@pytest.mark.parametrize("late", [False, True])
def test_ond_07_is_answered_when_there_are_no_hosts(late: bool) -> None:
    client = Delta(resource(RDS, "rc"))
    client.parts = None if late else ("gateway",)
    client.send(VHDS)
    client.parts = ("gateway",)
    client.changed()
    client.take(VHDS)
    client.expect_nothing()


# -- clusters on demand ----------------------------------------------------------------------------------------------


def test_ond_01_clusters_on_demand_beside_the_wildcard_are_answered_each_at_once() -> None:
    client = Delta(resource(CDS, "a"), resource(CDS, "b"))
    client.send(CDS, ["*"])
    client.take(CDS, ["a", "b"])
    for name in "ab":
        client.send(CDS, [name])
        client.take(CDS, [name])
    for name in ("missing", "missing too", "missing"):
        client.send(CDS, [name])
        client.take(CDS, removed=[name])
    client.publish(resource(CDS, "missing"))
    client.take(CDS, ["missing"])


def test_ond_03_a_reconnect_asks_again_for_clusters_on_demand_and_for_deleted_ones_too() -> None:
    client = Delta(resource(CDS, "a"), resource(CDS, "b"))
    client.send(CDS, ["*", "b", "deleted", "never"], initial={"b": client.version(CDS, "b"), "deleted": "1"})
    client.take(CDS, ["a"], ["never"])
    client.advance(1)
    client.take(CDS, removed=["deleted"])
    client.expect_nothing()


# -- structured names ------------------------------------------------------------------------------------------------

BASE = "xdstp://authority/envoy.config.listener.v3.Listener/"


@pytest.mark.parametrize("asked", ["?a=1&b=2", "?b=2&a=1", "?b=%32&%61=1"])
@pytest.mark.parametrize("published", ["?a=1&b=2", "?b=2&a=1"])
def test_sub_17_the_order_of_context_parameters_means_nothing(asked: str, published: str) -> None:
    client = Delta(resource(LDS, f"{BASE}l{published}"))
    client.send(LDS, [f"{BASE}l{asked}"])
    client.take(LDS, [f"{BASE}l{published}"])
    client.publish(resource(LDS, f"{BASE}l{published}", "2"))
    client.take(LDS, [f"{BASE}l{published}"])
    client.send(LDS, unsubscribe=[f"{BASE}l{'?b=2&a=1' if asked == '?a=1&b=2' else '?a=1&b=2'}"])
    client.publish(resource(LDS, f"{BASE}l{published}", "3"))
    client.expect_nothing()


@pytest.mark.parametrize(
    "other",
    [
        f"{BASE}l",
        f"{BASE}l?a=2",
        f"{BASE}l?a=1&b=2",
        f"{BASE}m?a=1",
        "xdstp://another/envoy.config.listener.v3.Listener/l?a=1",
        "xdstp://authority/envoy.config.cluster.v3.Cluster/l?a=1",
        "xdstp:///envoy.config.listener.v3.Listener/l?a=1",
    ],
)
def test_sub_17_authority_type_id_and_parameters_must_match(other: str) -> None:
    client = Delta(resource(LDS, other))
    client.send(LDS, [f"{BASE}l?a=1"])
    client.take(LDS, removed=[f"{BASE}l?a=1"])


def test_sub_17_a_collection_is_one_level_with_its_parameters() -> None:
    inside = [f"{BASE}p/x?a=1&b=2", f"{BASE}p/y?b=2&a=1"]
    outside = [f"{BASE}p/x", f"{BASE}p/x?a=1", f"{BASE}p/q/x?a=1&b=2", f"{BASE}px?a=1&b=2", f"{BASE}x?a=1&b=2", "p/x"]
    client = Delta(*(resource(LDS, name) for name in (*inside, *outside)))
    client.send(LDS, [f"{BASE}p/*?b=2&a=1"])
    client.take(LDS, inside)
    client.publish(*(resource(LDS, name, "2") for name in outside), resource(LDS, f"{BASE}p/z?a=1&b=2"))
    client.take(LDS, [f"{BASE}p/z?a=1&b=2"])
    client.publish(resource(LDS, inside[1], "2"), removed(LDS, inside[0]))
    client.take(LDS, [inside[1]])
    client.take(LDS, removed=[inside[0]])
    client.send(LDS, unsubscribe=[f"{BASE}p/*?a=1&b=2"])
    client.expect_nothing()
    client.publish(resource(LDS, inside[1], "3"), resource(LDS, f"{BASE}p/new?a=1&b=2"))
    client.expect_nothing()


def test_sub_17_an_empty_collection_is_absent_until_it_has_a_member() -> None:
    client = Delta(resource(LDS, "other"))
    client.send(LDS, [f"{BASE}p/*"])
    client.take(LDS, removed=[f"{BASE}p/*"])
    client.publish(resource(LDS, f"{BASE}p/x"))
    client.take(LDS, [f"{BASE}p/x"])


def test_sub_17_many_collections_take_one_look_at_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counted(name: str) -> str | None:
        nonlocal looked
        looked += 1
        return collection_of(name)

    members = [f"{BASE}p{number}/x" for number in range(20)]
    client = Delta(*(resource(LDS, name) for name in members))
    monkeypatch.setattr(subscription, "collection_of", counted)
    client.send(LDS, [f"{BASE}p{number}/*" for number in range(30)])
    client.take(LDS, members, removed=[f"{BASE}p{number}/*" for number in range(20, 30)])
    assert 0 < looked <= 5 * len(members)


def test_sub_17_a_stream_has_so_many_collections_and_no_more() -> None:
    client = Delta(resource(LDS, f"{BASE}p1/x"), collections=3)
    client.send(LDS, [f"{BASE}p{number}/*" for number in range(3)])
    client.take(LDS, [f"{BASE}p1/x"], removed=[f"{BASE}p0/*", f"{BASE}p2/*"])
    client.send(LDS, [f"{BASE}p3/*"], [f"{BASE}p0/*"])
    client.take(LDS, removed=[f"{BASE}p3/*"])
    with pytest.raises(Ended, match="more than 3 collections"):
        client.send(CDS, [f"{BASE}p4/*"])


def test_sub_17_a_member_named_beside_its_collection() -> None:
    client = Delta(resource(LDS, f"{BASE}p/x"), resource(LDS, f"{BASE}p/y"))
    client.send(LDS, [f"{BASE}p/*", f"{BASE}p/x"])
    client.take(LDS, [f"{BASE}p/x", f"{BASE}p/y"])
    client.send(LDS, unsubscribe=[f"{BASE}p/x"])
    client.take(LDS, [f"{BASE}p/x"])  # still in the collection
    client.send(LDS, [f"{BASE}p/x"], [f"{BASE}p/*"])
    client.take(LDS, [f"{BASE}p/x"])
    client.expect_nothing()
    client.publish(resource(LDS, f"{BASE}p/x", "2"), resource(LDS, f"{BASE}p/y", "2"))
    client.take(LDS, [f"{BASE}p/x"])


def test_sub_17_a_resume_of_a_collection() -> None:
    client = Delta(*(resource(LDS, f"{BASE}p/{name}") for name in ("same", "changed", "new")), only=LDS)
    initial = {
        f"{BASE}p/same": client.version(LDS, f"{BASE}p/same"),
        f"{BASE}p/changed": "old",
        f"{BASE}p/gone": "1",
        f"{BASE}q/else": "1",
    }
    client.send(LDS, [f"{BASE}p/*"], initial=initial)
    client.take(LDS, [f"{BASE}p/changed", f"{BASE}p/new"])
    client.take(LDS, removed=[f"{BASE}p/gone"])
    client.expect_nothing()


def test_sub_17_a_collection_never_enumerates_secrets() -> None:
    name = "xdstp://a/envoy.extensions.transport_sockets.tls.v3.Secret/p/x"
    client = Delta(resource(SDS, name))
    client.send(SDS, ["xdstp://a/envoy.extensions.transport_sockets.tls.v3.Secret/p/*"])
    client.take(SDS, removed=["xdstp://a/envoy.extensions.transport_sockets.tls.v3.Secret/p/*"])
    client.publish(resource(SDS, name, "2"))
    client.expect_nothing()


def test_sub_17_in_the_state_of_the_world() -> None:
    client = Sotw(resource(LDS, f"{BASE}p/x", "x"), resource(LDS, f"{BASE}l?a=1&b=2", "l"), resource(LDS, "n", "n"))
    names = [f"{BASE}p/*", f"{BASE}l?b=2&a=1"]
    client.send(LDS, names)
    client.take(LDS, b"l", b"x", names=names)
    client.publish(resource(LDS, f"{BASE}p/y", "y"))
    client.take(LDS, b"l", b"x", b"y", names=names)
    client.publish(removed(LDS, f"{BASE}p/x"))
    client.take(LDS, b"l", b"y", names=names)


def test_an_alias_that_is_asked_for_when_it_has_just_moved_is_that_of_one_resource() -> None:
    """The request arrives when the stream has not looked yet."""
    client = Delta(resource(EDS, "a", aliases=("also",)), resource(EDS, "b"))
    client.send(EDS, ["also"])
    client.take(EDS, ["a"])
    client.store.publish({PART: [resource(EDS, "a"), resource(EDS, "b", aliases=("also",))]})
    client.send(EDS, ["also"])
    client.changed()
    client.take(EDS, ["b"])
    client.take(EDS, removed=["a"])
    client.publish(resource(EDS, "a", "2"))
    client.expect_nothing()
