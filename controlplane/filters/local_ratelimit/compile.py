"""Local rate limits as Envoy's local_ratelimit filter.

A route that stands in one place only carries its limits itself, so that an edit elsewhere leaves its buckets alone. A
route that stands in several shards names its limit instead, and the buckets live once, in the filter (ECDS): copies of
a route share them. Limits of a listener are a filter of their own, before any expensive work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from envoy.type.metadata.v3 import metadata_pb2
from envoy.type.v3 import percent_pb2, token_bucket_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from controlplane.filters.envoy import duration, packed
from controlplane.filters.local_ratelimit.spec import LocalLimit, Per

NAME = "envoy.filters.http.local_ratelimit"
LISTENER_NAME = "gatewayspec.listener_limits"

MAX_CLIENTS = 10_000
"""Buckets kept for one keyed limit; the least recently used one makes room."""

MAX_VALUE = 4096
"""Characters of a header whose values have buckets of their own; longer ones share one. Envoy keeps each value twice: of the
60 KiB that a header may have, a client could fill its memory with 10,000 requests, and it is never given back."""

NETWORK_BITS = 64
"""Of an IPv6 address, what a client cannot choose: whoever has one address has the network that it is in."""
_NETWORKS_OF_V4 = ("0.0.0.0/0", f"::/{NETWORK_BITS}")
"""Where IPv4 clients are when addresses are cut to networks, also those that a load balancer writes as `::ffff:192.0.2.1`."""

_ALWAYS = base_pb2.RuntimeFractionalPercent(default_value=percent_pb2.FractionalPercent(numerator=100))
_UNLIMITED = token_bucket_pb2.TokenBucket(
    max_tokens=2**32 - 1, tokens_per_fill=UInt32Value(value=2**32 - 1), fill_interval=duration(Per.SECOND.interval)
)
_Action = route_components_pb2.RateLimit.Action
_Entry = ratelimit_pb2.RateLimitDescriptor.Entry
_ANY_VALUE = ""

METADATA = "gatewayspec.limits"
"""Where a route that stands in several shards names its limits, by slot."""


def _named(identity: str) -> Any:
    return _Action(generic_key=_Action.GenericKey(descriptor_key="limit", descriptor_value=identity))


def _from_route(slot: str) -> Any:
    key = metadata_pb2.MetadataKey(key=METADATA, path=[metadata_pb2.MetadataKey.PathSegment(key=slot)])
    source = _Action.MetaData.Source.ROUTE_ENTRY
    return _Action(metadata=_Action.MetaData(descriptor_key="limit", metadata_key=key, source=source))


class _Case(NamedTuple):
    """By whom requests are counted: what describes a client, and the descriptor entries of its bucket.

    Clients whose last entry has one of the values in `others` are counted by another case.
    """

    described: Sequence[Any]
    entries: Sequence[Any]
    others: Sequence[str] = ()


def _cases(key: str | None) -> list[_Case]:
    if key is None:
        return [_Case([], [])]
    if key == "clientIP":
        address = _Action(remote_address=_Action.RemoteAddress())
        none_of_v4, network_of_v6 = UInt32Value(value=0), UInt32Value(value=NETWORK_BITS)
        network = _Action.MaskedRemoteAddress(v4_prefix_mask_len=none_of_v4, v6_prefix_mask_len=network_of_v6)
        return [
            _Case([address], [_Entry(key="remote_address", value=_ANY_VALUE)]),
            _Case(
                [_Action(masked_remote_address=network)],
                [_Entry(key="masked_remote_address", value=_ANY_VALUE)],
                _NETWORKS_OF_V4,
            ),
        ]
    header = key.removeprefix("header:")
    # Requests without the header share a bucket: leaving the header out must not lift the limit.
    absent = _Action(
        header_value_match=_Action.HeaderValueMatch(
            descriptor_value="absent",
            expect_match=BoolValue(value=False),
            headers=[route_components_pb2.HeaderMatcher(name=header, present_match=True)],
        )
    )
    return [
        _Case([_Action(extension=_value(header))], [_Entry(key=header, value=_ANY_VALUE)]),
        _Case([absent], [_Entry(key="header_match", value="absent")]),
    ]


@lru_cache(maxsize=256)
def _value(header: str) -> Any:
    """Says the value of a header, or a line feed, which no header can have, instead of all long ones; nothing without it.

    One expression that says both costs a request 2 us more than Envoy's own action, one that says only whether it is long
    13 us. To be copied. (In no name of a header is a double quote or a backslash.)
    """
    value = f'request.headers["{header}"]'
    said = expr_pb2.Descriptor(descriptor_key=header, text=f'size({value}) <= {MAX_VALUE} ? {value} : "\\n"')
    return extension_pb2.TypedExtensionConfig(name="envoy.rate_limit_descriptors.expr", typed_config=packed(said))


def names(limits: Mapping[str, LocalLimit]) -> dict[str, str]:
    """What a route says of its limits: by slot (key and number), the identity of the limit."""
    slots: dict[str, str] = {}
    for identity in sorted(limits):
        key = limits[identity].key or "all"
        number = sum(slot.rpartition("#")[0] == key for slot in slots)
        slots[f"{key}#{number}"] = identity
    return slots


def _bucket(limit: LocalLimit) -> Any:
    return token_bucket_pb2.TokenBucket(
        max_tokens=limit.burst or limit.requests,
        tokens_per_fill=UInt32Value(value=limit.requests),
        fill_interval=duration(limit.per.interval),
    )


def _config(bucket: Any, stat_prefix: str) -> Any:
    return local_rate_limit_pb2.LocalRateLimit(
        stat_prefix=stat_prefix,
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        token_bucket=bucket,
        rate_limited_as_resource_exhausted=True,
    )


def _described(limits: Mapping[str, LocalLimit], stat_prefix: str) -> Any:
    """A configuration with a bucket for each value of each limit; the one for all requests is never empty."""
    message = _config(_UNLIMITED, stat_prefix)
    message.always_consume_default_token_bucket.CopyFrom(BoolValue(value=False))
    message.max_dynamic_descriptors.CopyFrom(UInt32Value(value=MAX_CLIENTS))
    for identity in sorted(limits):
        named, bucket = _Entry(key="limit", value=identity), _bucket(limits[identity])
        for _, entries, others in _cases(limits[identity].key):
            message.descriptors.add(entries=[named, *entries], token_bucket=bucket)
            for value in others:  # exact values go before any value
                other = _Entry(key=entries[-1].key, value=value)
                message.descriptors.add(entries=[named, *entries[:-1], other], token_bucket=_UNLIMITED)
    return message


def own(limits: Mapping[str, LocalLimit], stat_prefix: str = "route_limits") -> Any:
    """Limits with buckets of their own: for one route, or for a listener; a request must pass all of them."""
    if len(limits) == 1 and (limit := next(iter(limits.values()))).key is None:
        return packed(_config(_bucket(limit), stat_prefix))  # the usual case, without describing the request
    message = _described(limits, stat_prefix)
    for identity in sorted(limits):
        for described, *_ in _cases(limits[identity].key):
            message.rate_limits.add(actions=[_named(identity), *described])
    return packed(message)


def nothing() -> Any:
    """What stands in the place of a listener's limits while there are none.

    A filter without limits still has two sides, and looks up on each what the route says to it. One that sets metadata has
    one side, and without any it does nothing: a request on every listener pays for less.
    """
    return packed(set_metadata_pb2.Config())


def shared(limits: Mapping[str, LocalLimit], slots: Iterable[str]) -> Any:
    """The filter itself, with the buckets of all limits that routes name in these slots; without any, it does nothing."""
    if not limits:
        return packed(local_rate_limit_pb2.LocalRateLimit(stat_prefix="route_limits"))
    message = _described(limits, "route_limits")
    for slot in sorted(set(slots)):
        key = slot.rpartition("#")[0]
        for described, *_ in _cases(None if key == "all" else key):
            message.rate_limits.add(actions=[_from_route(slot), *described])
    return packed(message)
