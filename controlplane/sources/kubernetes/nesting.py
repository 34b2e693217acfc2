"""JSON that is nested too deeply to be decoded, made shallow: what lies too deep is cut off.

The API server stores custom resources of some thousand levels; our decoders give up at about a thousand, and at the one
object all of its page. Asked only then: the bytes of a cluster are otherwise decoded as they are.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

LEVELS = 200
"""What is nested deeper is cut off. More than a document may have (64), so that a cut one is refused for its depth."""

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]', re.DOTALL)


def read(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """What a decoder makes of it, or of as much as is not nested too deeply. Raises msgspec.MsgspecError."""
    try:
        return decoder.decode(data)
    except RecursionError:
        return decoder.decode(shallow(data))


def shallow(data: bytes) -> bytes:
    """The same JSON, with null for every list and object below so many levels."""
    parts: list[bytes] = []
    level = kept = 0
    for found in _TOKEN.finditer(data):
        match found[0]:
            case b"[" | b"{":
                level += 1
                if level == LEVELS + 1:
                    parts += data[kept : found.start()], b"null"
            case b"]" | b"}":
                level -= 1
                if level == LEVELS:
                    kept = found.end()
    return b"".join((*parts, data[kept:] if level <= LEVELS else b""))
