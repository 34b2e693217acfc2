"""Routes: which requests go where, and under which conditions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from controlplane.filters.header_mutation.spec import HeaderChanges
from controlplane.filters.jwt.spec import Auth
from controlplane.model.written import (
    Choice,
    Count,
    Duration,
    FieldError,
    Flag,
    Host,
    Name,
    OneHost,
    OneOf,
    PositiveDuration,
    Written,
)
from controlplane.spec.match import LiteralPath, Match
from controlplane.spec.rewrite import PathChange


class Destination(Written):
    """A backend and its share of the requests."""

    backend: Name
    weight: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 1


class Redirect(Written):
    """Answer with a redirect; what is not named stays as in the request."""

    scheme: Literal["http", "https"] | None = None
    host: OneHost | None = None
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


_WITHOUT_BODY = frozenset({204, 205, 304})


def _short_body(text: str) -> str:
    if (size := len(text.encode())) > MAX_BODY:
        raise ValueError(f"a body has at most {MAX_BODY} bytes, this one has {size}")
    return text


class Respond(Written):
    """Answer directly."""

    status: Annotated[int, Field(strict=True, ge=200, le=599)]
    body: Annotated[str, Field(max_length=MAX_BODY), AfterValidator(_short_body)] = ""

    @model_validator(mode="after")
    def _fits_the_status(self) -> Respond:
        if self.body and self.status in _WITHOUT_BODY:
            # Envoy sends it, and clients take it for the beginning of the next answer.
            raise FieldError(("body",), f"an answer with status {self.status} has no body")
        if 300 <= self.status < 400 and self.status != 304:
            # Envoy adds the address of the request itself.
            raise FieldError(
                ("status",), f"a client that gets {self.status} would ask for the same again: use redirect"
            )
        return self


class RequestTransform(Written):
    """What is changed on the way to the backend."""

    host: OneHost | None = None
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
    """`request` from the end of a request to that of its response; `idle` without a byte. `0s` switches one off."""

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


_NO_TIMEOUTS, _NO_RETRY, _NO_TRANSFORM = Timeouts(), Retry(), RequestTransform()


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
        if self.to is None and (self.websocket or (self.transform and self.transform.request != _NO_TRANSFORM)):
            raise ValueError("websocket and transform.request need a backend (to)")
        if self.websocket and all(match.methods and "GET" not in match.methods for match in self.match):
            raise FieldError(("websocket",), "a WebSocket begins with a GET, which no match of this route takes")
        if self.to is None:
            for field, said, nothing in (("retry", self.retry, _NO_RETRY), ("timeouts", self.timeouts, _NO_TIMEOUTS)):
                if said != nothing:
                    raise FieldError((field,), "retry and timeouts are for a backend (to); remove them, or name one")
        else:
            if len({destination.backend for destination in self.to}) != len(self.to):
                raise ValueError("a backend stands in to twice; add up its weights")
            if sum(destination.weight for destination in self.to) == 0:
                raise ValueError("at least one weight must be above 0")
        return self

    @model_validator(mode="after")
    def _rewrites_to_paths(self) -> Route:
        change = self.transform.request.path if self.transform else None
        if change is not None and change.replace_regex is not None:
            for number, match in enumerate(self.match):
                if not change.replace_regex.leaves_a_path(match.path):
                    raise FieldError(
                        ("transform", "request", "path", "replaceRegex", "substitution"),
                        f'this may leave a path that does not begin with "/" (for match[{number}]): begin with one, '
                        "or with a group that does",
                    )
        return self
