"""CORS policies as Envoy's cors filter; they act only on routes that carry one.

Envoy allows the very origin that asks, so responses depend on it, and says so nowhere: a cache would hand what was made
for one origin, or for none, to another. Routes with a policy say it themselves (`VARY`).
https://fetch.spec.whatwg.org/#cors-protocol-and-http-caches

It also leaves what the backend says beside its own: `allow-credentials` of a backend that allows few origins, beside any
origin that a policy without credentials allows, would let every site act as the user. The policy alone speaks (`OWN`).
"""

from __future__ import annotations

import re
from typing import Any

from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from controlplane.filters.cors.spec import Cors
from controlplane.filters.envoy import packed

NAME = "envoy.filters.http.cors"
OWN = ("access-control-allow-credentials", "access-control-allow-origin")
"""The response headers of which a backend has no say beside a policy. (It gets no preflights, in whose answers are more.)"""
VARY = "origin"
"""The request header on which every response of a route with a policy depends, whether a request has it or not."""


def filter_config() -> Any:
    """The filter without a policy does nothing."""
    return packed(cors_pb2.Cors())


def _origin(origin: str) -> Any:
    if origin == "*":
        return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=".*"))
    if "*." in origin:
        scheme, host = origin.split("*.", 1)
        pattern = re.escape(scheme) + r"([a-z0-9-]+\.)+" + re.escape(host)
        return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=pattern))
    return string_pb2.StringMatcher(exact=origin)


def per_route(cors: Cors) -> Any:
    """The policy of one route. A preflight from an origin that is not allowed is answered, never forwarded."""
    policy = cors_pb2.CorsPolicy(
        allow_origin_string_match=[_origin(origin) for origin in sorted(cors.origins)]
        + [
            string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=regex))
            for regex in sorted(cors.origin_regexes)
        ],
        allow_methods=", ".join(sorted(cors.methods)),
        allow_headers=", ".join(sorted(cors.headers)),
        expose_headers=", ".join(sorted(cors.expose_headers)),
        allow_credentials=BoolValue(value=cors.credentials),
        forward_not_matching_preflights=BoolValue(value=False),
    )
    if cors.max_age is not None:
        policy.max_age = str(int(cors.max_age.total_seconds()))
    return packed(policy)
