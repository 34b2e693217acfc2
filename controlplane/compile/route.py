"""One route of a spec as Envoy routes: references resolved, layers merged, matches and actions as bytes.

A route that cannot be compiled as it is written answers 503 and says why; it never lets a request pass by a weaker rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec
from envoy.config.route.v3 import route_components_pb2
from google.protobuf.struct_pb2 import Struct

from controlplane.compile import codes, preflights
from controlplane.compile.action import (
    asks_again,
    direct_response,
    forward,
    redirect,
    retry_policy,
    rewrite_path,
    timeouts,
    websocket,
)
from controlplane.compile.checks import checked, violations
from controlplane.compile.grants import Claimed, claimed_by
from controlplane.compile.match import first_segment, order, route_match, segment, signature
from controlplane.compile.placement import https_port, placements
from controlplane.compile.references import Problems, Resolved, Surroundings, named_listeners, resolve, route_name
from controlplane.compile.rows import (
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_REQUEST_TIMEOUT,
    Chain,
    CompiledRoute,
    Entry,
    Placement,
    Settings,
)
from controlplane.errors import InvalidInput
from controlplane.filters import chain
from controlplane.filters.cors import compile as cors
from controlplane.filters.header_mutation import compile as header_mutation
from controlplane.filters.header_mutation.spec import HeaderChanges
from controlplane.filters.jwt import compile as jwt
from controlplane.filters.local_ratelimit import compile as local_ratelimit
from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.filters.query_token import compile as query_token
from controlplane.filters.shard_lua import compile as shard_lua
from controlplane.model.written import format_duration
from controlplane.names import ElementKey, GatewayName
from controlplane.spec.listener import Protocol
from controlplane.spec.match import Match
from controlplane.spec.route import Redirect, Retry, Route, Transform

_NO_RETRY, _NO_TRANSFORM, _NO_CHANGES = Retry(), Transform(), HeaderChanges()

_CLASSES = re.compile(r"\[[^]]*\]")
"""The character classes of a regex, near enough for a warning."""

DISABLED_BODY = "this route is not configured correctly\n"
"""What a route with errors answers, with 503."""


def compiled_route(
    around: Surroundings,
    key: ElementKey,
    gateway: GatewayName,
    route: Route,
    claim: str = "",
    failure: Exception | None = None,
) -> CompiledRoute | None:
    """The Envoy routes of one route and where they belong; None when its gateway does not exist.

    `claim` is how old the claims of its document are (`spec.rows.rows`), `failure` what came of compiling it before:
    then its matches are closed, for without them its requests would go on to other routes.
    """
    problems = Problems(around, key)
    settings = around.settings(gateway)
    if settings is None:
        problems.error(codes.UNKNOWN_GATEWAY, "spec.gateway", f'no gateway "{gateway}"', "the route waits for it")
        return None
    chains = around.chains(gateway)
    named = named_listeners(around, problems, gateway, route)
    claimed = _claimed(around, key, gateway, route)
    found = placements(claimed.hosts, chains, named, claimed.limited)
    reachable = {placement.declared for placement in found if not placement.redirect}
    for index, host in enumerate(route.hosts):
        if host in claimed.hosts and host not in reachable:
            problems.warning(
                codes.NO_LISTENER, f"hosts[{index}]", f'no listener accepts "{host}": the route is never used for it',
                "a listener must be HTTP without redirect, or have a certificate for the host",
            )  # fmt: skip
    if failure is not None:
        _say_failed(problems, failure)
    resolved = resolve(around, problems, key, gateway, route) if failure is None else Resolved()
    _check_matches(around, problems, gateway, route)
    _check_headers(around, problems, gateway, route)
    if route.redirect is not None:
        _check_redirect(problems, route, route.redirect, found, chains)
    copies = len(found) * len(route.match) > 1 or any(segment(match.path) is None for match in route.match)
    shared_limits = bool(resolved.limits) and copies
    entries = tuple(
        _entries(problems, key, route, claimed, claim, resolved, settings, chains, shared_limits=shared_limits)
    )
    return CompiledRoute(
        gateway,
        found,
        entries,
        None if problems.fatal else resolved.requirement,
        _shared(resolved.limits) if shared_limits and not problems.fatal else (),
    )


def _claimed(around: Surroundings, key: ElementKey, gateway: GatewayName, route: Route) -> Claimed:
    """What of the route is its own to say; documents in the gateway's namespace need no grant."""
    namespace = key.object.namespace
    if namespace == gateway.partition("/")[0]:
        return Claimed(route.hosts, dict.fromkeys(range(len(route.match)), "/"))
    return claimed_by(around.note, around.grant(gateway, namespace), key, gateway, route)


def _shared(limits: Mapping[str, LocalLimit]) -> tuple[tuple[str, str, LocalLimit], ...]:
    return tuple((slot, name, limits[name]) for slot, name in local_ratelimit.names(limits).items())


def _check_matches(around: Surroundings, problems: Problems, gateway: GatewayName, route: Route) -> None:
    change = route.transform.request.path if route.transform else None
    rewrites = bool(change and change.replace_prefix) or bool(
        route.redirect and route.redirect.path and route.redirect.path.replace_prefix
    )
    for index, match in enumerate(route.match):
        if rewrites and match.path.prefix is None and match.path.exact is None:
            problems.error(
                codes.IMPOSSIBLE, f"match[{index}].path", "replacePrefix needs a prefix or exact path",
                "use replaceRegex or replaceFull",
            )  # fmt: skip
        kind, text = match.path.said
        if kind != "regex" and "/:" in text:
            problems.warning(
                codes.IMPOSSIBLE, f"match[{index}].path.{kind}",
                f'":" stands for itself in "{text}": there is no segment here that may be anything',
                "in a template such a segment is {name} or *",
            )  # fmt: skip
        if kind == "regex" and "/*" in _CLASSES.sub("", text):
            problems.warning(
                codes.IMPOSSIBLE, f"match[{index}].path.regex",
                f'"/*" in "{text}" is any number of slashes, and nothing else', 'anything is ".*", a segment "[^/]+"',
            )  # fmt: skip
        if kind in ("exact", "prefix") and "*" in text:
            problems.warning(
                codes.IMPOSSIBLE, f"match[{index}].path.{kind}", f'"*" stands for itself in "{text}", and for nothing else',
                "a prefix takes all that is below it; a segment that may be anything is for template",
            )  # fmt: skip
        if not match.headers:
            continue
        identity = around.identity_headers(gateway)
        for number, header in enumerate(match.headers):
            if header.name in identity:
                problems.error(
                    codes.IDENTITY_HEADER, f"match[{index}].headers[{number}].name",
                    f'"{header.name}" is set by a JWT provider after the route is chosen; before that, clients could forge it',
                    "match on something that the client may say",
                )  # fmt: skip


def _check_headers(around: Surroundings, problems: Problems, gateway: GatewayName, route: Route) -> None:
    """No route says to a backend who calls: headers are changed after claims are written to them."""
    if route.transform is None:
        return
    changes = route.transform.request.headers
    for kind, said in (("set", changes.set), ("add", changes.add)):
        for name in sorted(around.identity_headers(gateway).intersection(said)) if said else ():
            problems.error(
                codes.IDENTITY_HEADER, f"transform.request.headers.{kind}.{name}",
                f'"{name}" is set by a JWT provider: backends take it for the claim of a verified token',
                "use another header",
            )  # fmt: skip


def _check_redirect(
    problems: Problems, route: Route, said: Redirect, placed: tuple[Placement, ...], chains: tuple[Chain, ...]
) -> None:
    """A redirect does not lead to itself: a client would go round until it gives up."""
    served = {place.group for place in placed if place.serves and not place.redirect}
    to_same_host = said.host is None or said.host in route.hosts
    if not to_same_host or not any(asks_again(said, match) for match in route.match):
        return
    port = redirect(said, route.match[0].path, https_port(chains, route.hosts)).port_redirect
    for way_in in chains:
        scheme = "https" if way_in.protocol is Protocol.HTTPS else "http"
        back = said.scheme in (None, scheme) and way_in.port == (port or (443 if scheme == "https" else 80))
        if back and way_in.group in served:
            where = f'listener "{way_in.listener.element}" to "{said.host or route.hosts[0]}"'
            problems.warning(
                codes.IMPOSSIBLE, "redirect", f"leads from {where} and back to this route, without end",
                "say another host, path or scheme; what has a certificate is redirected to HTTPS without a route",
            )  # fmt: skip
            return


def _entries(
    problems: Problems,
    key: ElementKey,
    route: Route,
    claimed: Claimed,
    claim: str,
    resolved: Resolved,
    settings: Settings,
    chains: tuple[Chain, ...],
    *,
    shared_limits: bool,
) -> Iterator[Entry]:
    port = https_port(chains, route.hosts) if route.redirect is not None else None
    effective = _effective(problems, route, settings, port)
    for number, match in enumerate(route.match):
        if number not in claimed.matches:
            continue
        message = _base(key)
        message.match.CopyFrom(route_match(match))
        if problems.fatal:
            _disabled(message)
            if violations(message):
                continue  # a condition that Envoy does not take
        else:
            _act(message, route, match, resolved.clusters, settings, effective)
            _configure(message.typed_per_filter_config, route, resolved, shared_limits=shared_limits)
            if shared_limits:
                names = Struct()
                names.update(local_ratelimit.names(resolved.limits))
                message.metadata.filter_metadata[local_ratelimit.METADATA].CopyFrom(names)
        takes_upgrades = route.websocket and not problems.fatal
        place = order(match, claim, key, number)
        where = segment(match.path) or first_segment(claimed.matches[number])
        has_policy = "cors" in resolved.policies and not problems.fatal
        entry = Entry(place, where, signature(match), _checked(message, key), takes_upgrades, has_policy)
        yield entry
        if has_policy and (match.methods or match.headers):
            yield from _preflights(entry, message.match, resolved, key)


def _say_failed(problems: Problems, failure: Exception) -> None:
    help = "the route answers 503; please report this with the document. A smaller or plainer value may help meanwhile"
    if isinstance(failure, InvalidInput):
        for one in failure.diagnostics:
            problems.error(one.code, one.path, one.message, help)
    else:
        problems.error(codes.FAILED, "", f"{type(failure).__name__}: {failure}", help)


def _base(key: ElementKey) -> Any:
    message = route_components_pb2.Route(name=route_name(key))
    said = message.metadata.filter_metadata["gatewayspec"].fields
    said["route"].string_value = key.element
    said["spec"].string_value = str(key.object)
    return message


def _checked(message: Any, key: ElementKey) -> bytes:
    return checked(message, key.object.subject, f"spec.routes[{key.element}]")


def _disabled(message: Any) -> None:
    message.direct_response.CopyFrom(direct_response(503, DISABLED_BODY))
    message.typed_per_filter_config[chain.JWT].CopyFrom(jwt.public())


def _preflights(entry: Entry, match: Any, resolved: Resolved, key: ElementKey) -> Iterator[Entry]:
    """The siblings that answer the browser's question for a match that not every OPTIONS request for its path reaches.

    The CORS filter acts on routes to a cluster alone, and answers every preflight itself, before authentication. What
    it takes for no preflight meets the authentication of the route.
    """
    for kind, question in preflights.matches(match):
        message = _base(key)
        message.match.CopyFrom(question)
        message.route.CopyFrom(forward(dict.fromkeys(sorted(resolved.clusters)[:1], 1)))
        message.typed_per_filter_config[cors.NAME].CopyFrom(cors.per_route(resolved.policies["cors"]))
        _authenticate(message.typed_per_filter_config, resolved)
        asked = preflights.signature(entry.signature, kind)
        yield Entry(preflights.place(entry.order), entry.segment, asked, _checked(message, key), cors=True)


class _Effective(msgspec.Struct, frozen=True):
    """What holds for a route once the layers are merged."""

    request: timedelta
    idle: timedelta | None
    attempts: int
    https_port: int | None


def _effective(problems: Problems, route: Route, settings: Settings, https_port: int | None) -> _Effective:
    """Route over defaults, field by field, and never past the guardrails."""
    defaults, guardrails = settings.defaults, settings.guardrails
    request = route.timeouts.request if route.timeouts.request is not None else defaults.timeouts.request
    if request is None:
        request = DEFAULT_REQUEST_TIMEOUT
    idle = route.timeouts.idle if route.timeouts.idle is not None else defaults.timeouts.idle
    attempts = route.retry.attempts if route.retry.attempts is not None else defaults.retry.attempts
    for name, value, ceiling in (
        ("request", request, guardrails.timeouts.request),
        ("idle", DEFAULT_IDLE_TIMEOUT if idle is None else idle, guardrails.timeouts.idle),
    ):
        if ceiling is None or timedelta(0) < value <= ceiling:
            continue
        if getattr(route.timeouts, name) is not None:
            problems.warning(
                codes.GUARDRAIL, f"timeouts.{name}", f"cut to {format_duration(ceiling)} by the guardrails"
            )
        if name == "request":
            request = ceiling
        else:
            idle = ceiling
    _check_retry(problems, route, request, attempts or 0)
    most = guardrails.retry.attempts
    if most is not None and (attempts or 0) > most:
        if route.retry.attempts is not None:
            problems.warning(codes.GUARDRAIL, "retry.attempts", f"cut to {most} by the guardrails")
        attempts = most
    return _Effective(request, idle, attempts or 0, https_port)


def _check_retry(problems: Problems, route: Route, request: timedelta, attempts: int) -> None:
    """What is said of retries has an effect."""
    said = route.retry
    if not attempts and said.attempts is None and said != _NO_RETRY:
        problems.warning(
            codes.IMPOSSIBLE, "retry", "nothing is retried: neither the route nor the defaults say attempts",
            "say retry.attempts: 1",
        )  # fmt: skip
    if attempts and said.per_try_timeout is not None and timedelta(0) < request <= said.per_try_timeout:
        problems.warning(
            codes.IMPOSSIBLE, "retry.perTryTimeout",
            f"a try has no limit of its own: the request has ended by then ({format_duration(request)})",
            "a shorter perTryTimeout, or a longer timeouts.request",
        )  # fmt: skip


def _act(
    message: Any, route: Route, match: Match, clusters: Mapping[str, int], settings: Settings, to: _Effective
) -> None:
    if route.respond is not None:
        message.direct_response.CopyFrom(direct_response(route.respond.status, route.respond.body))
        return
    if route.redirect is not None:
        message.redirect.CopyFrom(redirect(route.redirect, match.path, to.https_port))
        return
    message.route.CopyFrom(forward(clusters))
    timeouts(message.route, to.request, to.idle)
    if policy := retry_policy(route.retry, settings.defaults.retry, to.attempts):
        message.route.retry_policy.CopyFrom(policy)
    if route.websocket:
        websocket(message)
        message.metadata.filter_metadata[shard_lua.NAME].update(shard_lua.websocket_metadata())
    if route.transform is not None:
        if route.transform.request.host is not None:
            message.route.host_rewrite_literal = route.transform.request.host
        if route.transform.request.path is not None:
            rewrite_path(message.route, route.transform.request.path, match.path)


def _authenticate(configs: Any, resolved: Resolved) -> None:
    configs[chain.JWT].CopyFrom(jwt.per_route(resolved.requirement) if resolved.requirement else jwt.public())
    if resolved.token_parameters:
        configs[query_token.NAME].CopyFrom(query_token.per_route(resolved.token_parameters))


def _configure(configs: Any, route: Route, resolved: Resolved, *, shared_limits: bool) -> None:
    """What each filter shall do on this route."""
    _authenticate(configs, resolved)
    kept_back, vary = (cors.OWN, cors.VARY) if "cors" in resolved.policies else ((), None)
    if vary:
        configs[cors.NAME].CopyFrom(cors.per_route(resolved.policies["cors"]))
    if resolved.limits and not shared_limits:
        configs[chain.ROUTE_LIMITS].CopyFrom(local_ratelimit.own(resolved.limits))
    transform = route.transform or _NO_TRANSFORM
    request, response = transform.request.headers, transform.response.headers
    if vary or request != _NO_CHANGES or response != _NO_CHANGES:
        configs[header_mutation.NAME].CopyFrom(header_mutation.per_route(request, response, kept_back, vary))
