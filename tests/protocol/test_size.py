"""Responses that would be larger than a client takes (4 MiB, unless a gRPC client was told otherwise)."""

from __future__ import annotations

import pytest

from controlplane.xds.difference import MANY
from tests.protocol.dialogue import CDS, EDS, LDS, SRDS, Delta, Sotw, removed, resource

LIMIT = 4096
ENVOY = {"user_agent_name": "envoy"}


def test_err_08_a_later_delta_answer_is_split_and_nothing_that_depends_on_it_goes_before_all_of_it() -> None:
    client = Delta(resource(CDS, "old"), resource(SRDS, "r"), response_bytes=LIMIT)
    client.send(CDS)
    client.take(CDS, ["old"])
    client.send(SRDS)
    client.take(SRDS, ["r"])
    names = [f"c{number:02}" for number in range(30)]
    client.publish(*(resource(CDS, name, "x" * 1000) for name in names), resource(SRDS, "r", "2"))
    parts = list(client.inbox)
    client.inbox.clear()
    assert len(parts) > 5
    assert all(part.ByteSize() <= LIMIT for part in parts)
    assert [each.name for part in parts for each in part.resources] == names
    settled = client.session.settled
    for part in parts:
        client.expect_nothing()
        client.ack(part)
    client.ack(client.expect_names(SRDS, ["r"]))
    assert client.session.settled > settled
    client.expect_nothing()


def test_many_changes_go_in_portions_and_nothing_that_depends_on_them_goes_before_all_of_them() -> None:
    client = Delta(resource(CDS, "old"), resource(SRDS, "r"), response_changes=10)
    client.send(CDS)
    client.take(CDS, ["old"])
    client.send(SRDS)
    client.take(SRDS, ["r"])
    names = [f"c{number:02}" for number in range(95)]
    client.publish(*(resource(CDS, name) for name in names), removed(CDS, "old"), resource(SRDS, "r", "2"))
    portions = [client.inbox.popleft() for _ in range(8)]  # as many as may lack their ACK, and then one for each
    while portions:
        client.expect_nothing()
        client.ack(portions[0])
        assert [each.name for each in portions.pop(0).resources] == names[:10]
        names = names[10:]
        if len(names) > 7 * 10:
            portions.append(client.inbox.popleft())
    client.take(SRDS, ["r"])
    client.take(CDS, [], ["old"])
    client.expect_nothing()


def test_many_changes_of_one_publication_are_told_as_few_are() -> None:
    names = [f"r{number:03}" for number in range(2 * MANY)]
    client = Delta(*(resource(SRDS, name) for name in names))
    client.send(SRDS)
    client.take(SRDS, names)
    same, changed, gone, new = names[:20], names[20:80], names[80:], [f"s{number:03}" for number in range(MANY)]
    client.publish(
        *(resource(SRDS, name) for name in same),
        *(resource(SRDS, name, "2") for name in (*changed, *new)),
        *(removed(SRDS, name) for name in (*gone, "never")),
    )
    client.take(SRDS, [*changed, *new])
    client.take(SRDS, [], gone)
    client.expect_nothing()


@pytest.mark.parametrize("url", [CDS, LDS, SRDS])
def test_err_08_a_first_answer_of_a_full_state_type_is_not_split(url: str) -> None:
    """Envoy has fetched all there is when the first one comes, and would go on without the rest."""
    client = Delta(*(resource(url, str(number), "x" * 1000) for number in range(10)), response_bytes=LIMIT, says=ENVOY)
    client.send(url)
    client.take(url, map(str, range(10)))
    client.expect_nothing()
    assert client.observer.larges == []  # Envoy takes any size


def test_err_08_names_are_answered_in_parts_and_so_is_their_absence() -> None:
    there, missing = [f"{number:03}" for number in range(20)], [f"m{number:03}" for number in range(60)]
    client = Delta(*(resource(EDS, name, "x" * 500) for name in there), response_bytes=LIMIT)
    client.send(EDS, [*there, *missing])
    parts = list(client.inbox)
    assert len(parts) > 3
    assert all(0 < part.ByteSize() <= LIMIT for part in parts)
    assert [each.name for part in parts for each in part.resources] == there
    assert [name for part in parts for name in part.removed_resources] == missing


def test_err_08_a_refusal_of_one_part_is_of_that_part() -> None:
    client = Delta(resource(EDS, "a"), response_bytes=LIMIT)
    client.send(EDS, ["a", "b", "c"])
    client.take(EDS, ["a"], ["b", "c"])
    client.publish(*(resource(EDS, name, name * 3000) for name in "abc"))
    first, second, third = client.inbox
    client.inbox.clear()
    client.ack(first)
    client.nack(second)
    status = client.status(EDS)
    assert status.nack is not None
    assert status.nack.names == ("b",)
    client.ack(third)
    client.expect_nothing()


def test_err_08_what_cannot_be_split_is_told_once() -> None:
    client = Sotw(*(resource(LDS, str(number), f"{number}" + "x" * 1000) for number in range(10)), response_bytes=LIMIT)
    client.send(LDS)
    for content in "23":
        message = client.expect(LDS)
        assert len(message.resources) == 10
        client.ack(message)
        client.publish(resource(LDS, "0", content))
    ((url, size),) = client.observer.larges
    assert (url, size > LIMIT) == (LDS, True)
    single = Delta(resource(EDS, "a", "x" * 2 * LIMIT), response_bytes=LIMIT)
    single.send(EDS, ["a"])
    single.take(EDS, ["a"])
    assert len(single.observer.larges) == 1
