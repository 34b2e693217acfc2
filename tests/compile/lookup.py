"""How Envoy and the filters that re-key find a route among compiled shards, in Python over the compiled messages.

`Lookup` reads the scopes of one listener group; the steps are those of filters/shard_lua, the matching is Envoy's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from envoy.config.route.v3 import scoped_route_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2

from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.resources import Resource
from tests.compile.reference import Outcome, Request, normalised

JWT = "gatewayspec/jwt"


class Lookup:
    """The scopes by key, and the wildcard hosts that the last filter knows."""

    def __init__(self, resources: Iterable[Resource], group: str) -> None:
        self.group = group
        self.scopes: dict[tuple[str, str], Any] = {}
        for resource in resources:
            if resource.type_url == SCOPED_ROUTE:
                message = scoped_route_pb2.ScopedRouteConfiguration.FromString(resource.body)
                host, segment = (fragment.string_key for fragment in message.key.fragments)
                assert (host, segment) not in self.scopes
                self.scopes[host, segment] = message.route_configuration
        # What the table of the last filter says: a wildcard has a fallback, or it is asked for its segments alone.
        self.wildcards = {key for key in self.scopes if key[0].startswith(f"{group}|*")}

    def decide(self, request: Request) -> Outcome:
        """What becomes of the request without a token."""
        raw, _, rest = request.target.partition("?")
        path = normalised(raw)
        if path is None:
            return Outcome(307)
        query = dict(reversed(parse_qsl(rest, keep_blank_values=True)))
        host = re.sub(r":\d+$", "", request.host).removesuffix(".")
        for key, path_header in self._tries(host, path):
            elements = path_header.split("/")
            scope = self.scopes.get((key, elements[1])) if len(elements) > 1 else None
            route = self._route(scope, host, path, query, request) if scope else None
            if route is not None and not route.name.startswith("gatewayspec/elsewhere"):
                return self._outcome(route)
        return Outcome(404)

    def _tries(self, host: str, path: str) -> Iterable[tuple[str, str]]:
        yield f"{self.group}|{host}", f"p{path}"
        name = "" if len(host) > 255 else re.sub(":.*", "", host.lower()).removesuffix(".")
        if name != host:
            yield f"{self.group}|{name}", f"p{path}"
        yield f"{self.group}|{name}", "p/?"
        parts = name.split(".")
        suffixes = [f"{self.group}|*.{'.'.join(parts[at:])}" for at in range(1, len(parts))]
        candidates = [*suffixes, *([f"{self.group}|*"] if name else [])]
        segment = path.split("/")[1]
        asked = (key for key in candidates if {(key, "?"), (key, segment)} & self.wildcards)
        wildcard = next(asked, None)
        if wildcard is None:
            yield f"{self.group}|", "p/?"
        else:
            yield wildcard, f"p{path}"
            yield wildcard, "p/?"

    def _route(self, scope: Any, host: str, path: str, query: dict[str, str], request: Request) -> Any | None:
        [virtual_host] = scope.virtual_hosts
        [domain] = virtual_host.domains
        name = host.lower()
        if domain not in ("*", name) and not (domain.startswith("*.") and name.endswith(domain[1:])):
            return None
        return next((route for route in virtual_host.routes if _matches(route.match, path, query, request)), None)

    def _outcome(self, route: Any) -> Outcome:
        if route.HasField("redirect"):
            return Outcome(307)
        rule = config_pb2.PerRouteConfig()
        assert route.typed_per_filter_config[JWT].Unpack(rule)
        status = route.direct_response.status
        ours = None if route.name.startswith("gatewayspec/not-found") else route.name.rpartition("/")[2]
        return Outcome(status if rule.disabled else 401, ours)


def _text_matches(matcher: Any, text: str) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        return re.fullmatch(matcher.safe_regex.regex, text) is not None
    if kind == "prefix":
        return text.startswith(matcher.prefix)
    assert kind == "exact"
    return bool(text == matcher.exact)


def _path_matches(match: Any, path: str) -> bool:
    kind = match.WhichOneof("path_specifier")
    if kind == "path":
        return bool(path == match.path)
    if kind == "prefix":
        return path.startswith(match.prefix)
    if kind == "path_separated_prefix":
        prefix = match.path_separated_prefix
        return bool(path == prefix or path.startswith(f"{prefix}/"))
    assert kind == "safe_regex"
    return re.fullmatch(match.safe_regex.regex, path) is not None


def _matches(match: Any, path: str, query: dict[str, str], request: Request) -> bool:
    if not _path_matches(match, path):
        return False
    for header in match.headers:
        value = request.method if header.name == ":method" else request.headers.get(header.name)
        if header.WhichOneof("header_match_specifier") == "present_match":
            holds = (value is not None) == header.present_match
        else:
            holds = value is not None and _text_matches(header.string_match, value)
        if holds == header.invert_match:
            return False
    for parameter in match.query_parameters:
        value = query.get(parameter.name)
        if parameter.WhichOneof("query_parameter_match_specifier") == "present_match":
            if (value is not None) != parameter.present_match:
                return False
        elif value is None or not _text_matches(parameter.string_match, value):
            return False
    return True
