"""What a route refers to: backends, policies, providers and listeners by name, and what is wrong with that.

Called by `route`; every question goes to `Surroundings`, whose answers are recorded reads.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from controlplane.compile import codes
from controlplane.compile.grants import Grant
from controlplane.compile.rows import Chain, Issue, ProviderStatus, Settings
from controlplane.errors import nearest
from controlplane.filters.jwt import compile as jwt
from controlplane.filters.jwt.spec import Auth
from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.names import ElementKey, GatewayName
from controlplane.spec.policy import Policy
from controlplane.spec.route import Route


class Surroundings(Protocol):
    """What a route may ask about the rest; every question is a recorded read."""

    def settings(self, gateway: GatewayName) -> Settings | None:
        """The layers of a gateway, or None when there is no such gateway."""

    def grant(self, gateway: GatewayName, namespace: str) -> Grant | None:
        """What a gateway grants to documents of a namespace; None: nothing."""

    def chains(self, gateway: GatewayName) -> tuple[Chain, ...]:
        """Its ways in."""

    def listener(self, gateway: GatewayName, name: str) -> ElementKey | None:
        """A listener of the gateway by name."""

    def backend(self, gateway: GatewayName, name: str) -> ElementKey | None:
        """A backend by name: of the route's own document, else one of the gateway that it may use."""

    def refused(self, backend: ElementKey) -> bool:
        """Whether a backend leads where its document was not granted to."""

    def cluster(self, backend: ElementKey) -> str:
        """The cluster that requests to a backend go to."""

    def policy(self, gateway: GatewayName, name: str) -> Policy | None:
        """A policy by name."""

    def provider(self, gateway: GatewayName, name: str) -> ProviderStatus | None:
        """The state of a JWT provider by name."""

    def token_places(self, gateway: GatewayName, name: str) -> list[str]:
        """Where a JWT provider takes its tokens from, in words."""

    def claim_headers(self, gateway: GatewayName, name: str) -> list[str]:
        """The headers that a JWT provider writes claims to, sorted."""

    def identity_headers(self, gateway: GatewayName) -> frozenset[str]:
        """The headers that providers of the gateway set."""

    def removed_headers(self, gateway: GatewayName, name: str) -> set[str]:
        """The headers whose tokens a JWT provider takes away."""

    def removed_parameters(self, gateway: GatewayName, name: str) -> list[str]:
        """The query parameters whose tokens a JWT provider takes away."""

    def known(self, kind: str, gateway: GatewayName) -> list[str]:
        """The names of a kind (for a message)."""

    def note(self, issue: Issue) -> None:
        """Say what is wrong."""


class Problems(msgspec.Struct):
    """Collects the issues of one route; any error disables it."""

    around: Surroundings
    key: ElementKey
    fatal: bool = False

    def error(self, code: str, path: str, message: str, help: str = "") -> None:
        """Note what disables the route."""
        self.fatal = True
        self.around.note(Issue(self.key, path, code, message, help))

    def warning(self, code: str, path: str, message: str, help: str = "") -> None:
        """Note what the route can live with."""
        self.around.note(Issue(self.key, path, code, message, help, error=False))


class Resolved(msgspec.Struct):
    """A route with everything that it refers to."""

    clusters: dict[str, int] = {}
    policies: dict[str, Any] = {}
    """What its policies say to the filters that take one word of a route: by the field of `Policy`."""
    limits: dict[str, LocalLimit] = {}
    requirement: str | None = None
    token_parameters: list[str] = []
    """Query parameters that tokens are taken out of."""


def route_name(key: ElementKey) -> str:
    """`routespec/checkout/api/pay`: the name of the Envoy routes of a route."""
    ref = key.object
    return f"{ref.kind.lower()}/{ref.namespace}/{ref.name}/{key.element}"


def named_listeners(
    around: Surroundings, problems: Problems, gateway: GatewayName, route: Route
) -> frozenset[ElementKey] | None:
    """The listeners that the route names; None when it names none, and every one counts."""
    if route.listeners is None:
        return None
    found = set()
    for index, name in enumerate(route.listeners):
        if listener := around.listener(gateway, name):
            found.add(listener)
        else:
            problems.error(
                codes.UNKNOWN_LISTENER, f"listeners[{index}]", f'no listener "{name}"',
                nearest(name, around.known("listener", gateway)),
            )  # fmt: skip
    return frozenset(found)


def resolve(around: Surroundings, problems: Problems, key: ElementKey, gateway: GatewayName, route: Route) -> Resolved:
    """Everything else that the route refers to, as far as it exists."""
    resolved = Resolved(_clusters(around, problems, gateway, route))
    providers: list[str] = []
    if route.auth is not None:
        providers = _providers(around, problems, gateway, route.auth)
        resolved.requirement = jwt.requirement_name(gateway, route.auth)
        resolved.token_parameters = [one for name in providers for one in around.removed_parameters(gateway, name)]
    for index, name in enumerate(route.use):
        policy = around.policy(gateway, name)
        if policy is None:
            problems.error(
                codes.UNKNOWN_POLICY, f"use[{index}]", f'no policy "{name}"',
                nearest(name, around.known("policy", gateway)),
            )  # fmt: skip
            continue
        if policy.cors is not None and route.to is None:
            problems.error(codes.IMPOSSIBLE, f"use[{index}]", "cors needs a backend (to)", "drop the policy here")
        for section, said in policy.exclusive():
            if resolved.policies.setdefault(section, said) != said:
                problems.error(
                    codes.IMPOSSIBLE, f"use[{index}]", f"two policies of this route set {section}", "use one"
                )
        for number, limit in enumerate(policy.rate_limit.local if policy.rate_limit else ()):
            resolved.limits[f"{route_name(key)}/{name}/{number}"] = limit
            header = (limit.key or "").removeprefix("header:")
            takes = [one for one in providers if header in around.removed_headers(gateway, one)]
            if takes:
                problems.warning(
                    codes.IMPOSSIBLE, f"use[{index}]",
                    f'JWT provider "{takes[0]}" removes "{header}" before requests are counted by it: all share one bucket',
                    "count by a header of claimsToHeaders, or say forward: true",
                )  # fmt: skip
    return resolved


def _clusters(around: Surroundings, problems: Problems, gateway: GatewayName, route: Route) -> dict[str, int]:
    """The clusters of its backends, with their weights."""
    found: dict[str, int] = {}
    for index, destination in enumerate(route.to or ()):
        backend = around.backend(gateway, destination.backend)
        if backend is None:
            problems.error(
                codes.UNKNOWN_BACKEND, f"to[{index}].backend", f'no backend "{destination.backend}"',
                nearest(destination.backend, around.known("backend", gateway)),
            )  # fmt: skip
        elif around.refused(backend):
            problems.error(
                codes.NOT_GRANTED, f"to[{index}].backend",
                f'backend "{destination.backend}" leads where it was not granted to', "see what is said of its members",
            )  # fmt: skip
        else:
            found[around.cluster(backend)] = destination.weight
    return found


def _providers(around: Surroundings, problems: Problems, gateway: GatewayName, auth: Auth) -> list[str]:
    """The JWT providers that it names, in their order."""
    for index, mechanism in enumerate(auth.mechanisms):
        path = f"auth.{'anyOf' if auth.any_of else 'allOf'}[{index}].jwt"
        status = around.provider(gateway, mechanism.jwt)
        if status is None:
            problems.error(
                codes.UNKNOWN_PROVIDER, path, f'no JWT provider "{mechanism.jwt}"',
                nearest(mechanism.jwt, around.known("provider", gateway)),
            )  # fmt: skip
        elif status.problem:
            problems.error(codes.UNUSABLE_SECRET, path, f'JWT provider "{mechanism.jwt}": {status.problem}')
    if auth.all_of is not None:
        _check_places(around, problems, gateway, sorted({mechanism.jwt for mechanism in auth.all_of}))
    return [mechanism.jwt for mechanism in auth.mechanisms]


def _check_places(around: Surroundings, problems: Problems, gateway: GatewayName, names: list[str]) -> None:
    """Each of several required tokens must come from a place of its own: Envoy shows every token to every provider.

    And its claims go to headers of its own: what one issuer says would replace what another one does.
    """
    taken: dict[str, str] = {}
    for name in names:
        for header in around.claim_headers(gateway, name):
            if (other := taken.setdefault(f"claims {header}", name)) != name:
                problems.error(
                    codes.IMPOSSIBLE, "auth.allOf",
                    f'"{other}" and "{name}" both write a claim to "{header}": it would not be known whose it is',
                    "give one of them another header (identity.jwt[].claimsToHeaders)",
                )  # fmt: skip
        for place in around.token_places(gateway, name):
            if (other := taken.setdefault(place, name)) != name:
                problems.error(
                    codes.IMPOSSIBLE,
                    "auth.allOf",
                    f'"{other}" and "{name}" both take their token from {place}: no request can satisfy both',
                    "give one of them another place (identity.jwt[].from)",
                )
