"""A plain matcher of routes: what gatewayspec's rules say, one route after the other, without shards.

Written from the rules alone: host first (exact, longest `*.suffix`, `*`), then the best match inside that host; a miss
inside a known host is 404. Routes are dicts in the words of the spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

Said = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What a client sends; `target` is the path with its query, as it stands in the request line."""

    host: str
    target: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The status, and the route that decided (None: no route)."""

    status: int
    route: str | None = None


def canonical(host: str) -> str:
    """The host that a client means."""
    host = host.lower()
    host = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    return host.removesuffix(".")


def normalised(path: str) -> str | None:
    """The path that routes see; None when clients are sent to the decoded path instead."""
    if re.search("%2f|%5c", path, re.IGNORECASE):
        return None
    path = re.sub(
        "%([0-9A-Fa-f]{2})",
        lambda found: chr(code) if re.fullmatch("[A-Za-z0-9._~-]", chr(code := int(found[1], 16))) else found[0],
        path,
    ).replace("\\", "/")
    parts: list[str] = []
    *inner, last = path.split("/")[1:]
    for part in inner:
        if part == "..":
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    if last == "..":
        del parts[-1:]
    parts.append("" if last in (".", "..") else last)
    path = "/" + "/".join(parts)
    # Envoy merges slashes, but leaves two of a path that has nothing else: clients are sent to "/".
    return "//" if re.fullmatch("//+", path) else re.sub("/+", "/", path)


def best_host(hosts: Iterable[str], host: str) -> str | None:
    """The declared host that a canonical host belongs to."""
    known = set(hosts)
    if host in known:
        return host
    wildcards = [name for name in known if name.startswith("*.") and host.endswith(name[1:]) and host != name[1:]]
    return max(wildcards, key=len) if wildcards else "*" if "*" in known else None


def template_regex(template: str) -> str:
    """What a path template takes."""

    def part(text: str) -> str:
        if text == "**" or text.endswith("=**}"):
            return ".*"
        return "[^/]+" if text == "*" or text.startswith("{") else re.escape(text)

    return "/" + "/".join(part(text) for text in template[1:].split("/"))


def _path_takes(said: Said, path: str) -> bool:
    match said:
        case {"exact": exact}:
            return bool(path == exact)
        case {"template": template}:
            return re.fullmatch(template_regex(template), path) is not None
        case {"regex": regex}:
            return re.fullmatch(regex, path) is not None
        case {"prefix": prefix}:
            return bool(path == prefix or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/"))
    raise AssertionError(said)


def _holds(said: Said, value: str | None) -> bool:
    match said:
        case {"present": present}:
            return (value is not None) is present
        case {"exact": exact}:
            return value == exact
        case {"prefix": prefix}:
            return value is not None and value.startswith(prefix)
    raise AssertionError(said)


def _takes(said: Said, path: str, query: dict[str, str], request: Request) -> bool:
    return (
        _path_takes(said["path"], path)
        and (not said.get("methods") or request.method in said["methods"])
        and all(_holds(header, request.headers.get(header["name"])) for header in said.get("headers", ()))
        and all(_holds(one, query.get(one["name"])) for one in said.get("query", ()))
    )


def _rank(said: Said) -> tuple[Any, ...]:
    path = said["path"]
    kind = ["exact", "template", "regex", "prefix"].index(next(iter(path)))
    length = 0
    if kind == 1:
        parts = path["template"].split("/")
        takes_rest = parts[-1].endswith(("**", "**}"))
        length = 1000 * sum(not part.startswith(("{", "*")) for part in parts) + 2 * len(parts) - takes_rest
    elif kind == 3:
        length = len(path["prefix"])
    conditions = -len(said.get("headers", ())), -len(said.get("query", ()))
    return kind, -length, not said.get("methods"), *conditions


def decide(routes: list[Said], request: Request) -> Outcome:
    """What becomes of a request without any token."""
    raw, _, rest = request.target.partition("?")
    path = normalised(raw)
    if path is None:
        return Outcome(307)
    host = best_host((name for route in routes for name in route["hosts"]), canonical(request.host))
    if path == "//":
        return Outcome(404 if host is None else 307)
    query = dict(reversed(parse_qsl(rest, keep_blank_values=True)))
    found = [
        (*_rank(said), route.get("age", ""), route["name"], number)
        for route in routes
        if host in route["hosts"]
        for number, said in enumerate(route["match"])
        if _takes(said, path, query, request)
    ]
    if not found:
        return Outcome(404)
    name = min(found)[-2]
    route = next(route for route in routes if route["name"] == name)
    return Outcome(401 if "auth" in route else 200, name)
