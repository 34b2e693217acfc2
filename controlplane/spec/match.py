"""Matches: which requests a route takes, in the words of users.

Everything that no request can ever match is an error here: a route that is never used looks like one that works.
What requests look like when they are compared was tried with Envoy 1.40.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote, unquote

from pydantic import AfterValidator, Field, WithJsonSchema

from controlplane.model.characters import BEYOND_ASCII, VISIBLE, characters
from controlplane.model.written import Choice, Flag, OneOf, SeenHeaderName, Written, header_value, regex_for

MAX_PATH = 2048
"""Characters of a literal path."""


_NOT_IN_PATHS = re.compile(r"[^\x21-\x7e]|\\")
_DOTS = re.compile(r"/\.{1,2}(/|$)")
_SLASH = re.compile(r"%(2[fF]|5[cC])")


def literal_path(text: str) -> str:
    """An absolute path in the form that Envoy's normalisation leaves, so that it can ever match. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError('a path begins with "/"')
    if len(text) > MAX_PATH:
        raise ValueError(f"a path has at most {MAX_PATH} characters")
    if "?" in text or "#" in text:
        raise ValueError("a path has no query (use match.query) and no fragment")
    if _NOT_IN_PATHS.search(text):
        raise ValueError('a path has printable ASCII characters; encode others as "%C3%A9"')
    if "//" in text or _DOTS.search(text):
        raise ValueError('"//", "/./" and "/../" are normalised away before routes are matched')
    if _SLASH.search(text):
        raise ValueError("an encoded slash never reaches a route: clients are redirected to the decoded path")
    return text


_LITERAL = r"^/[^?#\\\s]*$"
LiteralPath = Annotated[
    str, AfterValidator(literal_path), WithJsonSchema({"type": "string", "pattern": _LITERAL, "maxLength": MAX_PATH})
]

_ENCODED_BY_ENVOY = '"<>^`{|}'
_TO_BE_ENCODED = re.compile(f"[{re.escape(_ENCODED_BY_ENVOY)}]")
_TO_BE_ENCODED_IN_TEMPLATES = re.compile(r'["<>^`|]')
_DECODED_BY_ENVOY = re.compile(r"%(2[DE]|3\d|[46][1-9A-F]|[57][\dA]|5F|7E)", re.IGNORECASE)
"""The codes of letters, digits and `-._~`."""


def _normal(text: str, encoded: re.Pattern[str] = _TO_BE_ENCODED) -> str:
    """A path as Envoy's normalisation leaves it. Raises ValueError: another one would never match."""
    if found := encoded.search(text):
        template = ", or use template for a segment that may be anything" if found[0] in "{}" else ""
        raise ValueError(f'"{found[0]}" is encoded before routes are matched; write {quote(found[0])}{template}')
    if needless := _DECODED_BY_ENVOY.search(text):
        raise ValueError(f'{needless[0]} is decoded before routes are matched; write "{unquote(needless[0])}"')
    if "%00" in text:
        raise ValueError("a request with %00 in its path is refused")
    return text


MatchedPath = Annotated[LiteralPath, AfterValidator(_normal)]

_TEMPLATE_PART = re.compile(r"\{[a-zA-Z][a-zA-Z0-9_]{0,15}(=\*\*?)?\}|\*|\*\*|[A-Za-z0-9._~!$&'()+,;:@%-]+")


MAX_TEMPLATE = 256
"""Characters of a template. The regex of `/*/*…` has 516 instructions for Envoy then: within `regex.MAX_PROGRAM`."""


def _template(text: str) -> str:
    if len(text) > MAX_TEMPLATE:
        raise ValueError(f"a template has at most {MAX_TEMPLATE} characters; a prefix or a regex may be longer")
    _normal(literal_path(text), _TO_BE_ENCODED_IN_TEMPLATES)
    variables = re.findall(r"\{([a-zA-Z_]\w*)", text)
    parts = text[1:].split("/")
    if len(variables) > 5 or len(set(variables)) != len(variables):
        raise ValueError("a template has at most five variables, each named once")
    for position, part in enumerate(parts):
        if not _TEMPLATE_PART.fullmatch(part):
            raise ValueError(f'template part "{part}" is neither text, "{{name}}", "*" nor "**"')
        if "**" in part and position != len(parts) - 1:
            raise ValueError('"**" stands only at the end')
    return text


IN_PATHS = VISIBLE & ~characters("?#\\" + _ENCODED_BY_ENVOY)
_PATH_REGEX = regex_for(
    IN_PATHS,
    'a path begins with "/", ends before the query, and is percent-encoded ("%20", "%7B"); "/{id}" is a template',
    begin="/",
)


class PathMatch(OneOf):
    """One way to match the path. A prefix ends on a segment boundary: `/api` matches `/api` and `/api/x`, not `/apix`."""

    choices = (Choice(("exact", "prefix", "template", "regex")),)

    exact: MatchedPath | None = None
    prefix: MatchedPath | None = None
    template: (
        Annotated[
            str,
            AfterValidator(_template),
            WithJsonSchema({"type": "string", "pattern": _LITERAL, "maxLength": MAX_TEMPLATE}),
        ]
        | None
    ) = None
    regex: Annotated[str, _PATH_REGEX] | None = None

    @property
    def said(self) -> tuple[str, str]:
        """Which of these it is, and its text: `prefix`, `/api`."""
        return next((kind, text) for kind, text in self.__dict__.items() if text is not None)


def _trimmed(white_space: str) -> AfterValidator:
    """A header value, or a part of one, without white space where that would be at an end of the whole."""

    def value(text: str) -> str:
        if re.search(white_space, text):
            raise ValueError("spaces around the value of a header are no part of it")
        return header_value(text)

    return AfterValidator(value)


_BEGIN, _END = r"\A[ \t]", r"[ \t]\Z"
_HEADER_REGEX = regex_for(VISIBLE | characters(" \t") | BEYOND_ASCII, "the value of a header has no control characters")


class HeaderMatch(OneOf):
    """A condition on one header; `invert` turns it round."""

    choices = (Choice(("exact", "prefix", "suffix", "contains", "regex", "present")),)

    name: SeenHeaderName
    exact: Annotated[str, _trimmed(f"{_BEGIN}|{_END}")] | None = None
    prefix: Annotated[str, Field(min_length=1), _trimmed(_BEGIN)] | None = None
    suffix: Annotated[str, Field(min_length=1), _trimmed(_END)] | None = None
    contains: Annotated[str, Field(min_length=1), AfterValidator(header_value)] | None = None
    regex: Annotated[str, _HEADER_REGEX] | None = None
    present: Flag | None = None
    invert: Flag = False


_NOT_IN_QUERY = re.compile(r"[^\x21-\x7e]|[&#]")
"""What a name or a value in a query is never sent with."""


def _as_sent(text: str) -> str:
    """A part of a query as clients send it: Envoy compares it before decoding. Raises ValueError that shows it."""
    if _NOT_IN_QUERY.search(text):
        encoded = _NOT_IN_QUERY.sub(lambda found: quote(found[0], safe=""), text)
        raise ValueError(f'queries are compared as clients send them, percent-encoded: write "{encoded[:80]}"')
    return text


def _query_name(text: str) -> str:
    if "=" in text:
        raise ValueError('the name of a query parameter ends before "=": write "%3D" for one in it')
    return _as_sent(text)


def _query_value(text: str) -> str:
    try:
        return _as_sent(text)
    except ValueError as error:
        if " " in text:
            raise ValueError(rf'{error}, or a regex such as "a(%20|\+)b", for some clients send "+"') from None
        raise


QueryValue = Annotated[str, AfterValidator(_query_value)]
_QUERY_REGEX = regex_for(
    VISIBLE & ~characters("&#"), r'queries are compared as clients send them, percent-encoded: "a(%20|\+)b"'
)


class QueryMatch(OneOf):
    """A condition on one query parameter, as it is sent: percent-encoded."""

    choices = (Choice(("exact", "prefix", "regex", "present")),)

    name: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_query_name)]
    exact: QueryValue | None = None
    prefix: Annotated[str, Field(min_length=1), AfterValidator(_query_value)] | None = None
    regex: Annotated[str, _QUERY_REGEX] | None = None
    present: Flag | None = None


def _with_a_path(method: str) -> str:
    if method == "CONNECT":
        raise ValueError("a CONNECT request has no path that a route could match: it is never proxied")
    return method


Method = Annotated[str, Field(pattern=r"^[A-Z]{1,32}$"), AfterValidator(_with_a_path)]


class Match(Written):
    """All conditions of one entry must hold; a route matches when one of its entries does."""

    path: PathMatch
    methods: Annotated[tuple[Method, ...], Field(max_length=24)] = ()
    headers: Annotated[tuple[HeaderMatch, ...], Field(max_length=16)] = ()
    query: Annotated[tuple[QueryMatch, ...], Field(max_length=16)] = ()
