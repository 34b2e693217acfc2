"""The base of every model that people write in YAML, and the scalar types of their fields.

Texts are canonical once they are in a model: hosts are lower case, header names too, durations are `timedelta`.
Every scalar explains itself in its error, because that error is what a person reads at `file:line:column`.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import idna
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from controlplane.model import regex
from controlplane.model.characters import Characters, characters


class Choice(NamedTuple):
    """Fields of which exactly one is set; `message` says so better than their names alone, where there is more to say."""

    fields: tuple[str, ...]
    message: str = ""

    @property
    def names(self) -> list[str]:
        """The fields as people write them."""
        return [to_camel(name) for name in self.fields]

    @property
    def rule(self) -> str:
        """What is said when none or several are set."""
        return self.message or f"exactly one of {', '.join(self.names)} is needed"


class Written(BaseModel):
    """A frozen model with camelCase field names; an unknown field is an error, and so is a known one with nothing behind it.

    A validator is built when a model is first used, not when it is defined: those of the kinds hold all others.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=False,
        defer_build=True,
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The rules of the model. What may be left out may not be null.

        `tls:` with nothing behind it looks like something that is said, and would be plain text: a slip that nobody sees.
        """
        schema = handler(source)
        model: Any = handler.resolve_ref_schema(schema)
        while model["type"] != "model-fields":
            model = model["schema"]
        for field in model["fields"].values():
            said = field["schema"]
            if said["type"] == "default" and said["schema"]["type"] == "nullable":
                said["schema"] = core_schema.no_info_before_validator_function(_something, said["schema"])
        return schema


def _something(value: object) -> object:
    if value is None:
        raise PydanticCustomError("nothing", "has no value")
    return value


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_DURATION_SCHEMA = r"^(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$"
_LONGEST = timedelta(days=366)


def parse_duration(text: object) -> timedelta:
    """`1h30m`, `15s`, `250ms`; units are h, m, s, ms in that order. Raises ValueError."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        raise ValueError('a duration is a text such as "250ms", "15s", "1h30m"')
    # Twenty digits are too long in every unit; Python reads no more than some thousand.
    hours, minutes, seconds, milliseconds = (int((part or "").lstrip("0")[:20] or 0) for part in match.groups())
    try:
        value = timedelta(hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
    except OverflowError:
        value = timedelta.max
    if value > _LONGEST:
        raise ValueError("a duration is at most 8784h (a year)")
    return value


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back: `1m30s`."""
    milliseconds = round(value / timedelta(milliseconds=1))
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION_SCHEMA, "examples": ["250ms", "15s", "1h30m"]}),
]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]


def _percent(text: object) -> float:
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,2})?)%", text) if isinstance(text, str) else None
    if match is None or not 0 <= float(match[1]) <= 100:
        raise ValueError('a percentage is a text such as "20%" or "0.5%", at most "100%"')
    return float(match[1])


Percent = Annotated[
    float,
    BeforeValidator(_percent),
    PlainSerializer(lambda value: f"{value:g}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,3}(\.\d{1,2})?%$", "examples": ["20%"]}),
]

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
PositiveCount = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Flag = Annotated[bool, Field(strict=True)]

NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
"""The pattern of a `Name`."""
_IS_NAME = re.compile(NAME).fullmatch


def _name(text: str) -> str:
    if not _IS_NAME(text):
        raise ValueError(
            "a name has lower-case letters, digits, '-' and '.', and begins and ends with one of the former"
        )
    return text


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME, "maxLength": 253})]
"""The name of an object or of an element of one: Kubernetes' DNS subdomain form."""

_HOST = r"^(\*|(\*\.)?[^*:/|\s]+)$"
"""What every host is like that is taken, in whatever alphabet."""
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)|_[a-z0-9-]{1,62}")


def canonical_host(text: str) -> str:
    """Lower case, no trailing dot, IDNA; exact, `*.suffix` or `*`. Raises ValueError."""
    if text == "*":
        return text
    wildcard, host = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    host = host.removesuffix(".")
    if ":" in host or "/" in host or "|" in host:
        raise ValueError("a host has no port, scheme or path")
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError as error:
            raise ValueError(f"not a host name: {error}") from None
    host = host.lower()
    if len(wildcard + host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError('a host is a name such as "shop.example.com", "*.example.com" or "*"')
    return wildcard + host


Host = Annotated[
    str,
    AfterValidator(canonical_host),
    WithJsonSchema({"type": "string", "pattern": _HOST, "examples": ["shop.example.com", "*"]}),
]


def _one_host(text: str) -> str:
    host = canonical_host(text)
    if "*" in host:
        raise ValueError("one host is needed here, a wildcard is none")
    return host


OneHost = Annotated[
    str,
    AfterValidator(_one_host),
    WithJsonSchema({"type": "string", "pattern": r"^[^*:/|\s]+$", "examples": ["shop.example.com"]}),
]
"""A host that requests or clients are sent to."""


def _server_name(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    return _one_host(text)


ServerName = Annotated[
    str, AfterValidator(_server_name), WithJsonSchema({"type": "string", "examples": ["cp.internal"]})
]
"""A host name or address of a server, as clients connect to it."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


def header_name(text: str) -> str:
    """Lower case. Raises ValueError when it is none."""
    if not _TOKEN.fullmatch(text):
        raise ValueError('a header name is a token such as "x-team"')
    return text.lower()


def _own_header_name(text: str) -> str:
    name = header_name(text)
    if name in {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te"}:
        raise ValueError(f'"{name}" frames the message and cannot be changed here (the host: transform.request.host)')
    if name.startswith(("x-gatewayspec-", "x-envoy-")):
        raise ValueError(f'"{name}" belongs to the proxy')
    return name


def seen_header_name(text: str) -> str:
    """The name of a header that requests may have when they are looked at. Raises ValueError."""
    name = header_name(text)
    if "_" in name:
        raise ValueError("requests with an underscore in the name of a header are refused: it would never be seen")
    if name.startswith("x-gatewayspec-"):
        raise ValueError(f'"{name}" belongs to the proxy')
    if name in _NEVER_SEEN:
        raise ValueError(f'"{name}" is removed from every request before anything looks at it')
    return name


_NEVER_SEEN = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "x-forwarded-client-cert")
)

HeaderName = Annotated[str, AfterValidator(header_name)]
SeenHeaderName = Annotated[str, AfterValidator(seen_header_name)]
"""A header of requests that is looked at."""
ChangedHeaderName = Annotated[str, AfterValidator(_own_header_name)]
"""A header that is set, added or removed."""


MAX_HEADER_VALUE = 16384
"""Bytes of a header value that Envoy sets, "%" escaped."""


def header_value(text: str) -> str:
    """The value of a header, or a part of one. Raises ValueError when it cannot be."""
    if len(text) > 8192:
        raise ValueError("a header value has at most 8192 characters")
    if len(text.encode()) + text.count("%") > MAX_HEADER_VALUE:
        raise ValueError(f'a header value has at most {MAX_HEADER_VALUE} bytes, where "%" counts twice')
    if any((ord(character) < 0x20 and character != "\t") or ord(character) == 0x7F for character in text):
        raise ValueError("a header value has no control characters")
    return text


HeaderValue = Annotated[str, AfterValidator(header_value)]


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError('an address is an IPv4 or IPv6 address such as "203.0.113.10" or "2001:db8::1"') from None
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        raise ValueError("an IPv4 address is written as such, and an IPv6 address has no zone")
    if address.is_multicast:
        raise ValueError("a multicast address serves no connections")
    return str(address)


Address = Annotated[str, AfterValidator(_address), WithJsonSchema({"type": "string", "examples": ["203.0.113.10"]})]


def _regex(text: str) -> str:
    regex.check(text)
    return text


Regex = Annotated[str, AfterValidator(_regex)]
"""RE2 syntax, matched against the whole text."""


def regex_for(made_of: Characters, texts: str, begin: str = "") -> AfterValidator:
    """A regex that can match a text of these characters; an error says what such `texts` are."""

    def possible(pattern: str) -> str:
        part, _ = regex.read(pattern, made_of)
        if not (part.first & characters(begin) if begin else part.possible):
            raise ValueError(f"no request matches this regex: {texts}")
        return pattern

    return AfterValidator(possible)


class FieldError(ValueError):
    """What is wrong with a field further down than the model that sees it: `path` leads there, as people write it."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


class OneOf(Written):
    """A model with choices: of the fields of each, exactly one is set. The JSON Schema says so too."""

    choices: ClassVar[tuple[Choice, ...]]

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        for choice in self.choices:
            if [*map(self.__dict__.get, choice.fields)].count(None) != len(choice.fields) - 1:
                raise ValueError(choice.rule)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of the fields, and a `oneOf` of required fields for each choice."""
        schema = handler(core)
        described = handler.resolve_ref_schema(schema)
        described["allOf"] = [{"oneOf": [{"required": [name]} for name in choice.names]} for choice in cls.choices]
        return schema


def dump(model: BaseModel) -> dict[str, Any]:
    """The model in the words of the YAML file."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
