"""The rules that Envoy's messages state about themselves (`validate.rules`), checked before anything is published.

The rules are read from the descriptors of xds-protos, once for each kind of message, and a message is then walked only
where rules or an `Any` may be. They hold for the selected member of a oneof, for fields that are set, and for those
without presence, whose default may break a rule. An `Any` of a known type is looked into. What breaks a rule is a mistake
of the compiler, or of a schema that lets through what Envoy does not take.
https://github.com/bufbuild/protoc-gen-validate/blob/main/README.md#constraint-rules
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cache, lru_cache
from typing import Any, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from validate import validate_pb2

from controlplane.compile import codes
from controlplane.errors import Diagnostic, InvalidInput
from controlplane.filters.envoy import serialised


class Violation(NamedTuple):
    """`path` in the words of Envoy: `virtual_hosts[0].name`."""

    path: str
    rule: str

    def __str__(self) -> str:
        """`connect_timeout: must be greater than 0s`."""
        return f"{self.path}: {self.rule}"


Test = tuple[Callable[[Any], bool], str]
"""Whether a value may be, and the rule in words."""

_ANY = "google.protobuf.Any"
_DURATION = "google.protobuf.Duration"
_WRAPPERS = "google/protobuf/wrappers.proto"


def checked(message: Any, subject: str, path: str = "") -> bytes:
    """The bytes of a message that breaks no rule. Raises InvalidInput for the element that it was made of."""
    if found := violations(message):
        kind = message.DESCRIPTOR.name
        said = "; ".join(map(str, found[:5]))
        text = f"what would be sent to Envoy breaks the rules of its {kind}: {said}"
        help = "the last good version stays in force; please report this with the document"
        raise InvalidInput([Diagnostic(codes.BROKEN_RULE, text, path, help, subject=subject)])
    return serialised(message)


def violations(message: Any) -> tuple[Violation, ...]:
    """Every rule that the message breaks, outermost first."""
    plan = _plan(message.DESCRIPTOR)
    return tuple(plan.check(message)) if plan is not None else ()


class _Field:
    """What is to be checked of one field that is set.

    Every route passes here, so what a field needs is settled once: `check` is the shortest of the ways below.
    """

    __slots__ = ("check", "each", "is_any", "is_map", "is_repeated", "keys", "name", "plan", "tests", "unwrap")

    def __init__(self, field: FieldDescriptor, rules: Any) -> None:
        self.name = field.name
        self.is_repeated = field.is_repeated
        kind = field.message_type
        self.is_map = bool(kind and kind.GetOptions().map_entry)
        if self.is_map:
            kind = kind.fields_by_name["value"].message_type
        self.is_any = kind is not None and kind.full_name == _ANY
        self.unwrap = kind is not None and kind.file.name == _WRAPPERS
        skips = rules is not None and rules.HasField("message") and rules.message.skip
        self.plan = _plan(kind) if kind is not None and not (skips or self.is_any or self.unwrap) else None
        self.tests: list[Test] = []
        self.each: list[Test] = []
        self.keys: list[Test] = []
        if rules is not None:
            self._take(rules, field)
        self.check: Callable[[Any], Sequence[Violation]] = self._way()
        """What is wrong with a value; paths begin after the name of the field."""

    def _take(self, rules: Any, field: FieldDescriptor) -> None:
        name = rules.WhichOneof("type")
        if name == "repeated":
            self.tests = list(_count(rules.repeated.min_items, rules.repeated.max_items, "items"))
            if rules.repeated.unique:
                self.tests.append((lambda values: len(set(values)) == len(values), "items must be different"))
            self.each = _tests(rules.repeated.items, field)
        elif name == "map":
            self.tests = list(_count(rules.map.min_pairs, rules.map.max_pairs, "pairs"))
            self.keys = _tests(rules.map.keys, field)
            self.each = _tests(rules.map.values, field)
        else:
            self.tests = _tests(rules, field)

    def _way(self) -> Callable[[Any], Sequence[Violation]]:
        if self.is_map:
            return self._pairs
        if self.is_repeated:
            return self._items
        if self.tests:
            return lambda value: self._one(value, self.tests)
        return self._below

    @property
    def idle(self) -> bool:
        return not (self.tests or self.each or self.keys or self.is_any) and self.plan is None

    def _items(self, values: Any) -> Sequence[Violation]:
        found = _failed(self.tests, values)
        if self.each or self.is_any or self.plan is not None:
            for index, item in enumerate(values):
                if below := self._one(item, self.each):
                    found = [*found, *_under(f"[{index}]", below)]
        return found

    def _pairs(self, pairs: Any) -> Sequence[Violation]:
        found: list[Violation] = []
        for key in pairs:
            if self.keys and (failed := _failed(self.keys, key)):
                found += (Violation(f"[{key}]", f"key {rule}") for _, rule in failed)
            if below := self._one(pairs[key], self.each):
                found += _under(f"[{key}]", below)
        return [*_failed(self.tests, pairs), *sorted(found)] if found or self.tests else ()

    def _one(self, value: Any, tests: list[Test]) -> Sequence[Violation]:
        found = _failed(tests, value.value if self.unwrap else value) if tests else ()
        below = self._below(value)
        return [*found, *below] if below else found

    def _below(self, value: Any) -> Sequence[Violation]:
        """What is wrong inside a message."""
        if self.plan is not None:
            below = self.plan.check(value)
        elif self.is_any:
            below = _inside(value.type_url, value.value)
        else:
            return ()
        return list(_under(".", below)) if below else ()


class _Plan:
    """What is to be checked of a kind of message. Filled after it is known, for messages hold one another."""

    __slots__ = ("fields", "needed", "oneofs")

    def __init__(self) -> None:
        self.fields: dict[int, _Field] = {}
        self.needed: list[tuple[int, str, str]] = []  # number, name and rule of what must not be left out
        self.oneofs: list[str] = []  # one of whose members must be set

    def fill(self, kind: Descriptor) -> None:
        for field in kind.fields:
            rules = _rules(field)
            found = _Field(field, rules)
            if not found.idle:
                self.fields[field.number] = found
            if rules is not None and (rule := _must_be_set(field, rules, found)) is not None:
                self.needed.append((field.number, field.name, rule))
        self.oneofs = [one.name for one in kind.oneofs if one.GetOptions().Extensions[validate_pb2.required]]

    def check(self, message: Any) -> Sequence[Violation]:
        """What is wrong. Almost always nothing, so paths are put together on the way back."""
        found: list[Violation] = []
        for name in self.oneofs:
            if message.WhichOneof(name) is None:
                found += (Violation(name, "one of its members must be set"),)
        present = {field.number: value for field, value in message.ListFields()}
        for number, name, rule in self.needed:
            if number not in present:
                found += (Violation(name, rule),)
        planned = self.fields
        for number, value in present.items():
            if number in planned and (below := planned[number].check(value)):
                found += _under(planned[number].name, below)
        return found


def _failed(tests: list[Test], value: Any) -> Sequence[Violation]:
    failed: list[Violation] = []
    for test, rule in tests:
        if not test(value):
            failed.append(Violation("", rule))
    return failed


def _under(path: str, below: Iterable[Violation]) -> Iterable[Violation]:
    return (Violation(path + one.path, one.rule) for one in below)


_plans: dict[str, _Plan] = {}


def _plan(kind: Descriptor) -> _Plan | None:
    """The plan of a kind of message; None when neither rules nor an Any can be found in it."""
    if not _has_rules(kind):
        return None
    if (plan := _plans.get(kind.full_name)) is None:
        plan = _plans[kind.full_name] = _Plan()
        plan.fill(kind)
    return plan


@cache
def _has_rules(kind: Descriptor) -> bool:
    seen: set[str] = set()
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        if one.full_name in seen:
            continue
        seen.add(one.full_name)
        if one.full_name == _ANY or any(one.GetOptions().Extensions[validate_pb2.required] for one in one.oneofs):
            return True
        if any(_rules(field) is not None for field in one.fields):
            return True
        waiting += [field.message_type for field in one.fields if field.message_type is not None]
    return False


def _rules(field: FieldDescriptor) -> Any:
    options = field.GetOptions()
    return options.Extensions[validate_pb2.rules] if options.HasExtension(validate_pb2.rules) else None


def _must_be_set(field: FieldDescriptor, rules: Any, found: _Field) -> str | None:
    """The rule that is broken when the field is left out; a member of a oneof may be."""
    if field.containing_oneof is not None:
        return None
    if rules.message.required or rules.duration.required or rules.any.required:
        return "must be set"
    if field.has_presence or found.unwrap:
        return None
    default: Any = () if field.is_repeated else field.default_value
    return next((rule for test, rule in found.tests if not test(default)), None)


@lru_cache(maxsize=4096)
def _inside(type_url: str, body: bytes) -> tuple[Violation, ...]:
    """What is wrong inside an Any: many resources hold the same one."""
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(type_url.rpartition("/")[2])
    except KeyError:
        return ()
    return violations(message_factory.GetMessageClass(kind).FromString(body))


# -- single rules ------------------------------------------------------------------------------------------------


def _tests(rules: Any, field: FieldDescriptor) -> list[Test]:
    """The tests of one value. An unknown rule is a KeyError: a new version of xds-protos brought it."""
    name = rules.WhichOneof("type")
    if name is None or name in {"any", "repeated", "map"}:
        return []
    of_type = getattr(rules, name)
    if name == "string" and of_type.ignore_empty:
        return [(_unless_empty(test), rule) for test, rule in _of(of_type, field)]
    return list(_of(of_type, field))


def _unless_empty(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not value or test(value)


def _of(rules: Any, field: FieldDescriptor) -> Iterator[Test]:
    for rule, bound in rules.ListFields():
        if rule.name in {"required", "ignore_empty", "strict"}:
            continue
        if rule.name == "well_known_regex":
            yield _WELL_KNOWN[bound, rules.strict]
        elif rule.name == "defined_only":
            yield (
                _bind(lambda value, known: value in known, frozenset(field.enum_type.values_by_number)),
                "must be a defined value",
            )
        else:
            test, words = _RULES[rule.name]
            limit = (
                _seconds(bound) if rule.message_type is not None and rule.message_type.full_name == _DURATION else bound
            )
            if rule.is_repeated:
                limit = frozenset(bound)
            yield _bind(test, limit), f"{words} {_shown(limit)}"


def _bind(test: Callable[[Any, Any], bool], limit: Any) -> Callable[[Any], bool]:
    if isinstance(limit, timedelta):
        return lambda value: test(_seconds(value), limit)
    return lambda value: test(value, limit)


def _seconds(duration: Any) -> timedelta:
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos / 1000)


def _shown(limit: Any) -> str:
    if isinstance(limit, timedelta):
        return f"{limit.total_seconds():g}s"
    return ", ".join(map(str, sorted(limit))) if isinstance(limit, frozenset) else str(limit)


def _count(least: int, most: int, what: str) -> Iterator[Test]:
    if least:
        yield (lambda values: len(values) >= least), f"must have at least {least} {what}"
    if most:
        yield (lambda values: len(values) <= most), f"must have at most {most} {what}"


_RULES: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "const": (lambda value, limit: bool(value == limit), "must be"),
    "gt": (lambda value, limit: bool(value > limit), "must be greater than"),
    "gte": (lambda value, limit: bool(value >= limit), "must be at least"),
    "lt": (lambda value, limit: bool(value < limit), "must be less than"),
    "lte": (lambda value, limit: bool(value <= limit), "must be at most"),
    "in": (lambda value, limit: value in limit, "must be one of"),
    "not_in": (lambda value, limit: value not in limit, "must not be one of"),
    "min_len": (lambda value, limit: len(value) >= limit, "length must be at least"),
    "max_len": (lambda value, limit: len(value) <= limit, "length must be at most"),
    "min_bytes": (lambda value, limit: len(value.encode()) >= limit, "bytes must be at least"),
    "max_bytes": (lambda value, limit: len(value.encode()) <= limit, "bytes must be at most"),
    "prefix": (lambda value, limit: value.startswith(limit), "must begin with"),
    "suffix": (lambda value, limit: value.endswith(limit), "must end with"),
    "contains": (lambda value, limit: limit in value, "must contain"),
    "pattern": (lambda value, limit: re.search(limit, value) is not None, "must match"),
}
_NAME, _VALUE = validate_pb2.HTTP_HEADER_NAME, validate_pb2.HTTP_HEADER_VALUE


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(value) is not None


_WELL_KNOWN: dict[tuple[int, bool], Test] = {
    (_NAME, True): (_matching(r":?[0-9a-zA-Z!#$%&'*+,.^_|~\x60-]+"), "must be the name of a header"),
    (_NAME, False): (_matching(r"[^\x00\n\r]*"), "must not hold NUL, CR or LF"),
    (_VALUE, True): (_matching(r"[^\x00-\x08\x0a-\x1f\x7f]*"), "must be the value of a header"),
    (_VALUE, False): (_matching(r"[^\x00\n\r]*"), "must not hold NUL, CR or LF"),
}
