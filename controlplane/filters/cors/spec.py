"""What users write for CORS."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from controlplane.model import regex
from controlplane.model.characters import characters
from controlplane.model.written import Duration, FieldError, Flag, HeaderName, Regex, Written


def _origin(text: str) -> str:
    if text == "*":
        return text
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9.-]+(:\d{1,5})?|null", text):
        raise ValueError(
            'an origin is scheme and host such as "https://shop.example.com", "https://*.example.com" or "*"'
        )
    if usual := re.fullmatch("(https://.*):443|(http://.*):80", text):
        raise ValueError(f'browsers leave out the port that a scheme has by itself: write "{usual[1] or usual[2]}"')
    return text


_OF_ANYBODY = characters("https:/qz.")
"""What the origin of a site that nobody has thought of is made of."""
_PUBLIC_SUFFIX = re.compile(r"(\\\.|\[\.\]|\.)(com|net|org|info|io|dev|app|co|eu|uk|de|xyz|site|online|cloud)\$?$")


def _takes_anybody(pattern: str) -> bool:
    """Whether a regex names no host, but for the end of public names; or takes `null`, which every site can be."""
    if regex.read(pattern, characters("nul"))[0].first & characters("n"):
        return True
    for text in {pattern, _PUBLIC_SUFFIX.sub("", pattern)}:
        try:
            part, _ = regex.read(text, _OF_ANYBODY)
        except ValueError:  # what is left of it, without the end, is none
            continue
        if part.first & characters("h"):
            return True
    return False


Origin = Annotated[str, AfterValidator(_origin)]


def _whole_seconds(value: timedelta) -> timedelta:
    if value.microseconds:
        raise ValueError("maxAge is in whole seconds: browsers are told no others")
    return value


class Cors(Written):
    """Which other origins a browser may call a route from."""

    origins: tuple[Origin, ...] = ()
    origin_regexes: tuple[Regex, ...] = ()
    methods: tuple[Annotated[str, Field(pattern=r"^(\*|[A-Z]{1,32})$")], ...] = ("GET", "HEAD", "POST")
    headers: tuple[HeaderName, ...] = ()
    expose_headers: tuple[HeaderName, ...] = ()
    credentials: Flag = False
    max_age: Annotated[Duration, AfterValidator(_whole_seconds)] | None = None

    @model_validator(mode="after")
    def _safe(self) -> Cors:
        if not self.origins and not self.origin_regexes:
            raise ValueError("origins or originRegexes must name at least one origin")
        if self.credentials and "*" in self.origins:
            raise ValueError('credentials: true with origin "*" would let every site act as the user; name the origins')
        if self.credentials and "null" in self.origins:
            raise FieldError(
                ("origins", self.origins.index("null")),
                'every site can send the origin "null" (from a sandboxed frame), and with credentials: true act as the user',
            )
        for index, origin in enumerate(self.origins if self.credentials else ()):
            if "*." in origin and _takes_anybody(origin.replace(".", "[.]").replace("*", ".*")):
                raise FieldError(
                    ("origins", index), "with credentials: true every site of that kind acts as the user: name the host"
                )
        for index, pattern in enumerate(self.origin_regexes if self.credentials else ()):
            if _takes_anybody(pattern):
                raise FieldError(
                    ("originRegexes", index),
                    "with credentials: true every site that this regex takes acts as the user: name the host in it, or "
                    'say origins such as "https://*.example.com"',
                )
        return self
