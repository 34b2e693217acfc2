"""Errors of the schema in friendly words: what pydantic found becomes diagnostics with paths and positions.

Called by `parse` for documents that do not fit their model. It never repeats values that it was not asked about: a
diagnostic ends up in logs.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from controlplane.errors import Diagnostic, Place, nearest
from controlplane.model.written import FieldError
from controlplane.spec.codes import Code
from controlplane.spec.fields import example, meant
from controlplane.spec.places import positions, shown
from controlplane.spec.yaml import MAX_FAULTS, Fault, Path


def explain(
    model: type[BaseModel], error: ValidationError, text: str, data: Any, file: str, line: int, subject: str
) -> list[Diagnostic]:
    """All errors of one document, in the order of the text; at most a hundred."""
    count = error.error_count()
    if count > MANY:  # describing half a million errors takes seconds
        try:
            model.model_validate(_beginning(data))
        except ValidationError as fewer:
            error = fewer
    details = _details(error, data)
    found = [_found(model, detail, data) for detail in details[:MAX_FAULTS]]
    values = positions(text, [one.at for one in found if not one.of_key])
    keys = positions(text, [one.at for one in found if one.of_key], of_key=True)
    diagnostics = []
    for one in found:
        row, column = (keys if one.of_key else values)[one.at]
        place = Place(file, line + row, column + 1)
        path = shown(one.path, data)
        diagnostics.append(Diagnostic(one.code, one.message, path, one.help, subject=subject, place=place))
    diagnostics.sort(key=lambda diagnostic: (diagnostic.place, diagnostic.path))
    more = (count if count > MANY else len(details)) - len(diagnostics)
    if more:
        message = f"{more:,} more errors in this document"
        diagnostics.append(Diagnostic(Code.TOO_MANY_ERRORS, message, subject=subject, place=Place(file, line)))
    return diagnostics


MANY = 2000
"""Errors of a document that are too many to be described."""


def fault_paths(model: type[BaseModel], error: ValidationError, data: Any) -> list[Path]:
    """What each of the errors of a document is about."""
    return [_found(model, detail, data).path for detail in _details(error, data)]


def _details(error: ValidationError, data: Any) -> list[ErrorDetails]:
    details = map(partial(_untagged, data), error.errors(include_url=False))
    return [detail for detail in details if detail and not _follows(detail)]


def _beginning(data: Any) -> Any:
    """The data with at most 50 entries in every container."""
    if isinstance(data, dict):
        return {key: _beginning(data[key]) for key in islice(data, 50)}
    if isinstance(data, list):
        return [_beginning(element) for element in data[:50]]
    return data


_LISTS = ("tuple[", "list[")


def _untagged(data: Any, detail: ErrorDetails) -> ErrorDetails | None:
    """The error without the form that pydantic tried where several are possible; None for another form than what was written."""
    at = data
    for number, step in enumerate(detail["loc"]):
        inside = step in at if isinstance(at, dict) else isinstance(at, list) and isinstance(step, int)
        if not inside:
            if not isinstance(step, str) or "[" not in step or step == "[key]":
                return detail
            if isinstance(at, list) != step.startswith(_LISTS):
                return None
            return {
                **detail,
                "loc": (*detail["loc"][:number], *detail["loc"][number + 1 :]),
                "ctx": {**detail.get("ctx", {}), "or_list": True},
            }
        at = at[step]
    return detail


def _follows(detail: ErrorDetails) -> bool:
    """Whether this error is only the consequence of others: a list is too short because its elements are wrong."""
    context = detail.get("ctx") or {}
    return detail["type"] == "too_short" and len(detail["input"]) >= context.get("min_length", 0)


def faults(found: tuple[Fault, ...], data: Any, file: str, line: int, subject: str) -> list[Diagnostic]:
    """What is wrong with the YAML of a document."""
    return [
        Diagnostic(
            fault.code,
            fault.message,
            shown(fault.path, data),
            fault.help,
            subject=subject,
            place=Place(file, line + fault.line, fault.column + 1),
        )
        for fault in found
    ]


class _Found:
    """One error; `path` is what the message is about, `at` what is pointed at."""

    __slots__ = ("at", "code", "help", "message", "of_key", "path")

    def __init__(self, code: Code, message: str, path: Path, help: str = "", at: Path | None = None) -> None:
        self.code = code
        self.message = message
        self.path = path
        self.help = help
        self.at = path if at is None else at
        self.of_key = at is not None


def _found(model: type[BaseModel], detail: ErrorDetails, data: Any) -> _Found:
    kind = detail["type"]
    path: Path = tuple(detail["loc"])
    value = detail["input"]
    context: dict[str, Any] = detail.get("ctx") or {}
    if path and path[-1] == "[key]":
        message = str(context.get("error") or _message(kind, detail["msg"], value, context)[1])
        return _Found(Code.MALFORMED, message, path[:-1], at=path[:-1])
    match kind:
        case "extra_forbidden":
            field = str(path[-1])
            help = meant(field, model, path[:-1])
            return _Found(Code.UNKNOWN_FIELD, f'unknown field "{field[:80]}"', path[:-1], help, path)
        case "missing":
            return _Found(Code.MISSING_FIELD, f'missing field "{path[-1]}"', path[:-1], at=path[:-1])
        case "value_error":
            code = Code.CONTRADICTION if isinstance(value, dict | list | tuple) else Code.MALFORMED
            error = context["error"]
            return _Found(code, str(error), path + (error.path if isinstance(error, FieldError) else ()))
        case "literal_error" | "enum":
            choices = re.findall(r"'([^']*)'|(\w[\w.-]*)", str(context.get("expected", "")).replace(" or ", " "))
            known = [text or ("true" if bare == "True" else bare) for text, bare in choices]
            shown_value = f'"{value[:40]}"' if isinstance(value, str) else _type_name(value)
            if isinstance(value, bool | int):
                shown_value = str(value).lower()
            message = f"{shown_value} is not possible here"
            help = nearest(value, known) if isinstance(value, str) else "known: " + ", ".join(known)
            if "or_list" in context:
                help = f"known: {', '.join(known)}; or a list: [a, b]"
            if known == ["true"] and isinstance(value, str):
                help = _plainly("true or false", value)
            return _Found(Code.NOT_A_CHOICE, message, path, help)
    code, message, help = _message(kind, detail["msg"], value, context)
    if code is Code.WRONG_TYPE and value is not None:
        if _WANTED.get(kind) == "a mapping":
            help = example(model, path)
        elif isinstance(value, dict) and path[-1:] in (("gateway",), ("service",)):
            help = 'write it as "namespace/name"'
        elif path[-1:] == ("weight",):
            help = _SHARES
    return _Found(code, message, path, help)


_SHARES = "weights count relative to each other: 1 and 3 are a quarter and three quarters"


def _type_name(value: Any) -> str:
    """What somebody wrote, in the words of YAML."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int():
            return "a number"
        case float():
            return str(value)
        case str():
            return "a text"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "this"


MOST_NEARLY = 64
"""Characters of a text for which one in another form is looked for: methods and names."""

_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _message(kind: str, message: str, value: Any, context: dict[str, Any]) -> tuple[Code, str, str]:
    """Code, message and help of an error about one value."""
    if wanted := _WANTED.get(kind):
        return Code.WRONG_TYPE, f"must be {wanted}, not {_type_name(value)}", _type_help(wanted, value)
    match kind:
        case "nothing":
            return Code.WRONG_TYPE, message, _NOT_NOTHING
        case "greater_than_equal":
            return Code.OUT_OF_RANGE, f"must be at least {context['ge']}", ""
        case "less_than_equal":
            return Code.OUT_OF_RANGE, f"must be at most {context['le']}", ""
        case "too_short":
            return Code.OUT_OF_RANGE, f"needs at least {_entries(context['min_length'])}", ""
        case "too_long":
            return Code.OUT_OF_RANGE, f"has more than {_entries(context['max_length'])}", ""
        case "string_too_short":
            return Code.OUT_OF_RANGE, "must not be empty", ""
        case "string_too_long":
            return Code.OUT_OF_RANGE, f"has more than {context['max_length']} characters", ""
        case "string_pattern_mismatch":
            return Code.MALFORMED, f"must have the form {context['pattern']}", _like(value, context["pattern"])
        case _:
            return Code.MALFORMED, message[:1].lower() + message[1:], ""


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


_NOT_NOTHING = "give it a value, or remove the key"


_OF_REFERENCES = {"group", "key", "kind", "name", "namespace", "optional"}
"""What references of Kubernetes are made of."""


def _type_help(wanted: str, value: Any) -> str:
    if value is None:
        return _NOT_NOTHING
    if wanted == "a text" and isinstance(value, int | float):
        return "put it in quotes"
    if wanted == "a text" and isinstance(value, dict) and value.keys() <= _OF_REFERENCES and "name" in value:
        return "write the name alone"
    if wanted == "a list":
        return 'write it as [a, b], or begin each element with "- "'
    if wanted in _UNQUOTED and isinstance(value, str):
        return _plainly(wanted, value)
    return ""


_UNQUOTED = {"a whole number": re.compile(r"-?(?:0|[1-9][0-9]*)"), "true or false": re.compile(r"true|false")}
"""The texts that are what was wanted once their quotes are gone. Others have none, and YAML 1.1 may have read them so."""
_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def _plainly(wanted: str, text: str) -> str:
    """What would work instead of a text."""
    if _UNQUOTED[wanted].fullmatch(text):
        return "without quotes"
    if wanted == "a whole number":
        return "decimal digits alone, without zeros in front and without _"
    return f"write {_BOOLEANS.get(text.lower(), 'true or false')}"


def _like(text: Any, pattern: str) -> str:
    """What is nearly this text, and has the form: other letters, `-` between words."""
    lower = str(text)[:MOST_NEARLY].lower()
    for other in (lower.upper(), lower, re.sub(r"[\s_.]+", "-", lower)):
        if len(str(text)) <= MOST_NEARLY and re.search(pattern, other):
            return f'did you mean "{other}"?'
    return ""
