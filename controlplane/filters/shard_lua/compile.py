"""The scope key of route shards, and the two small Lua filters that look elsewhere when the first guess holds no shard.

Every request is looked for in the shard (host, first path segment) first. The key comes from an internal header,
`<group>|<host><path>`, that early header mutation writes over whatever a client sent. A shard is complete: it holds
every route that a request with this host and segment could take, so a shard that exists decides, and switches these
filters off for itself. Only when there is none do they act:

1. `rekey`: the host's fallback shard; for a host in another spelling, the canonical host's shard, then its fallback.
2. `rekey_wildcard`: the wildcard host that covers the name (known from a table), its shard and fallback; else the
   catch-all of the listener group.

Facts about Envoy 1.40 that shape the scripts, each pinned by a test: `streamInfo():routeName()` is empty while no
route is selected; after `clearRouteCache()` only the first `metadata()` of a filter selects again, and so does the
start of the next filter: each filter can look once, and leave one more try to the next. Upgrades are decided before
re-keying, so the scripts refuse an upgrade to a route that does not say it takes WebSockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2

from controlplane.filters.envoy import packed

REKEY = "gatewayspec/rekey"
REKEY_WILDCARD = "gatewayspec/rekey-wildcard"
FILTERS = (REKEY, REKEY_WILDCARD)
HEADER = "x-gatewayspec-scope"
FALLBACK = "?"
"""The segment of a host's fallback shard. Shard keys are made of paths without their query: no request can forge it."""
CATCH_ALL = ""
"""The host of a listener group's last resort."""
MAX_HOST = 255
"""Bytes of a host that are looked at; a longer one has no route."""

_COMMON = """\
local KEY, FALLBACK, MAX_HOST = "@KEY@", "/@FALLBACK@", @MAX_HOST@
local find, sub, lower, gsub = string.find, string.sub, string.lower, string.gsub

local function canonical(host)
  if #host > MAX_HOST then return "" end
  host = lower(host)
  if sub(host, 1, 1) == "[" then return (gsub(host, "^(%[[^%]]*%]).*$", "%1")) end
  host = gsub(host, ":.*$", "")
  return (gsub(host, "%.$", ""))
end

local function aim(handle, headers, key)
  headers:replace(KEY, key)
  handle:clearRouteCache()
end

local function guard(handle, upgrade, metadata)
  if upgrade ~= nil and not (metadata:get("websocket") == true and lower(upgrade) == "websocket") then
    handle:respond({[":status"] = "403"}, "")
  end
end
"""

_REKEY = (
    _COMMON
    + """
function envoy_on_request(handle)
  local headers = handle:headers()
  local key, host = headers:get(KEY), headers:get(":authority")
  if key == nil or host == nil then return end
  local group, name = sub(key, 1, find(key, "|", 1, true)), canonical(host)
  if name == host then return aim(handle, headers, group .. host .. FALLBACK) end
  aim(handle, headers, group .. name .. sub(key, #group + #host + 1))
  handle:metadata()
  if handle:streamInfo():routeName() == "" then aim(handle, headers, group .. name .. FALLBACK) end
end
"""
)

_REKEY_WILDCARD = (
    _COMMON
    + """
local WILDCARDS = {@WILDCARDS@}

local function covering(group, name)
  local dot = find(name, ".", 1, true)
  while dot ~= nil do
    local key = group .. "*" .. sub(name, dot)
    if WILDCARDS[key] then return key end
    dot = find(name, ".", dot + 1, true)
  end
  local key = group .. "*"
  if name ~= "" and WILDCARDS[key] then return key end
  return nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local upgrade = headers:get("upgrade")
  if handle:streamInfo():routeName() ~= "" then
    if upgrade ~= nil then guard(handle, upgrade, handle:metadata()) end
    return
  end
  local key, path = headers:get(KEY), headers:get(":path")
  if key == nil or path == nil then return end
  local bar = find(key, "|", 1, true)
  local group, name = sub(key, 1, bar), sub(key, bar + 1, -#FALLBACK - 1)
  local wildcard = covering(group, name)
  if wildcard == nil then return aim(handle, headers, group .. FALLBACK) end
  local query = find(path, "?", 1, true)
  aim(handle, headers, wildcard .. (query and sub(path, 1, query - 1) or path))
  local metadata = handle:metadata()
  if handle:streamInfo():routeName() ~= "" then return guard(handle, upgrade, metadata) end
  aim(handle, headers, wildcard .. FALLBACK)
end
"""
)


def _script(source: str, wildcards: Iterable[str] = ()) -> Any:
    for name, value in (
        ("KEY", HEADER),
        ("FALLBACK", FALLBACK),
        ("MAX_HOST", str(MAX_HOST)),
        ("WILDCARDS", ", ".join(f'["{wildcard}"] = true' for wildcard in sorted(set(wildcards)))),
    ):
        source = source.replace(f"@{name}@", value)
    return packed(lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=source), stat_prefix="gatewayspec"))


def rekey() -> Any:
    """The first filter."""
    return _script(_REKEY)


def rekey_wildcard(wildcards: Iterable[str]) -> Any:
    """The second filter; `wildcards` are `<group>|<wildcard host>` of every wildcard host that has a fallback shard."""
    return _script(_REKEY_WILDCARD, wildcards)


def decided(configuration: Any) -> None:
    """Prepare a shard's route configuration: the filters stay out of its requests, and its header stays inside."""
    for name in FILTERS:
        configuration.typed_per_filter_config[name].CopyFrom(packed(route_components_pb2.FilterConfig(disabled=True)))
    configuration.request_headers_to_remove.append(HEADER)


def early_header_mutation(group: str) -> Any:
    """Writes the internal header of every request on a listener of this group, whatever the client sent.

    The value begins with constant text: a mutation with an empty value would be skipped, and leave a forged header.
    `NQ:PATH` reads the path alone: without `:PATH`, a client's `x-envoy-original-path` would be believed.
    """
    value = f"{group.replace('%', '%%')}|%REQ(:AUTHORITY)%%PATH(NQ:PATH)%"
    mutation = mutation_rules_pb2.HeaderMutation(
        append=base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=HEADER, value=value),
            append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            keep_empty_value=True,
        )
    )
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=packed(header_mutation_pb2.HeaderMutation(mutations=[mutation])),
    )


def scope_key_builder() -> Any:
    """Two fragments: `<group>|<host>`, and the first segment of the path (`g|shop/api/x` gives `g|shop`, `api`).

    Neither a group nor a host has a slash.
    """
    builder = hcm_pb2.ScopedRoutes.ScopeKeyBuilder
    extractor = builder.FragmentBuilder.HeaderValueExtractor
    return builder(
        fragments=[
            builder.FragmentBuilder(
                header_value_extractor=extractor(name=HEADER, element_separator="/", index=position)
            )
            for position in (0, 1)
        ]
    )


def websocket_metadata() -> dict[str, bool]:
    """What a route that takes WebSockets says to the filters, under the name of each."""
    return {"websocket": True}
