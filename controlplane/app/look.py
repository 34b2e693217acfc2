"""What the admin API shows, gathered from the running parts. It changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from pydantic.alias_generators import to_camel

from controlplane.app.changes import Changes
from controlplane.app.fleet import Fleet
from controlplane.app.intake import Intake
from controlplane.app.problems import plain
from controlplane.app.refusals import Refusals
from controlplane.app.rollcall import Rollcall, gateways_of
from controlplane.app.routes import Routes
from controlplane.app.source_status import SourceStatus
from controlplane.compile.compiler import Compiler
from controlplane.compile.offline import SHORT_NAMES, as_dict
from controlplane.names import FILES, Family, GatewayName, document_of, parts_of
from controlplane.snapshot.store import Store
from controlplane.sources.belief import RESTORED
from controlplane.telemetry.metrics import CONTENT_TYPE, Metrics
from controlplane.xds import types
from controlplane.xds.holds import Held
from controlplane.xds.observer import Refusal, StreamStatus, TypeStatus
from controlplane.xds.server import XdsServer


@dataclass(slots=True)
class Running:
    """Implements `admin.server.Look`."""

    about: Mapping[str, Any]
    intake: Intake
    compiler: Compiler
    store: Store
    fleet: Fleet
    server: XdsServer
    refusals: Refusals
    rollcall: Rollcall
    explained: Routes
    remembered: Changes
    state_status: Callable[[], dict[str, Any]]
    telemetry: Metrics
    clock: Callable[[], float]
    began: float = field(init=False)

    def __post_init__(self) -> None:
        """From now on it runs."""
        self.began = self.clock()

    def process(self) -> dict[str, Any]:
        """Which process this is, since when, and whether it serves."""
        ready, reason = self.ready()
        return {**self.about, "upSeconds": round(self.clock() - self.began, 3), "ready": ready, "reason": reason}

    def ready(self) -> tuple[bool, str]:
        """Ready after the first complete compile; says so when what is served comes from the state."""
        troubles = [(status, status.trouble) for status in self.intake.sources.values()]
        failed = [f"{status.name} ({trouble})" for status, trouble in troubles if trouble]
        if self.fleet.draining:
            return False, "not ready: ending"
        if not self.fleet.ready:
            return False, "not ready: waiting for " + (", ".join(failed) or "the first compile")
        return True, "ready; serving the last known good state of: " + ", ".join(failed) if failed else "ready"

    def metrics(self) -> tuple[bytes, str]:
        """Prometheus' text format."""
        return self.telemetry.render(), CONTENT_TYPE

    def gateways(self) -> list[dict[str, Any]]:
        """Name, selector, version and size of every gateway."""
        problems = self.intake.register.counts()
        return [
            {
                "name": gateway,
                "selector": dict(row.labels),
                "version": (version := self._view(gateway).version()),
                "since": since.isoformat(timespec="seconds")
                if (since := self.rollcall.since(gateway, version))
                else None,
                "resources": {name: len(self._view(gateway).names(url)) for name, url in SHORT_NAMES.items()},
                "nodes": sum(1 for status in self.server.nodes() if gateway in gateways_of(status)),
                "problems": problems[self.compiler.in_force(document_of(gateway)).subject],
            }
            for gateway, row in sorted(self.compiler.tables.gateways.rows.items())
        ]

    def snapshot(
        self, gateway: str, type_url: str | None, bodies: bool, client: str | None = None
    ) -> dict[str, Any] | None:
        """The resources of a gateway by type, sorted by name, with versions; secrets are redacted.

        Bodies are made when they are written.

        `client` is the family of nodes that get them; those of a family that never asked are not compiled.
        """
        name = GatewayName(gateway)
        if name not in self.compiler.tables.gateways.rows:
            return None
        if client is not None and client not in set(Family):
            raise LookupError(f'no kind of client "{client}"; there are {", ".join(Family)}')
        view = self._view(name, Family(client or Family.ENVOY))
        wanted = (
            SHORT_NAMES
            if type_url is None
            else {key: url for key, url in SHORT_NAMES.items() if type_url in {key, url}}
        )
        if not wanted:
            raise LookupError(f'no type "{type_url}"; there are {", ".join(SHORT_NAMES)}')
        resources: dict[str, list[dict[str, Any]]] = {}
        for short, url in wanted.items():
            listed = resources[short] = []
            for resource_name in sorted(view.names(url)):
                resource = view.get(url, resource_name)
                if resource is not None:
                    entry: dict[str, Any] = {"name": resource.name, "version": resource.version}
                    if bodies:
                        entry["body"] = partial(as_dict, resource)
                    listed.append(entry)
        found = {"gateway": gateway, "version": view.version(), "sequence": view.sequence, "resources": resources}
        return found | ({"client": client} if client else {})

    def nodes(self) -> list[dict[str, Any]]:
        """Who is connected, what it sees, and where it stands by type; an id on several connections is `shared`."""
        statuses = self.server.nodes()
        connections = Counter(node for node, _ in {(status.node.id, status.peer.address) for status in statuses})
        return [{**self._node(status), "shared": connections[status.node.id] > 1} for status in statuses]

    def held(self) -> list[dict[str, Any]]:
        """What is held back because proxies refused it, from whom, and which spec it comes from."""
        return [self._held(one) for one in self.refusals.current()]

    def roll(self) -> dict[str, Any]:
        """One row for each proxy and type."""
        return {"sequence": self.store.sequence, "rows": self.rollcall.rows(self.clock())}

    def inventory(self, node: str, kind: str, bodies: bool) -> dict[str, Any] | None:
        """What a proxy has of a type."""
        url = types.BY_SHORT_NAME.get(kind, kind)
        if not types.is_known(url):
            raise LookupError(f'no type "{kind}"; there are {", ".join(types.BY_SHORT_NAME)}')
        return self.rollcall.inventory(node, url, bodies=bodies)

    def progress(self, version: str) -> dict[str, Any]:
        """How far a version has come."""
        return self.rollcall.progress(version)

    async def routes(self, route: str, spec: str) -> dict[str, Any]:
        """Where routes come from, since when they are as they are, and which proxies have them."""
        return await self.explained.explained(route, spec)

    def changes(self, of: str, last: int) -> dict[str, Any]:
        """The last changes: what was edited, and what that changed."""
        return self.remembered.explained(of, last)

    def sources(self) -> list[dict[str, Any]]:
        """Whether each source works, how old its word is, what it delivers and what of that is held."""
        return [self._source(status) for status in self.intake.sources.values()]

    def _source(self, status: SourceStatus) -> dict[str, Any]:
        now = self.clock()
        declared = FILES if status.name == "secrets" else status.name  # the folder is of those that files name
        objects = [spec.file for ref, spec in self.intake.objects.items() if ref.source == status.name]
        found: dict[str, Any] = {
            "name": status.name,
            "synced": status.synced,
            "failure": status.failure,
            "ageSeconds": round(now - status.spoke, 3),
            "lostSeconds": None if status.works() or status.lost is None else round(now - status.lost, 3),
            "objects": len(objects),
            "restoredObjects": objects.count(RESTORED),
            "heldObjects": self.intake.held(status.name),
            "secrets": sum(ref.source == declared for ref in self.intake.secrets),
        }
        if status.name in self.intake.services.sources:
            delivered = self.intake.services.delivered(status.name)
            found |= {
                "services": delivered.services,
                "endpoints": delivered.endpoints,
                "heldEndpoints": delivered.held,
                "endpointsLostSeconds": None
                if status.endpoints_lost is None
                else round(now - status.endpoints_lost, 3),
                "lostNamespaces": {one: round(now - since, 3) for one, since in status.namespaces_lost.items()},
                "caughtUp": self.intake.services.caught_up(status.name),
            }
        return found

    async def problems(self) -> list[dict[str, Any]]:
        """Every diagnostic with its place, and for how long it is so."""
        said, now = await self.intake.register.all(), self.clock()
        return [plain(one) | {"sinceSeconds": round(now - since, 3)} for one, since in said.items()]

    def state(self) -> dict[str, Any]:
        """The state on disk."""
        return self.state_status()

    def _view(self, gateway: GatewayName, family: Family = Family.ENVOY) -> Any:
        return self.store.view(parts_of((gateway,), family))

    def _node(self, status: StreamStatus) -> dict[str, Any]:
        proven = self.fleet.proven(status.peer)
        return {
            "id": status.node.id,
            "cluster": status.node.cluster,
            "labels": dict(status.node.labels),
            "locality": {to_camel(key): value for key, value in asdict(status.node.locality).items()},
            "envoy": status.node.version,
            "client": Family.of(status.node.user_agent),
            "variant": str(status.variant),
            "address": status.peer.address,
            "authenticated": status.peer.authenticated,
            "certificate": {"serial": proven.serial, "notAfter": proven.not_after.isoformat()} if proven else None,
            "gateways": gateways_of(status),
            "connectedSeconds": round(self.clock() - status.connected, 3),
            "settled": status.settled,
            "sequence": self.store.sequence,
            "types": [self._type(one) for one in status.types],
        }

    def _held(self, one: Held) -> dict[str, Any]:
        return {
            "type": types.short_name(one.resource.type_url),
            "name": one.resource.name,
            "version": one.resource.version,
            "everywhere": one.everywhere,
            "clients": [{"name": name, "version": version} for name, version in one.families],
            "refusedBy": list(one.nodes),
            "detail": one.detail,
            "problems": [plain(problem) for problem in self.refusals.of(one.resource)],
        }

    def _type(self, one: TypeStatus) -> dict[str, Any]:
        return {
            "type": types.short_name(one.type_url),
            "state": str(one.state),
            "sinceSeconds": round(self.clock() - one.since, 3),
            "wildcard": one.wildcard,
            "names": one.names,
            "sentVersion": one.sent_version,
            "ackedVersion": one.acked_version,
            "nack": self._nack(one.nack) if one.nack else None,
            "held": [{"name": name, "shown": shown} for name, shown in sorted(one.held.items())],
        }

    def _nack(self, refusal: Refusal) -> dict[str, Any]:
        return {
            "nonce": refusal.nonce,
            "version": refusal.version,
            "names": list(refusal.names),
            "detail": refusal.detail,
            "sinceSeconds": round(self.clock() - refusal.at, 3),
        }
