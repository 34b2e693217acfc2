"""Requests are taken apart without the decoder where that is dear: what comes out must be what the decoder says."""

from __future__ import annotations

from random import Random

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st

from controlplane import xdstp
from controlplane.resources import Resource, delimited, version_entry
from controlplane.snapshot.store import Store
from controlplane.xds import request_names, requests
from controlplane.xds.admission import Admission
from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Ended
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
        request = delta_request(b"".join(fields), Limits())
        assert request.node is not None
        assert (request.node.id, request.type_url, request.nonce, request.error) == ("node", "type", "nonce", "no")
        assert request.subscribe == {*subscribe, *located}
        assert request.unsubscribe == set(unsubscribe)
        assert initial_versions(request.initial_versions) == versions


_LIST = [f"gatewayspec/shop/backend-{number}" for number in range(100)]
"""As long as those that are looked for in requests before these are taken apart."""


@given(
    st.lists(
        st.sampled_from(
            [delimited(1, delimited(1, b"node")), delimited(2, b"type"), delimited(99, b"later"), b"\x98\x06\x01"]
        )
    ),
    st.integers(1, len(_LIST)),
    st.lists(
        st.sampled_from(
            [delimited(3, b"another"), b"\x9a\x00\x01a", delimited(4, b"gone"), delimited(5, version_entry("a", "1"))]
        )
    ),
)
def test_a_list_that_was_seen_before_is_what_the_decoder_says(
    before: list[bytes], size: int, after: list[bytes]
) -> None:
    """Whatever stands around it, and also when it is a part of a longer one, or a longer one of it."""
    for names in (_LIST, _LIST[:size], _LIST):
        data = b"".join((*before, *(delimited(3, name.encode()) for name in names), *after))
        told = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
        request = delta_request(data, Limits())
        assert request.subscribe == set(told.resource_names_subscribe)
        assert request.unsubscribe == set(told.resource_names_unsubscribe)
        assert initial_versions(request.initial_versions) == told.initial_resource_versions
        assert request.type_url == told.type_url


@given(_NAMES)
def test_so_is_one_of_the_state_of_the_world(names: list[str]) -> None:
    data = discovery_pb2.DiscoveryRequest(
        version_info="v", node={"id": "node"}, resource_names=names, type_url="type", response_nonce="n"
    ).SerializeToString()
    for _ in range(2):
        request = sotw_request(data, Limits())
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


def _refusal(names: list[str], limits: Limits) -> str:
    """Why a request for these names is refused, in each way to name them."""
    located = [{"name": name} for name in names]
    ways = [
        (delta_request, discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=names)),
        (delta_request, discovery_pb2.DeltaDiscoveryRequest(resource_names_unsubscribe=names)),
        (delta_request, discovery_pb2.DeltaDiscoveryRequest(resource_locators_subscribe=located)),
        (delta_request, discovery_pb2.DeltaDiscoveryRequest(resource_locators_unsubscribe=located)),
        (sotw_request, discovery_pb2.DiscoveryRequest(resource_names=names)),
        (sotw_request, discovery_pb2.DiscoveryRequest(resource_locators=located)),
    ]
    reasons = set()
    for decode, message in ways:
        with pytest.raises(Ended) as caught:
            decode(message.SerializeToString(), limits)
        reasons.add(caught.value.reason)
    (reason,) = reasons
    return reason


def test_names_are_bounded_before_they_are_spelled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def spelled(names: frozenset[str]) -> frozenset[str]:
        raise AssertionError(f"{len(names)} names were taken apart")

    monkeypatch.setattr(request_names, "canonical_names", spelled)
    limits = Limits(names=100, parameters=50, parameter_characters=500)
    name = "xdstp://a/T/p/x?"
    assert "longer than 4096 characters" in _refusal([name + "a&" * 4000], limits)
    assert "more than 100 names" in _refusal([f"{name}a={number}" for number in range(101)], limits)
    assert "more than 50 parameters" in _refusal([f"{name}a={number}&b=" for number in range(26)], limits)
    assert "more than 500 characters" in _refusal([name + "a" * 501], limits)


def test_a_name_that_becomes_too_long_when_it_is_spelled_is_refused() -> None:
    assert "longer than 4096 characters" in _refusal(["xdstp://a/T/p/x?a=" + "\u00e9" * 4000], Limits())


def test_names_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(names=1000)
    many = [f"{number:04}" for number in range(1001)]
    before = dict(requests._seen._sets)

    def decoded(names: frozenset[str], limits: Limits) -> frozenset[str]:
        assert not names, "they were decoded"
        return names

    monkeypatch.setattr(requests, "names_of", decoded)
    assert "more than 1000 names" in _refusal(many, limits)
    assert dict(requests._seen._sets) == before
    # Repeated names, longer tags, and fields that nobody knows beside them.
    for each in (
        delimited(3, b"a"),
        b"\x9a\x00\x01a",
        b"\x9a\x80\x00\x01a",
        delimited(3, b""),
        b"\x98\x06\x01" + delimited(3, b"a"),
    ):
        with pytest.raises(Ended, match="more than 1000 names"):
            sotw_request(each * 1001, limits)


def test_names_with_the_bytes_of_tags_count_once() -> None:
    limits = Limits(names=1000)
    for name in ("\x1a" * 5, "x" * 26, "x" * 0x9A, "\u069a"):
        names = [f"{number}{name}" for number in range(10, 1000)]
        data = b"".join(delimited(3, each.encode()) for each in names)
        unknown = delimited(99, b"\x1a" * 2000) + b"\x98\x06\x80\x01" + b"\x99\x06" + bytes(8) + b"\x9d\x06" + bytes(4)
        assert delta_request(unknown + data, limits).subscribe == set(names)


def test_versions_are_counted_like_names() -> None:
    limits = Limits(names=3)
    fitting = discovery_pb2.DeltaDiscoveryRequest(initial_resource_versions=dict.fromkeys("abc", "1"))
    assert len(delta_request(fitting.SerializeToString(), limits).initial_versions) == 3
    more = discovery_pb2.DeltaDiscoveryRequest(initial_resource_versions=dict.fromkeys("abcd", "1"))
    with pytest.raises(Ended, match="more than 3 versions"):
        delta_request(more.SerializeToString(), limits)
    sotw_request(discovery_pb2.DiscoveryRequest(version_info="v" * 256).SerializeToString(), limits)
    with pytest.raises(Ended, match="longer than 256 characters"):
        sotw_request(discovery_pb2.DiscoveryRequest(version_info="v" * 257).SerializeToString(), limits)


def test_a_node_in_thousands_of_pieces_is_refused() -> None:
    assert delta_request(delimited(1, delimited(1, b"a")) + delimited(1, delimited(2, b"b")), Limits()).node is not None
    for piece in (delimited(1, b""), delimited(7, b"")):
        with pytest.raises(Ended, match="more than 100 times"):
            delta_request(piece * 101, Limits())


def test_what_is_remembered_of_names_is_bounded_by_what_it_takes() -> None:
    seen = requests._Seen()
    seen.REMEMBERED = 1 << 20
    for group in range(100):
        data = discovery_pb2.DiscoveryRequest(resource_names=[f"{group}-{number}" for number in range(1000)])
        seen.names(data.SerializeToString(), discovery_pb2.DiscoveryRequest, "resource_names", Limits())
    assert sum(map(len, seen._sets.values())) <= 10_000


def test_names_of_many_with_some_parameters_each_are_within_the_limits() -> None:
    names = [f"xdstp://authority.example/T/p/backend-{number}?zone=a&cluster=edge-{number}" for number in range(20_000)]
    data = discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=names).SerializeToString()
    assert len(delta_request(data, Limits()).subscribe) == 20_000


def test_the_spelling_of_a_long_name_is_not_remembered() -> None:
    name = "xdstp://a/T/p/x?" + "b=2&a=1&" * 100
    for remembered in (xdstp._remembered, xdstp._remembered_parent):
        remembered.cache_clear()
    assert xdstp.canonical(name).startswith("xdstp://a/T/p/x?a=1&a=1")
    assert xdstp.collection_of(name) is not None
    assert xdstp._remembered.cache_info().currsize == 0
    assert xdstp._remembered_parent.cache_info().currsize == 0
    xdstp.collection_of("xdstp://a/T/p/x?b=2&a=1")
    assert xdstp._remembered.cache_info().currsize == 1
