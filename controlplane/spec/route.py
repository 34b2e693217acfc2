"""Routes: which requests go where, and under which conditions."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from controlplane.filters.header_mutation.spec import HeaderChanges
from controlplane.filters.jwt.spec import Auth
from controlplane.model import regex
from controlplane.model.written import (
    Choice,
    Count,
    Duration,
    Flag,
    HeaderName,
    HeaderValue,
    Host,
    Name,
    OneOf,
    PositiveDuration,
    Regex,
    Written,
)

MAX_PATH = 2048
"""Characters of a literal path."""


def literal_path(text: str) -> str:
    """An absolute path in the form that Envoy's normalisation leaves, so that it can ever match. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError('a path begins with "/"')
    if len(text) > MAX_PATH:
        raise ValueError(f"a path has at most {MAX_PATH} characters")
    if "?" in text or "#" in text:
        raise ValueError("a path has no query (use match.query) and no fragment")
    if re.search(r"[^\x21-\x7e]", text) or "\\" in text:
        raise ValueError('a path has printable ASCII characters; encode others as "%C3%A9"')
    if "//" in text or re.search(r"/\.{1,2}(/|$)", text):
        raise ValueError('"//", "/./" and "/../" are normalised away before routes are matched')
    if re.search(r"%(2[fF]|5[cC])", text):
        raise ValueError("an encoded slash never reaches a route: clients are redirected to the decoded path")
    return text


LiteralPath = Annotated[str, AfterValidator(literal_path)]

_TEMPLATE_PART = re.compile(r"\{[a-zA-Z][a-zA-Z0-9_]{0,15}(=\*\*?)?\}|\*|\*\*|[A-Za-z0-9._~!$&'()+,;:@%-]+")


def _template(text: str) -> str:
    literal_path(text)
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


class PathMatch(OneOf):
    """One way to match the path. A prefix ends on a segment boundary: `/api` matches `/api` and `/api/x`, not `/apix`."""

    choices = (Choice(("exact", "prefix", "template", "regex")),)

    exact: LiteralPath | None = None
    prefix: LiteralPath | None = None
    template: Annotated[str, AfterValidator(_template)] | None = None
    regex: Regex | None = None


class HeaderMatch(OneOf):
    """A condition on one header; `invert` turns it round."""

    choices = (Choice(("exact", "prefix", "suffix", "contains", "regex", "present")),)

    name: HeaderName
    exact: HeaderValue | None = None
    prefix: Annotated[str, Field(min_length=1)] | None = None
    suffix: Annotated[str, Field(min_length=1)] | None = None
    contains: Annotated[str, Field(min_length=1)] | None = None
    regex: Regex | None = None
    present: Flag | None = None
    invert: Flag = False


class QueryMatch(OneOf):
    """A condition on one query parameter."""

    choices = (Choice(("exact", "prefix", "regex", "present")),)

    name: Annotated[str, Field(min_length=1, max_length=1024)]
    exact: str | None = None
    prefix: Annotated[str, Field(min_length=1)] | None = None
    regex: Regex | None = None
    present: Flag | None = None


Method = Annotated[str, Field(pattern=r"^[A-Z]{1,32}$")]


class Match(Written):
    """All conditions of one entry must hold; a route matches when one of its entries does."""

    path: PathMatch
    methods: Annotated[tuple[Method, ...], Field(max_length=24)] = ()
    headers: Annotated[tuple[HeaderMatch, ...], Field(max_length=16)] = ()
    query: Annotated[tuple[QueryMatch, ...], Field(max_length=16)] = ()


class Destination(Written):
    """A backend and its share of the requests."""

    backend: Name
    weight: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 1


class PathChange(OneOf):
    """How the path is rewritten."""

    choices = (Choice(("replace_prefix", "replace_full", "replace_regex")),)

    replace_prefix: LiteralPath | None = None
    replace_full: LiteralPath | None = None
    replace_regex: RegexReplace | None = None


class RegexReplace(Written):
    r"""RE2 pattern and substitution (`\1` is the first group)."""

    pattern: Regex
    substitution: Annotated[str, Field(max_length=1024)]

    @model_validator(mode="after")
    def _groups_exist(self) -> RegexReplace:
        groups = regex.check(self.pattern)
        if re.search(r"[\x00-\x1f\x7f]", self.substitution):
            raise ValueError("a substitution has no control characters")
        for reference in re.findall(r"\\(.?)", self.substitution):
            if not (reference == "\\" or (reference.isascii() and reference.isdigit())):
                raise ValueError(f'"\\{reference}" in a substitution is neither a group such as "\\1" nor "\\\\"')
            if reference.isdigit() and int(reference) > groups:
                raise ValueError(f"\\{reference} is not a group of the pattern, which has {groups}")
        return self


class Redirect(Written):
    """Answer with a redirect; what is not named stays as in the request."""

    scheme: Literal["http", "https"] | None = None
    host: Host | None = None
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = None
    path: RedirectPath | None = None
    code: Literal[301, 302, 303, 307, 308] = 302
    strip_query: Flag = False

    @model_validator(mode="after")
    def _changes_something(self) -> Redirect:
        if not (self.scheme or self.host or self.port or self.path):
            raise ValueError("a redirect changes at least one of scheme, host, port, path")
        return self


class RedirectPath(OneOf):
    """The path of a redirect."""

    choices = (Choice(("replace_prefix", "replace_full")),)

    replace_prefix: LiteralPath | None = None
    replace_full: LiteralPath | None = None


MAX_BODY = 4096
"""Bytes of a direct response: Envoy's default bound."""


def _short_body(text: str) -> str:
    if (size := len(text.encode())) > MAX_BODY:
        raise ValueError(f"a body has at most {MAX_BODY} bytes, this one has {size}")
    return text


class Respond(Written):
    """Answer directly."""

    status: Annotated[int, Field(strict=True, ge=200, le=599)]
    body: Annotated[str, Field(max_length=MAX_BODY), AfterValidator(_short_body)] = ""


class RequestTransform(Written):
    """What is changed on the way to the backend."""

    host: Host | None = None
    path: PathChange | None = None
    headers: HeaderChanges = HeaderChanges()


class ResponseTransform(Written):
    """What is changed on the way to the client."""

    headers: HeaderChanges = HeaderChanges()


class Transform(Written):
    """Changes in both directions."""

    request: RequestTransform = RequestTransform()
    response: ResponseTransform = ResponseTransform()


class Timeouts(Written):
    """`request` from first byte to last; `idle` without a byte. `0s` switches one off."""

    request: Duration | None = None
    idle: Duration | None = None


RetryOn = Literal[
    "5xx",
    "gateway-error",
    "reset",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
]


class Backoff(Written):
    """Wait `base`, doubled each time, at most `max`, with jitter."""

    base: PositiveDuration
    max: PositiveDuration | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Backoff:
        if self.max is not None and self.max < self.base:
            raise ValueError("max must be at least base")
        return self


class Retry(Written):
    """When and how often a request is tried again; `attempts: 0` switches it off."""

    attempts: Annotated[Count, Field(le=10)] | None = None
    when: Annotated[tuple[RetryOn, ...], Field(min_length=1)] | None = None
    per_try_timeout: PositiveDuration | None = None
    backoff: Backoff | None = None
    statuses: tuple[Annotated[int, Field(strict=True, ge=400, le=599)], ...] | None = None


class Route(OneOf):
    """One route. Its name is its identity: the order of a document means nothing."""

    choices = (
        Choice(("public", "auth"), "say who may call: auth, or public: true for everybody (one of them)"),
        Choice(("to", "redirect", "respond")),
    )

    name: Name
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=256)]
    listeners: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    match: Annotated[tuple[Match, ...], Field(min_length=1, max_length=64)]
    public: Literal[True] | None = None
    auth: Auth | None = None
    use: tuple[Name, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    transform: Transform | None = None
    websocket: Flag = False
    to: Annotated[tuple[Destination, ...], Field(min_length=1, max_length=64)] | None = None
    redirect: Redirect | None = None
    respond: Respond | None = None

    @model_validator(mode="after")
    def _complete(self) -> Route:
        if self.to is None and (self.websocket or (self.transform and self.transform.request != RequestTransform())):
            raise ValueError("websocket and transform.request need a backend (to)")
        if self.to is not None:
            if len({destination.backend for destination in self.to}) != len(self.to):
                raise ValueError("a backend stands in to twice; add up its weights")
            if sum(destination.weight for destination in self.to) == 0:
                raise ValueError("at least one weight must be above 0")
        return self
