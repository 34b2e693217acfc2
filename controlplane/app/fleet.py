"""Which node sees which gateways, in the form for which family of clients, and how far changes have come.

`Fleet` is the xDS server's directory and observer. The certificate of a node decides its labels, and labels select
gateways; what the node says of itself can only narrow that. Nothing here is kept per node but the fact that it had a
view: a node whose gateways are all gone gets the empty view, one that never had any waits.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import structlog

from controlplane.app.gone import Gone
from controlplane.app.trust import Trust
from controlplane.errors import Diagnostic
from controlplane.names import Family, GatewayName, View, parts_of
from controlplane.pki.identity import Identity
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.snapshot.store import View as SnapshotView
from controlplane.telemetry.metrics import Metrics
from controlplane.xds import types
from controlplane.xds.nodes import Denied, Node, Peer
from controlplane.xds.observer import Refusal, Variant

log = structlog.get_logger(__name__)

Labels = tuple[tuple[str, str], ...]
"""What a gateway selects by."""
Proven = frozenset[tuple[str, str]]
"""What a node is selected by."""

SETTLE_BOUND = 30.0
"""Seconds after which a change counts as arrived, though some proxy has not acknowledged it."""
RETURN_SECONDS = 90.0
"""For proxies to come, or come back, with what they had: from another replica, or after a start. Envoy waits up to 30 s between
two attempts."""
CACHED = 10_000
"""Label sets that are remembered."""


@dataclass(slots=True, eq=False)
class _Underway:
    """A publication that so many streams have not acknowledged yet."""

    sequence: int
    event_time: float
    waiting: int
    arrived: Callable[[], None] | None


_by_sequence = attrgetter("sequence")


class Fleet:
    """Directory and observer of the xDS server."""

    def __init__(
        self, store: Store, metrics: Metrics, *, trust: Trust | None, demand: Callable[[View, Family], None]
    ) -> None:
        """`trust` None: peers are not authenticated (`--insecure`). `demand` asks for a view to be compiled."""
        self.ready = False
        self.draining = False
        self.gone = Gone()
        self.explain: Callable[[Resource, Resource | None, str], tuple[Diagnostic, ...]] = lambda *_: ()
        """What a refused resource means for the specs; set once all parts are there."""
        self.moved: Callable[[], None] = lambda: None
        """Called when a proxy came, went, or has taken something over."""
        self.near: Callable[[View, Node, Family], list[tuple[str, ...]]] = lambda *_: []
        """The parts that hold what nodes in the place of this one get in another order than others."""
        self._store = store
        self._metrics = metrics
        self._trust = trust
        self._demand = demand
        self._selectors: dict[GatewayName, Labels] = {}
        self._compiled: set[tuple[View, Family]] = set()
        self._selected: dict[Proven, View | None] = {}  # None: nobody has asked since the gateways changed
        self._connected: dict[str, set[int]] = {}
        self._had_a_view: set[str] = set()  # nodes that are connected
        self._reached: dict[int, int] = {}  # by stream of a node that had a view: what it has come to
        self._underway: list[_Underway] = []  # by sequence number

    # -- directory -----------------------------------------------------------------------------------------------

    def meet(self, peer: Peer) -> None:
        """Raises Denied when the certificate of a peer is nobody's, or not welcome any more."""
        if self._trust is not None:
            self._identity(partial(self._trust.meet, peer))

    def admit(self, node: Node, peer: Peer) -> SnapshotView | None:
        """The gateways that this node sees; raises Denied when its certificate is not for it."""
        gateways = self.gateways(self._labels(node, peer), node.labels)
        if not gateways:
            return self._store.view(()) if node.id in self._had_a_view else None
        family = Family.of(node.user_agent)
        if (gateways, family) not in self._compiled:
            self._demand(gateways, family)
            return None
        if node.id in self._connected and node.id not in self._had_a_view:
            self._shown(node.id)
        return self._store.view((*self.near(gateways, node, family), *parts_of(gateways, family)))

    def _shown(self, node: str) -> None:
        """A connected node is given its first view: from now on its streams come to have what is published."""
        self._had_a_view.add(node)
        self._reached |= dict.fromkeys(self._connected[node], self._store.sequence)

    def gateways(self, proven: Mapping[str, str], said: Mapping[str, str]) -> View:
        """The gateways whose selectors match what is proven, and what the node says when it says anything."""
        key = frozenset(proven.items() & said.items() if said else proven.items())
        if (view := self._selected.get(key)) is None:
            if len(self._selected) > CACHED:
                self._selected.clear()
            view = self._selected[key] = _selected(self._selectors, key)
        return view

    def select(self, selectors: Mapping[GatewayName, Labels], compiled: set[tuple[View, Family]]) -> None:
        """The gateways there are, and the views that are compiled."""
        if selectors != self._selectors:
            self._selectors = dict(selectors)
            # They may change again before anybody has looked, and are wanted by the same labels then.
            self._selected = {labels: None for labels, view in self._selected.items() if view is not None}
        self._compiled = compiled

    def wanted(self, selectors: Mapping[GatewayName, Labels]) -> set[tuple[View, Family]]:
        """The views that the nodes of now would have with other gateways."""
        families = {family for _, family in self._compiled}
        views = {_selected(selectors, labels) for labels in self._selected}
        return {(view, family) for view in views if view for family in families}

    def _labels(self, node: Node, peer: Peer) -> Mapping[str, str]:
        if self._trust is None:
            return node.labels
        return self._identity(partial(self._trust.identity, node, peer)).labels

    def _identity(self, ask: Callable[[], Identity]) -> Identity:
        """What the trust says; a refusal is counted."""
        try:
            return ask()
        except Denied:
            self._metrics.refused.inc()
            raise

    def proven(self, peer: Peer) -> Identity | None:
        """What the certificate of a connected peer says; None without one."""
        return self._trust.known(peer) if self._trust is not None else None

    def selected(self, node: Node, peer: Peer) -> bool:
        """Whether any gateway is for a connected node."""
        proven = self.proven(peer)
        return bool(self.gateways(proven.labels if proven is not None else node.labels, node.labels))

    # -- progress ------------------------------------------------------------------------------------------------

    def published(self, sequence: int, event_time: float, arrived: Callable[[], None] | None = None) -> None:
        """A publication goes out now; `arrived` is called when every stream has it (or after a bound)."""
        waiting = sum(reached < sequence for reached in self._reached.values())
        if waiting:
            underway = _Underway(sequence, event_time, waiting, arrived)
            self._underway.append(underway)
            asyncio.get_running_loop().call_later(SETTLE_BOUND, self._give_up, underway)
        elif arrived is not None:
            arrived()

    def _give_up(self, underway: _Underway) -> None:
        if underway in self._underway:
            self._underway.remove(underway)
            if underway.arrived is not None:
                underway.arrived()

    def _reaches(self, stream: int, sequence: int, *, ended: bool = False) -> None:
        """A stream has come to a sequence number, or ended; it costs what is new of it, however much others lack."""
        if (before := self._reached.get(stream)) is None:
            return
        first = bisect_right(self._underway, before, key=_by_sequence)
        last = bisect_right(self._underway, sequence, key=_by_sequence)
        if ended:
            del self._reached[stream]
        else:
            self._reached[stream] = max(before, sequence)
        for underway in self._underway[first:last]:
            underway.waiting -= 1
            if not underway.waiting:
                self._underway.remove(underway)
                if not ended:
                    self._metrics.propagation_seconds.observe(time.monotonic() - underway.event_time)
                if underway.arrived is not None:
                    underway.arrived()

    # -- observer ------------------------------------------------------------------------------------------------

    def connected(self, stream: int, node: Node, variant: Variant, *, shown: bool) -> None:
        """A stream was admitted; `shown`: and given a view."""
        log.info("node connected", node=node.id, cluster=node.cluster, variant=str(variant), version=node.version)
        self._connected.setdefault(node.id, set()).add(stream)
        if shown:
            self._had_a_view.add(node.id)
        if node.id in self._had_a_view:
            self._reached[stream] = self._store.sequence
        self.gone.back(node)
        self._metrics.nodes.inc()
        self.moved()

    def disconnected(self, stream: int, node: Node, reason: str | None) -> None:
        """A stream has ended."""
        log.info("node disconnected", node=node.id)
        self._metrics.nodes.dec()
        streams = self._connected[node.id]
        streams.discard(stream)
        if not streams:
            del self._connected[node.id]
            self._had_a_view.discard(node.id)
            self.gone.left(node, reason)
        self._reaches(stream, self._store.sequence, ended=True)
        self.moved()

    def pushed(self, type_url: str, size: int, resources: int) -> None:
        """A response was sent."""
        self._metrics.traffic.pushed(_label(type_url), size, resources)

    def large(self, node: Node, type_url: str, size: int) -> None:
        """A response that some clients refuse for its size."""
        self._metrics.large(type_url)
        log.warning(
            "response larger than 4 MiB; the client must be told to take it, or use the incremental variant",
            node=node.id, type_url=type_url, bytes=size,
        )  # fmt: skip

    def acked(self, type_url: str, sequence: int) -> None:
        """A response was acknowledged."""
        self._metrics.traffic.acked(_label(type_url))

    def nacked(self, node: Node, type_url: str, refusal: Refusal) -> None:
        """A response was refused."""
        self._metrics.nacked(_label(type_url))
        log.error(
            "nack", node=node.id, type_url=type_url, nonce=refusal.nonce, resources=refusal.names, detail=refusal.detail
        )

    def held(self, node: Node, resource: Resource, good: Resource | None, detail: str) -> None:
        """A resource was refused, and what was good before is shown instead."""
        problems = self.explain(resource, good, detail)
        log.error(
            "resource held back",
            node=node.id, type_url=resource.type_url, resource=resource.name, version=resource.version,
            shown=good.version if good is not None else None,
            at=[str(one.place) for one in problems if one.place], paths=[one.path for one in problems], detail=detail,
        )  # fmt: skip

    def settled(self, stream: int, sequence: int) -> None:
        """A stream has everything up to a sequence number."""
        self._reaches(stream, sequence)
        self.moved()


def _label(type_url: str) -> str:
    """What metrics may be labelled with: clients can ask for types that nobody knows, and for ever new ones."""
    return type_url if types.is_known(type_url) else "other"


def _selected(selectors: Mapping[GatewayName, Labels], labels: Proven) -> View:
    return tuple(sorted(name for name, selector in selectors.items() if labels.issuperset(selector)))
