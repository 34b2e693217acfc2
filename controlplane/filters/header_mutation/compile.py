"""Header changes as Envoy's header_mutation filter.

The filter stands in the chain twice: as `identity_headers`, which removes from every request what only the gateway may
set (delivered by ECDS, so that a new claim header leaves the listener alone), and as itself, for the changes of a route.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2

from controlplane.filters.envoy import packed
from controlplane.filters.header_mutation.spec import HeaderChanges

NAME = "envoy.filters.http.header_mutation"
IDENTITY_NAME = "gatewayspec.identity_headers"

CLIENT_ADDRESS = ("x-real-ip",)
"""Envoy itself vouches for x-forwarded-for alone. (docs/security.md)"""

_SET = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_ADD = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD


def mutations(changes: HeaderChanges) -> list[Any]:
    """One mutation for each change: removals, then replacements, then additions, each sorted by name."""
    found = [mutation_rules_pb2.HeaderMutation(remove=name) for name in sorted(changes.remove)]
    for values, action in ((changes.set, _SET), (changes.add, _ADD)):
        found += [_append(name, values[name], action) for name in sorted(values)]
    return found


def _append(name: str, value: str, action: Any) -> Any:
    # "%" begins a command in Envoy's header values; texts of a spec are literal.
    header = base_pb2.HeaderValue(key=name, value=value.replace("%", "%%"))
    option = base_pb2.HeaderValueOption(header=header, append_action=action, keep_empty_value=True)
    return mutation_rules_pb2.HeaderMutation(append=option)


def per_route(
    request: HeaderChanges, response: HeaderChanges, kept_back: Iterable[str] = (), vary: str | None = None
) -> Any:
    """The changes of one route. `kept_back` are headers of which the backend has no say, whatever the route adds then;
    `vary` is a request header on which the response depends in any case.
    """
    response_mutations = [mutation_rules_pb2.HeaderMutation(remove=name) for name in kept_back] + mutations(response)
    if vary is not None:
        response_mutations.append(_append("vary", vary, _ADD))
    return packed(
        header_mutation_pb2.HeaderMutationPerRoute(
            mutations=header_mutation_pb2.Mutations(
                request_mutations=mutations(request), response_mutations=response_mutations
            )
        )
    )


def filter_config() -> Any:
    """The filter itself changes nothing: routes do."""
    return packed(header_mutation_pb2.HeaderMutation())


def identity_config(names: Iterable[str]) -> Any:
    """Removes these headers from every request, and those in which clients could forge their address.

    From its trailers, too: some servers make headers of them.
    """
    removed = [mutation_rules_pb2.HeaderMutation(remove=name) for name in sorted({*names, *CLIENT_ADDRESS})]
    mutations = header_mutation_pb2.Mutations(request_mutations=removed, request_trailers_mutations=removed)
    return packed(header_mutation_pb2.HeaderMutation(mutations=mutations))
