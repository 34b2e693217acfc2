"""What a gRPC client makes of the resources it is given: the rules of its C core, in few lines.

It raises for what gRPC would refuse, and ignores what gRPC ignores: tests rely on neither happening by luck.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from controlplane.compile.xds_types import LISTENER, ROUTE_CONFIGURATION
from controlplane.resources import Resource

ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


@dataclass(frozen=True)
class Answer:
    """`route` decided (None: no route); `withheld` when its calls fail."""

    route: str | None = None
    withheld: bool = False
    action: Any = field(default=None, compare=False)


class GrpcLookup:
    """A client that asks for listeners by name."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.resources = {(one.type_url, one.name): one for one in resources}

    def names(self) -> list[str]:
        """Every listener of clients."""
        return [name for url, name in self.resources if url == LISTENER and not name.startswith("grpc/server")]

    def routes(self, target: str) -> Any:
        """The route configuration behind `xds:///TARGET`."""
        listener = listener_pb2.Listener.FromString(self.resources[LISTENER, target].body)
        assert listener.name == target
        manager = hcm_pb2.HttpConnectionManager()
        assert listener.api_listener.api_listener.Unpack(manager)
        assert [one.typed_config.type_url for one in manager.http_filters] == [ROUTER]
        assert manager.rds.config_source.HasField("ads")
        found = self.resources[ROUTE_CONFIGURATION, manager.rds.route_config_name]
        return route_pb2.RouteConfiguration.FromString(found.body)

    def decide(self, target: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """What becomes of a call."""
        [host] = self.routes(target).virtual_hosts
        assert list(host.domains) == ["*"]
        return decided(host.routes, path, headers or {})


def decided(routes: Iterable[Any], path: str, headers: Mapping[str, str]) -> Answer:
    """The first route that takes a call, among those that gRPC does not ignore."""
    for route in routes:
        assert not route.typed_per_filter_config, "an unknown filter is a NACK"
        if not route.match.query_parameters and _takes_path(route.match, path) and _holds(route.match.headers, headers):
            name = route.name.rpartition("/")[2]
            forwarded = route.WhichOneof("action") == "route"
            assert forwarded or route.HasField("non_forwarding_action")
            return Answer(name, not forwarded, route.route)
    return Answer()


def _takes_path(match: Any, path: str) -> bool:
    kind = match.WhichOneof("path_specifier")
    if kind == "prefix":
        parts = match.prefix[1:].split("/")
        if len(parts) > 2 or (len(parts) == 2 and not parts[0]):
            return False  # ignored
        return path.startswith(match.prefix)
    if kind == "path":
        return re.fullmatch("/[^/]+/[^/]+", match.path) is not None and bool(path == match.path)
    assert kind == "safe_regex", f"{kind} is a NACK"
    return re.fullmatch(match.safe_regex.regex, path) is not None


def _holds(conditions: Iterable[Any], headers: Mapping[str, str]) -> bool:
    for one in conditions:
        value = "application/grpc" if one.name == "content-type" else headers.get(one.name)
        if one.HasField("present_match"):
            held = (value is not None) == one.present_match
        elif value is None:
            return False  # inverted or not
        else:
            held = _text(one.string_match, value)
        if held == one.invert_match:
            return False
    return True


def _text(text: Any, value: str) -> bool:
    match text.WhichOneof("match_pattern"):
        case "exact":
            return bool(value == text.exact)
        case "prefix":
            return value.startswith(text.prefix)
        case "suffix":
            return value.endswith(text.suffix)
        case "contains":
            return text.contains in value
        case "safe_regex":
            return re.fullmatch(text.safe_regex.regex, value) is not None
    raise AssertionError(text)
