"""GatewaySpec and RouteSpec: the two documents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from controlplane.filters.jwt.spec import JwtProvider
from controlplane.model.written import Count, FieldError, Name, Percent, PositiveDuration, Written
from controlplane.spec.backend import Backend
from controlplane.spec.delegation import Delegate
from controlplane.spec.listener import Listener
from controlplane.spec.policy import Policy
from controlplane.spec.route import Retry, Route, Timeouts

API_VERSION = "gatewayspec.dev/v1alpha1"

LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")]


class Selector(Written):
    """Labels that a node must carry, all of them."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=64)]


class Fleet(Written):
    """Which proxies serve a gateway."""

    selector: Selector


class TlsFloor(Written):
    """The lowest TLS version that listeners accept."""

    min_version: Literal["1.2", "1.3"] = "1.2"


class TimeoutCeiling(Written):
    """The longest timeouts a route may have; a longer one, or none, is cut to this."""

    request: PositiveDuration | None = None
    idle: PositiveDuration | None = None


class RetryCeiling(Written):
    """The most attempts a route may have."""

    attempts: Annotated[Count, Field(le=10)] | None = None


class Guardrails(Written):
    """The floor of the organisation: a route may be stricter, never looser."""

    tls: TlsFloor = TlsFloor()
    auth_required_unless: Literal["public"] = "public"
    timeouts: TimeoutCeiling = TimeoutCeiling()
    retry: RetryCeiling = RetryCeiling()


class RetryDefaults(Retry):
    """Retries of routes that say nothing, and the budget of every backend of the gateway."""

    budget: Percent | None = None


class Defaults(Written):
    """Soft values: a route replaces them field by field."""

    timeouts: Timeouts = Timeouts()
    retry: RetryDefaults = RetryDefaults()


def _distinct(elements: tuple[object, ...]) -> tuple[object, ...]:
    seen: set[str] = set()
    for number, element in enumerate(elements):
        name: str = element.name  # type: ignore[attr-defined]
        if name in seen:
            raise FieldError((number, "name"), f'the name "{name}" stands twice; names are identity')
        seen.add(name)
    return elements


MAX_COPIED = 64 * 1024 * 1024
"""Bytes that the routes of a document come to when each is written out for each of its hosts and matches, as every proxy gets
them: 20,000 routes are a tenth of it. 70 kB of text can come to gigabytes, which neither a control plane nor a proxy has."""
_COPY, _POLICY = 256, 1024
"""About what a copy takes beside its texts, and a policy that it uses."""
_FEW = 16
"""Copies of a route that are not weighed: to do so takes longer than to read it, and a text has its own bound."""


def _copied(route: Route) -> int:
    """About how many bytes a route comes to."""
    hosts, matches = len(route.hosts), len(route.match)
    if hosts * matches <= _FEW:
        return hosts * matches * _COPY
    shared = (
        _COPY + _POLICY * len(route.use) + len(route.model_dump_json(exclude={"hosts", "match"}, exclude_none=True))
    )
    return hosts * sum(shared + len(match.model_dump_json(exclude_none=True)) for match in route.match)


def _routes(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    _distinct(routes)
    size = 0
    for number, route in enumerate(routes):
        size += _copied(route)
        if size > MAX_COPIED:
            raise FieldError(
                (number,),
                f"the routes of a document come to at most {MAX_COPIED >> 20} MiB when each is written out for each of its hosts "
                "and matches: a wildcard host, or a shorter prefix, stands for many",
            )
    return routes


class Identity(Written):
    """Who issues the identities of callers."""

    jwt: Annotated[tuple[JwtProvider, ...], Field(max_length=256), AfterValidator(_distinct)] = ()


class GatewayBody(Written):
    """The `spec` of a GatewaySpec."""

    fleet: Fleet
    guardrails: Guardrails = Guardrails()
    defaults: Defaults = Defaults()
    delegates: Annotated[tuple[Delegate, ...], Field(max_length=1024), AfterValidator(_distinct)] = ()
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1, max_length=64), AfterValidator(_distinct)]
    identity: Identity = Identity()
    policies: Annotated[tuple[Policy, ...], AfterValidator(_distinct)] = ()
    backends: Annotated[tuple[Backend, ...], AfterValidator(_distinct)] = ()
    routes: Annotated[tuple[Route, ...], AfterValidator(_routes)] = ()


def _gateway_name(text: str) -> str:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise ValueError('a gateway is named "namespace/name"')
    return text


class RouteBody(Written):
    """The `spec` of a RouteSpec."""

    gateway: Annotated[str, AfterValidator(_gateway_name)]
    backends: Annotated[tuple[Backend, ...], AfterValidator(_distinct)] = ()
    routes: Annotated[tuple[Route, ...], Field(min_length=1), AfterValidator(_routes)]


class Metadata(Written):
    """The identity of a document."""

    name: Name
    namespace: Name = "default"
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class GatewaySpec(Written):
    """A platform team's gateway: listeners, TLS, identity providers, policies, backends, routes."""

    model_config = ConfigDict(title="GatewaySpec")

    api_version: Literal["gatewayspec.dev/v1alpha1"]
    kind: Literal["GatewaySpec"]
    metadata: Metadata
    spec: GatewayBody


class RouteSpec(Written):
    """An app team's routes and backends, attached to a gateway."""

    model_config = ConfigDict(title="RouteSpec")

    api_version: Literal["gatewayspec.dev/v1alpha1"]
    kind: Literal["RouteSpec"]
    metadata: Metadata
    spec: RouteBody


Document = GatewaySpec | RouteSpec
KINDS: dict[str, type[Document]] = {"GatewaySpec": GatewaySpec, "RouteSpec": RouteSpec}
