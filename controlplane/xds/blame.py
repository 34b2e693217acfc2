"""Which resources of a refused response are to blame: from what the client says, where it names them.

Envoy joins what each bad resource of a response gave rise to, name first: `Error adding/updating listener(s) a: why`
(source/common/listener_manager/lds_api.cc, source/common/upstream/cds_api_helper.cc in envoyproxy/envoy).
"""

from __future__ import annotations

import re
from collections.abc import Collection

_INSIDE = r"[\w./|*-]"
"""What may stand in the middle of a name: `shop` is not meant by `shop-eu`."""


def blamed(detail: str, names: Collection[str]) -> frozenset[str]:
    """The names among these that the message names; none when it names none, or all of several."""
    found = {name for name in names if name and name in detail}
    found = {name for name in found if _stands_alone(name, detail)}
    # A name within a longer one that is named too says nothing by itself.
    if len(found) == len(names) > 1:
        return frozenset()
    return frozenset(found)


def _stands_alone(name: str, detail: str) -> bool:
    return re.search(rf"(?<!{_INSIDE}){re.escape(name)}(?!{_INSIDE}*\w)", detail) is not None


def halves(names: Collection[str]) -> list[frozenset[str]]:
    """Two groups to be tried one after the other, in a stable order."""
    ordered = sorted(names)
    middle = (len(ordered) + 1) // 2
    return [frozenset(ordered[:middle]), frozenset(ordered[middle:])]
