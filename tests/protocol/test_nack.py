"""What is refused is held back alone: everything else flows, and everybody else is shown what was good."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.resources import Resource
from controlplane.xds.blame import blamed, halves
from controlplane.xds.holds import CREDIBLE_REFUSALS, NODE_CASES
from controlplane.xds.observer import State
from tests.protocol.dialogue import (
    CDS,
    EDS,
    LDS,
    PART,
    RDS,
    RTDS,
    SRDS,
    Change,
    Delta,
    Sotw,
    cluster,
    eds_cluster,
    removed,
    resource,
)
from tests.protocol.fleet import Fleet, bodies
from tests.support.work import instructions

BAD = b"bad"


def refuses_bad(client: Any, url: str, named: bool = False) -> list[str]:
    """Answer as a client does that takes no response with a bad resource; the names that it took over."""
    taken: list[str] = []
    for _ in range(100):
        if not client.inbox:
            return taken
        message = client.inbox.popleft()
        if message.type_url != url:
            client.ack(message)
            continue
        bad = [each.name for each in message.resources if each.resource.value == BAD]
        if bad:
            said = "Error adding/updating cluster(s) " + ", ".join(f"{name}: no" for name in bad)
            client.nack(message, said if named else "cannot be")
        else:
            taken += [each.name for each in message.resources]
            client.ack(message)
    pytest.fail("it never comes to rest")


@pytest.mark.parametrize(
    ("detail", "found"),
    [
        ("Error adding/updating listener(s) a: no", {"a"}),
        ("Error adding/updating cluster(s) shop/api: x, shop/web: y", {"shop/api", "shop/web"}),
        ("route config shop/api-eu: bad", {"shop/api-eu"}),
        ("Error adding/updating cluster(s) shop/api: unknown cluster 'shop/web', a: y", {"shop/api", "a"}),
        (
            'goo.gle/debugproto\nname: "a"\nkey {\n  name: "shop/web"\n}\n: Proto constraint validation failed (x)',
            {"a"},
        ),
        ('cluster_name: "shop/web"\n: Proto constraint validation failed (x)', {"shop/web"}),
        ("missing ): (", set()),
        ("a is wrong", set()),
        ("banana", set()),
        ("a, shop/api, shop/web, shop/api-eu, [::]:80|h|s: all", set()),
        ("scope [::]:80|h|s is bad.", {"[::]:80|h|s"}),
    ],
)
def test_who_is_blamed(detail: str, found: set[str]) -> None:
    assert blamed(detail, ["a", "shop/api", "shop/web", "shop/api-eu", "[::]:80|h|s"]) == found


def test_halves_are_whole() -> None:
    assert halves("dacb") == [{"a", "b"}, {"c", "d"}]
    assert halves("abc") == [{"a", "b"}, {"c"}]


@pytest.mark.parametrize("named", [True, False], ids=["named", "bisected"])
@pytest.mark.parametrize("bad", [["3"], ["0", "6"], ["1", "2", "5"], [str(i) for i in range(7)]], ids=len)
def test_the_bad_ones_alone_are_held_and_all_others_arrive(bad: list[str], named: bool) -> None:
    names = [str(i) for i in range(7)]
    client = Delta(*(resource(SRDS, name, f"{name} good") for name in names))
    client.send(SRDS)
    client.take(SRDS, names)
    client.publish(*(resource(SRDS, name, "bad" if name in bad else f"{name} better") for name in names))
    assert set(refuses_bad(client, SRDS, named)) == set(names) - set(bad)
    assert sorted(each.name for each, _ in client.observer.held_back) == bad
    assert [good.body for _, good in client.observer.held_back if good] == [f"{name} good".encode() for name in bad]
    client.publish(*(resource(SRDS, name, f"{name} mended") for name in bad))
    assert set(refuses_bad(client, SRDS, named)) == set(bad)
    assert client.status(SRDS).state == "synced"
    client.advance(1000)
    client.expect_nothing()


def test_a_first_answer_with_a_bad_resource_gives_all_the_others() -> None:
    names = [str(i) for i in range(20)]
    client = Delta(*(resource(SRDS, name, "bad" if name == "13" else name) for name in names))
    client.send(SRDS)
    assert set(refuses_bad(client, SRDS)) == set(names) - {"13"}
    ((held, good),) = client.observer.held_back
    assert (held.name, good) == ("13", None)


def test_others_and_new_nodes_are_shown_the_last_good_content() -> None:
    fleet = Fleet(resource(SRDS, "a", "good"), resource(SRDS, "b", "b"))
    first, second = fleet.join(node="n1"), fleet.join(node="n2")
    for client in (first, second):
        client.send(SRDS)
        client.take(SRDS, ["a", "b"])
    fleet.store.publish({PART: [resource(SRDS, "a", "bad")]})
    first.changed()
    first.nack(first.expect_names(SRDS, ["a"]))
    fleet.settle()
    first.expect_nothing()
    second.expect_nothing()  # it was spared
    new = fleet.join(node="n3")
    new.send(SRDS)
    message = new.take(SRDS, ["a", "b"])
    assert sorted(bodies(message)) == [b"b", b"good"]
    sotw = fleet.join(Sotw, node="n4")
    sotw.send(SRDS)
    sotw.take(SRDS, b"b", b"good")
    resumed = fleet.join(node="n5")
    resumed.send(SRDS, initial={each.name: each.version for each in message.resources})
    resumed.take(SRDS)
    resumed.advance(0.3)
    fleet.publish(resource(SRDS, "a", "mended"))
    for client in (first, second, new, resumed):
        assert bodies(client.take(SRDS, ["a"])) == [b"mended"]
    sotw.take(SRDS, b"b", b"mended")


def test_a_second_bad_edit_does_not_lose_what_was_good() -> None:
    fleet = Fleet(resource(SRDS, "a", "good"))
    client = fleet.join()
    client.send(SRDS)
    client.take(SRDS, ["a"])
    for content in ("bad 1", "bad 2", "bad 3"):
        fleet.publish(resource(SRDS, "a", content))
        client.nack(client.expect_names(SRDS, ["a"]))
        client.expect_nothing()
    new = fleet.join(node="n2")
    new.send(SRDS)
    assert bodies(new.take(SRDS, ["a"])) == [b"good"]


def test_another_version_of_the_client_is_asked_itself() -> None:
    fleet = Fleet(resource(SRDS, "a", "good"))
    old, new = fleet.join(node="n1", version="1.30.0"), fleet.join(node="n2", version="1.40.0")
    for client in (old, new):
        client.send(SRDS)
        client.take(SRDS, ["a"])
    fleet.store.publish({PART: [resource(SRDS, "a", "only for 1.40")]})
    old.changed()
    old.nack(old.expect_names(SRDS, ["a"]))
    fleet.settle()
    assert bodies(new.take(SRDS, ["a"])) == [b"only for 1.40"]
    old.expect_nothing()


def test_a_node_that_comes_back_as_another_version_is_asked_itself() -> None:
    """A proxy that is upgraded in place takes what the former one refused."""
    fleet = Fleet(resource(CDS, "a"))
    former = fleet.join(version="1.39.0")
    former.send(CDS)
    former.take(CDS, ["a"])
    fleet.publish(resource(CDS, "a", "new"))
    former.nack(former.expect_names(CDS, ["a"]))
    fleet.settle()
    again = fleet.join(version="1.39.0")
    again.send(CDS)
    assert bodies(again.take(CDS, ["a"])) == [cluster("a")]
    upgraded = fleet.join(version="1.40.0")
    upgraded.send(CDS)
    assert bodies(upgraded.take(CDS, ["a"])) == [cluster("a", content="new")]
    fleet.settle()
    assert upgraded.status(CDS).state is State.SYNCED


def test_everybody_is_spared_after_several_nodes_refused() -> None:
    fleet = Fleet(resource(SRDS, "a", "good"))
    for number in range(3):
        client = fleet.join(node=f"n{number}", version=f"1.{number}")
        client.send(SRDS)
        client.take(SRDS, ["a"])
    fleet.publish(resource(SRDS, "a", "bad"))
    for client in fleet.clients:
        client.nack(client.expect_names(SRDS, ["a"]))  # type: ignore[attr-defined]
    new = fleet.join(node="new", version="2.0")
    new.send(SRDS)
    assert bodies(new.take(SRDS, ["a"])) == [b"good"]
    (held,) = fleet.holds.held()
    assert (held.everywhere, held.nodes) == (True, ("n0", "n1", "n2"))


@pytest.mark.parametrize("refused_first", [True, False])
def test_one_that_refuses_what_others_take_over_is_alone(refused_first: bool) -> None:
    """A proxy that refuses everything must not freeze its fleet."""
    fleet = Fleet(resource(SRDS, "a", "1"))
    good, odd, late = (fleet.join(node=node) for node in ("good", "odd", "late"))
    for client in (good, odd, late):
        client.send(SRDS)
        client.take(SRDS, ["a"])
    late.inbox.clear()
    fleet.store.publish({PART: [resource(SRDS, "a", "2")]})
    good.changed()
    odd.changed()
    to_good, to_odd = good.expect_names(SRDS, ["a"]), odd.expect_names(SRDS, ["a"])
    for step in ("refuse", "accept") if refused_first else ("accept", "refuse"):
        if step == "refuse":
            odd.nack(to_odd)
        else:
            good.ack(to_good)
        late.changed()
    assert bodies(late.take(SRDS, ["a"])) == [b"2"]
    new = fleet.join(node="new")
    new.send(SRDS)
    assert bodies(new.take(SRDS, ["a"])) == [b"2"]
    again = fleet.join(node="odd")
    again.send(SRDS)
    assert bodies(again.take(SRDS, ["a"])) == [b"1"]


def test_one_that_refuses_everything_speaks_for_itself() -> None:
    names = [f"r{number:02}" for number in range(2 * CREDIBLE_REFUSALS)]
    fleet = Fleet(*(resource(SRDS, name) for name in names))
    rogue = fleet.join(node="rogue")
    rogue.send(SRDS)
    refused = 0
    while rogue.inbox:
        said = ", ".join(f"{name}: no" for name in names)
        rogue.nack(rogue.inbox.popleft(), f"Error adding/updating listener(s) {said}")
        refused += 1
        assert refused < 200
    new = fleet.join(node="new")
    new.send(SRDS)
    new.take(SRDS, names)


def test_what_earlier_content_needs_stays_though_others_move_on() -> None:
    client = Delta(resource(CDS, "old"), resource(SRDS, "a", "to old"), resource(SRDS, "b", "to old"))
    for url, names in ((CDS, ["old"]), (SRDS, ["a", "b"])):
        client.send(url)
        client.take(url, names)
    client.publish(resource(CDS, "new"), removed(CDS, "old"), resource(SRDS, "a", "bad"), resource(SRDS, "b", "to new"))
    client.take(CDS, ["new"])
    client.nack(client.expect_names(SRDS, ["a", "b"]), "Error adding/updating route(s) a: no")
    client.take(SRDS, ["b"])
    client.advance(30)
    client.expect_nothing()
    client.publish(resource(SRDS, "a", "to new"))
    client.take(SRDS, ["a"])
    client.take(CDS, removed=["old"])


def test_what_earlier_content_needs_stays_until_what_comes_after_it_is_taken_over() -> None:
    client = Delta(resource(CDS, "old"), resource(SRDS, "a", "to old"), resource(SRDS, "b"))
    for url, names in ((CDS, ["old"]), (SRDS, ["a", "b"])):
        client.send(url)
        client.take(url, names)
    client.publish(resource(CDS, "new"), removed(CDS, "old"), resource(SRDS, "a", "bad"), resource(SRDS, "b", "2"))
    client.take(CDS, ["new"])
    client.nack(client.expect_names(SRDS, ["a", "b"]), "Error adding/updating route(s) a: no")
    client.take(SRDS, ["b"])
    client.publish(resource(CDS, "newer"), resource(SRDS, "a", "to newer"))
    client.take(CDS, ["newer"])
    mended = client.expect_names(SRDS, ["a"])
    client.expect_nothing()
    client.ack(mended)
    client.take(CDS, removed=["old"])


@pytest.mark.parametrize("kind", [Delta, Sotw])
def test_what_good_content_names_is_there_as_long_as_it_is_shown(kind: type[Any]) -> None:
    """An edit that is refused took the cluster of the former route away, and its load assignment: both come and stay."""
    to_old = (resource(CDS, "\x05other"), resource(SRDS, "r", "\x03old"))
    fleet = Fleet(eds_cluster("old"), resource(EDS, "old", "addresses"), *to_old)
    first = fleet.join()
    for url in (CDS, SRDS):
        first.send(url)
        first.ack(first.expect(url))
    first.send(EDS, ["old"])
    first.take(EDS, ["old"])
    fleet.publish(
        resource(CDS, "new"), removed(CDS, "old"), removed(EDS, "old"), resource(SRDS, "r", "bad \x03new"),
    )  # fmt: skip
    first.ack(first.expect(CDS))
    first.nack(first.expect(SRDS), "bad regex")
    fleet.settle()
    second = fleet.join(kind, node="node-2")
    shown = {}
    for url, names in ((CDS, []), (EDS, ["old"]), (SRDS, [])):
        second.send(url, names)
        answer = second.expect(url)
        shown[url] = bodies(answer) if kind is Delta else [each.value for each in answer.resources]
        second.ack(answer, *([names] if kind is Sotw else []))
    assert (len(shown[CDS]), shown[EDS], shown[SRDS]) == (3, [b"addresses"], [b"\x03old"])
    first.advance(1000)
    first.expect_nothing()
    fleet.publish(resource(SRDS, "r", "\x03new"))
    first.take(SRDS, ["r"])
    first.take(CDS, removed=["old"])
    first.take(EDS, removed=["old"])


def test_sotw_what_a_refused_set_left_out_is_left_out_of_the_next() -> None:
    """The client took nothing of that set over, so what it was to lose is still there."""
    fleet = Fleet(resource(SRDS, "a", "of a"), resource(SRDS, "d", "of d"))
    client = fleet.join(Sotw)
    client.send(SRDS)
    client.take(SRDS, b"of a", b"of d")
    fleet.publish(resource(SRDS, "c", "bad"))
    client.expect_bodies(SRDS, b"of a", BAD, b"of d")
    fleet.publish(removed(SRDS, "a"))
    client.advance(60)  # the answer to the former set is late
    client.nack(client.expect_bodies(SRDS, BAD, b"of d"))
    fleet.settle()
    client.take(SRDS, b"of d")
    client.expect_nothing()


def test_sotw_full_state_keeps_the_good_one_in_the_set() -> None:
    client = Sotw(resource(LDS, "a", "a1"), resource(LDS, "b", "b1"))
    client.send(LDS)
    client.take(LDS, b"a1", b"b1")
    client.publish(resource(LDS, "a", "bad"), resource(LDS, "b", "b2"))
    client.nack(client.expect_bodies(LDS, b"bad", b"b2"), error="Error adding/updating listener(s) a: no")
    client.take(LDS, b"a1", b"b2")
    client.publish(resource(LDS, "c", "c1"))
    client.take(LDS, b"a1", b"b2", b"c1")
    client.publish(removed(LDS, "b"))
    client.take(LDS, b"a1", b"c1")
    client.publish(resource(LDS, "a", "a3"))
    client.take(LDS, b"a3", b"c1")


def test_sotw_bisects_with_what_was_good_in_place() -> None:
    client = Sotw(*(resource(LDS, name, f"{name}1") for name in "abcd"))
    client.send(LDS)
    client.take(LDS, b"a1", b"b1", b"c1", b"d1")
    client.publish(*(resource(LDS, name, f"{name}2") for name in "abcd"))
    client.nack(client.expect_bodies(LDS, b"a2", b"b2", b"c2", b"d2"))
    client.nack(client.expect_bodies(LDS, b"a2", b"b2", b"c1", b"d1"))
    client.take(LDS, b"a2", b"b1", b"c1", b"d1")
    client.nack(client.expect_bodies(LDS, b"a2", b"b2", b"c1", b"d1"))  # b it is
    client.take(LDS, b"a2", b"b1", b"c2", b"d2")
    client.expect_nothing()


@pytest.mark.parametrize("url", [EDS, RDS])
def test_by_name(url: str) -> None:
    client = Delta(resource(url, "a", "a1"), resource(url, "b", "b1"))
    client.send(url, ["a", "b", "new"])
    client.take(url, ["a", "b"], ["new"])
    client.publish(resource(url, "a", "bad"), resource(url, "b", "b2"), resource(url, "new", "bad"))
    assert refuses_bad(client, url) == ["b"]
    client.send(url, ["a", "new"])  # asked again: what is good, and what is not there
    assert bodies(client.take(url, ["a"], ["new"])) == [b"a1"]


def test_the_origin_of_what_is_held_reaches_the_observer() -> None:
    client = Delta()
    client.send(SRDS)
    client.take(SRDS)
    client.publish((SRDS, "a", Resource(SRDS, "a", BAD, origin="shop.yaml:7:3")))
    client.nack(client.expect_names(SRDS, ["a"]), "no")
    ((held, _),) = client.observer.held_back
    assert held.origin == "shop.yaml:7:3"


def test_content_that_nobody_took_over_is_not_what_was_good() -> None:
    """Two bad edits, the second before the client could refuse the first."""
    fleet = Fleet(resource(SRDS, "a", "good"))
    client = fleet.join()
    client.send(SRDS)
    client.take(SRDS, ["a"])
    fleet.publish(resource(SRDS, "a", "bad 1"))
    fleet.publish(resource(SRDS, "a", "bad 2"))
    first, second = client.expect_names(SRDS, ["a"]), client.expect_names(SRDS, ["a"])
    client.nack(first)
    client.nack(second)
    client.expect_nothing()
    new = fleet.join(node="n2")
    new.send(SRDS)
    assert bodies(new.take(SRDS, ["a"])) == [b"good"]


def test_content_that_was_taken_over_while_it_was_replaced_is_what_was_good() -> None:
    fleet = Fleet(resource(SRDS, "a", "first"))
    client = fleet.join()
    client.send(SRDS)
    client.take(SRDS, ["a"])
    fleet.publish(resource(SRDS, "a", "good"))
    fleet.publish(resource(SRDS, "a", "bad"))
    good, bad = client.expect_names(SRDS, ["a"]), client.expect_names(SRDS, ["a"])
    client.ack(good)
    client.nack(bad)
    new = fleet.join(node="n2")
    new.send(SRDS)
    assert bodies(new.take(SRDS, ["a"])) == [b"good"]


def scope(name: str, cluster: str, content: str = "") -> Change:
    """A shard that names a cluster, as protobuf writes it: the length of the name, then the name."""
    return resource(SRDS, name, f"{chr(len(cluster))}{cluster}{content}")


def test_what_names_a_new_cluster_that_is_refused_is_held_with_it() -> None:
    fleet = Fleet(resource(CDS, "old"), scope("a", "old"), scope("other", "old"))
    client = fleet.join()
    for url, names in ((CDS, ["old"]), (SRDS, ["a", "other"])):
        client.send(url)
        client.take(url, names)
    fleet.publish(resource(CDS, "new"), scope("a", "new"), scope("b", "new"), scope("other", "old", "edited"))
    client.nack(client.expect_names(CDS, ["new"]))
    fleet.settle()
    client.advance(5)
    client.take(SRDS, ["other"])
    fleet.publish(scope("a", "new", "edited"))
    client.expect_nothing()
    other = fleet.join(node="n2")
    for url, names in ((CDS, ["old"]), (SRDS, ["a", "other"])):
        other.send(url)
        message = other.take(url, names)
    assert bodies(message) == [b"\x03old", b"\x03oldedited"]
    fleet.publish(resource(CDS, "new", "mended"))
    for each in (client, other):
        each.take(CDS, ["new"])
        each.take(SRDS, ["a", "b"])
        each.advance(1000)
        each.expect_nothing()


def test_a_listener_outlives_the_refusal_of_the_one_in_its_place_whenever_that_was() -> None:
    """On a port that is taken. The same edit made again is not asked about again, and takes away as little."""
    fleet = Fleet(resource(LDS, "old"))
    client = fleet.join()
    client.send(LDS)
    client.take(LDS, ["old"])
    for edit in ("first", "again"):
        fleet.publish(removed(LDS, "old"), resource(LDS, "new"))
        if edit == "first":
            client.nack(client.expect_names(LDS, ["new"]))
            fleet.settle()
        client.advance(200)
        client.expect_nothing()
        fleet.publish(resource(LDS, "old"), removed(LDS, "new"))
        client.take(LDS, [], removed=["new"])  # whether it has it or not
        client.expect_nothing()
    fleet.publish(removed(LDS, "old"), resource(LDS, "new"))
    client.advance(200)
    client.expect_nothing()
    client.advance(101)
    client.expect_names(LDS, [], removed=["old"])


def test_what_names_something_that_is_held_is_followed_through_its_edits() -> None:
    fleet = Fleet(resource(CDS, "old"), scope("a", "old"), scope("b", "old"))
    client = fleet.join()
    for url, names in ((CDS, ["old"]), (SRDS, ["a", "b"])):
        client.send(url)
        client.take(url, names)
    for refused in ("one", "two"):  # one after the other: what looks for the first looks for both then
        fleet.publish(resource(CDS, refused))
        client.nack(client.expect_names(CDS, [refused]))
        fleet.settle()
    fleet.publish(scope("a", "one"), scope("b", "two"))
    client.advance(5)
    client.expect_nothing()
    fleet.publish(scope("a", "old", "again"))
    client.advance(5)
    client.take(SRDS, ["a"])  # names it no more
    fleet.publish(scope("b", "old", "again"))
    client.advance(5)
    client.take(SRDS, ["b"])
    client.expect_nothing()


def cost_of_a_publication(others: int, *, lost: int = 0) -> int:
    """Of anything, while 20 clusters that 300 scopes name are refused, or 20 in an edit that removed many."""
    clusters = [f"shop/cluster-{number:04}" for number in range(20)]
    gone = [f"shop/gone-{number:04}" for number in range(lost)]
    fleet = Fleet(*(resource(CDS, name) for name in [*(clusters if lost else ()), *gone, "good"]))
    client = fleet.join()
    for url in (CDS, SRDS):
        client.send(url)
        client.ack(client.expect(url))
    fleet.publish(
        *(resource(CDS, name, "bad") for name in clusters),
        *(removed(CDS, name) for name in gone),
        *(scope(f"{number}", clusters[number % 20]) for number in range(300)),
        *(scope(f"other-{number}", "good") for number in range(others)),
    )
    client.nack(
        client.expect_names(CDS, clusters), "Error adding/updating cluster(s) " + ": no, ".join([*clusters, ""])
    )
    fleet.settle()
    client.advance(400)
    while client.inbox:
        client.ack(client.inbox.popleft())
    return instructions(lambda: fleet.publish(resource(RTDS, "r")))


def test_what_one_proxy_refuses_makes_no_publication_dearer_by_what_there_is() -> None:
    """It did, by two seconds each with 20,000 scopes: everything was looked through once more for each name."""
    assert cost_of_a_publication(2_000) <= cost_of_a_publication(500) * 1.05


def test_what_one_proxy_refuses_makes_no_publication_dearer_by_each_of_what_was_lost() -> None:
    one, many = (cost_of_a_publication(0, lost=lost) for lost in (50, 450))
    assert many - one <= 400 * 60  # that they are gone is looked up once, and not for each of 20


def test_a_fleet_that_refuses_the_same_is_told_what_it_is_shown_in_one_go() -> None:
    fleet = Fleet(resource(CDS, "a"))
    nodes = [fleet.join(node=f"n{number}") for number in range(10)]
    for node in nodes:
        node.send(CDS)
        node.take(CDS, ["a"])
    fleet.publish(resource(CDS, "a", "bad"))
    for node in nodes:
        node.nack(node.expect_names(CDS, ["a"]))
    fleet.settle()
    shown = [node.session.view.substitutes(CDS) for node in nodes]
    assert all(one is shown[0] for one in shown)


def test_a_client_that_resumes_keeps_what_nothing_good_is_known_of() -> None:
    """After a restart of the server: it knows no content but the bad one, and the client holds a good one."""
    fleet = Fleet(resource(CDS, "a", "bad"), resource(CDS, "b"))
    client = fleet.join()
    client.send(CDS, initial={"a": "good", "b": client.version(CDS, "b")})
    client.nack(client.expect_names(CDS, ["a"]))
    client.advance(1000)
    client.expect_nothing()
    again = fleet.join(node="n2")
    again.send(CDS, initial={"a": "good", "b": client.version(CDS, "b")})
    again.take(CDS)
    again.advance(1000)
    again.expect_nothing()
    fleet.publish(resource(CDS, "a", "mended"))
    client.take(CDS, ["a"])
    again.take(CDS, ["a"])
    fleet.publish(removed(CDS, "a"))
    client.take(CDS, removed=["a"])
    again.take(CDS, removed=["a"])


def test_one_that_comes_back_with_what_another_refuses_shows_that_it_can_be_taken_over() -> None:
    fleet = Fleet(resource(SRDS, "a", "1"))
    odd = fleet.join(node="odd")
    odd.send(SRDS)
    odd.take(SRDS, ["a"])
    fleet.publish(resource(SRDS, "a", "2"))
    odd.nack(odd.expect_names(SRDS, ["a"]))
    back = fleet.join(node="back")
    back.send(SRDS, initial={"a": back.version(SRDS, "a")})
    back.take(SRDS)
    new = fleet.join(node="new")
    new.send(SRDS)
    assert bodies(new.take(SRDS, ["a"])) == [b"2"]


def test_the_state_is_nack_while_something_refused_is_held_back() -> None:
    client = Delta(resource(SRDS, "a", "good"), resource(SRDS, "b"))
    client.send(SRDS)
    client.take(SRDS, ["a", "b"])
    good = client.version(SRDS, "a")
    client.publish(resource(SRDS, "a", "bad"))
    client.advance(7)
    client.nack(client.expect_names(SRDS, ["a"]), "why")
    client.publish(resource(SRDS, "b", "2"))
    client.take(SRDS, ["b"])
    status = client.status(SRDS)
    assert (status.state, status.since, status.held) == ("nack", 7, {"a": good})
    assert status.nack is not None
    assert (status.nack.names, status.nack.detail) == (("a",), "why")
    client.publish(resource(SRDS, "a", "mended"))
    client.take(SRDS, ["a"])
    status = client.status(SRDS)
    assert (status.state, status.nack, status.held) == ("synced", None, {})


def test_what_was_refused_and_is_again_what_it_was_before_is_no_nack_any_more() -> None:
    """Though nothing is sent that could be acknowledged: what was to mend it waited for clusters, and is gone itself."""
    client = Delta(resource(CDS, "c"), resource(LDS, "l", "good"))
    for url, name in ((CDS, "c"), (LDS, "l")):
        client.send(url)
        client.take(url, [name])
    client.publish(resource(LDS, "l", "bad"))
    client.nack(client.expect_names(LDS, ["l"]), "why")
    client.publish(resource(CDS, "c", "2"), resource(LDS, "l", "mended"))
    waits = client.expect_names(CDS, ["c"])
    client.publish(resource(LDS, "l", "good"))
    client.ack(waits)
    client.expect_nothing()
    status = client.status(LDS)
    assert (status.state, status.nack, client.session.settled) == ("synced", None, client.store.sequence)


def test_refusals_without_end_come_to_an_end() -> None:
    """More bad resources than are held back of one node: it gets no more of them until they change."""
    names = [f"cluster/{number}" for number in range(NODE_CASES + 50)]
    fleet = Fleet(*(resource(SRDS, name) for name in names))
    rogue = fleet.join(node="rogue")
    rogue.send(SRDS)
    refused = 0
    while rogue.inbox and refused < 10:
        refused += 1
        message = rogue.inbox.popleft()
        said = ", ".join(f"{each.name}: no" for each in message.resources)
        rogue.nack(message, f"Error adding/updating cluster(s) {said}")
    assert refused < 10
    assert len(list(fleet.holds.held())) == NODE_CASES


def test_sotw_a_client_that_comes_back_loses_nothing_while_it_is_searched() -> None:
    """A set that lacks something deletes it: halves are tried on top of what is known to be good."""
    names = "abcd"
    fleet = Fleet(*(resource(SRDS, name, f"{name}1") for name in names))
    first = fleet.join(Sotw)
    first.send(SRDS)
    first.take(SRDS, *(f"{name}1".encode() for name in names))
    fleet.store.publish({PART: [resource(SRDS, "b", "bad"), resource(SRDS, "c", "c2")]})
    back = fleet.join(Sotw, node="back")
    back.send(SRDS, version="of a stream before")
    refused = 0
    while back.inbox:
        message = back.inbox.popleft()
        found = {each.value for each in message.resources}
        assert len(found) == len(names)
        if BAD in found:
            refused += 1
            back.nack(message)
        else:
            back.ack(message)
    assert found == {b"a1", b"b1", b"c2", b"d1"}
    assert refused <= 3


def test_sotw_a_client_that_comes_back_to_a_new_server_keeps_all_that_it_has() -> None:
    """Nothing is known to be good yet, and any set could delete something."""
    client = Sotw(*(resource(SRDS, name, "bad" if name == "b" else name) for name in "abc"))
    client.send(SRDS, version="of a stream before")
    client.nack(client.expect_bodies(SRDS, b"a", b"bad", b"c"))
    client.advance(1000)
    client.expect_nothing()
    client.publish(resource(SRDS, "b", "mended"))
    client.take(SRDS, b"a", b"mended", b"c")
    client.publish(resource(SRDS, "c", "c2"))
    client.take(SRDS, b"a", b"mended", b"c2")


def test_sotw_a_client_that_comes_back_keeps_what_it_refuses_by_name() -> None:
    client = Sotw(*(resource(LDS, name, "bad" if name == "b" else name) for name in "abc"))
    client.send(LDS, version="of a stream before")
    client.nack(client.expect_bodies(LDS, b"a", b"bad", b"c"), error="Error adding/updating listener(s) b: no")
    client.publish(resource(LDS, "c", "c2"))
    client.advance(1000)
    client.expect_nothing()
    client.publish(resource(LDS, "b", "mended"))
    client.take(LDS, b"a", b"mended", b"c2")
