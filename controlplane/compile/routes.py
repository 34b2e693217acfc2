"""The table of compiled routes: what one route asks of other tables, and what it gives to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.compile.grants import Grant
from controlplane.compile.providers import claim_headers
from controlplane.compile.route import compiled_route
from controlplane.compile.rows import Chain, CompiledRoute, Issue, LimitKey, ProviderStatus, Settings
from controlplane.filters.jwt.spec import JwtProvider
from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.graph.engine import Read, WiringError
from controlplane.names import GATEWAY_KIND, ElementKey, GatewayName, cluster_name
from controlplane.spec.policy import Policy
from controlplane.spec.route import Route
from controlplane.spec.rows import Element

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Named, Tables


class _Surroundings:
    """Answers the questions of a route by recorded reads."""

    def __init__(self, read: Read, tables: Tables, route: ElementKey) -> None:
        self._read = read
        self._tables = tables
        self._route = route

    def settings(self, gateway: GatewayName) -> Settings | None:
        return self._read.get(self._tables.settings, gateway)

    def grant(self, gateway: GatewayName, namespace: str) -> Grant | None:
        return self._read.get(self._tables.grants, (gateway, namespace))

    def chains(self, gateway: GatewayName) -> tuple[Chain, ...]:
        return self._read.get(self._tables.gateway_chains, gateway) or ()

    def _own(self, index: Named, gateway: GatewayName, name: str) -> tuple[ElementKey, Element] | None:
        """The gateway's own element of this name: those of its RouteSpecs do not count."""
        found = self._read.find(index, (gateway, name))
        return next((pair for pair in found if pair[0].object.kind == GATEWAY_KIND), None)

    def listener(self, gateway: GatewayName, name: str) -> ElementKey | None:
        found = self._own(self._tables.listeners_by_name, gateway, name)
        return found[0] if found else None

    def _may_use(self, gateway: GatewayName, backend: str) -> bool:
        """Whether the route's document may use a backend of the gateway."""
        namespace = self._route.object.namespace
        if namespace == gateway.partition("/")[0]:
            return True
        grant = self.grant(gateway, namespace)
        return grant is not None and grant.backend(backend)

    def backend(self, gateway: GatewayName, name: str) -> ElementKey | None:
        own = ElementKey(self._route.object, name)
        if self._read.get(self._tables.backends, own) is not None:
            return own
        if not self._may_use(gateway, name):
            return None
        found = self._own(self._tables.backends_by_name, gateway, name)
        return found[0] if found else None

    def refused(self, backend: ElementKey) -> bool:
        return self._read.get(self._tables.refused_backends, backend) is not None

    def cluster(self, backend: ElementKey) -> str:
        shape = self._read.get(self._tables.shapes, backend)
        return shape.entry if shape else cluster_name(backend)

    def policy(self, gateway: GatewayName, name: str) -> Policy | None:
        found = self._own(self._tables.policies_by_name, gateway, name)
        return found[1].part if found and isinstance(found[1].part, Policy) else None

    def provider(self, gateway: GatewayName, name: str) -> ProviderStatus | None:
        found = self._own(self._tables.providers_by_name, gateway, name)
        return self._read.get(self._tables.provider_states, found[0]) if found else None

    def token_places(self, gateway: GatewayName, name: str) -> list[str]:
        found = self._own(self._tables.providers_by_name, gateway, name)
        return found[1].part.token_places() if found and isinstance(found[1].part, JwtProvider) else []

    def claim_headers(self, gateway: GatewayName, name: str) -> list[str]:
        found = self._own(self._tables.providers_by_name, gateway, name)
        return sorted(claim_headers(*found)) if found else []

    def removed_headers(self, gateway: GatewayName, name: str) -> set[str]:
        found = self._own(self._tables.providers_by_name, gateway, name)
        provider = found[1].part if found else None
        if not isinstance(provider, JwtProvider) or provider.forward:
            return set()
        return set(provider.token_headers()) - {"cookie"}

    def removed_parameters(self, gateway: GatewayName, name: str) -> list[str]:
        found = self._own(self._tables.providers_by_name, gateway, name)
        provider = found[1].part if found else None
        return provider.token_parameters() if isinstance(provider, JwtProvider) and not provider.forward else []

    def known(self, kind: str, gateway: GatewayName) -> list[str]:
        index = {
            "listener": self._tables.listeners_by_gateway,
            "backend": self._tables.shared_backends,
            "policy": self._tables.policies_by_gateway,
            "provider": self._tables.providers_by_gateway,
        }[kind]
        found = self._read.find(index, gateway)
        if kind == "backend":
            found = tuple(pair for pair in found if self._may_use(gateway, pair[0].element))
            found += self._read.find(self._tables.backends_by_object, self._route.object)
        return [key.element for key, _ in found]

    def identity_headers(self, gateway: GatewayName) -> frozenset[str]:
        return self._read.get(self._tables.identity_headers, gateway) or frozenset()

    def note(self, issue: Issue) -> None:
        self._read.note(issue)


def compiled(
    read: Read, tables: Tables, key: ElementKey, element: Element
) -> Iterator[tuple[ElementKey, CompiledRoute]]:
    """One route of a spec, compiled. One that cannot be is closed: no failure leaves its requests to other routes."""
    assert isinstance(element.part, Route)
    said = _Surroundings(read, tables, key), key, element.gateway, element.part, element.claim
    try:
        row = compiled_route(*said)
    except WiringError:
        raise
    except Exception as failure:  # noqa: BLE001  whatever it is, what the route guards stays guarded
        row = compiled_route(*said, failure)
    if row is not None:
        yield key, row


def requirement_of_route(
    _: Read, __: ElementKey, route: CompiledRoute
) -> Iterator[tuple[tuple[GatewayName, str], bool]]:
    """The JWT requirement that a route names; many routes name the same."""
    if route.requirement is not None:
        yield (route.gateway, route.requirement), True


def limits_of_route(_: Read, __: ElementKey, route: CompiledRoute) -> Iterator[tuple[LimitKey, LocalLimit]]:
    """The limits whose buckets live in the filter, because the route stands in several shards."""
    for slot, identity, limit in route.limits:
        yield (route.gateway, slot, identity), limit
