"""Of a refused response, what is to blame is held back alone, and everything else goes out again.

Called by the session. Envoy takes over none of a refused response, or some of it: which is not known, so what is not
to blame is sent once more. Where nothing is blamed by name, halves are tried one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing, followed
from controlplane.snapshot.substitution import Substituted
from controlplane.xds import difference, types
from controlplane.xds.blame import blamed, halves
from controlplane.xds.difference import Wanted
from controlplane.xds.holds import Holds
from controlplane.xds.nodes import Node
from controlplane.xds.observer import Refusal
from controlplane.xds.progress import UNKNOWN, Progress, Push, Refused

_GROUND: frozenset[str] = frozenset()
"""A trial of nothing: the set of what is known to be good, which the others are put on."""


def isolate(
    progress: Progress,
    push: Push,
    view: Substituted,
    node: Node,
    holds: Holds,
    refusal: Refusal,
    trials: int,
    wanted: Wanted,
) -> list[Resource]:
    """Find what is to blame, or try a half; what is held back from now on. `trials` bounds how many fail in a row."""
    _still_there(progress, push, view, trials, wanted)
    if not push.listing.resources:
        if progress.returning and not push.heartbeat:
            _wait(progress)  # what others took over is not good to this one
        return []
    url = progress.kind.url
    progress.sent = push.before
    suspects, refused = {}, {}
    for one in push.listing.resources:
        current = view.get(url, one.name)
        refused[one.name] = _refused(progress, push, one)
        if current is not None and current.version == one.version and progress.subscription.covers(one.name):
            suspects[one.name] = one
    progress.again |= {name: refused[name] for name in suspects}
    named = frozenset(refused) if len(refused) == 1 else blamed(refusal.detail, refused)
    to_blame = named & suspects.keys()
    held = []
    anew = progress.returning and push.before is None
    if anew and (named or suspects.keys() < refused.keys()) and not to_blame and progress.unnamed < trials:
        progress.unnamed += 1
        progress.whole = progress.finish = True  # what it does not take is not there any more, as it seems
    elif named:
        held = holds.refused(node, view.inner, [suspects[name] for name in sorted(to_blame)], refusal.detail)
        progress.complaints |= {name: replace(refusal, names=(name,)) for name in sorted(to_blame)}
        reconsider(progress, view, wanted)
        if anew and not _begin_with_what_is_good(progress, push, view) and url == types.CLUSTER:
            fine = [one for one in push.listing.resources if one.name not in named]
            progress.left = followed(progress.left, Listing(fine))
        try_again(progress, view, suspects.keys() - to_blame, wanted)
    elif suspects and progress.unnamed < trials:
        progress.unnamed += 1
        if anew and not _begin_with_what_is_good(progress, push, view):
            return []
        # Each is sent when nothing else is under way or waits; before them, by itself, what they are put on.
        progress.trials[:0] = [*([_GROUND] if anew else []), *halves(suspects)]
    again = suspects.keys() - to_blame
    _go_on(progress, view, {name: one for name, one in refused.items() if name not in again}, named, wanted)
    return held


def _refused(progress: Progress, push: Push, resource: Resource) -> Refused:
    """What the client held before, also when the same was refused for others before."""
    name, version = resource.name, resource.version
    held = push.held.get(name, UNKNOWN)
    if held == UNKNOWN and (earlier := progress.again.get(name)) is not None and earlier.version == version:
        held = earlier.held
    return Refused(push.nonce, version, held)


def _go_on(
    progress: Progress, view: Substituted, refused: Mapping[str, Refused], named: Collection[str], wanted: Wanted
) -> None:
    """None of these is sent again. What the client has is what it had, or of those that it does not name perhaps not: if
    something else is shown now, it is sent that. Who is the first to refuse may have just begun, and have nothing.
    """
    under_way = {one.name: later.held for later in progress.in_flight for one in later.listing.resources}
    for name, one in refused.items():
        held = one.held if name in named else UNKNOWN
        shown = view.get(progress.kind.url, name)
        if (later := under_way.get(name)) is not None:
            later[name] = held
        elif name in progress.changed:  # as if it had taken over what it refused
            progress.changed[name] = held
        elif name in progress.gone:
            progress.gone[name] = held
        elif shown is not None and shown.version != one.version:
            difference.touched(progress, view, [(name, held)], wanted)


def _still_there(progress: Progress, push: Push, view: Substituted, trials: int, wanted: Wanted) -> None:
    """What a full set left out is where it was when the set was refused, for whatever it held: it is to go once more."""
    if push.before is None or not push.listing.absent:
        return
    if not push.listing.resources:  # nothing in it is to blame
        if progress.unnamed >= trials:
            return
        progress.unnamed += 1
        progress.sent = push.before
    difference.touched(progress, view, [(name, UNKNOWN) for name in push.listing.absent], wanted)


def _begin_with_what_is_good(progress: Progress, push: Push, view: Substituted) -> bool:
    """A full set that lacks something deletes it, and a client that comes back has it all, in some version.

    So the sets that follow are put together on what is known to be good: what somebody took over, as it is now or as it
    was before. Where that is not known of all (the server has just started), nothing is sent until the type changes.
    """
    url = progress.kind.url
    spared, base = view.substitutes(url), {}
    for one in push.listing.resources:
        if one.name in spared:
            base[one.name] = spared[one.name]
        else:
            base[one.name] = one if view.proven(one) else view.good(url, one.name)
    progress.sent = Listing.of(one for one in base.values() if one is not None)
    if all(base.values()):
        return True
    _wait(progress)
    return False


def _wait(progress: Progress) -> None:
    """Send nothing until the type changes, and then all of it."""
    progress.trials.clear()
    progress.stuck = progress.whole = progress.finish = True
    progress.sent = None


def next_trial(progress: Progress, view: Substituted, wanted: Wanted) -> None:
    """Send the next group of what was refused."""
    names = progress.trials.pop(0)
    progress.finish |= not names
    try_again(progress, view, names, wanted)


def try_again(progress: Progress, view: Substituted, names: Iterable[str], wanted: Wanted) -> None:
    """Send these: whether the client holds them is not known."""
    unknown = [(name, UNKNOWN) for name in names]
    for name, _ in unknown:
        progress.changed.pop(name, None)
        if name in progress.gone:  # and may be back before the client is told
            progress.gone[name] = UNKNOWN
    difference.touched(progress, view, unknown, wanted)


def held(progress: Progress, before: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The versions that the client holds, of those that it would hold if nothing were held back from it."""
    doubtful = progress.doubtful
    for name, version in before:
        good = progress.replaced.get(name)
        yield name, UNKNOWN if name in doubtful else version if good is None else good.version


def reconsider(progress: Progress, view: Substituted, wanted: Wanted) -> bool:
    """Something is held back, or not any more: it concerns what waits, and what was replaced so far.

    Whether something is replaced now that was not, or is not shown any more: who has it, keeps it.
    """
    before, shown = progress.replaced, view.substitutes(progress.kind.url)
    if before is shown or not (before or shown):
        return False
    # What is replaced no more, or by something else: a good one that has only just been proven.
    moved = [name for name, good in before.items() if name not in shown or shown[name] not in (None, good)]
    back = [*held(progress, ((name, "") for name in moved))]
    waiting = [item for item in progress.changed.items() if item[0] in shown]
    waiting += [item for item in progress.gone.items() if shown.get(item[0]) is not None]
    # What is good may name what is gone: who was told so, or has come since, is sent it again.
    gone = [name for name in shown.keys() - before.keys() if view.inner.get(progress.kind.url, name) is None]
    again = [(name, UNKNOWN) for name in gone if name not in progress.gone and name not in progress.changed]
    progress.show(shown)
    difference.touched(progress, view, [*back, *waiting, *again], wanted)
    precede(progress, moved, wanted)
    return any(name not in before or (good is None and before[name] is not None) for name, good in shown.items())


def precede(progress: Progress, names: Iterable[str], wanted: Wanted) -> None:
    """The client has something earlier of these, which may need what was to go at any time since: it goes after them."""
    if not progress.changed.keys().isdisjoint(names):
        progress.additions.precede(wanted.tick)


def took(progress: Progress, view: Substituted, cursor: int, resource: Resource) -> bool:
    """Whether the client, which has seen everything up to `cursor`, has taken over exactly this content."""
    url, name = resource.type_url, resource.name
    if progress.whole or progress.refusal is not None or progress.trials:
        return False  # what of it the client has is not known
    touched = view.touched_since(cursor)
    if touched is None or name in touched.get(url, ()) or not progress.subscription.covers(name):
        return False
    if name in progress.changed or name in progress.asked or name in progress.complaints:
        return False
    if any(one.name == name for push in progress.in_flight for one in push.listing.resources):
        return False
    current = view.get(url, name)
    return current is not None and current.version == resource.version
