"""A route of Envoy as a gRPC client or server without a proxy understands it, or as one that fails.

Whatever gRPC would not do (authentication, limits, rewrites, and every field that is not known here) makes the route
*withheld*: it still takes its requests, and they fail, because left out they would reach a broader route of the host.
Conditions that gRPC cannot look at are dropped from a withheld route alone, so that it takes more rather than less.

What gRPC supports: https://github.com/grpc/proposal/blob/master/A28-xds-traffic-splitting-and-routing.md (matches and
weights), A31 (timeouts), A44 (retries), A36 (servers). It ignores routes that no `/service/method` can match, and
those with conditions on queries; it refuses a whole route configuration with a kind of path that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import product
from typing import Any, NamedTuple

import msgspec
from envoy.config.route.v3 import route_components_pb2
from google.protobuf.struct_pb2 import Struct

from controlplane.compile.route import DISABLED_BODY
from controlplane.filters import chain
from controlplane.filters.cors import compile as cors
from controlplane.filters.envoy import duration, serialised
from controlplane.filters.header_mutation import compile as header_mutation
from controlplane.filters.header_mutation.spec import HeaderChanges
from controlplane.filters.jwt import compile as jwt
from controlplane.filters.local_ratelimit import compile as local_ratelimit
from controlplane.filters.query_token import compile as query_token
from controlplane.model import regex
from controlplane.resources import delimited

ROUTES = route_components_pb2.VirtualHost.DESCRIPTOR.fields_by_name["routes"].number

STATUSES = frozenset({"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"})
"""What gRPC retries on (A44). Requests that no server has seen it sends again by itself."""

EARLY = timedelta(seconds=2)
"""Added to every timeout: the C core of gRPC ends calls 1 to 2 s early, constant in a process, so that one of 1 s would
end all of them at once. https://github.com/grpc/grpc/issues/34547"""

MAX_INVERTED = 3
"""Inverted conditions of one match: each doubles its routes, since gRPC lets none hold for an absent header."""

_UNSEEN = re.compile(
    r":.*|.*-bin|host|user-agent|te|connection|content-length|via|grpc-.*|x-envoy-.*|x-forwarded-.*|x-request-id"
)
"""Headers that are set after a gRPC client has chosen a route, or by Envoy, or that it does not look at (A28)."""

_UNSEEN_BY_SERVERS = re.compile(r".*-bin|connection|host|te|content-.*|grpc-.*")
"""Headers that a gRPC server does not look at, or not as they were sent, when it chooses a route (A28)."""

_MATCH_FIELDS = frozenset({
    "prefix", "path", "path_separated_prefix", "safe_regex", "case_sensitive", "headers", "query_parameters", "grpc",
})  # fmt: skip
_ROUTE_FIELDS = frozenset({"name", "match", "metadata", "typed_per_filter_config"})
_ACTION_FIELDS = frozenset({
    "cluster", "weighted_clusters", "timeout", "idle_timeout", "retry_policy", "upgrade_configs",
})  # fmt: skip
"""What a gRPC client does, or what means nothing to it: it keeps no idle streams of others, and upgrades none."""
_REWRITES = frozenset({"host_rewrite_literal", "prefix_rewrite", "regex_rewrite"})


class Reason(NamedTuple):
    """Why a route is withheld: the field of the spec, in words, and whether a server is concerned too."""

    path: str
    why: str
    servers: bool = True


class Converted(msgspec.Struct, frozen=True):
    """A route for both ends, as delimited fields of a virtual host; empty when no gRPC request can match it."""

    client: bytes
    server: bytes
    reasons: tuple[Reason, ...]


NOTHING = Converted(b"", b"", ())


def converted(body: bytes, problem_of: Callable[[str], Reason | None], listener: Reason | None) -> Converted:
    """The gRPC form of one Envoy route.

    `problem_of` says why a cluster cannot be used without a proxy; `listener` what the listeners of the route do that
    gRPC would not.
    """
    route = route_components_pb2.Route.FromString(body)
    matches, unseen = _matches(route.match)
    if not matches:
        return NOTHING
    reasons = [*([listener] if listener else ()), *unseen, *_obstacles(route)]
    clusters = _clusters(route.route) if route.HasField("route") else {}
    reasons += [reason for name in sorted(clusters) if (reason := problem_of(name))]
    found = tuple(dict.fromkeys(reasons))
    for_client, for_server = route_components_pb2.Route(name=route.name), route_components_pb2.Route(name=route.name)
    if found:
        _fail_client(for_client, found)
    else:
        for_client.route.CopyFrom(_action(route.route))
    if at_server := tuple(reason for reason in found if reason.servers):
        _fail_server(for_server, at_server)
    else:
        for_server.non_forwarding_action.SetInParent()
    said = found if not _disabled(route) else ()
    return Converted(_with(for_client, matches), _with(for_server, matches), said)


def _with(route: Any, matches: list[Any]) -> bytes:
    fields = []
    for match in matches:
        route.match.CopyFrom(match)
        fields.append(delimited(ROUTES, serialised(route)))
    return b"".join(fields)


def _fail_client(route: Any, reasons: tuple[Reason, ...]) -> None:
    """A client fails what it has no cluster for with UNAVAILABLE. (A36)"""
    route.non_forwarding_action.SetInParent()
    _explain(route, reasons)


def _fail_server(route: Any, reasons: tuple[Reason, ...]) -> None:
    """A server fails what it is to forward with UNAVAILABLE, and never asks for the cluster. (A36)"""
    route.route.cluster = "withheld"
    _explain(route, reasons)


def refusing(headers: Iterable[str]) -> bytes:
    """Routes for a server, before all others of a host, that fail calls with one of these headers.

    Only the gateway may say who calls. Envoy removes such headers of a client from every request; gRPC removes none.
    """
    fields = []
    for name in sorted(headers):
        route = route_components_pb2.Route(name=f"identity header {name}")
        route.match.prefix = "/"
        if not _UNSEEN_BY_SERVERS.fullmatch(name):
            route.match.headers.add(name=name, present_match=True)
        _fail_server(route, (Reason("auth", f'gRPC servers do not remove the identity header "{name}"'),))
        fields.append(delimited(ROUTES, serialised(route)))
    return b"".join(fields)


def _explain(route: Any, reasons: tuple[Reason, ...]) -> None:
    """For people who look at the snapshot; gRPC reads no metadata of routes."""
    told = Struct()
    told.update({"withheld": [reason.why for reason in reasons]})
    route.metadata.filter_metadata["gatewayspec"].CopyFrom(told)


# -- what it takes ---------------------------------------------------------------------------------------------------


def _matches(match: Any) -> tuple[list[Any], list[Reason]]:
    """The matches that together take the requests of this one; none when no gRPC request is taken."""
    reasons = [
        Reason("match", f"gRPC knows no condition on {field.name}")
        for field, _ in match.ListFields()
        if field.name not in _MATCH_FIELDS
    ]
    if any(not query.HasField("present_match") or query.present_match for query in match.query_parameters):
        return [], []  # a gRPC request has no query
    found = _path(match)
    if found is None:
        found = route_components_pb2.RouteMatch(prefix="/")
        reasons.append(Reason("match", "gRPC knows no such condition on the path"))
    if match.HasField("case_sensitive"):
        found.case_sensitive.CopyFrom(match.case_sensitive)
    conditions = []
    for header in match.headers:
        if header.name == ":method":
            if not _takes_post(header):
                return [], []
        elif _UNSEEN.fullmatch(header.name):
            reasons.append(
                Reason("match", f'gRPC clients do not see the header "{header.name}" when they choose a route')
            )
        elif (choices := _alternatives(header)) is None:
            reasons.append(Reason("match", f'whether an absent "{header.name}" matches is not known without a proxy'))
        else:
            conditions.append(choices)
    if sum(len(choices) > 1 for choices in conditions) > MAX_INVERTED:
        reasons.append(Reason("match", f"more than {MAX_INVERTED} inverted conditions on headers"))
        conditions = [choices for choices in conditions if len(choices) == 1]
    matches = []
    for chosen in product(*conditions):
        one = route_components_pb2.RouteMatch()
        one.CopyFrom(found)
        one.headers.extend(chosen)
        matches.append(one)
    return matches, reasons


def _path(match: Any) -> Any | None:
    """The same paths in a form that gRPC takes for what it is, whatever the number of segments."""
    kind = match.WhichOneof("path_specifier")
    found = route_components_pb2.RouteMatch()
    if kind == "prefix" and re.fullmatch(r"/|/[^/]+/", match.prefix):
        found.prefix = match.prefix
    elif kind == "prefix":
        found.safe_regex.regex = f"{re.escape(match.prefix)}.*"
    elif kind == "path" and re.fullmatch(r"/[^/]+/[^/]+", match.path):
        found.path = match.path
    elif kind == "path":
        found.safe_regex.regex = re.escape(match.path)
    elif kind == "path_separated_prefix":
        found.safe_regex.regex = f"{re.escape(match.path_separated_prefix)}(?:/.*)?"
    elif kind == "safe_regex":
        found.safe_regex.regex = match.safe_regex.regex
    else:
        return None
    return found


def _takes_post(method: Any) -> bool:
    """There is one method, and no client says it where routes are chosen."""
    text = method.string_match
    pattern = text.safe_regex.regex if text.HasField("safe_regex") else text.exact
    return bool(re.fullmatch(pattern, "POST") is not None) is not bool(method.invert_match)


def _alternatives(header: Any) -> list[Any] | None:
    """One condition, or two of which one must hold: "not red" holds for a request without the header as well."""
    plain = route_components_pb2.HeaderMatcher()
    plain.CopyFrom(header)
    plain.ClearField("treat_missing_header_as_empty")
    if not header.treat_missing_header_as_empty:
        return [plain]
    text = header.string_match
    empty = _matches_nothing(text.safe_regex.regex) if text.HasField("safe_regex") else text.exact == ""
    if text.WhichOneof("match_pattern") not in {"safe_regex", "exact"}:
        empty = False
    if empty is None:
        return None
    if empty == header.invert_match:
        return [plain]
    return [plain, route_components_pb2.HeaderMatcher(name=header.name, present_match=True, invert_match=True)]


def _matches_nothing(pattern: str) -> bool | None:
    """Whether RE2 matches "" with it, None when that is not certain. Python's `re` would not do: it reads other patterns."""
    try:
        empty = regex.read(pattern)[0].empty
    except ValueError:
        return None
    # What our reader says of "" is exact but for word boundaries, of which "" has none.
    return None if empty and r"\b" in pattern else empty


# -- what it does ----------------------------------------------------------------------------------------------------


def _disabled(route: Any) -> bool:
    """A route with an error of its own: that has been said."""
    return bool(route.direct_response.body.inline_string == DISABLED_BODY)


def _obstacles(route: Any) -> Iterator[Reason]:
    """Everything about the route that gRPC would not do."""
    action = route.WhichOneof("action")
    for field, value in route.ListFields():
        if field.name == "request_headers_to_add" and all(one.header.key == "connection" for one in value):
            continue  # of an upgrade
        if field.name not in _ROUTE_FIELDS and field.name != action:
            yield Reason("", f"gRPC does not do {field.name}")
    if action == "direct_response":
        yield Reason("respond", "it is not configured correctly" if _disabled(route) else "it answers by itself")
    elif action == "redirect":
        yield Reason("redirect", "gRPC follows no redirect")
    elif action == "route":
        for field, _ in route.route.ListFields():
            if field.name in _REWRITES:
                yield Reason("transform.request", "gRPC rewrites no request")
            elif field.name not in _ACTION_FIELDS:
                yield Reason("to", f"gRPC does not do {field.name}")
    else:
        yield Reason("", f"gRPC does not do {action}")
    yield from _filters(route.typed_per_filter_config)
    if local_ratelimit.METADATA in route.metadata.filter_metadata:
        yield _LIMITS


_PUBLIC = jwt.public()
_CORS = header_mutation.per_route(HeaderChanges(), HeaderChanges(), cors.OWN, cors.VARY)
_LIMITS = Reason("use", "gRPC clients do not limit rates")


def _filters(configs: Mapping[str, Any]) -> Iterator[Reason]:
    for name in sorted(configs):
        if name == chain.JWT:
            if configs[name] != _PUBLIC:
                yield Reason("auth", "gRPC clients do not authenticate callers")
        elif name == chain.ROUTE_LIMITS:
            yield _LIMITS
        elif name == header_mutation.NAME:
            if configs[name] != _CORS:
                yield Reason("transform", "gRPC changes no header")
        elif name not in {cors.NAME, query_token.NAME}:  # for browsers, and part of authentication
            yield Reason("", f"gRPC has no filter {name}")
    if chain.JWT not in configs:
        yield Reason("auth", "nothing says that it is public")


def _clusters(action: Any) -> dict[str, int]:
    if action.WhichOneof("cluster_specifier") == "cluster":
        return {action.cluster: 1}
    return {one.name: one.weight.value for one in action.weighted_clusters.clusters}


def _action(action: Any) -> Any:
    """Clusters and weights, the longest time of a call, and retries."""
    made = route_components_pb2.RouteAction()
    if action.WhichOneof("cluster_specifier") == "cluster":
        made.cluster = action.cluster
    else:
        for one in action.weighted_clusters.clusters:
            made.weighted_clusters.clusters.add(name=one.name, weight=one.weight)
    if action.HasField("timeout"):
        limit = action.timeout.ToTimedelta()
        made.max_stream_duration.max_stream_duration.CopyFrom(duration(limit + EARLY if limit else limit))  # 0 is none
    statuses = sorted(STATUSES.intersection(action.retry_policy.retry_on.split(",")))
    if statuses and action.retry_policy.num_retries.value:
        made.retry_policy.retry_on = ",".join(statuses)
        made.retry_policy.num_retries.CopyFrom(action.retry_policy.num_retries)
        if action.retry_policy.HasField("retry_back_off"):
            made.retry_policy.retry_back_off.CopyFrom(action.retry_policy.retry_back_off)
    return made
