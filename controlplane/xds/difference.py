"""What a client lacks: the difference between what it holds and what it should hold, noted name by name.

Called by the session when content, view or subscription change. A client that holds what its view has costs nothing
here: whole maps of versions are compared first, and names are gone through only where these differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from controlplane.snapshot.listing import Listing
from controlplane.snapshot.store import View
from controlplane.snapshot.substitution import Substituted
from controlplane.xds.progress import UNKNOWN, Progress
from controlplane.xds.returning import Returned
from controlplane.xds.types import VIRTUAL_HOST

MANY = 64
"""Names from which on it pays to go through them in bulk."""


class Wanted(NamedTuple):
    """Since which tick a difference is to be sent, and at what time it goes out whatever blocks it."""

    tick: int
    cap: float


def note(progress: Progress, view: Substituted, name: str, before: str, wanted: Wanted) -> None:
    """Compare what the client holds of one name (`before`, unless noted otherwise already) with the view."""
    held = progress.changed.get(name)
    if progress.whole:
        # All there is will be sent; of the rest the client may hold what it was sent before.
        held = UNKNOWN if progress.sent_nonce or progress.resumed else ""
    elif held is None:
        # What is asked for and not answered yet is held by nobody knows whom.
        held = progress.gone.get(name, UNKNOWN if name in progress.asked else before)
    resource = view.get(progress.kind.url, name)
    if resource is None:
        if name in progress.refused_new:
            progress.ask(frozenset((name,)))  # never taken over: nothing relies on it, and its end ends the NACK
        elif held and name not in view.substitutes(progress.kind.url):
            # What is held back with nothing good to show stays with who has something earlier.
            progress.loses(name, held, wanted.tick)
            progress.removals.want(wanted.tick, wanted.cap)
        progress.changed.pop(name, None)
    elif resource.version == held:
        progress.changed.pop(name, None)
        progress.gone.pop(name, None)
    else:
        progress.lacks(name, held, wanted.tick)
        if resource.late:
            progress.postpone(name).want(wanted.tick, wanted.cap)
        else:
            progress.additions.want(wanted.tick, wanted.cap)


def touched(progress: Progress, view: Substituted, before: Collection[tuple[str, str]], wanted: Wanted) -> None:
    """Publications touched these names, which had these versions before."""
    subscription = progress.subscription
    if len(before) >= MANY and progress.in_step and not view.substitutes(progress.kind.url):
        _many_touched(progress, view, before, wanted)
        return
    others = {}
    for name, version in before:
        if subscription.plainly(name):
            note(progress, view, name, version, wanted)
        else:
            others[name] = version
    if others:
        covered = {name for name in others if subscription.covers(name)}
        subscription.relink(others, view)
        for name, version in others.items():
            if subscription.covers(name):
                note(progress, view, name, version if name in covered else "", wanted)
            elif name in covered:
                lost(progress, view, name, version, wanted)
    progress.relax()


def _many_touched(progress: Progress, view: View, before: Iterable[tuple[str, str]], wanted: Wanted) -> None:
    """The same for a client that has everything else: nothing else runs meanwhile, for 20,000 names and each stream."""
    versions = view.versions(progress.kind.url)
    progress.additions.first = progress.removals.first = None
    progress.changed = {name: held for name, held in before if versions.get(name, held) != held}
    progress.gone = {name: held for name, held in before if held and name not in versions}
    if progress.changed:
        progress.additions.want(wanted.tick, wanted.cap)
    if progress.gone:
        progress.removals.want(wanted.tick, wanted.cap)


def lost(progress: Progress, view: Substituted, name: str, held: str, wanted: Wanted) -> None:
    """The client holds a resource that it does not reach any more by any name that it asked for, there or not."""
    if view.get(progress.kind.url, name) is None:
        note(progress, view, name, held, wanted)
        return
    if held := progress.changed.get(name, progress.gone.get(name, held)):
        drop(progress, name, wanted, held)
    progress.changed.pop(name, None)


def drop(progress: Progress, name: str, wanted: Wanted, held: str = UNKNOWN) -> None:
    """The client is to be told that this is none of its resources, there or not."""
    progress.loses(name, held, wanted.tick)
    progress.removals.want(wanted.tick, wanted.cap)


def switched(progress: Progress, old: Substituted, view: Substituted, wanted: Wanted) -> None:
    """The client held what one view had, and is to hold what another has."""
    url, subscription = progress.kind.url, progress.subscription
    then, now = old.versions(url), view.versions(url)
    if progress.replaced:
        then = {**then, **dict.fromkeys(progress.doubtful, UNKNOWN)}
    names = {*then, *now, *progress.gone, *subscription.names}
    covered = {name for name in names if subscription.covers(name)}
    subscription.look(view)
    for name in names:
        if subscription.covers(name):
            note(progress, view, name, then.get(name, "") if name in covered else "", wanted)
        elif name in covered:
            lost(progress, view, name, then.get(name, ""), wanted)
    progress.relax()


def resumed(progress: Progress, view: Substituted, had: Returned, unsure: Collection[str], wanted: Wanted) -> None:
    """The client comes back with `had`: note what differs, but leave `unsure` names to be answered."""
    url, subscription = progress.kind.url, progress.subscription
    progress.whole, progress.resumed = False, True
    view.prove(url, had)
    versions = view.versions(url)
    unsure = versions.keys() & unsure  # one that is gone meanwhile goes in its turn
    for name in had.missing.union(had.other):
        held = had.get(name)
        if name in unsure or held == versions.get(name):
            continue
        if subscription.enumerates or (held is not None and subscription.covers(name)):
            note(progress, view, name, held or "", wanted)
    for name in view.timed(url):
        if name in had and subscription.covers(name):
            note(progress, view, name, UNKNOWN, wanted)  # its TTL may have run out on the way
    asked = subscription.resolve(progress.asked, view)
    answered = [name for name in view.select(url, asked).absent if name not in had] if asked else []
    if not subscription.enumerates:
        answered += [name for name in had.missing if name in asked and name not in had]
    progress.asked = asked.intersection(unsure).union(answered)
    progress.relax()


def due(progress: Progress, view: View, changed: frozenset[str], *, whole: bool) -> Listing:
    """What is asked for, what changed, and everything if that is due: one that others share where possible."""
    url, subscription = progress.kind.url, progress.subscription
    asked = subscription.resolve(progress.asked, view)
    if whole and subscription.enumerates:
        listing = view.listing(url)
        absent = view.select(url, asked).absent if asked else ()
        return Listing(listing.resources, _told(progress, absent)) if absent else listing
    wanted = changed | subscription.resolve(subscription.names.frozen(), view) if whole else changed
    selection = view.select(url, asked | wanted if wanted else asked)
    absent = _told(progress, selection.absent)
    unasked = wanted and not asked.issuperset(absent)
    if unasked or len(absent) < len(selection.absent):
        return Listing(selection.resources, sorted(asked.intersection(absent)))
    return selection


def _told(progress: Progress, absent: Sequence[str]) -> Sequence[str]:
    """Of what is asked for and absent, what is told now: routes may lead to what the client has, so its turn comes."""
    if not progress.gone or progress.kind.url == VIRTUAL_HOST:
        return absent
    return [name for name in absent if name not in progress.gone]
