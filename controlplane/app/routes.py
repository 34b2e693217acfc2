"""Of each route: which spec and line it comes from, since when proxies are offered it as it is, and which of them have it.

For `controlplane fleet routes` and the admin API. It only looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from heapq import nlargest, nsmallest
from typing import Any, cast

from controlplane.app.ages import Ages, Since
from controlplane.app.problems import Problems, plain
from controlplane.app.rollcall import NAMED_NODES, gateways_of
from controlplane.compile.compiler import Compiler
from controlplane.compile.provenance import Made, elements, title
from controlplane.compile.references import route_name
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.errors import Diagnostic, Place
from controlplane.names import ElementKey, GatewayName, document_of, parts_of
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.spec.parse import locate_all
from controlplane.spec.route import Route
from controlplane.spec.rows import Element
from controlplane.xds.observer import StreamStatus
from controlplane.xds.server import XdsServer

MOST = 20
"""Routes that one answer explains, and shards of each, the newest first; the others are counted."""
PORTION = 100
"""Routes or shards that are looked through before others have a turn: milliseconds, if all shards must be read."""
_OF_ALL = ("GW00", "GW01")
"""How codes begin of what keeps a whole document from taking effect."""


@dataclass(slots=True)
class Routes:
    """Asks the compiler for rows, the store for shards and the server for proxies."""

    compiler: Compiler
    store: Store
    server: XdsServer
    register: Problems
    ages: Ages

    async def explained(self, route: str, spec: str) -> dict[str, Any]:
        """The routes whose name and document are like these; `*` stands for anything.

        A document is called `namespace/name`, with its kind before it or without. Others have their turns in between.
        """
        rows = self.compiler.tables.routes.rows
        found: list[ElementKey] = []
        for number, key in enumerate(list(rows)):
            if number % PORTION == PORTION - 1:
                await asyncio.sleep(0)
            if fnmatchcase(key.element, route) and _is_of(key, spec):
                found.append(key)
        shown = [(key, rows[key]) for key in nsmallest(MOST, found) if key in rows]
        shards = await self._shards({key: row.gateway for key, row in shown})
        problems = await self.register.all()
        places = await self._places(key for key, _ in shown)
        streams = self.server.nodes()
        explained = []
        for key, row in shown:
            await asyncio.sleep(0)
            about = _About(key, self._leads_to(key, row), places.get(key))
            explained.append(
                {
                    "route": key.element,
                    "spec": _made(key).subject,
                    "source": key.object.source,
                    "gateway": row.gateway,
                    "hosts": list(cast(Route, row.part).hosts),
                    **_place(places.get(key)),
                    **self._newest(row.gateway, shards[key]),
                    "proxies": self._proxies(row.gateway, shards[key], streams),
                    "problems": [plain(one) for one in problems if about.concerns(one)],
                }
            )
        return {"routes": explained, "more": len(found) - len(shown)}

    def _leads_to(self, key: ElementKey, row: Element) -> Iterator[tuple[str, str]]:
        """Subjects and paths of what the route names: backends, policies and providers, of its gateway unless they are its own."""
        route = cast(Route, row.part)
        gateway = self.compiler.in_force(document_of(row.gateway)).subject
        for to in route.to or ():
            own = ElementKey(key.object, to.backend) in self.compiler.tables.backends.rows
            yield (key.object.subject if own else gateway), f"spec.backends[{to.backend}]"
        yield from ((gateway, f"spec.policies[{name}]") for name in route.use)
        for mechanism in route.auth.mechanisms if route.auth is not None else ():
            yield gateway, f"spec.identity.jwt[{mechanism.jwt}]"

    async def _shards(self, gateways: Mapping[ElementKey, GatewayName]) -> dict[ElementKey, list[Resource]]:
        """The shards that each of these routes stands in, by the name that it has in Envoy."""
        found: dict[ElementKey, list[Resource]] = {key: [] for key in gateways}
        for gateway in sorted(set(gateways.values())):
            view = self.store.view(parts_of((gateway,)))
            wanted = [(key, route_name(key).encode()) for key, of in gateways.items() if of == gateway]
            for number, name in enumerate(sorted(view.names(SCOPED_ROUTE))):
                if number % PORTION == PORTION - 1:
                    await asyncio.sleep(0)
                if (shard := view.get(SCOPED_ROUTE, name)) is None:
                    continue
                # Names of routes are looked for as bytes first: to read 20,000 shards takes seconds.
                if likely := [key for key, text in wanted if text in shard.encoded]:
                    made = set(elements(shard))
                    for key in likely:
                        if _made(key) in made:
                            found[key].append(shard)
        return found

    async def _places(self, keys: Iterable[ElementKey]) -> dict[ElementKey, Place]:
        """Where each route stands in the text of its document that is in force."""
        by_subject: dict[str, list[ElementKey]] = {}
        for key in keys:
            by_subject.setdefault(key.object.subject, []).append(key)
        found: dict[ElementKey, Place] = {}
        for subject, of_object in by_subject.items():
            if (spec := self.register.object(subject)) is not None:
                paths = {key: _made(key).path for key in of_object}
                places = await asyncio.to_thread(locate_all, spec.text, spec.file, spec.line, set(paths.values()))
                found |= {key: places[path] for key, path in paths.items()}
        return found

    def _since(self, gateway: GatewayName, shards: Iterable[Resource]) -> list[tuple[Since, Resource]]:
        parts = parts_of((gateway,))
        found = ((self.ages.of(parts, SCOPED_ROUTE, shard.name), shard) for shard in shards)
        return [(since, shard) for since, shard in found if since is not None]

    def _newest(self, gateway: GatewayName, shards: Sequence[Resource]) -> dict[str, Any]:
        known = self._since(gateway, shards)
        listed = nlargest(MOST, known, key=lambda one: one[0].sequence)
        return {
            "shards": [
                {
                    "name": shard.name,
                    "title": title(shard),
                    "version": shard.version,
                    **self.ages.plain(since),
                }
                for since, shard in listed
            ],
            "moreShards": len(shards) - len(listed),
        }

    def _proxies(
        self, gateway: GatewayName, shards: Sequence[Resource], streams: Iterable[StreamStatus]
    ) -> dict[str, dict[str, Any]]:
        """By state, how many proxies that see the gateway are in it, and the first of them."""
        names = frozenset(shard.name for shard in shards)
        newest = max((since.sequence for since, _ in self._since(gateway, shards)), default=0)
        offered: dict[Hashable, bool] = {}  # proxies see few sets of gateways
        by_node: dict[str, str] = {}
        for stream in streams:
            if gateway not in gateways_of(stream):
                continue
            if (parts := stream.parts or ()) not in offered:
                view = self.store.view(parts)
                offered[parts] = any(view.get(SCOPED_ROUTE, name) for name in names)
            state = self._state(stream, names, newest) if offered[parts] else "absent"
            by_node[stream.node.id] = max(state, by_node.get(stream.node.id, state), key=_STATES.index)
        states = {state: sorted(node for node, its in by_node.items() if its == state) for state in _STATES}
        return {state: {"count": len(of), "nodes": of[:NAMED_NODES]} for state, of in states.items()}

    def _state(self, stream: StreamStatus, names: frozenset[str], newest: int) -> str:
        """What a proxy that is offered these shards has of them; the last of them was published with this number."""
        scopes = next((one for one in stream.types if one.type_url == SCOPED_ROUTE), None)
        if scopes is None:
            return "absent"
        if not names.isdisjoint(scopes.held):
            return "held"
        return "pending" if self.server.awaits(stream.stream, SCOPED_ROUTE, names, newest) else "synced"


_STATES = ("synced", "pending", "held", "absent")
"""What a proxy may have of a route: from good to bad."""


def _is_of(key: ElementKey, spec: str) -> bool:
    name = f"{key.object.namespace}/{key.object.name}"
    return fnmatchcase(name, spec) or fnmatchcase(f"{key.object.kind} {name}", spec)


def _made(key: ElementKey) -> Made:
    """The route as provenance names it."""
    return Made(f"{key.object.kind} {key.object.namespace}/{key.object.name}", f"spec.routes[{key.element}]")


@dataclass(slots=True)
class _About:
    """What a route is, names, and where it stands: a problem of any of that, or of all of its document, explains it."""

    key: ElementKey
    leads_to: Iterable[tuple[str, str]]
    place: Place | None
    _paths: dict[str, list[str]] = field(init=False)
    """By subject."""

    def __post_init__(self) -> None:
        """Sort what it names."""
        self._paths = {self.key.object.subject: [_made(self.key).path]}
        for subject, path in self.leads_to:
            self._paths.setdefault(subject, []).append(path)

    def concerns(self, problem: Diagnostic) -> bool:
        """Whether it explains the route; of a whole document that is wrong the last good version is in force."""
        of_all = problem.code.startswith(_OF_ALL)
        if not problem.subject:
            here = self.place is not None and problem.place is not None and problem.place.file == self.place.file
            return of_all and here
        if of_all:
            return problem.subject == self.key.object.subject
        paths = self._paths.get(problem.subject, ())
        return any(problem.path == path or problem.path.startswith(f"{path}.") for path in paths)


def _place(place: Place | None) -> dict[str, Any]:
    return {
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
    }
