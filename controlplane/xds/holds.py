"""What clients refused, and who is therefore shown the last good content instead.

One for all streams of a server. A resource that one client refuses is held back from every client of the same family
and version, old and new, unless another one of them has taken it over; from everybody after several nodes refused it.
A hold ends when the content changes, for it is a hold of one version of one resource. A node that refuses everything
speaks for itself alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing
from controlplane.snapshot.store import View
from controlplane.snapshot.substitution import Substituted, Substitutes
from controlplane.xds.dependents import Dependents
from controlplane.xds.instead import Instead, Key
from controlplane.xds.nodes import Node

Family = tuple[str, str]
"""The name and the version of a client."""

SEVERAL_NODES = 3
"""Distinct nodes after which other families are spared too, unless they have taken it over."""
CREDIBLE_REFUSALS = 16
"""Refusals of one node at a time; beyond that something is wrong with the node rather than with what it refuses."""
REMEMBERED_CASES = 1024
NODE_CASES = 256
"""Of one node. What it refuses beyond that is held back from nobody, and it gets nothing of that type until it changes."""

Shown = Mapping[str, Substitutes]
"""By type URL: what is shown instead of what is there."""
_NOTHING: Shown = {}


@dataclass(slots=True)
class Case:
    """One version of one resource that was refused, by whom, and who took it over all the same."""

    resource: Resource
    detail: str
    nodes: dict[str, Family] = field(
        default_factory=dict
    )  # as what they refused it: a node may be replaced by a newer one
    families: set[Family] = field(default_factory=set)
    accepted: set[Family] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Held:
    """A hold, for people: `everywhere` when all families are spared, else `families`."""

    resource: Resource
    detail: str
    nodes: tuple[str, ...]
    families: tuple[Family, ...]
    everywhere: bool


def family(node: Node) -> Family:
    """What kind of client a node is."""
    return node.user_agent, node.version


class Holds:
    """`changed` is called when somebody is to be shown something else than before.

    `takers` gives the families of those who have taken a resource over, among all that are connected.
    """

    def __init__(
        self,
        changed: Callable[[], None] = lambda: None,
        takers: Callable[[Resource], Iterable[Family]] = lambda _: (),
    ) -> None:
        self.edition = 0
        """Grows with every hold that begins or is narrowed."""
        self._changed = changed
        self._takers = takers
        self._cases: OrderedDict[Key, Case] = OrderedDict()
        self._refusals: dict[str, int] = {}
        self._dependents = Dependents()
        self._spared_at = -1
        self._spared: dict[tuple[Family, str], frozenset[Key]] = {}
        self._computed_at = (-1, -1)
        self._computed: dict[Hashable, Shown] = {}

    def show(self, view: View, node: Node) -> Substituted:
        """The view with what this node is spared replaced by what was good."""
        return Substituted(view, partial(self._substitutes, family(node), node.id))

    def refused(self, node: Node, view: View, resources: Iterable[Resource], detail: str) -> list[Resource]:
        """This node refused these resources of its view: those that nobody had refused before."""
        new = []
        for resource in resources:
            key = (resource.type_url, resource.name, resource.version)
            case = self._cases.get(key)
            if case is None or node.id not in case.nodes:
                if self._refusals.get(node.id, 0) >= NODE_CASES or (case is None and not self._make_room(view)):
                    break
                self._refusals[node.id] = self._refusals.get(node.id, 0) + 1
            if case is None:
                case = self._cases[key] = Case(resource, detail, accepted=set(self._takers(resource)))
                new.append(resource)
            case.nodes[node.id] = family(node)
            case.families.add(family(node))
        self.edition += 1
        self._changed()
        return new

    def accepted(self, node: Node, listing: Listing) -> None:
        """This node took these over."""
        if self._cases:
            self._take(node, ((one.type_url, one.name, one.version) for one in listing.resources))

    def resumed(self, node: Node, type_url: str, versions: Mapping[str, str]) -> None:
        """This node has these already."""
        if self._cases:
            held = ((name, version) for url, name, version in self._cases if url == type_url)
            self._take(node, [(type_url, *one) for one in held if versions.get(one[0]) == one[1]])

    def _take(self, node: Node, keys: Iterable[tuple[str, str, str]]) -> None:
        who, lifted = family(node), False
        for key in keys:
            case = self._cases.get(key)
            if case is not None and who not in case.accepted:
                case.accepted.add(who)
                lifted = True
        if lifted:
            self.edition += 1
            self._changed()

    def held(self) -> Iterator[Held]:
        """What is held back now or would be if it came back, the oldest first."""
        for case in self._cases.values():
            everywhere = len(case.nodes) >= SEVERAL_NODES
            families = tuple(sorted(who for who in case.families if self._spares(case, who, "")))
            yield Held(case.resource, case.detail, tuple(sorted(case.nodes)), families, everywhere)

    def resources(self) -> Iterator[Resource]:
        """What was refused, whether it is there now or not."""
        return (case.resource for case in self._cases.values())

    def among(self, keys: Set[Key]) -> Iterator[Resource]:
        """Those of these that were refused, whether they are there now or not."""
        return (self._cases[key].resource for key in self._cases.keys() & keys)

    def in_place(self, view: View) -> Iterator[Resource]:
        """What clients are shown of this view in the place of what they refused, or would be if they were there."""
        asked = {(who, node) for case in self._cases.values() for node, who in case.nodes.items()}
        asked |= {(who, "") for case in self._cases.values() for who in case.families}
        asked |= {(("", ""), "")} if asked else set()  # who has refused nothing, and is spared all the same
        for spared in {self._spared_by(*one) for one in asked}:
            for of_type in self._shown(spared, view).values() if spared else ():
                yield from (one for one in of_type.values() if one is not None)

    def _make_room(self, view: View) -> bool:
        """Forget the oldest case if there are too many; not one that holds something back from this view."""
        if len(self._cases) < REMEMBERED_CASES:
            return True
        (url, name, version), oldest = next(iter(self._cases.items()))
        current = view.get(url, name)
        if current is not None and current.version == version:
            return False
        del self._cases[url, name, version]
        for node in oldest.nodes:
            self._refusals[node] -= 1
            if not self._refusals[node]:
                del self._refusals[node]
        return True

    def _spares(self, case: Case, who: Family, node: str) -> bool:
        if case.nodes.get(node) == who:
            return True
        if len(case.nodes) >= SEVERAL_NODES:
            return who in case.families or who not in case.accepted
        credible = any(self._refusals.get(each, 0) <= CREDIBLE_REFUSALS for each in case.nodes)
        return credible and who in case.families and who not in case.accepted

    def _substitutes(self, who: Family, node: str, view: View) -> Shown:
        """The same object for all who are shown the same."""
        if not self._cases or not (spared := self._spared_by(who, node)):
            return _NOTHING
        return self._shown(spared, view)

    def _shown(self, spared: frozenset[Key], view: View) -> Shown:
        """The same object until the store or a hold changes."""
        if self._computed_at != (view.sequence, self.edition):
            self._computed_at = (view.sequence, self.edition)
            self._computed = {}
        if (shown := self._computed.get((view.parts, spared))) is None:
            shown = self._computed[view.parts, spared] = self._compute(spared, view)
        return shown

    def _spared_by(self, who: Family, node: str) -> frozenset[Key]:
        """The cases of which this node is spared. A fleet may refuse a bad edit to the last node, all of them the same."""
        if self._spared_at != self.edition:
            self._spared_at = self.edition
            self._spared = {}
        node = node if node in self._refusals else ""  # others differ by their family alone
        if (spared := self._spared.get((who, node))) is None:
            spared = self._spared[who, node] = frozenset(
                key for key, case in self._cases.items() if self._spares(case, who, node)
            )
        return spared

    def _compute(self, spared: frozenset[Key], view: View) -> Shown:
        instead = Instead(view, spared, self._dependents)
        for url, name, version in self._cases:
            current = view.get(url, name)
            if (url, name, version) in spared and current is not None and current.version == version:
                instead.hold(current)
        return instead.complete()
