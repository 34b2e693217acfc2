"""Responses that would be larger than a client takes (4 MiB, unless a gRPC client was told otherwise)."""

from __future__ import annotations

import pytest

from tests.protocol.dialogue import CDS, EDS, LDS, SRDS, Delta, Sotw, resource

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
