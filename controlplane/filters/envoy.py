"""Protobuf building blocks that every filter uses. Filters' `compile.py` files call it; specs must not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal import api_implementation

if api_implementation.Type() == "python":  # 11 to 100 times slower: a fleet would not be served in time
    raise ImportError("protobuf runs in pure Python here; install a binary wheel of protobuf")


def serialised(message: Any) -> bytes:
    """The bytes of a message, with map entries in order: the same input gives the same bytes."""
    body: bytes = message.SerializeToString(deterministic=True)
    return body


def type_url(message_type: Any) -> str:
    """The type URL of a message class."""
    return f"type.googleapis.com/{message_type.DESCRIPTOR.full_name}"


def numbers(message_type: Any, *fields: str) -> tuple[int, ...]:
    """The numbers of some fields of a message class: for bytes that are put together."""
    return tuple(message_type.DESCRIPTOR.fields_by_name[name].number for name in fields)


def packed(message: Any) -> Any:
    """The message in an Any."""
    return AnyMessage(type_url=type_url(message), value=serialised(message))


def duration(value: timedelta) -> Any:
    """The protobuf duration."""
    message = Duration()
    message.FromTimedelta(value)
    return message
