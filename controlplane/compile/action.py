"""What a route does with a request: forward, redirect, or answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
from envoy.type.matcher.v3 import regex_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from controlplane.filters.envoy import duration, packed
from controlplane.spec.match import Match, PathMatch
from controlplane.spec.rewrite import PathChange
from controlplane.spec.route import Redirect, Retry

_CODES = route_components_pb2.RedirectAction.RedirectResponseCode
_REDIRECT_CODES = {
    301: _CODES.MOVED_PERMANENTLY,
    302: _CODES.FOUND,
    303: _CODES.SEE_OTHER,
    307: _CODES.TEMPORARY_REDIRECT,
    308: _CODES.PERMANENT_REDIRECT,
}

HOST_PICKS = 16
"""How often an endpoint is picked again because it has failed already. Of two endpoints each pick hits the failed one in
half of the cases: Envoy's usual 5 would send one retry in 64 back to it."""

TRIES_OF_A_PRIORITY = 2
"""Tries before the next priority: a second one for another endpoint of the first. The last try always goes on, for with
one retry a priority that is gone would answer with its failure until its endpoints are left out."""

SAFE_RETRIES = ("connect-failure", "refused-stream")
"""What is retried when nothing is said: the request has certainly not been acted on."""


def direct_response(status: int, body: str) -> Any:
    """Answer at once."""
    message = route_components_pb2.DirectResponseAction(status=status)
    if body:
        message.body.CopyFrom(base_pb2.DataSource(inline_string=body))
    return message


def https_redirect(port: int | None, code: int = 308) -> Any:
    """The same host and path by HTTPS."""
    return route_components_pb2.RedirectAction(
        https_redirect=True, port_redirect=port if port and port != 443 else 0, response_code=_REDIRECT_CODES[code]
    )


def redirect(spec: Redirect, match: PathMatch, https_port: int | None) -> Any:
    """The redirect that a route says, for requests that this path condition took.

    Envoy knows the host without its port: one that is not named is that of the scheme, or `https_port` to HTTPS on the
    same host.
    """
    port = spec.port
    if port is None and spec.host is None and spec.scheme == "https" and https_port != 443:
        port = https_port
    message = route_components_pb2.RedirectAction(
        host_redirect=spec.host or "",
        port_redirect=port or 0,
        response_code=_REDIRECT_CODES[spec.code],
        strip_query=spec.strip_query,
    )
    if spec.scheme:
        message.scheme_redirect = spec.scheme
    if spec.path and spec.path.replace_full:
        message.path_redirect = spec.path.replace_full
    elif spec.path and spec.path.replace_prefix:
        _replace_prefix(message, spec.path.replace_prefix, match)
    return message


def asks_again(spec: Redirect, match: Match) -> bool:
    """Whether a client that follows comes with a request that the match takes again, if it comes to the same place."""
    if match.headers or (match.query and spec.strip_query):
        return False
    if spec.code in {301, 302, 303} and match.methods and "GET" not in match.methods:
        return False
    path = match.path
    if spec.path is None:
        return True
    if path.exact is not None:
        return path.exact in (spec.path.replace_full, spec.path.replace_prefix)
    return path.prefix is not None and path.prefix.rstrip("/") == (spec.path.replace_prefix or "?").rstrip("/")


def forward(clusters: Mapping[str, int]) -> Any:
    """Send the request to a cluster, or to one of several by weight."""
    if len(clusters) == 1:
        return route_components_pb2.RouteAction(cluster=next(iter(clusters)))
    return route_components_pb2.RouteAction(
        weighted_clusters=route_components_pb2.WeightedCluster(
            clusters=[
                route_components_pb2.WeightedCluster.ClusterWeight(name=name, weight=UInt32Value(value=clusters[name]))
                for name in sorted(clusters)
            ]
        )
    )


def rewrite_path(action: Any, change: PathChange, match: PathMatch) -> None:
    """Rewrite the path on the way to the backend; queries are kept."""
    if change.replace_regex is not None:
        _regex_rewrite(action, change.replace_regex.pattern, change.replace_regex.substitution)
    elif change.replace_full is not None:
        _regex_rewrite(action, "^/.*$", change.replace_full.replace("\\", "\\\\"))
    elif change.replace_prefix is not None:
        _replace_prefix(action, change.replace_prefix, match)


def _replace_prefix(action: Any, new: str, match: PathMatch) -> None:
    """Exactly one slash stands before what is left of the path; where nothing is left, the replacement is the path."""
    old = (match.prefix or match.exact or "").rstrip("/")
    if match.exact is not None:
        action.prefix_rewrite = new
    elif not old or new.endswith("/") or (match.prefix or "").endswith("/"):
        # One side is a bare slash, or ends with one: Envoy's prefix rewrite would lose or double it.
        _regex_rewrite(action, f"^{re.escape(old)}/?", f"{new.rstrip('/')}/")
    else:
        action.prefix_rewrite = new


def _regex_rewrite(action: Any, pattern: str, substitution: str) -> None:
    action.regex_rewrite.pattern.CopyFrom(regex_pb2.RegexMatcher(regex=pattern))
    action.regex_rewrite.substitution = substitution


def retry_policy(route: Retry, defaults: Retry, attempts: int) -> Any | None:
    """The retries of a route, field by field over the defaults; None when there are none."""
    if not attempts:
        return None
    when = route.when or defaults.when or SAFE_RETRIES
    statuses = route.statuses if route.statuses is not None else defaults.statuses
    message = route_components_pb2.RetryPolicy(
        num_retries=UInt32Value(value=attempts),
        retry_on=",".join([*sorted(set(when)), *(["retriable-status-codes"] if statuses else [])]),
        retriable_status_codes=sorted(set(statuses or ())),
        # Another attempt goes to another endpoint, and when a whole priority fails, to the next.
        retry_host_predicate=[
            route_components_pb2.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate()),
            )
        ],
        retry_priority=route_components_pb2.RetryPolicy.RetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=packed(
                previous_priorities_config_pb2.PreviousPrioritiesConfig(
                    update_frequency=min(attempts, TRIES_OF_A_PRIORITY)
                )
            ),
        ),
        host_selection_retry_max_attempts=HOST_PICKS,
    )
    if per_try := route.per_try_timeout or defaults.per_try_timeout:
        message.per_try_timeout.CopyFrom(duration(per_try))
    if backoff := route.backoff or defaults.backoff:
        message.retry_back_off.base_interval.CopyFrom(duration(backoff.base))
        message.retry_back_off.max_interval.CopyFrom(duration(backoff.max or 10 * backoff.base))
    return message


def websocket(route: Any) -> None:
    """Let clients upgrade to WebSocket on this route; it is off elsewhere.

    Of an upgrade Envoy hands on what the client wrote in `connection`. Each name there is a header that the next proxy leaves
    out, such as the one that says who the user is: the backend is told of the upgrade alone.
    """
    route.route.upgrade_configs.add(upgrade_type="websocket", enabled=BoolValue(value=True))
    route.request_headers_to_add.add(
        header=base_pb2.HeaderValue(key="connection", value="upgrade"),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS,
    )


def timeouts(action: Any, request: timedelta, idle: timedelta | None) -> None:
    """The limits of a request; 0 is none."""
    action.timeout.FromTimedelta(request)
    if idle is not None:
        action.idle_timeout.FromTimedelta(idle)
