"""The scope key of route shards, and the small Lua filter that tries the other shards of a request.

Every request is looked for in the shard (host, first path segment) first. The key comes from two internal headers that
early header mutation writes over whatever a client sent. When that shard has no route for it, the Lua filter tries the
host's fallback shard, then the host in its canonical form, then each wildcard above it, then `*`. It stands first in
the chain: every later filter sees the route that is taken in the end.
"""

from __future__ import annotations

from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2

from controlplane.filters.envoy import packed

NAME = "envoy.filters.http.lua"
HOST_HEADER = "x-gatewayspec-host"
PATH_HEADER = "x-gatewayspec-path"

MAX_HOST = 255
"""Bytes of a host that are looked at; a longer one has no route."""
MAX_LABELS = 8
"""Labels of a host above which no wildcard is tried."""

_SOURCE = """\
local HOST, PATH, FALLBACK = "@HOST@", "@PATH@", "p/@FALLBACK@"

local function found(handle)
  handle:clearRouteCache()
  return handle:route() ~= nil
end

function envoy_on_request(handle)
  if handle:route() ~= nil then return end
  local headers = handle:headers()
  local key, path = headers:get(HOST), headers:get(PATH)
  if key == nil or path == nil then return end
  local bar = string.find(key, "|", 1, true)
  local group, host = string.sub(key, 1, bar), string.sub(key, bar + 1)
  if #host > @MAX_HOST@ then return end
  headers:replace(PATH, FALLBACK)
  if found(handle) then return end
  local function try(name)
    headers:replace(HOST, group .. name)
    headers:replace(PATH, path)
    if found(handle) then return true end
    headers:replace(PATH, FALLBACK)
    return found(handle)
  end
  local canonical = string.gsub(string.gsub(string.lower(host), ":%d*$", ""), "%.$", "")
  if canonical ~= host and try(canonical) then return end
  local _, dots = string.gsub(canonical, "%.", "")
  if dots < @MAX_LABELS@ then
    local dot = string.find(canonical, ".", 1, true)
    while dot ~= nil do
      if try("*" .. string.sub(canonical, dot)) then return end
      dot = string.find(canonical, ".", dot + 1, true)
    end
  end
  try("*")
end
"""


def filter_config(fallback: str) -> Any:
    """The filter; `fallback` is the segment of fallback shards."""
    source = _SOURCE
    for name, value in (
        ("HOST", HOST_HEADER),
        ("PATH", PATH_HEADER),
        ("FALLBACK", fallback),
        ("MAX_HOST", str(MAX_HOST)),
        ("MAX_LABELS", str(MAX_LABELS)),
    ):
        source = source.replace(f"@{name}@", value)
    return packed(lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=source)))


def early_header_mutation(group: str) -> Any:
    """Writes the two internal headers of every request on a listener of this group, whatever the client sent.

    Both values begin with constant text: a mutation with an empty value would be skipped, and leave a forged header.
    """
    overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    mutations = [
        mutation_rules_pb2.HeaderMutation(
            append=base_pb2.HeaderValueOption(
                header=base_pb2.HeaderValue(key=name, value=value), append_action=overwrite, keep_empty_value=True
            )
        )
        for name, value in (
            (HOST_HEADER, f"{group.replace('%', '%%')}|%REQ(:AUTHORITY)%"),
            (PATH_HEADER, "p%PATH(NQ)%"),
        )
    ]
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=packed(header_mutation_pb2.HeaderMutation(mutations=mutations)),
    )


def scope_key_builder() -> Any:
    """Two fragments: the whole host header, and the first segment of the path header (`p/api/x` gives `api`)."""
    builder = hcm_pb2.ScopedRoutes.ScopeKeyBuilder
    extractor = builder.FragmentBuilder.HeaderValueExtractor
    return builder(
        fragments=[
            builder.FragmentBuilder(header_value_extractor=extractor(name=HOST_HEADER, index=0)),
            builder.FragmentBuilder(
                header_value_extractor=extractor(name=PATH_HEADER, element_separator="/", index=1)
            ),
        ]
    )
