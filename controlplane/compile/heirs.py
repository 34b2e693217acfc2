"""Who answers the connections that a listener drains once it, or its gateway, has another name or comes from another source.

To proxies it is the same listener; to the compiler one goes and one comes in the same commit. The one that comes takes
over what the other drained, and drains what it does not have itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from controlplane.compile.chains import keep_chain, ways_in
from controlplane.compile.rows import Chain
from controlplane.names import ElementKey, GatewayName, ObjectRef
from controlplane.spec.listener import Listener
from controlplane.spec.rows import Element, GatewayRow, Kind, Row, RowKey

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables


@dataclass(frozen=True, slots=True)
class _Former:
    """A listener that is gone, and what it drained; `gateway` when that is gone, too."""

    element: Element
    drained: tuple[Chain, ...]
    gateway: GatewayRow | None


@dataclass(slots=True)
class Heirs:
    """What went and what came since the last commit."""

    _gone: dict[ElementKey, _Former] = field(default_factory=dict)
    _came: set[ElementKey] = field(default_factory=set)

    def go(self, tables: Tables, before: Mapping[RowKey, Row], keys: Iterable[RowKey]) -> None:
        """These rows of an object are about to be deleted."""
        gone = {key: before[key] for key in keys if key[0] in {Kind.GATEWAY, Kind.LISTENER}}
        gateway = next((row for row in gone.values() if isinstance(row, GatewayRow)), None)
        for (_, listener), element in gone.items():
            if isinstance(element, Element):
                drained = tuple(chain for (other, _), chain in tables.kept_chains.rows.items() if other == listener)
                self._gone[listener] = _Former(element, drained, gateway)

    def come(self, listener: ElementKey) -> None:
        """A listener that was not there."""
        self._came.add(listener)

    def settle(self, tables: Tables) -> None:
        """Hand over what can be, before the commit."""
        for listener, former in self._gone.items():
            for heir, element in self._heirs(tables, listener, former):
                has = ways_in(heir, element)
                for chain in (*former.drained, *ways_in(listener, former.element).values()):
                    if (heir, chain.group) not in has:
                        keep_chain(tables, replace(chain, gateway=element.gateway, listener=heir, draining=True))
        self._gone.clear()
        self._came.clear()

    def _heirs(self, tables: Tables, listener: ElementKey, former: _Former) -> Iterator[tuple[ElementKey, Element]]:
        """Those that came in the same place; else that of the same name, if its gateway came in the place of the former one."""
        rows = tables.listeners.rows
        came = {key: rows[key] for key in self._came if key in rows and key != listener}
        place = _place(former.element)
        in_place = {key: element for key, element in came.items() if _place(element) == place}
        if in_place:
            yield from in_place.items()
        elif former.gateway is not None:
            for key, element in came.items():
                if key.element == listener.element and _succeeds(tables, key.object, listener.object, former.gateway):
                    yield key, element


def _succeeds(tables: Tables, ref: ObjectRef, before: ObjectRef, gateway: GatewayRow) -> bool:
    """Whether a gateway that came is one that went: of its name, or of its namespace and for the same proxies."""
    now = tables.gateways.rows.get(GatewayName(ref.full_name))
    alike = ref.namespace == before.namespace and now is not None and now.labels == gateway.labels
    return alike or ref.full_name == before.full_name


def _place(element: Element) -> tuple[object, ...]:
    listener = element.part
    assert isinstance(listener, Listener)
    return listener.protocol, listener.address, listener.port
