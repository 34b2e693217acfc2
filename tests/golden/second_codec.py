"""The second codec: envoy-data-plane reads the bytes that Google's protobuf made, and writes them again.

Two libraries that agree on every message of every golden case are unlikely to share a mistake. Whatever is packed in an
`Any` is compared apart, since both codecs see only its bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass

LACKING: frozenset[str] = frozenset()
"""Types that envoy-data-plane does not have."""


def messages(message: Any) -> Iterator[Any]:
    """The message, and every message packed in it at any depth."""
    yield message
    yield from _packed(message)


def _packed(message: Any) -> Iterator[Any]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        is_map = field.message_type.GetOptions().map_entry
        if is_map and field.message_type.fields_by_name["value"].message_type is None:
            continue
        several = list(value.values()) if is_map else value if _is_repeated(value) else [value]
        for one in several:
            if isinstance(one, AnyMessage):
                yield from messages(_unpacked(one))
            else:
                yield from _packed(one)


def _is_repeated(value: Any) -> bool:
    return not hasattr(value, "ListFields")


def _unpacked(packed: Any) -> Any:
    name = packed.type_url.rpartition("/")[2]
    return GetMessageClass(Default().FindMessageTypeByName(name)).FromString(packed.value)


@cache
def _other(package: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, for validators that nobody calls here
        found = vars(import_module(f"envoy_data_plane.{package}"))
    return next(found[known] for known in found if known.lower() == name.lower())  # IPTagging is called IpTagging there


def disagreement(message: Any) -> str | None:
    """What the second codec makes of the message instead, or None."""
    package, _, name = message.DESCRIPTOR.full_name.rpartition(".")
    if message.DESCRIPTOR.full_name in LACKING:
        return None
    body = bytes(_other(package, name).parse(message.SerializeToString(deterministic=True)))
    again = type(message).FromString(body)
    return None if again == message else f"{message.DESCRIPTOR.full_name}:\n{message}\nbecame\n{again}"
