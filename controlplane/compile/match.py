"""Matches: which requests a route takes, in which order, and in which shard they are looked for."""

from __future__ import annotations

import json
import re
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from controlplane.compile.rows import Order, SaidPath, Signature
from controlplane.model import regex
from controlplane.model.written import dump
from controlplane.names import ElementKey
from controlplane.spec.match import MAX_TEMPLATE, HeaderMatch, Match, PathMatch, QueryMatch

MAX_SEGMENT = 255
"""Characters of a first segment that make a shard key."""

_PLAIN_SEGMENT = re.compile(rf"/([A-Za-z0-9._~-]{{1,{MAX_SEGMENT}}})(?=/|$)")
_REGEX_SEGMENT = re.compile(rf"\^?/((?:[A-Za-z0-9_~-]|\\[.-]){{1,{MAX_SEGMENT}}})(/(?![*?{{+])|$)")


def segment(path: PathMatch) -> str | None:
    """The literal first segment that every path of this match has, or None: then the route floats.

    Segments with characters that normalisation may change (encoded ones, parameters) float, whatever they are.
    """
    if path.regex is not None:
        if "|" in path.regex and regex.alternates(path.regex):
            return None
        found = _REGEX_SEGMENT.match(path.regex)
        return found[1].replace("\\", "") if found else None
    text = path.exact or path.prefix or path.template or ""
    if path.template is not None and re.match(r"/[*{]", text):
        return None
    return first_segment(text)


def first_segment(path: str) -> str | None:
    """The first segment of a path that is written out, when it makes a shard key."""
    plain = _PLAIN_SEGMENT.match(path)
    return plain[1] if plain else None


def order(match: Match, claim: str, route: ElementKey, number: int) -> Order:
    """The precedence of a match. (docs/specs.md, match)"""
    path = match.path
    if path.exact is not None:
        kind, specificity = 0, 0
    elif path.template is not None:
        parts = path.template.split("/")
        literal = sum(not re.match(r"[*{]", part) for part in parts)
        # One that takes any rest comes behind one for as many segments, of which it would leave nothing.
        kind, specificity = 1, -2 * (literal * MAX_TEMPLATE + len(parts)) + _takes_the_rest(parts[-1])
    elif path.regex is not None:
        kind, specificity = 2, 0
    else:
        kind, specificity = 3, -len(path.prefix or "")
    return Order(kind, specificity, not match.methods, -len(match.headers), -len(match.query), claim, route, number)


def _takes_the_rest(part: str) -> bool:
    return part.strip("{}").endswith("**")


def _without_names(path: PathMatch) -> SaidPath:
    """What the path condition says, whatever the variables of a template are called."""
    kind, text = path.said
    return kind, re.sub(
        r"\{\w+(=\*\*?)?\}", lambda variable: (variable[1] or "=*")[1:], text
    ) if kind == "template" else text


def signature(match: Match) -> Signature:
    """What the match takes."""
    conditions = [*map(dump, match.headers), *({"query": dump(query)} for query in match.query)]
    return Signature(
        _without_names(match.path), tuple(sorted(set(match.methods))), tuple(sorted(map(_canonical, conditions)))
    )


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""`json.dumps` would make an encoder for each condition."""


def _regex(pattern: str) -> Any:
    return regex_pb2.RegexMatcher(regex=pattern)


def _header(header: HeaderMatch) -> Any:
    if header.present is not None:
        # present: false is "absent"; invert turns either round.
        return route_components_pb2.HeaderMatcher(
            name=header.name, present_match=header.present, invert_match=header.invert
        )
    if header.regex is not None:
        text = string_pb2.StringMatcher(safe_regex=_regex(header.regex))
    else:
        kind = next(kind for kind in ("exact", "prefix", "suffix", "contains") if getattr(header, kind) is not None)
        text = string_pb2.StringMatcher(**{kind: getattr(header, kind)})
    return route_components_pb2.HeaderMatcher(
        name=header.name,
        string_match=text,
        invert_match=header.invert,
        # "not red" holds for a request without the header; Envoy lets no text condition hold for it otherwise.
        treat_missing_header_as_empty=header.invert,
    )


def _query(query: QueryMatch) -> Any:
    if query.present is not None:
        return route_components_pb2.QueryParameterMatcher(name=query.name, present_match=query.present)
    if query.regex is not None:
        text = string_pb2.StringMatcher(safe_regex=_regex(query.regex))
    elif query.prefix is not None:
        text = string_pb2.StringMatcher(prefix=query.prefix)
    else:
        text = string_pb2.StringMatcher(exact=query.exact)
    return route_components_pb2.QueryParameterMatcher(name=query.name, string_match=text)


def _template_regex(template: str) -> str:
    """What a path template takes: `{name}` and `*` a segment, `**` the rest.

    Envoy's own matcher of templates takes no segment with a bracket: `/users/7[` would pass by the route, and its
    authentication, to a wider one.
    """

    def part(text: str) -> str:
        if _takes_the_rest(text):
            return ".*"
        return "[^/]+" if text.startswith(("{", "*")) else re.escape(text)

    return "/".join(map(part, template.split("/")))


def path_match(path: PathMatch) -> Any:
    """The path condition alone."""
    message = route_components_pb2.RouteMatch()
    if path.exact is not None:
        message.path = path.exact
    elif path.regex is not None:
        message.safe_regex.CopyFrom(_regex(path.regex))
    elif path.template is not None:
        message.safe_regex.CopyFrom(_regex(_template_regex(path.template)))
    elif path.prefix is not None and path.prefix.endswith("/"):
        # path_separated_prefix must not end with a slash; after one, every prefix ends on a segment boundary.
        message.prefix = path.prefix
    else:
        message.path_separated_prefix = path.prefix
    return message


def _methods(methods: tuple[str, ...]) -> list[Any]:
    if not methods:
        return []
    if len(methods) == 1:
        text = string_pb2.StringMatcher(exact=methods[0])
    else:
        text = string_pb2.StringMatcher(safe_regex=_regex("|".join(sorted(set(methods)))))
    return [route_components_pb2.HeaderMatcher(name=":method", string_match=text)]


def route_match(match: Match) -> Any:
    """All conditions of a match; conditions are sorted, since their order means nothing."""
    message = path_match(match.path)
    message.headers.extend(_methods(match.methods))
    message.headers.extend(_header(header) for header in sorted(match.headers, key=repr))
    message.query_parameters.extend(_query(query) for query in sorted(match.query, key=repr))
    return message
