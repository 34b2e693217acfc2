"""Of a refused response, what is to blame is held back alone, and everything else goes out again.

Called by the session. Envoy takes over none of a refused response, or some of it: which is not known, so what is not
to blame is sent once more. Where nothing is blamed by name, halves are tried one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.snapshot.substitution import Substituted
from controlplane.xds import difference
from controlplane.xds.blame import blamed, halves
from controlplane.xds.difference import UNKNOWN, Wanted
from controlplane.xds.holds import Case, Holds
from controlplane.xds.nodes import Node
from controlplane.xds.progress import Progress, Push


def isolate(
    progress: Progress,
    push: Push,
    view: Substituted,
    node: Node,
    holds: Holds,
    detail: str,
    trials: int,
    wanted: Wanted,
) -> list[Case]:
    """Find what is to blame, or try a half; the holds that begin. `trials` bounds how many fail in a row."""
    if not push.listing.resources:
        return []
    url = progress.kind.url
    progress.sent = push.before
    suspects = {}
    for one in push.listing.resources:
        current = view.get(url, one.name)
        if current is not None and current.version == one.version and progress.subscription.covers(one.name):
            suspects[one.name] = one
    to_blame = frozenset(suspects) if len(suspects) == 1 else blamed(detail, suspects)
    if to_blame:
        cases = holds.refused(node, view, [suspects[name] for name in sorted(to_blame)], detail)
        progress.replaced = view.substitutes(url)
        try_again(progress, view, suspects.keys() - to_blame, wanted)
        return cases
    if suspects and progress.unnamed < trials:
        progress.unnamed += 1
        progress.trials[:0] = halves(suspects)  # each is sent when nothing else is under way or waits
    return []


def try_again(progress: Progress, view: Substituted, names: Iterable[str], wanted: Wanted) -> None:
    """Send these: whether the client holds them is not known."""
    unknown = [(name, UNKNOWN) for name in names]
    for name, _ in unknown:
        progress.changed.pop(name, None)
    difference.touched(progress, view, unknown, wanted)


def reconsider(progress: Progress, view: Substituted, wanted: Wanted) -> bool:
    """Something is held back, or not any more: it concerns what waits, and what was replaced so far.

    Whether something is replaced now that was not.
    """
    before, progress.replaced = progress.replaced, view.substitutes(progress.kind.url)
    back = [
        (name, good.version if good is not None else "")
        for name, good in before.items()
        if name not in progress.replaced
    ]
    waiting = [item for item in progress.changed.items() if item[0] in progress.replaced]
    difference.touched(progress, view, [*back, *waiting], wanted)
    return not progress.replaced.keys() <= before.keys()
