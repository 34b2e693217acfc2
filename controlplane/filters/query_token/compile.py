"""Queries out of which Envoy took a token, put back as the client sent them.

Envoy's jwt_authn filter takes a token out of a query by writing the query anew: sorted by name, and decoded, so that
`a%26b` became two parameters and `%20` a request line that backends refuse. A script stands before the filter and behind
it, and acts on routes that say so: first it notes the path, then, when the filter has changed it, writes the noted one
without the parameters of the tokens.

Two filters more cost every request some microseconds, so they are in the chain of those routes alone. A chain is built
from the route that is found at first: routes that are found late (`shard_lua`) go without, and get the query as Envoy
leaves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2

from controlplane.filters.envoy import packed

NAME = "gatewayspec/query-token"
"""The name of both filters."""

_SCRIPT = """\
local find, sub, match, gsub = string.find, string.sub, string.match, string.gsub

local function name_of(parameter)
  local name = match(parameter, "^[^=]*")
  return (gsub(name, "%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end))
end

function envoy_on_request(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local path, noted = headers:get(":path"), metadata:get("@NAME@")
  if noted == nil then
    if path ~= nil and find(path, "?", 1, true) then metadata:set("@NAME@", "path", path) end
    return
  end
  if path == noted.path then return end
  local place, query = match(noted.path, "^([^?]*)%?(.*)$")
  local tokens, left = handle:filterContext(), {}
  for parameter in string.gmatch(query, "[^&]+") do
    if not tokens:get(name_of(parameter)) then left[#left + 1] = parameter end
  end
  headers:replace(":path", place .. (#left > 0 and "?" .. table.concat(left, "&") or ""))
end
""".replace("@NAME@", NAME)


def filter_config() -> Any:
    """The filter runs the script of routes that name it."""
    script = base_pb2.DataSource(inline_string=_SCRIPT)
    return packed(lua_pb2.Lua(source_codes={NAME: script}, stat_prefix="gatewayspec"))


def per_route(names: Iterable[str]) -> Any:
    """The route takes tokens out of these parameters."""
    message = lua_pb2.LuaPerRoute(name=NAME)
    message.filter_context.update(dict.fromkeys(sorted(names), True))
    return packed(message)
