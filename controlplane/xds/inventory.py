"""What one client has of one type, name by name, as far as its stream says; for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.resources import Resource
from controlplane.snapshot.substitution import Substituted
from controlplane.xds.progress import Progress


@dataclass(frozen=True, slots=True)
class InventoryItem:
    """A name that a client has or asked for.

    `state`: synced, pending (sent or to be sent), removing, absent (asked for, and there is none), or held: `resource` is
    what is shown instead of what was refused, None when nothing good is known.
    """

    name: str
    state: str
    resource: Resource | None


def inventory(progress: Progress, view: Substituted) -> Iterator[InventoryItem]:
    """Every name of this type that concerns the client, sorted."""
    url, subscription = progress.kind.url, progress.subscription
    names = (
        set(subscription.names) | progress.gone.keys() | (set(progress.replaced) if subscription.wildcard else set())
    )
    if subscription.enumerates:
        names |= set(view.names(url))
    awaited = _awaited(progress)
    for name in sorted(names):
        resource = view.get(url, name)
        if name in progress.replaced:
            state = "held"
        elif name in progress.gone:
            state = "removing"
        elif progress.whole or name in awaited:
            state = "pending"
        else:
            state = "synced" if resource is not None else "absent"
        yield InventoryItem(name, state, resource)


def awaits(progress: Progress, names: frozenset[str]) -> bool:
    """Whether anything under these names is to be sent, or lacks its ACK."""
    return progress.whole or not names.isdisjoint(_awaited(progress))


def _awaited(progress: Progress) -> set[str]:
    under_way = (one.name for push in progress.in_flight for one in push.listing.resources)
    return {*progress.changed, *progress.asked, *under_way}
