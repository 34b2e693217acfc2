"""Who refuses goes on with what was good, or is sent it: the first to refuse may have nothing, or something earlier."""

from __future__ import annotations

from typing import Any

import pytest

from tests.protocol.dialogue import CDS, EDS, RDS, SRDS, Change, Delta, Sotw, eds_cluster, removed, resource
from tests.protocol.fleet import Fleet, bodies

BLAMED = "Error adding/updating x(s) r/x: no"


def _fleet() -> Fleet:
    """Somebody took over what is good, and is gone."""
    fleet = Fleet(resource(RDS, "r/x", "good"), resource(RDS, "r/y", "1"))
    former = fleet.join(node="former")
    former.send(RDS, ["r/x", "r/y"])
    former.take(RDS, ["r/x", "r/y"])
    fleet.clients.clear()
    return fleet


def _takes(client: Any, names: list[str], detail: str) -> set[bytes]:
    """Take over what is not refused; all contents that were."""
    more = [names] if isinstance(client, Sotw) else []
    taken: set[bytes] = set()
    for _ in range(20):
        if not client.inbox:
            return taken
        message = client.inbox.popleft()
        content = {getattr(one, "resource", one).value for one in message.resources}
        if b"bad" in content:
            client.nack(message, *more, error=detail)
        else:
            taken |= content
            client.ack(message, *more)
    pytest.fail("it never comes to rest")


@pytest.mark.parametrize("detail", [BLAMED, "no"], ids=["named", "bisected"])
@pytest.mark.parametrize("kind", [Delta, Sotw])
def test_who_begins_and_is_the_first_to_refuse_gets_what_was_good(kind: type[Any], detail: str) -> None:
    fleet, names = _fleet(), ["r/x", "r/y"]
    fleet.publish(resource(RDS, "r/x", "bad"))
    client = fleet.join(kind, node="new")
    client.send(RDS, names)
    assert _takes(client, names, detail) == {b"good", b"1"}


def test_so_does_the_second_whose_first_answer_is_under_way_by_then() -> None:
    fleet, names = _fleet(), ["r/x", "r/y"]
    fleet.publish(resource(RDS, "r/x", "bad"))
    first, second = fleet.join(node="n1"), fleet.join(node="n2")
    for client in (first, second):
        client.send(RDS, names)
    assert _takes(first, names, BLAMED) == {b"good", b"1"}
    fleet.settle()
    assert _takes(second, names, BLAMED) == {b"good", b"1"}


def test_who_was_away_while_others_took_over_what_was_good_is_sent_that() -> None:
    fleet = Fleet(resource(RDS, "r/x", "first"))
    slow, quick = fleet.join(node="n1"), fleet.join(node="n2")
    for client in (slow, quick):
        client.send(RDS, ["r/x"])
        client.take(RDS, ["r/x"])
    fleet.store.publish({"gateway": [resource(RDS, "r/x", "good")]})
    quick.changed()
    quick.take(RDS, ["r/x"])
    fleet.store.publish({"gateway": [resource(RDS, "r/x", "bad")]})
    slow.changed()
    slow.nack(slow.expect_names(RDS, ["r/x"]), "r/x: no")
    assert bodies(slow.take(RDS, ["r/x"])) == [b"good"]


def test_who_has_what_is_good_is_sent_nothing() -> None:
    fleet = _fleet()
    client = fleet.join(node="n1")
    client.send(RDS, ["r/x"])
    client.take(RDS, ["r/x"])
    for content in ("bad", "bad too"):
        fleet.publish(resource(RDS, "r/x", content))
        client.nack(client.expect_names(RDS, ["r/x"]), "r/x: no")
        fleet.settle()
        client.expect_nothing()


def test_what_an_envoy_took_over_of_a_refused_response_is_put_back() -> None:
    """It takes the good clusters of a response that it refuses, and what came after was refused too."""
    fleet = Fleet(resource(CDS, "x", "1"), resource(CDS, "y", "1"))
    client = fleet.join()
    client.send(CDS)
    client.take(CDS, ["x", "y"])
    fleet.publish(resource(CDS, "x", "2"), resource(CDS, "y", "bad"))
    first = client.expect(CDS)
    fleet.publish(resource(CDS, "x", "bad"))
    second = client.expect(CDS)
    client.nack(first, "Error adding/updating cluster(s) y: no")
    client.nack(second, "Error adding/updating cluster(s) x: no")
    fleet.settle()
    assert [one.name for one in client.expect(CDS).resources] == ["x"]


# -- what the good content names ---------------------------------------------------------------------------------------------


def _to(name: str, target: str, mark: str = "") -> Change:
    """A route that leads to a cluster, as a message would say it: a length and a text."""
    return resource(SRDS, name, f"{chr(len(target))}{target}{mark}")


def _who_refuses_the_route(fleet: Fleet) -> Delta:
    """One that begins, takes the cluster `new`, and refuses the route `r` to it."""
    client = fleet.join(node="new")
    client.send(CDS)
    client.take(CDS, ["new"])
    client.send(SRDS)
    client.nack(client.expect_names(SRDS, ["r"]), "no")
    fleet.settle()
    return client


def test_a_cluster_that_good_routes_lead_to_stays_when_another_cluster_is_refused() -> None:
    """Also with who has not asked for routes yet."""
    fleet = Fleet(resource(CDS, "old"), _to("r", "old"))
    former, client = fleet.join(node="former"), fleet.join(node="new")
    for url, name in ((CDS, "old"), (SRDS, "r")):
        former.send(url)
        former.take(url, [name])
    client.send(CDS)
    client.take(CDS, ["old"])
    fleet.publish(resource(CDS, "new", "bad"), resource(CDS, "also"), removed(CDS, "old"), _to("r", "new"))
    client.nack(client.expect(CDS), "Error adding/updating cluster(s) new: no")
    fleet.settle()
    client.take(CDS, ["also"])
    client.advance(10.0)
    client.expect_nothing()
    client.send(SRDS)
    client.take(SRDS, ["r"])


def test_a_cluster_that_is_gone_comes_back_before_the_good_routes_that_lead_to_it() -> None:
    fleet = Fleet(resource(CDS, "old"), resource(CDS, "new"), _to("r", "old"))
    former = fleet.join(node="former")
    for url in (CDS, SRDS):
        former.send(url)
        former.ack(former.expect(url))
    fleet.clients.clear()
    fleet.publish(removed(CDS, "old"), _to("r", "new", "bad"))
    client = _who_refuses_the_route(fleet)
    client.take(CDS, ["old"])
    client.take(SRDS, ["r"])
    client.expect_nothing()


def test_what_is_gone_stays_while_it_is_searched_what_is_to_blame() -> None:
    fleet = Fleet(resource(CDS, "old"), resource(CDS, "new"), _to("r1", "old"), _to("r2", "old"), _to("r3", "old"))
    client = fleet.join()
    for url in (CDS, SRDS):
        client.send(url)
        client.ack(client.expect(url))
    changed = [_to(name, "new", "bad" if name == "r3" else "") for name in ("r1", "r2", "r3")]
    fleet.publish(removed(CDS, "old"), *changed)
    clusters: set[str] = set()
    for _ in range(10):
        if not client.inbox:
            break
        message = client.inbox.popleft()
        clusters |= set(message.removed_resources)
        client.nack(message) if any(b"bad" in one.resource.value for one in message.resources) else client.ack(message)
        fleet.settle()
    assert clusters == set()


def test_what_was_good_is_not_shown_when_it_leads_to_what_was_refused_and_is_gone() -> None:
    """Somebody took the route over before its cluster, which nobody ever had, was known to be bad."""
    fleet = Fleet(resource(CDS, "k", "bad"), resource(CDS, "new"), _to("r", "k"))
    quick, client = fleet.join(node="quick"), fleet.join(node="client")
    for url in (CDS, SRDS):
        quick.send(url)
    refused = quick.expect_names(CDS, ["k", "new"])
    quick.take(SRDS, ["r"])
    quick.nack(refused, "Error adding/updating cluster(s) k: no")
    client.send(CDS)
    client.take(CDS, ["new"])
    client.send(SRDS)
    client.take(SRDS)
    fleet.publish(removed(CDS, "k"), _to("r", "new", "bad"))
    client.nack(client.expect_names(SRDS, ["r"]))
    fleet.settle()
    client.expect_nothing()


def test_what_is_good_to_others_may_lead_to_what_this_client_refuses() -> None:
    """The route was edited once more after its cluster was refused: those who have the cluster took that over."""
    fleet = Fleet(resource(CDS, "k"), _to("r", "k"))
    old, new = fleet.join(node="n1", version="1.30.0"), fleet.join(node="n2", version="1.40.0")
    for client in (old, new):
        for url, name in ((CDS, "k"), (SRDS, "r")):
            client.send(url)
            client.take(url, [name])
    fleet.publish(resource(CDS, "for 1.40"), _to("r", "for 1.40"))
    old.nack(old.expect_names(CDS, ["for 1.40"]), "Error adding/updating cluster(s) for 1.40: no")
    fleet.settle()
    new.take(CDS, ["for 1.40"])
    new.take(SRDS, ["r"])
    for mark in ("again", "and again"):
        fleet.publish(_to("r", "for 1.40", mark))
        new.take(SRDS, ["r"])
    old.advance(10.0)
    old.expect_nothing()
    later = fleet.join(node="n3", version="1.30.0")
    for url, names in ((CDS, ["k"]), (SRDS, [])):
        later.send(url)
        later.take(url, names)


@pytest.mark.parametrize("detail", ["Error adding/updating scope(s) x: no", "no"], ids=["named", "not named"])
def test_who_comes_back_and_refuses_what_is_mended_already_is_sent_everything(detail: str) -> None:
    """State of the world, after a restart: nothing is known to be good, and nothing is bad any more."""
    fleet = Fleet(resource(SRDS, "x", "bad"), resource(SRDS, "y", "1"))
    client = fleet.join(Sotw)
    client.send(SRDS, version="of a stream before")
    refused = client.expect(SRDS)
    fleet.publish(resource(SRDS, "x", "2"))
    client.nack(refused, error=detail)
    fleet.settle()
    client.take(SRDS, b"2", b"1")


def test_what_is_gone_while_it_is_searched_and_comes_back_is_sent() -> None:
    fleet = Fleet(resource(SRDS, "w"), resource(SRDS, "x"))
    client = fleet.join()
    client.send(SRDS)
    client.take(SRDS, ["w", "x"])
    fleet.publish(resource(SRDS, "w", "bad"), resource(SRDS, "x", "2"))
    client.nack(client.expect_names(SRDS, ["w", "x"]))
    half = client.expect_names(SRDS, ["w"])
    fleet.publish(removed(SRDS, "x"))
    client.nack(half)
    fleet.settle()
    fleet.publish(resource(SRDS, "x", "2"))
    client.take(SRDS, ["x"])


def test_who_comes_back_refuses_and_then_sees_other_gateways_is_sent_everything() -> None:
    fleet = Fleet(resource(SRDS, "x", "bad"), resource(SRDS, "y", "1"))
    client = fleet.join(Sotw)
    client.send(SRDS, version="of a stream before")
    client.nack(client.expect(SRDS), error="Error adding/updating scope(s) x: no")
    fleet.settle()
    client.expect_nothing()
    fleet.store.publish({"other": [resource(SRDS, "z", "3")]})
    client.parts = ("other",)
    client.changed()
    client.take(SRDS, b"3")


def test_who_comes_back_and_refuses_keeps_what_goes_meanwhile_until_its_routes_are_others() -> None:
    """State of the world, after a restart: which clusters it has is not known, so nothing is sent before a change."""
    fleet = Fleet(resource(CDS, "bad"), resource(CDS, "k"), _to("r", "k"))
    client = fleet.join(Sotw)
    for url in (CDS, SRDS):
        client.send(url, version="of a stream before")
    client.nack(client.expect(CDS), error="Error adding/updating cluster(s) bad: no")
    fleet.settle()
    client.expect_nothing()
    fleet.publish(removed(CDS, "bad"), removed(CDS, "k"), resource(CDS, "new"), _to("r", "new"))
    client.ack(both := client.expect(CDS))
    client.take(SRDS, b"\x03new")
    client.ack(one := client.expect(CDS))
    assert [len(set_of_clusters.resources) for set_of_clusters in (both, one)] == [2, 1]


def test_what_others_took_over_may_be_what_a_client_that_comes_back_refuses_and_nothing_else_is_blamed() -> None:
    """State of the world, after a restart: it does not say what, and what it has is not known."""
    fleet = Fleet(resource(SRDS, "x", "for 1.40"), resource(SRDS, "y", "1"))
    new = fleet.join(node="n1", version="1.40.0")
    new.send(SRDS)
    new.take(SRDS, ["x", "y"])
    old = fleet.join(Sotw, node="n2", version="1.30.0")
    old.send(SRDS, version="of a stream before")
    for _ in range(2):
        old.nack(old.expect_bodies(SRDS, b"for 1.40", b"1"))
        fleet.settle()
    old.expect_nothing()
    assert list(fleet.holds.held()) == []
    fleet.publish(resource(SRDS, "x", "2"))
    old.take(SRDS, b"2", b"1")


def test_who_comes_back_with_something_in_the_place_of_what_is_held_back_keeps_what_that_leads_to() -> None:
    """Nothing good is known of the route, so the client keeps its own; it would lead to a cluster that is gone."""
    fleet = Fleet(resource(CDS, "new"), _to("r", "new", "bad"))
    _who_refuses_the_route(fleet)
    client = fleet.join(node="back")
    client.send(CDS, ["*"], initial={"old": "1", "new": client.version(CDS, "new")})
    client.send(SRDS, ["*"], initial={"r": "1"})
    client.inbox.clear()
    client.advance(200)
    client.expect_nothing()
    client.advance(101)
    client.take(CDS, removed=["old"])


def test_a_cluster_that_is_gone_is_not_shown_again_when_nobody_knows_its_endpoints() -> None:
    fleet = Fleet(eds_cluster("old"), resource(EDS, "old"), eds_cluster("new"), resource(EDS, "new"), _to("r", "old"))
    former = fleet.join(node="former")
    former.send(CDS)
    former.take(CDS, ["new", "old"])
    former.send(EDS, ["old"])
    former.expect_names(EDS, ["old"])  # never acknowledged
    former.send(SRDS)
    former.advance(1.0)
    former.take(SRDS, ["r"])
    fleet.clients.clear()
    fleet.publish(removed(CDS, "old"), removed(EDS, "old"), _to("r", "new", "bad"))
    client = _who_refuses_the_route(fleet)
    client.expect_nothing()


def test_who_had_to_wait_for_a_change_of_routes_gets_their_cluster_first_however_long_that_took() -> None:
    fleet = Fleet(resource(CDS, "old"), _to("r", "old", "bad"))
    client = fleet.join(Sotw)
    for url in (CDS, SRDS):
        client.send(url, version="earlier")
    client.ack(client.expect(CDS))
    client.nack(client.expect(SRDS))
    fleet.settle()
    client.advance(60.0)
    fleet.publish(resource(CDS, "new"), _to("r", "new"))
    clusters = client.expect(CDS)
    client.expect_nothing()
    client.ack(clusters)
    client.expect(SRDS)
