"""Which resources of a refused response are to blame: from what the client says, where it names them.

Envoy 1.40 says it in two ways. Where it judges one resource after the other it joins what each gave rise to, name
first: `Error adding/updating cluster(s) a: why, b: why` (source/common/upstream/cds_api_helper.cc, the same in
source/common/listener_manager/lds_api.cc). Where a message breaks the rules of its definition it prints that message,
whose own name is the field that is not indented. Of anything else only one unmistakable name is believed.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from controlplane.xds.types import SECRET

_LIST = re.compile(r"Error adding/updating \w+\(s\) ")
_BROKEN = "Proto constraint validation failed"
_OWN_NAME = re.compile(r'^(?:cluster_)?name: "(.*)"$', re.MULTILINE)
_INSIDE = r"[\w./|*:-]"
"""What may stand in the middle of a name: `shop` is not meant by `shop-eu`."""
_UNMISTAKABLE = re.compile(r"[/|:.]|.{16}")
"""A name that is no word of a sentence."""


def blamed(detail: str, names: Collection[str]) -> frozenset[str]:
    """The names among these that the message blames; none when it does not say."""
    if (start := _LIST.match(detail)) is not None:
        listed = detail[start.end() :]
        return frozenset(name for name in names if name in listed and _heads(name, listed))
    if _BROKEN in detail:
        return frozenset(_OWN_NAME.findall(detail)).intersection(names)
    found = [name for name in names if _UNMISTAKABLE.search(name) and name in detail and _stands_alone(name, detail)]
    return frozenset(found) if len(found) == 1 else frozenset()


def _heads(name: str, listed: str) -> bool:
    return re.search(rf"(?:^|,\s){re.escape(name)}: ", listed) is not None


def _stands_alone(name: str, detail: str) -> bool:
    return re.search(rf"(?<!{_INSIDE}){re.escape(name)}(?!{_INSIDE}*\w)", detail) is not None


def quotable(detail: str, type_url: str, characters: int) -> str:
    """What is kept of a message: its beginning and its end, for a reason may follow a long message that is printed.

    Of a secret that is printed nothing is kept.
    """
    if type_url == SECRET and (end := detail.rfind(_BROKEN)) > 0:
        detail = detail[end:]
    if len(detail) <= characters:
        return detail
    beginning = characters // 4
    return f"{detail[:beginning]} … {detail[beginning + 3 - characters :]}"


def halves(names: Collection[str]) -> list[frozenset[str]]:
    """Two groups to be tried one after the other, in a stable order."""
    ordered = sorted(names)
    middle = (len(ordered) + 1) // 2
    return [frozenset(ordered[:middle]), frozenset(ordered[middle:])]
