"""What users write for JWT authentication: providers on the gateway, requirements on routes."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from controlplane.model.written import (
    ChangedHeaderName,
    Duration,
    Flag,
    HeaderName,
    Name,
    PositiveDuration,
    Written,
    one_of,
)


class SecretKey(Written):
    """A file of a secret."""

    secret_ref: Name
    key: str | None = None


def _uri(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.fragment:
        raise ValueError('a JWKS address is a URL such as "https://id.example.com/jwks.json"')
    _ = parts.port
    return text


def key_set_problem(text: str | bytes) -> str | None:
    """Why this text is not a JSON Web Key Set that can verify a token, or None. (RFC 7517)"""
    try:
        keys = json.loads(text)["keys"]
        if not isinstance(keys, list) or not keys:
            return "the key set is empty"
        for key in keys:
            if key.get("kty") not in {"RSA", "EC", "OKP"}:
                return f"key type {key.get('kty')!r}: only RSA, EC and OKP keys verify without sharing a secret"
            needed = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}[key["kty"]]
            if not all(isinstance(key.get(part), str) and key[part] for part in needed):
                return f"a {key['kty']} key needs {', '.join(needed)}"
            if "d" in key:
                return "the key set holds a private key"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 'not a JSON Web Key Set ({"keys": [...]})'
    return None


def _inline(text: str) -> str:
    if problem := key_set_problem(text):
        raise ValueError(problem)
    return text


class Jwks(Written):
    """Where the keys of an issuer come from: `uri` (fetched by Envoy), `inline`, or a secret."""

    uri: Annotated[str, AfterValidator(_uri)] | None = None
    cache: PositiveDuration | None = None
    ca: SecretKey | None = None
    inline: Annotated[str, AfterValidator(_inline)] | None = None
    secret_ref: Name | None = None
    key: str = "jwks.json"

    @model_validator(mode="after")
    def _one_origin(self) -> Jwks:
        if one_of(self, "uri", "inline", "secret_ref") != "uri" and (self.cache or self.ca):
            raise ValueError("cache and ca belong to uri")
        return self


class TokenPlace(Written):
    """Where a request carries its token."""

    header: HeaderName | None = None
    prefix: str = ""
    cookie: str | None = None
    query: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> TokenPlace:
        if one_of(self, "header", "cookie", "query") != "header" and self.prefix:
            raise ValueError("prefix belongs to header")
        return self


class JwtProvider(Written):
    """An issuer of tokens. `iss`, `aud` and `exp` are always checked."""

    name: Name
    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    jwks: Jwks
    claims_to_headers: dict[Annotated[str, Field(pattern=r"^[^\s]{1,128}$")], ChangedHeaderName] = Field(
        default_factory=dict
    )
    from_: Annotated[tuple[TokenPlace, ...], Field(alias="from")] = ()
    forward: Flag = False
    clock_skew: Duration | None = None

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

    @model_validator(mode="after")
    def _skew_is_small(self) -> JwtProvider:
        if self.clock_skew is not None and self.clock_skew.total_seconds() > 300:
            raise ValueError("clockSkew is at most 5m")
        return self


class Mechanism(Written):
    """One way to prove who calls."""

    jwt: Name


class Auth(Written):
    """Who may call: any one (`anyOf`) or all (`allOf`) of these mechanisms."""

    any_of: Annotated[tuple[Mechanism, ...], Field(min_length=1, max_length=16)] | None = None
    all_of: Annotated[tuple[Mechanism, ...], Field(min_length=1, max_length=16)] | None = None

    @model_validator(mode="after")
    def _one_combination(self) -> Auth:
        one_of(self, "any_of", "all_of")
        return self
