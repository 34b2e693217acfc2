"""Where every proxy stands: a row for each proxy and type, what a proxy has, and how far a version has come.

For `controlplane fleet` and the admin API. It only looks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, TypeGuard

from controlplane.app.ages import Ages
from controlplane.app.fleet import Fleet
from controlplane.app.refusals import Refusals
from controlplane.compile.offline import as_dict
from controlplane.compile.provenance import elements, title
from controlplane.compile.secrets import not_after
from controlplane.names import Family, GatewayName, part_of, part_of_gateway, parts_of
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.state.content import Served
from controlplane.xds import types
from controlplane.xds.holds import Held
from controlplane.xds.nodes import Node
from controlplane.xds.observer import State, StreamStatus, TypeStatus
from controlplane.xds.server import XdsServer

STALE_SECONDS = 5.0
"""Without an ACK: what depends on it goes out all the same then."""
REMEMBERED_VERSIONS = 4096
NAMED_NODES = 20
"""Nodes that lack a version which are named; the others are counted."""
LEAST_PREFIX = 6
"""Characters of a version that stand for it."""


class Word(StrEnum):
    """Where a proxy stands with a type."""

    SYNCED = "synced"
    PENDING = "pending"
    STALE = "stale"
    NACK = "nack"
    HELD = "held"
    IGNORED = "ignored"
    GONE = "gone"


def word(status: TypeStatus, now: float) -> Word:
    """A response without its ACK is pending at first, stale after a while; what waits for none is pending for as long as it waits."""
    match status.state:
        case State.NACK:
            return Word.NACK
        case State.SYNCED:
            return Word.HELD if status.held else Word.SYNCED
    late = status.unacked is not None and now - status.unacked >= STALE_SECONDS
    return Word.STALE if late else Word.PENDING


@dataclass(slots=True)
class Rollcall:
    """Asks the server about its streams."""

    store: Store
    server: XdsServer
    fleet: Fleet
    refusals: Refusals
    ages: Ages
    served: dict[str, Served] = field(default_factory=dict)
    """By gateway: the version that is served, and since when; at first what the process before this one served."""
    _published: OrderedDict[str, tuple[GatewayName, int]] = field(default_factory=OrderedDict)

    def published(self, parts: Iterable[Hashable], sequence: int) -> None:
        """These parts of the snapshot have changed: remember the versions of their gateways."""
        for gateway in gateways_in(parts):
            version = self.store.view(parts_of((gateway,))).version()
            self._published.pop(version, None)
            self._published[version] = (gateway, sequence)
            if len(self._published) > REMEMBERED_VERSIONS:
                self._published.popitem(last=False)
            if (before := self.served.get(gateway)) is None or before.version != version:
                self.served[gateway] = Served(version, datetime.now(UTC))

    def since(self, gateway: GatewayName, version: str) -> datetime | None:
        """Since when this version of a gateway is served, also by processes before this one."""
        served = self.served.get(gateway)
        return served.at if served is not None and served.version == version else None

    def forget(self, gateways: Iterable[GatewayName]) -> None:
        """There are no others than these."""
        for gateway in self.served.keys() - set(gateways):
            del self.served[gateway]

    def rows(self, now: float) -> list[dict[str, Any]]:
        """One row for each proxy and type, by node and in push order; one for each proxy that is gone."""
        holds = {(held.resource.type_url, held.resource.name): held for held in self.refusals.current()}
        found: list[tuple[str, int, dict[str, Any]]] = []
        for streams in self._nodes().values():
            first = streams[0]
            about = _about(first.node, gateways_of(first))
            asked: set[str] = set()
            for stream in streams:
                asked |= {one.type_url for one in stream.types}
                for one in stream.types:
                    held = [holds[key] for name in one.held if (key := (one.type_url, name)) in holds]
                    row = about | self._row_of_type(stream, one, held, now)
                    found.append((first.node.id, types.push_rank(one.type_url), row))
            connected = min(stream.connected for stream in streams)
            for url in self.store.view(first.parts or ()).types() - asked:
                row = about | _row(types.short_name(url), Word.IGNORED, now - connected)
                found.append((first.node.id, types.push_rank(url), row))
        for node, seconds, reason in self.fleet.gone.all():
            found.append((node.id, 0, _about(node, ()) | _row(None, Word.GONE, seconds, reason)))
        return [row for *_, row in sorted(found, key=lambda one: one[:2])]

    def _row_of_type(self, stream: StreamStatus, one: TypeStatus, held: Sequence[Held], now: float) -> dict[str, Any]:
        """What a row says of a type that a proxy asks for; `held` is held back from it."""
        row = _row(types.short_name(one.type_url), word(one, now), now - one.since)
        row |= {"names": one.names, "wildcard": one.wildcard}
        row["detail"] = _refused(one, held) or self._waits(stream, one)
        row["at"] = [
            str(problem.place) for each in held for problem in self.refusals.of(each.resource) if problem.place
        ]
        return row

    def inventory(self, node: str, type_url: str, *, bodies: bool) -> dict[str, Any] | None:
        """What a connected proxy has of a type, since when that is so, and of what it was made; None: there is no such proxy.

        What costs something is made when it is written.
        """
        if (streams := self._nodes().get(node)) is None:
            return None
        parts = list(dict.fromkeys(part for stream in streams for part in stream.parts or ()))
        listed = []
        for one in self.server.inventory(node, type_url):
            resource = one.resource
            since = self.ages.of(parts, type_url, one.name) if one.state != "held" else None
            made = resource or (self.store.view(parts).get(type_url, one.name) if one.state == "held" else None)
            entry: dict[str, Any] = {
                "name": one.name,
                "title": partial(title, made) if made is not None else one.name,
                "version": resource.version if resource is not None else None,
                "state": one.state,
                **self.ages.plain(since),
                "from": partial(_made_of, made) if made is not None else [],
            }
            if type_url == types.SECRET:
                entry["notAfter"] = partial(not_after, resource) if resource is not None else None
            if bodies and resource is not None:
                entry["body"] = partial(as_dict, resource)
            listed.append(entry)
        return {"node": node, "type": types.short_name(type_url), "resources": listed}

    def progress(self, version: str) -> dict[str, Any]:
        """How many of the proxies that a version concerns have acknowledged it; raises LookupError when it is ambiguous.

        A version is one of a gateway, as `/v1/gateways` shows it (its first characters are enough), or the sequence
        number of a publication. One that was not published yet concerns nobody.
        """
        gateway, sequence = self._find(version)
        concerned = acknowledged = 0
        refused, waiting = [], []
        for node, streams in self._nodes().items() if sequence is not None else ():
            if not any(_sees(stream, gateway) for stream in streams):
                continue
            concerned += 1
            if any(one.lacks for stream in streams for one in stream.types):
                refused.append(node)
            elif all(stream.settled >= (sequence or 0) for stream in streams):
                acknowledged += 1
            else:
                waiting.append(node)
        return {
            "version": version,
            "published": sequence is not None,
            "gateway": gateway,
            "sequence": sequence,
            "nodes": concerned,
            "acknowledged": acknowledged,
            "refused": len(refused),
            "refusedBy": sorted(refused)[:NAMED_NODES],
            "waiting": len(waiting),
            "waitingFor": sorted(waiting)[:NAMED_NODES],
        }

    def _waits(self, stream: StreamStatus, status: TypeStatus) -> str | None:
        """What a type waits for, when that is no ACK; None when it is, or when it does not wait."""
        if status.unacked is not None or status.state is State.SYNCED:
            return None
        if stream.parts is None:
            selected = self.fleet.selected(stream.node, stream.peer)
            return "what it sees is not compiled yet" if selected else "no gateway selects it"
        return "waits for something that was refused" if any(other.lacks for other in stream.types) else None

    def _find(self, version: str) -> tuple[GatewayName | None, int | None]:
        short = len(version) < len(next(iter(self._published), ""))
        if short and version.isdecimal() and int(version) <= self.store.sequence:
            return None, int(version)  # further digits may well be how a version begins
        found = {known for known in self._published if known.startswith(version) and len(version) >= LEAST_PREFIX}
        if len(found) > 1:
            raise LookupError(f'several versions begin with "{version}": {", ".join(sorted(found))}')
        return self._published[found.pop()] if found else (None, None)

    def _nodes(self) -> dict[str, list[StreamStatus]]:
        nodes: dict[str, list[StreamStatus]] = {}
        for status in self.server.nodes():
            nodes.setdefault(status.node.id, []).append(status)
        return nodes


def _made_of(resource: Resource) -> list[str]:
    """The elements of documents, and the secrets, that it was made of."""
    return [" ".join(filter(None, made)) for made in elements(resource)]


def _of_one_gateway(part: Hashable) -> TypeGuard[tuple[str, ...]]:
    """Whether it is a part of what proxies of one gateway get."""
    return isinstance(part, tuple) and part in {part_of_gateway(part[-1]), part_of((part[-1],))}


def gateways_in(parts: Iterable[Hashable]) -> list[GatewayName]:
    """The gateways of which these are parts."""
    return sorted({GatewayName(part[-1]) for part in parts if _of_one_gateway(part)})


def gateways_of(status: StreamStatus) -> list[str]:
    """The gateways that a node sees."""
    parts = {part[0]: part for part in status.parts or () if isinstance(part, tuple)}
    family = Family.of(status.node.user_agent)
    return [name for name, part in parts.items() if part == part_of_gateway(name, family)]


def _sees(stream: StreamStatus, gateway: GatewayName | None) -> bool:
    """Whether it is given this gateway, or anything."""
    return stream.parts is not None if gateway is None else gateway in gateways_of(stream)


def _refused(status: TypeStatus, held: Sequence[Held]) -> str | None:
    """What the proxy said when it refused something of a type, or others of what is held back from it."""
    return status.nack.detail if status.nack else next((one.detail for one in held), None)


def _about(node: Node, gateways: Sequence[str]) -> dict[str, Any]:
    """What a row says of its proxy."""
    return {"node": node.id, "cluster": node.cluster, "gateways": list(gateways), "envoy": node.version}


def _row(kind: str | None, state: Word, seconds: float, detail: str | None = None) -> dict[str, Any]:
    """What a row says of a type of which nothing was asked, and for how many seconds it is so."""
    return {
        "type": kind,
        "state": str(state),
        "ageSeconds": round(seconds, 3),
        "names": 0,
        "wildcard": False,
        "detail": detail,
        "at": [],
    }
