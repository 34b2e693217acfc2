"""Lists of names in requests: bounded before anything is made of them, and remembered for the next who sends the same.

Called where requests are decoded; it knows nothing of what a name stands for.
"""

from __future__ import annotations

from controlplane.resources import read_varint
from controlplane.xds.bounds import Limits
from controlplane.xds.nameset import NOTHING, shared
from controlplane.xds.nodes import Ended, Status
from controlplane.xdstp import canonical_names, parameters


def names_of(names: frozenset[str], limits: Limits) -> frozenset[str]:
    """These names as they are compared. Raises `Ended` when they are more, or longer, than a request may hold."""
    if not names:
        return NOTHING
    check_names(names, limits)
    queries = parameters(names)
    if not queries:
        return shared(names)
    # The one part of a name that is taken apart and spelled anew.
    if sum(query.count("&") + 1 for query in queries) > limits.parameters:
        raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {limits.parameters} parameters of names in one request")
    if sum(map(len, queries)) > limits.parameter_characters:
        reason = f"the parameters of names in one request have more than {limits.parameter_characters} characters"
        raise Ended(Status.RESOURCE_EXHAUSTED, reason)
    spelled = canonical_names(names)
    check_names(spelled, limits)
    return shared(spelled)


def check_count(encoded: bytes, limits: Limits) -> None:
    """Whether a request has more names than it may, by its bytes: of millions of names not one is made.

    `encoded` are its fields 3, which are the names in both variants, and what else nobody knows.
    """
    # No name comes without the byte of its tag, in its shortest or in a longer encoding. Names may have these bytes too.
    if (
        encoded.count(_TAG) + encoded.count(_LONGER_TAG) > limits.names
        and _fields(encoded, limits.names) > limits.names
    ):
        raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {limits.names} names in one request")


_TAG, _LONGER_TAG = b"\x1a", b"\x9a"


def _fields(encoded: bytes, most: int) -> int:
    """How many fields a message has; those beyond `most` are not looked for."""
    at = count = 0
    while at < len(encoded) and count <= most:
        count += 1
        tag, at = read_varint(encoded, at)
        match tag & 7:
            case 0:
                _, at = read_varint(encoded, at)
            case 1:
                at += 8
            case 2:
                size, at = read_varint(encoded, at)
                at += size
            case 5:
                at += 4
    return count


def check_names(names: frozenset[str], limits: Limits) -> None:
    """What one list of a request may hold."""
    if len(names) > limits.names:
        raise Ended(Status.RESOURCE_EXHAUSTED, f"more than {limits.names} names in one request")
    if names and max(map(len, names)) > limits.name_characters:
        raise Ended(Status.INVALID_ARGUMENT, f"a name is longer than {limits.name_characters} characters")
