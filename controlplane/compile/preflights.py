"""CORS preflights: the browser asks with OPTIONS, and the policy of the route that would take the request answers.

Envoy chooses by the question, which has another method than the request, and none of its own headers but their names. So
a match that its own preflights do not reach has siblings that take them; and where it has no policy, a wider route has
nobody's leave to answer for it: the browser would send a request that this route never agreed to.
https://fetch.spec.whatwg.org/#cors-preflight-fetch
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from controlplane.compile.action import direct_response
from controlplane.compile.ownership import Paths, may_meet
from controlplane.compile.rows import Entry, Order, Signature
from controlplane.compile.shard import instead
from controlplane.filters.envoy import serialised

METHOD, HEADERS, ORIGIN = "access-control-request-method", "access-control-request-headers", "origin"

_OPTIONS = "OPTIONS"

_BEFORE = 50
"""In the order of matches: more than the headers that one may name."""

REFUSED_BODY = "this route is for no other origin\n"

_UNNAMED = re.compile(
    "accept(-.*)?|content-(language|length|type)|cookie.?|connection|date|dnt|expect|host|keep-alive|origin|range|referer|te"
    "|trailer|transfer-encoding|upgrade|user-agent|via|(access-control-request|proxy|sec)-.*"
)
"""Headers that a browser sends without naming them, always or at times."""


def matches(said: Any) -> Iterator[tuple[str, Any]]:
    """The preflights for the requests of an Envoy match: each kind, and a match for it.

    An origin or a method that is empty makes no preflight for Envoy's filter, which would let the request pass. A header
    that the request needs is named in the question, or a proxy on the way has added it to both. Of one that the browser
    need not name nothing is known.
    """
    methods = next((one for one in said.headers if one.name == ":method"), None)
    needed = [one for one in said.headers if _is_needed(one)]
    kinds = {"named": [_naming(one.name) for one in needed], "sent": needed} if needed else {"any": []}
    for kind, conditions in kinds.items():
        message = route_components_pb2.RouteMatch()
        message.CopyFrom(said)
        del message.headers[:]
        message.headers.add(name=":method", string_match=string_pb2.StringMatcher(exact=_OPTIONS))
        if methods is None:
            message.headers.append(_filled(METHOD))
        else:
            message.headers.add(name=METHOD, string_match=methods.string_match)
        message.headers.append(_filled(ORIGIN))
        message.headers.extend(conditions)
        yield kind, message


def _is_needed(header: Any) -> bool:
    """Whether requests need the header, and browsers name it in their question."""
    if header.name == ":method" or header.invert_match or _UNNAMED.fullmatch(header.name):
        return False
    return bool(header.WhichOneof("header_match_specifier") != "present_match" or header.present_match)


def _filled(name: str) -> Any:
    return _like(name, ".+")


def _naming(name: str) -> Any:
    return _like(HEADERS, rf"(?i)(.*,)?\s*{re.escape(name)}\s*(,.*)?")


def _like(name: str, pattern: str) -> Any:
    text = string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=pattern))
    return route_components_pb2.HeaderMatcher(name=name, string_match=text)


def place(of: Order) -> Order:
    """Where the preflights of a match stand: before all matches of the same path, in the order of these among each other."""
    return of._replace(no_methods=False, headers=of.headers - (_BEFORE if of.no_methods else 2 * _BEFORE))


def signature(of: Signature, kind: str) -> Signature:
    """What a sibling takes."""
    return of._replace(conditions=(*of.conditions, kind), preflight=True)


def guarded(levels: Sequence[Sequence[Entry]]) -> list[Entry]:
    """The entries of a shard in order, with a refusal where a policy would answer for a match that has none.

    It stands before the first policy that may: what takes the question before that may know about other origins itself.
    """
    if not any(entry.cors for level in levels for entry in level):
        return [entry for level in levels for entry in level]
    entries: list[Entry] = []
    guards: list[tuple[int, Entry]] = []
    for level in levels:
        members = [(entry.order, True, entry) for entry in level]
        members += [(place(entry.order), False, entry) for _, _, entry in members if _needs_guard(entry)]
        for _, stands, entry in sorted(members, key=lambda member: member[:2]):
            if stands:
                entries.append(entry)
            else:
                guards.append((len(entries), entry))
    before: dict[int, list[Entry]] = {}
    answering: Paths[tuple[int, Entry]] = Paths()
    end = len(entries)
    for at, guard in reversed(guards):
        for position in range(end - 1, at - 1, -1):
            if _answers(entries[position]):
                answering.add(entries[position].signature.path, (position, entries[position]))
        end = min(end, at)
        found = (
            there for there, entry in answering.near(guard.signature.path) if _meet(guard.signature, entry.signature)
        )
        if (first := min(found, default=None)) is not None:
            before.setdefault(first, []).append(guard)
    return [
        one
        for position, entry in enumerate(entries)
        for one in (*(refusal for guard in reversed(before.get(position, ())) for refusal in _refusals(guard)), entry)
    ]


def _needs_guard(entry: Entry) -> bool:
    """Whether the match has no policy, and requests that it takes are asked for by questions that it does not take."""
    if entry.cors or entry.signature.preflight:
        return False
    methods = entry.signature.methods
    return entry.order.headers < 0 or (bool(methods) and _OPTIONS not in methods)


def _answers(entry: Entry) -> bool:
    """Whether a policy answers questions here. A route for OPTIONS alone is there to answer for others."""
    methods = entry.signature.methods
    return entry.cors and (entry.signature.preflight or not methods or (_OPTIONS in methods and len(methods) > 1))


def _meet(guard: Signature, answer: Signature) -> bool:
    asked = not answer.preflight or not guard.methods or not answer.methods or set(guard.methods) & set(answer.methods)
    return bool(asked) and may_meet(guard.path, answer.path)


def _refusals(entry: Entry) -> Iterator[Entry]:
    said = route_components_pb2.Route.FromString(entry.body)
    for kind, match in matches(said.match):
        message = instead(said, match)
        message.direct_response.CopyFrom(direct_response(403, REFUSED_BODY))
        body = serialised(message)
        yield Entry(place(entry.order), entry.segment, signature(entry.signature, kind), body)
