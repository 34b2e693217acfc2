"""What clients refused, and who is therefore shown the last good content instead.

One for all streams of a server. A resource that one client refuses is held back from every client of the same family
and version, old and new, unless another one of them has taken it over; from everybody after several nodes refused it.
A hold ends when the content changes, for it is a hold of one version of one resource. A node that refuses everything
speaks for itself alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from controlplane.resources import Resource
from controlplane.snapshot.listing import LARGE, Listing
from controlplane.snapshot.store import View
from controlplane.snapshot.substitution import Substituted, Substitutes
from controlplane.xds.nodes import Node

Family = tuple[str, str]
"""The name and the version of a client."""

SEVERAL_NODES = 3
"""Distinct nodes after which what others took over does not count any more, and other families are spared too."""
CREDIBLE_REFUSALS = 16
"""Refusals of one node at a time; beyond that something is wrong with the node rather than with what it refuses."""
REMEMBERED_CASES = 4096
REMEMBERED_ACCEPTANCES = 200_000

_NONE: Substitutes = {}


@dataclass(slots=True)
class Case:
    """One version of one resource that was refused. `good` is what is shown instead; None: as if there were none."""

    resource: Resource
    good: Resource | None
    detail: str
    nodes: set[str] = field(default_factory=set)
    families: set[Family] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Held:
    """A hold, for people: `everywhere` when all families are spared, else `families`."""

    resource: Resource
    good: Resource | None
    detail: str
    nodes: tuple[str, ...]
    families: tuple[Family, ...]
    everywhere: bool


def family(node: Node) -> Family:
    """What kind of client a node is."""
    return node.user_agent, node.version


class Holds:
    """`changed` is called when somebody is to be shown something else than before."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.edition = 0
        """Grows with every hold that begins or is narrowed."""
        self._changed = changed
        self._cases: OrderedDict[tuple[str, str, str], Case] = OrderedDict()
        self._by_type: dict[str, dict[tuple[str, str], Case]] = {}
        self._refusals: dict[str, int] = {}
        self._accepted: OrderedDict[tuple[str, str], tuple[str, set[Family]]] = OrderedDict()
        self._accepted_listings: OrderedDict[tuple[Family, Listing], None] = OrderedDict()

    def show(self, view: View, node: Node) -> Substituted:
        """The view with what this node is spared replaced by what was good."""
        return Substituted(view, partial(self._substitutes, family(node), node.id))

    def refused(self, node: Node, view: View, resources: Iterable[Resource], detail: str) -> list[Case]:
        """This node refused these resources: the cases that are new."""
        new = []
        for resource in resources:
            key = (resource.type_url, resource.name, resource.version)
            if (case := self._cases.get(key)) is None:
                view.spoil(resource)
                case = Case(resource, view.previous(resource.type_url, resource.name), detail)
                self._remember(key, case)
                new.append(case)
            if node.id not in case.nodes:
                self._refusals[node.id] = self._refusals.get(node.id, 0) + 1
            case.nodes.add(node.id)
            case.families.add(family(node))
        self.edition += 1
        self._changed()
        return new

    def accepted(self, node: Node, listing: Listing) -> None:
        """This node took these over. A large listing counts once for a family, however many take it over."""
        who = family(node)
        if len(listing.resources) >= LARGE:
            if (who, listing) in self._accepted_listings:
                return
            self._accepted_listings[who, listing] = None
            if len(self._accepted_listings) > LARGE:
                self._accepted_listings.popitem(last=False)
        lifted = False
        for resource in listing.resources:
            key = (resource.type_url, resource.name)
            entry = self._accepted.get(key)
            if entry is None or entry[0] != resource.version:
                self._accepted[key] = entry = (resource.version, set())
                if len(self._accepted) > REMEMBERED_ACCEPTANCES:
                    self._accepted.popitem(last=False)
            if who not in entry[1]:
                entry[1].add(who)
                lifted |= (*key, resource.version) in self._cases
        if lifted:
            self.edition += 1
            self._changed()

    def held(self) -> Iterator[Held]:
        """What is held back now or would be if it came back, the oldest first."""
        for case in self._cases.values():
            everywhere = len(case.nodes) >= SEVERAL_NODES
            families = tuple(sorted(who for who in case.families if self._spared(case, who, "")))
            yield Held(case.resource, case.good, case.detail, tuple(sorted(case.nodes)), families, everywhere)

    def _remember(self, key: tuple[str, str, str], case: Case) -> None:
        self._cases[key] = case
        self._by_type.setdefault(key[0], {})[key[1:]] = case
        if len(self._cases) > REMEMBERED_CASES:
            (type_url, *rest), oldest = self._cases.popitem(last=False)
            del self._by_type[type_url][rest[0], rest[1]]
            for node in oldest.nodes:
                self._refusals[node] -= 1
                if not self._refusals[node]:
                    del self._refusals[node]

    def _spared(self, case: Case, who: Family, node: str) -> bool:
        if node in case.nodes:
            return True
        version, families = self._accepted.get((case.resource.type_url, case.resource.name), ("", set[Family]()))
        taken_over = version == case.resource.version and who in families
        if len(case.nodes) >= SEVERAL_NODES:
            return who in case.families or not taken_over
        credible = any(self._refusals.get(each, 0) <= CREDIBLE_REFUSALS for each in case.nodes)
        return credible and who in case.families and not taken_over

    def _substitutes(self, who: Family, node: str, view: View, type_url: str) -> Substitutes:
        if not (cases := self._by_type.get(type_url)):
            return _NONE
        found: dict[str, Resource | None] = {}
        for (name, version), case in cases.items():
            current = view.get(type_url, name)
            if current is not None and current.version == version and self._spared(case, who, node):
                found[name] = case.good
        return found
