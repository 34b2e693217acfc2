"""What users write for JWT authentication: providers on the gateway, requirements on routes."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from controlplane.filters.jwt.key_set import usable_keys
from controlplane.model.written import (
    ChangedHeaderName,
    Choice,
    Duration,
    FieldError,
    Flag,
    HeaderValue,
    Name,
    OneOf,
    SeenHeaderName,
    Written,
    canonical_host,
)


class SecretKey(Written):
    """A file of a secret."""

    secret_ref: Name
    key: Annotated[str, Field(min_length=1)] | None = None


def _uri(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.fragment:
        raise ValueError('a JWKS address is a URL such as "https://id.example.com/jwks.json"')
    if re.search(r"[^\x21-\x7e]", text):
        raise ValueError("a URL has printable ASCII characters; an international host name is written as xn--…")
    if ":" not in parts.hostname and ("_" in canonical_host(parts.hostname) or parts.hostname.startswith("*")):
        raise ValueError(f'"{parts.hostname}" is not a host name')
    if parts.port == 0:
        raise ValueError("port 0 cannot be connected to")
    return text


def _cache(value: timedelta) -> timedelta:
    # Envoy fetches 5 s before the time is over: at or below that, again and again without a pause.
    if value < timedelta(seconds=10):
        raise ValueError("cache is at least 10s")
    return value


class Jwks(OneOf):
    """Where the keys of an issuer come from: `uri` (fetched by Envoy), `inline`, or a secret."""

    choices = (Choice(("uri", "inline", "secret_ref")),)

    uri: Annotated[str, AfterValidator(_uri)] | None = None
    cache: Annotated[Duration, AfterValidator(_cache)] | None = None
    ca: SecretKey | None = None
    inline: Annotated[str, AfterValidator(usable_keys)] | None = None
    secret_ref: Name | None = None
    key: Annotated[str, Field(min_length=1)] = "jwks.json"

    @model_validator(mode="after")
    def _fetched_alone(self) -> Jwks:
        if self.uri is None and (self.cache or self.ca):
            raise ValueError("cache and ca belong to uri")
        if self.secret_ref is None and "key" in self.model_fields_set:
            raise FieldError(("key",), "key is a file of a secret; it belongs to secretRef")
        return self


_TOKEN = r"^[A-Za-z0-9_.~-]{1,128}$"
"""Characters that need no encoding in a query, and none in a cookie."""


class TokenPlace(OneOf):
    """Where a request carries its token."""

    choices = (Choice(("header", "cookie", "query")),)

    header: SeenHeaderName | None = None
    prefix: HeaderValue = ""
    cookie: Annotated[str, Field(pattern=_TOKEN)] | None = None
    query: Annotated[str, Field(pattern=_TOKEN)] | None = None

    @model_validator(mode="after")
    def _prefix_of_a_header(self) -> TokenPlace:
        if self.header is None and self.prefix:
            raise ValueError("prefix belongs to header")
        return self


_OF_CLIENTS = re.compile(
    "accept(-.*)?|access-control-.*|authorization|cache-control|content-.*|cookie|date|expect|forwarded|from"
    "|grpc-(accept-encoding|encoding|timeout)|if-.*|max-forwards|origin|pragma|prefer|priority|proxy-.*|range|referer"
    "|sec-.*|trace(parent|state)|trailer|user-agent|via"
    "|x-(b3-.*|forwarded-(for|host|port|prefix|proto)|real-ip|request-id|requested-with)"
)
"""Headers that clients send for reasons of their own."""


def _claim_header(name: str) -> str:
    if _OF_CLIENTS.fullmatch(name):
        raise ValueError(
            f'"{name}" would be removed from what clients send: give the claim a header of its own, such as "x-user-id"'
        )
    return name


ClaimHeaderName = Annotated[ChangedHeaderName, AfterValidator(_claim_header)]


def _skew(value: timedelta) -> timedelta:
    # Envoy counts whole seconds, and takes 0 for its own default of 60.
    if not timedelta(seconds=1) <= value <= timedelta(minutes=5) or value.microseconds:
        raise ValueError("clockSkew is 1s to 5m, in whole seconds: Envoy has no smaller one")
    return value


class JwtProvider(Written):
    """An issuer of tokens. `iss`, `aud` and `exp` are always checked."""

    name: Name
    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    jwks: Jwks
    claims_to_headers: dict[Annotated[str, Field(pattern=r"^[^\s]{1,128}$")], ClaimHeaderName] = Field(
        default_factory=dict
    )
    from_: Annotated[tuple[TokenPlace, ...], Field(alias="from")] = ()
    forward: Flag = False
    clock_skew: Annotated[Duration, AfterValidator(_skew)] | None = None

    def token_places(self) -> list[str]:
        """Where a request may carry the token, in words; without `from`, where Envoy looks by itself."""
        if not self.from_:
            return ["header authorization (Bearer)", "query access_token"]
        return [
            f"header {place.header} ({place.prefix.strip() or 'bare'})"
            if place.header
            else f"cookie {place.cookie}"
            if place.cookie
            else f"query {place.query}"
            for place in self.from_
        ]

    def token_headers(self) -> list[str]:
        """The request headers that the token may stand in."""
        if not self.from_:
            return ["authorization"]
        return [place.header or "cookie" for place in self.from_ if place.query is None]

    def token_parameters(self) -> list[str]:
        """The query parameters that the token may stand in."""
        return [place.query for place in self.from_ if place.query] if self.from_ else ["access_token"]

    @model_validator(mode="after")
    def _each_claim_has_a_header(self) -> JwtProvider:
        said: set[str] = set()
        for claim, header in self.claims_to_headers.items():
            if header in said:
                raise FieldError(("claimsToHeaders", claim), f'another claim goes to "{header}" too: give each its own')
            said.add(header)
        return self


class Mechanism(Written):
    """One way to prove who calls."""

    jwt: Name


class Auth(OneOf):
    """Who may call: any one (`anyOf`) or all (`allOf`) of these mechanisms."""

    choices = (Choice(("any_of", "all_of")),)

    any_of: Annotated[tuple[Mechanism, ...], Field(min_length=1, max_length=16)] | None = None
    all_of: Annotated[tuple[Mechanism, ...], Field(min_length=1, max_length=16)] | None = None

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """Those that it names, of any or all of which a caller needs a token."""
        return self.any_of or self.all_of or ()
