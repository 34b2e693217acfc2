"""Who refuses goes on with what was good, or is sent it: the first to refuse may have nothing, or something earlier."""

from __future__ import annotations

from typing import Any

import pytest

from tests.protocol.dialogue import CDS, RDS, Delta, Sotw, resource
from tests.protocol.test_nack import Fleet, bodies

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
