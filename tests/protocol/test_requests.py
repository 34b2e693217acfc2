"""Requests are taken apart without the decoder where that is dear: what comes out must be what the decoder says."""

from __future__ import annotations

from random import Random

from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st

from controlplane.resources import Resource, delimited, version_entry
from controlplane.snapshot.store import Store
from controlplane.xds.admission import Admission
from controlplane.xds.bounds import Limits
from controlplane.xds.requests import acknowledgement, delta_request, initial_versions, sotw_request
from controlplane.xds.returning import Returned
from controlplane.xds.types import CLUSTER

_TEXTS = st.text(max_size=200)
_NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=200)
_VERSIONS = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["", "1", "2"]))


@given(_TEXTS, _TEXTS)
def test_an_acknowledgement_is_what_the_decoder_says(type_url: str, nonce: str) -> None:
    data = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce).SerializeToString()
    found = acknowledgement(data)
    assert found in (None, (type_url, nonce))
    if found is None:
        assert not type_url or not nonce or not data.isascii() or max(len(type_url), len(nonce)) > 0x7F


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda data: b"\x12\x01a" + data))
def test_bytes_that_pass_for_an_acknowledgement_are_one(data: bytes) -> None:
    if (found := acknowledgement(data)) is not None:
        message = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
        plain = discovery_pb2.DeltaDiscoveryRequest(type_url=found[0], response_nonce=found[1])
        assert message == plain


@given(_NAMES, _NAMES, _NAMES, _VERSIONS, st.randoms(use_true_random=False))
def test_a_request_is_what_the_decoder_says_in_whatever_order_its_fields_come(
    subscribe: list[str], unsubscribe: list[str], located: list[str], versions: dict[str, str], chance: Random
) -> None:
    fields = [
        delimited(1, delimited(1, b"node")),
        delimited(2, b"type"),
        *(delimited(3, name.encode()) for name in subscribe),
        *(delimited(4, name.encode()) for name in unsubscribe),
        *(delimited(5, version_entry(*item)) for item in versions.items()),
        delimited(6, b"nonce"),
        delimited(7, delimited(2, b"no")),
        *(delimited(8, delimited(1, name.encode())) for name in located),
        delimited(99, b"of a later protocol"),
    ]
    chance.shuffle(fields)
    for _ in range(2):  # the second time its names are known
        request = delta_request(b"".join(fields))
        assert request.node is not None
        assert (request.node.id, request.type_url, request.nonce, request.error) == ("node", "type", "nonce", "no")
        assert request.subscribe == {*subscribe, *located}
        assert request.unsubscribe == set(unsubscribe)
        assert initial_versions(request.initial_versions) == versions


@given(_NAMES)
def test_so_is_one_of_the_state_of_the_world(names: list[str]) -> None:
    data = discovery_pb2.DiscoveryRequest(
        version_info="v", node={"id": "node"}, resource_names=names, type_url="type", response_nonce="n"
    ).SerializeToString()
    for _ in range(2):
        request = sotw_request(data)
        assert (request.version, request.type_url, request.nonce, request.error) == ("v", "type", "n", None)
        assert request.names == set(names)


@given(_VERSIONS, _VERSIONS)
def test_what_a_client_returns_with_is_its_map(there: dict[str, str], had: dict[str, str]) -> None:
    store = Store()
    resources = [Resource(CLUSTER, name, b"", version) for name, version in there.items() if version]
    store.publish({"part": [(CLUSTER, one.name, one) for one in resources]})
    view = store.view(["part"])
    returned = Returned([version_entry(*item) for item in had.items()], view, CLUSTER)
    assert dict(returned) == had
    assert len(returned) == len(had)
    assert {name: returned.get(name) for name in "abcdefgh"} == {name: had.get(name) for name in "abcdefgh"}
    versions = view.versions(CLUSTER)
    differing = {name for name in {*versions, *had} if versions.get(name) != had.get(name)}
    assert returned.missing.union(returned.other) == differing


def test_an_entry_in_an_unusual_encoding_counts_all_the_same() -> None:
    store = Store()
    store.publish({"part": [(CLUSTER, "a", Resource(CLUSTER, "a", b"", "1"))]})
    entry = delimited(2, b"1") + delimited(1, b"a")  # the value before the key
    assert dict(Returned([entry, entry], store.view(["part"]), CLUSTER)) == {"a": "1"}


def test_a_fleet_with_one_certificate_comes_back_all_at_once() -> None:
    """A thousand proxies, each with 5,000 names and their versions and some requests more."""
    admission = Admission(Limits(), lambda: 0.0)
    for _ in range(1_000):
        account = admission.enter("spiffe://trust.test/node/fleet")
        assert account is not None
        for size in (470_000, *(200,) * 10):
            admission.asked(account, size)
