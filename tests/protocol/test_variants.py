"""The same content over streams of every kind: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#four-variants"""

from __future__ import annotations

import pytest

from controlplane.xds.types import PUSH_ORDER
from tests.protocol.dialogue import EDS, VHDS, Delta, Sotw, removed, resource

URLS = [kind.url for kind in PUSH_ORDER]


@pytest.mark.parametrize("url", URLS)
def test_mux_06_aggregated_or_not_resources_and_versions_are_the_same(url: str) -> None:
    aggregated = Delta(resource(url, "a"), resource(url, "b"))
    alone = Delta(store=aggregated.store, only=url)
    for client in (aggregated, alone):
        client.send(url, ["a", "b"])
    assert aggregated.take(url, ["a", "b"]).resources == alone.take(url, ["a", "b"]).resources


@pytest.mark.parametrize("url", [url for url in URLS if url != VHDS])
def test_mux_06_aggregated_or_not_responses_are_the_same(url: str) -> None:
    aggregated = Sotw(resource(url, "a"), resource(url, "b"))
    alone = Sotw(store=aggregated.store, only=url)
    responses = []
    for client in (aggregated, alone):
        client.send(url, ["a", "b"])
        responses.append(client.expect(url))
    assert responses[0].version_info == responses[1].version_info
    assert responses[0].resources == responses[1].resources


def test_mux_06_several_streams_of_one_type_have_each_its_own_names() -> None:
    """As an Envoy does that has a stream for each of its sources."""
    first = Delta(resource(EDS, "a"), resource(EDS, "b"), only=EDS)
    second = Delta(store=first.store, only=EDS)
    first.send(EDS, ["a"])
    first.take(EDS, ["a"])
    second.send(EDS, ["b"])
    second.take(EDS, ["b"])
    first.store.publish({"gateway": [resource(EDS, "a", "2"), removed(EDS, "b")]})
    for client in (first, second):
        client.changed()
    first.take(EDS, ["a"])
    first.expect_nothing()
    second.take(EDS, removed=["b"])
    second.expect_nothing()


def test_on_a_stream_of_one_type_nothing_waits_for_other_types() -> None:
    """Make before break needs one stream: over several the protocol promises nothing, and an ACK elsewhere is not seen."""
    client = Delta(*(resource(url, "a") for url in URLS), only=VHDS)
    client.send("", ["a"])
    client.take(VHDS, ["a"])
    client.publish(*(resource(url, "a", "2") for url in URLS))
    client.take(VHDS, ["a"])
