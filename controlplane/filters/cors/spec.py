"""What users write for CORS."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from controlplane.model.written import Duration, Flag, HeaderName, Regex, Written

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


def _origin(text: str) -> str:
    if text == "*":
        return text
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9.-]+(:\d{1,5})?|null", text):
        raise ValueError(
            'an origin is scheme and host such as "https://shop.example.com", "https://*.example.com" or "*"'
        )
    return text


Origin = Annotated[str, AfterValidator(_origin)]


class Cors(Written):
    """Which other origins a browser may call a route from."""

    origins: tuple[Origin, ...] = ()
    origin_regexes: tuple[Regex, ...] = ()
    methods: tuple[Annotated[str, Field(pattern=r"^(\*|[A-Z]{1,32})$")], ...] = ("GET", "HEAD", "POST")
    headers: tuple[HeaderName, ...] = ()
    expose_headers: tuple[HeaderName, ...] = ()
    credentials: Flag = False
    max_age: Duration | None = None

    @model_validator(mode="after")
    def _safe(self) -> Cors:
        if not self.origins and not self.origin_regexes:
            raise ValueError("origins or originRegexes must name at least one origin")
        if self.credentials and "*" in self.origins:
            raise ValueError('credentials: true with origin "*" would let every site act as the user; name the origins')
        return self
