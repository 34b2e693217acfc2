"""The scope key of route shards, and the small filters that look elsewhere when the first guess holds no shard.

Every request is looked for in the shard (host, first path segment) first. The key comes from two internal headers,
`<group>|<host>` and `p<path>`, that early header mutation writes over whatever a client sent. A shard is complete: it
holds every route that a request with this host and segment could take, so a shard that exists decides, and switches
these filters off for itself. Only when there is none do they act:

1. `fallback`, without any script: the host's fallback shard. Where there is one, it decides, and the scripts pass.
2. `rekey`, for a host in another spelling: the canonical host's shard, then its fallback. Of what follows a `:` only a
   port is left out: `a.test:@b.test` is `b.test` for who reads it as a URL has it.
3. `rekey_wildcard`: the wildcard host that covers the name (known from a table), its shard and fallback; else the
   catch-all of the listener group. It covers names and addresses alone: of what Envoy lets pass besides, a backend may
   read a protected host where the end is below a wildcard that is public. So it is with `a.test,x.test` (of several host
   headers Envoy makes one), `x@a.test`, `a%2Etest`, `a.test...`.
   Nor does it cover a name that another TLS chain of the port is for: the routes of that chain may guard it.

The shards of an open host, of which only some paths were granted, do not decide on the others: their last route
(`elsewhere`) switches the third filter on again. Of open wildcards the table knows the segments. It may name no shard
that a proxy does not have: its changes come after those of shards, and before removals of shards (`Resource.late`).

Facts about Envoy 1.40 that shape this, each pinned by a test: what a route says to the Lua filter is read when the
request reaches the filter, not when the chain is built; `streamInfo():routeName()` is empty while no route is
selected; after `clearRouteCache()` only the first `metadata()` of a filter selects again, and so does the start of the
next filter: each filter can look once, and leave one more try to the next. Upgrades are decided before re-keying, so
the scripts and all fallbacks refuse an upgrade to a route that does not say it takes WebSockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.ip_tagging.v3 import ip_tagging_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from controlplane.filters.envoy import packed

NAME = "gatewayspec/shard"
"""The name of all three filters, by which routes speak to them."""
HOST_HEADER = "x-gatewayspec-host"
PATH_HEADER = "x-gatewayspec-path"
ELSEWHERE = "gatewayspec/elsewhere"
"""The name of the route by which a shard says that it does not decide."""
FALLBACK = "?"
"""The segment of a host's fallback shard. Shard keys are made of paths without their query: no request can forge it."""
CATCH_ALL = ""
"""The host of a listener group's last resort."""
MAX_HOST = 255
"""Bytes of a host that are looked at; a longer one has no route."""

_COMMON = """\
local HOST, PATH, FALLBACK, MAX_HOST = "@HOST@", "@PATH@", "p/@FALLBACK@", @MAX_HOST@
local find, sub, lower, gsub = string.find, string.sub, string.lower, string.gsub

local function aim(handle, headers, host, path)
  headers:replace(HOST, host)
  headers:replace(PATH, path)
  handle:clearRouteCache()
end

local function path_key(headers)
  local path = headers:get(":path") or ""
  local query = find(path, "?", 1, true)
  return "p" .. (query and sub(path, 1, query - 1) or path)
end
"""

_REKEY = (
    _COMMON
    + """
local function canonical(host)
  if #host > MAX_HOST then return "" end
  host = lower(host)
  host = gsub(host, ":%d*$", "")
  return (gsub(host, "%.$", ""))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local key, host = headers:get(HOST), headers:get(":authority")
  if key == nil or host == nil then return end
  local name = canonical(host)
  if name == host then return end
  key = sub(key, 1, find(key, "|", 1, true)) .. name
  aim(handle, headers, key, path_key(headers))
  handle:metadata()
  if handle:streamInfo():routeName() == "" then aim(handle, headers, key, FALLBACK) end
end
"""
)

_REKEY_WILDCARD = (
    _COMMON
    + """
local ELSEWHERE, KNOWN, LOST = "@ELSEWHERE@", {@KNOWN@}, {@LOST@}

local function serves(key, path)
  local known = KNOWN[key]
  return known == true or (known and known[string.match(path, "^p/([^/]*)")] == true)
end

local function lost(handle, key, name)
  return LOST[key] and handle:streamInfo():requestedServerName() ~= name
end

local function is_name(name)
  if find(name, "[^%w._-]") then return find(name, "^%[[%x:.]+%]$") ~= nil end
  return not find("." .. name .. ".", "..", 1, true)
end

local function covering(handle, group, name, path)
  if not is_name(name) or KNOWN[group .. name] == false then return nil end
  local dot = find(name, ".", 1, true)
  while dot ~= nil do
    local key = group .. "*" .. sub(name, dot)
    if KNOWN[key] == false or lost(handle, key, name) then return nil end
    if serves(key, path) then return key end
    dot = find(name, ".", dot + 1, true)
  end
  local key = group .. "*"
  if serves(key, path) and not lost(handle, key, name) then return key end
  return nil
end

local function guard(handle, upgrade, metadata)
  if upgrade ~= nil and not (metadata:get("websocket") == true and lower(upgrade) == "websocket") then
    handle:respond({[":status"] = "403"}, "")
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local upgrade = headers:get("upgrade")
  local route = handle:streamInfo():routeName()
  if route ~= "" and route ~= ELSEWHERE then
    if upgrade ~= nil then guard(handle, upgrade, handle:metadata()) end
    return
  end
  local key = headers:get(HOST)
  if key == nil then return end
  local bar = find(key, "|", 1, true)
  local group, name = sub(key, 1, bar), sub(key, bar + 1)
  local path = path_key(headers)
  local wildcard = covering(handle, group, name, path)
  if wildcard == nil then return aim(handle, headers, group, FALLBACK) end
  aim(handle, headers, wildcard, path)
  local metadata = handle:metadata()
  if handle:streamInfo():routeName() ~= "" then return guard(handle, upgrade, metadata) end
  aim(handle, headers, wildcard, FALLBACK)
end
"""
)


def _script(source: str, known: Mapping[str, str] = MappingProxyType({}), lost: Iterable[str] = ()) -> Any:
    for name, value in (
        ("HOST", HOST_HEADER),
        ("PATH", PATH_HEADER),
        ("FALLBACK", FALLBACK),
        ("MAX_HOST", str(MAX_HOST)),
        ("ELSEWHERE", ELSEWHERE),
        ("KNOWN", ", ".join(f'["{host}"] = {what}' for host, what in sorted(known.items()))),
        ("LOST", ", ".join(f'["{host}"] = true' for host in sorted(lost))),
    ):
        source = source.replace(f"@{name}@", value)
    return packed(lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=source), stat_prefix="gatewayspec"))


def _segments(segments: Iterable[str]) -> str:
    return "{" + ", ".join(f'["{one}"] = true' for one in sorted(segments)) + "}" if segments else "true"


def native_fallback() -> Any:
    """The first filter: it writes the fallback's segment over the path header, and has the route selected again.

    Envoy has one filter that does both in one step without a script: the one that tags requests by client address. Its
    tag is the header's value, and its range is every address. Were a client in no range, the header would be removed,
    and the request would find no route.
    """
    every = ("0.0.0.0", "::")  # noqa: S104 (a range of clients; nothing binds to it)
    everybody = [address_pb2.CidrRange(address_prefix=prefix, prefix_len=UInt32Value(value=0)) for prefix in every]
    return packed(
        ip_tagging_pb2.IPTagging(
            ip_tags=[ip_tagging_pb2.IPTagging.IPTag(ip_tag_name=f"p/{FALLBACK}", ip_list=everybody)],
            ip_tag_header=ip_tagging_pb2.IPTagging.IpTagHeader(header=PATH_HEADER),
        )
    )


def rekey() -> Any:
    """The second filter."""
    return _script(_REKEY)


def rekey_wildcard(
    wildcards: Mapping[str, Iterable[str]], misdirected: Iterable[str] = (), lost: Iterable[str] = ()
) -> Any:
    """The third filter; `wildcards` are `<group>|<wildcard host>` of every wildcard host, with the segments of an open one.

    One that is not open (no segments) has a fallback shard. An open one has shards for these segments alone. Hosts that
    are `misdirected` in a group are below no wildcard there: its last resort answers. Wildcard hosts that are `lost` are for
    connections alone that were opened for the name.
    """
    known = dict.fromkeys(misdirected, "false")
    return _script(_REKEY_WILDCARD, known | {host: _segments(found) for host, found in wildcards.items()}, lost)


def decided(configuration: Any, *, fallback: bool) -> None:
    """Prepare a shard's route configuration: the filters stay out of its requests, and their headers stay inside.

    A shard that is found at once has them left out of the chain. A fallback is found when they are in the chain
    already: it tells the scripts to pass.
    """
    said = lua_pb2.LuaPerRoute(disabled=True) if fallback else route_components_pb2.FilterConfig(disabled=True)
    configuration.typed_per_filter_config[NAME].CopyFrom(packed(said))
    configuration.request_headers_to_remove.extend((HOST_HEADER, PATH_HEADER))


def elsewhere(route: Any) -> None:
    """Make it the last route of an open host: the third filter looks for the covering wildcard, though a shard was found.

    The configuration switches the filters on again for the requests that end here. The route must take WebSockets: Envoy
    decides on an upgrade by it, and the route that is found in the end refuses what it does not take.
    """
    route.typed_per_filter_config[NAME].CopyFrom(packed(lua_pb2.LuaPerRoute(filter_context={})))
    route.route.cluster = ELSEWHERE  # there is none
    route.route.cluster_not_found_response_code = route_components_pb2.RouteAction.NOT_FOUND
    route.route.upgrade_configs.add(upgrade_type="websocket", enabled=BoolValue(value=True))


def early_header_mutation(group: str, removed: Iterable[str] = ()) -> Any:
    """Writes the internal headers of every request on a listener of this group, whatever the client sent, and removes others.

    Each value begins with constant text: a mutation with an empty value would be skipped, and leave a forged header.
    `NQ:PATH` reads the path alone: without `:PATH`, a client's `x-envoy-original-path` would be believed.
    """
    values = {HOST_HEADER: f"{group.replace('%', '%%')}|%REQ(:AUTHORITY)%", PATH_HEADER: "p%PATH(NQ:PATH)%"}
    mutations = [
        mutation_rules_pb2.HeaderMutation(
            append=base_pb2.HeaderValueOption(
                header=base_pb2.HeaderValue(key=name, value=value),
                append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
                keep_empty_value=True,
            )
        )
        for name, value in values.items()
    ]
    mutations += [mutation_rules_pb2.HeaderMutation(remove=name) for name in removed]
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=packed(header_mutation_pb2.HeaderMutation(mutations=mutations)),
    )


def scope_key_builder() -> Any:
    """Two fragments: `<group>|<host>`, and the first segment of the path (`p/api/x` gives `api`)."""
    builder = hcm_pb2.ScopedRoutes.ScopeKeyBuilder
    fragment = builder.FragmentBuilder
    whole = fragment.HeaderValueExtractor(name=HOST_HEADER, index=0)
    segment = fragment.HeaderValueExtractor(name=PATH_HEADER, element_separator="/", index=1)
    return builder(fragments=[fragment(header_value_extractor=extractor) for extractor in (whole, segment)])


def websocket_metadata() -> dict[str, bool]:
    """What a route that takes WebSockets says to the script that has to know, under its name."""
    return {"websocket": True}
