"""gRPC without a proxy: an ACK of routes does not mean that calls follow them yet."""

from __future__ import annotations

import pytest

from controlplane.resources import Resource
from tests.protocol.dialogue import CDS, EDS, LDS, RDS, Sotw, cluster, eds_cluster, removed, resource

OLD, NEW = cluster("old", kind="EDS"), cluster("new", kind="EDS")


@pytest.fixture
def client() -> Sotw:
    """A client whose calls go to a cluster; the edit sends them to a new one, and the old one is gone."""
    here = resource(LDS, "a"), resource(RDS, "a"), eds_cluster("old"), resource(EDS, "old")
    client = Sotw(*here, says={"user_agent_name": "gRPC C-core linux"})
    for url, name in ((LDS, "a"), (RDS, "a"), (CDS, "old"), (EDS, "old")):
        client.send(url, [name])
        client.ack(client.expect(url), [name])
    client.publish(
        resource(RDS, "a", "2"), eds_cluster("new"), resource(EDS, "new"), removed(CDS, "old"), removed(EDS, "old")
    )
    client.take(RDS, b"2", names=["a"])
    client.expect_nothing()
    return client


def follow(client: Sotw) -> None:
    """The client has taken over the routes, and asks for what they lead to."""
    client.send(CDS, ["new", "old"])
    client.take(CDS, NEW, OLD, names=["new", "old"])
    client.send(EDS, ["new", "old"])
    client.take(EDS, b"1", names=["new", "old"])


def test_the_cluster_that_calls_still_go_to_stays_until_the_client_gives_it_up(client: Sotw) -> None:
    """A call that was on its way to it would fail."""
    follow(client)
    client.advance(2.0)
    client.expect_nothing()
    client.send(CDS, ["new"])
    client.send(EDS, ["new"])
    client.advance(60.0)
    client.expect_nothing()
    client.publish((CDS, "new", Resource(CDS, "new", OLD)))
    client.take(CDS, OLD, names=["new"])


def test_it_is_told_in_the_end_when_it_gives_up_nothing(client: Sotw) -> None:
    """A call that never ends holds the cluster for as long."""
    follow(client)
    client.advance(9.0)
    client.expect_nothing()
    client.advance(1.1)
    client.take(CDS, NEW, names=["new", "old"])
    client.expect_nothing()


def test_a_cluster_that_is_back_is_answered(client: Sotw) -> None:
    client.publish(eds_cluster("old", "2"), resource(EDS, "old", "2"))
    client.take(CDS, cluster("old", kind="EDS", content="2"), names=["old"])
    client.take(EDS, b"2", names=["old"])
    client.advance(60.0)
    client.expect_nothing()


def test_a_cluster_whose_endpoints_never_came_goes_at_once() -> None:
    """The client waits 15 s for them, gRPC for Java with all of its calls."""
    client = Sotw(resource(RDS, "a"), eds_cluster("old"), resource(EDS, "old"), says={"user_agent_name": "gRPC Java"})
    client.send(RDS, ["a"])
    client.take(RDS, b"1", names=["a"])
    client.send(CDS, ["old"])
    client.take(CDS, OLD, names=["old"])
    client.publish(
        resource(RDS, "a", "2"), eds_cluster("new"), resource(EDS, "new"), removed(CDS, "old"), removed(EDS, "old")
    )
    client.send(EDS, ["old"])
    client.take(RDS, b"2", names=["a"])
    client.take(CDS, names=["old"])
    client.send(CDS, ["old", "new"])
    client.take(CDS, NEW, names=["old", "new"])
