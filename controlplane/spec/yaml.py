"""One YAML document's text to plain data: YAML 1.2 core schema, strict and bounded.

Called by `parse` for every document, so the way without errors does nothing but build. It works on the parser's
events, never recursively (deep nesting cannot exhaust the stack), and knows nothing of specs.

Deviations from YAML 1.2 core, each because the other reading surprises somebody: a number with leading zeros is a
text, keys are texts and unique, there are no tags but those of the core schema, and no merge keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator
from itertools import islice
from typing import Any

import msgspec
import yaml
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import ReaderError

from controlplane.spec.codes import Code

MAX_DOCUMENT = 4 * 1024 * 1024
"""Characters of a document: 20,000 routes fit."""
MAX_DEPTH = 64
MAX_NODES = 500_000
"""Keys, values and containers of a document: bounds memory (about 100 bytes each) and time (about 1 µs each)."""
MAX_EXPANSION = 100_000
"""Nodes that aliases may add, all together."""
MAX_DIGITS = 20
MAX_FAULTS = 100
"""Reading a document stops here: nobody reads more."""


Path = tuple[str | int, ...]
"""The way to a value from the top of a document: keys of mappings, indexes of lists."""


class Fault(msgspec.Struct, frozen=True):
    """Something wrong with the YAML itself; `line` and `column` count from 0 within the document's text."""

    code: Code
    message: str
    line: int
    column: int
    help: str = ""
    path: Path = ()


class Loaded(msgspec.Struct, frozen=True):
    """`data` is None for an empty document; with faults it holds what could be read.

    When reading broke off, containers are in it only if they are complete, except the outermost.
    """

    data: Any
    faults: tuple[Fault, ...] = ()


_NOT_TEXT = frozenset("-+.0123456789tTfFnN~")
"""What a plain scalar that is not a text can begin with."""
_WORDS = {
    "null": None, "Null": None, "NULL": None, "~": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OTHER_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_CORE = "tag:yaml.org,2002:"


class _Refused(Exception):
    """Reading stops here."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def plain_value(text: str) -> Any:
    """The value of an unquoted scalar in the core schema. Raises ValueError for numbers that nothing can hold."""
    if not text:
        return None
    if text[0] not in _NOT_TEXT:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 400:  # no number that is meant is as long; int() of thousands of digits is slow
        return text
    if _INTEGER.fullmatch(text) or _OTHER_INTEGER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number has at most {MAX_DIGITS} digits")
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("the number is too large")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("infinity and not-a-number are no values here")
    return text


_MISSING = object()
_DROP = object()
"""The key of a value that is read and thrown away, because its key was refused."""


class _Frame:
    """A container under construction. `weight` and `height` say what an alias to it would add."""

    __slots__ = ("anchor", "height", "items", "key", "start", "weight")

    def __init__(self, items: dict[str, Any] | list[Any], anchor: str | None, start: Any) -> None:
        self.items = items
        self.key: Any = _MISSING
        self.anchor = anchor
        self.start = start
        self.weight = 1
        self.height = 1


class _Builder:
    """The events of one document, turned into data; a builder is used once."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        self._expansion = 0
        self._frames: list[_Frame] = []
        self._root: Any = None

    @property
    def data(self) -> Any:
        """What was built; while reading, or after it broke off, the outermost container as far as it got."""
        return self._frames[0].items if self._frames else self._root

    def run(self, parser: Any) -> None:
        """Read everything. Raises _Refused and yaml.YAMLError."""
        frame: _Frame | None = None
        nodes = documents = 0
        next_event = parser.get_event
        while (event := next_event()) is not None:
            kind = type(event)
            nodes += 1
            if kind is ScalarEvent:
                value = event.value
                if event.tag:
                    value = self._tagged(event)
                elif event.implicit[0] and (not value or value[0] in _NOT_TEXT):
                    value = self._plain(event)
                if event.anchor:
                    self._anchors[event.anchor] = (value, 1 + len(event.value) // 64, 0)
                mark = event.start_mark
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                frame = self._open(event, {} if kind is MappingStartEvent else [])
                continue
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                value, mark, frame = self._close(event)
            elif kind is AliasEvent:
                value = self._alias(event, frame)
                mark = event.start_mark
            else:
                documents += kind is DocumentStartEvent
                if documents > 1:
                    raise self._refused(Code.SYNTAX, "a second document begins without a line ---", event.start_mark)
                continue
            if nodes > MAX_NODES:
                raise self._refused(Code.TOO_LARGE, f"a document has at most {MAX_NODES:,} keys and values", mark)
            if frame is None:
                self._root = value
                continue
            items = frame.items
            if type(items) is list:
                items.append(value)
            elif frame.key is _MISSING:
                if type(value) is str and value not in items and (value != "<<" or not _is_plain(event)):
                    frame.key = value
                else:
                    self._refuse_key(value, items, mark)
                    frame.key = _DROP
            else:
                if frame.key is not _DROP:
                    items[frame.key] = value
                frame.key = _MISSING

    def _open(self, event: Any, items: dict[str, Any] | list[Any]) -> _Frame:
        if len(self._frames) >= MAX_DEPTH:
            raise self._refused(Code.TOO_DEEP, f"more than {MAX_DEPTH} levels of nesting", event.start_mark)
        if event.tag and event.tag not in (("!", _CORE + "map") if type(items) is dict else ("!", _CORE + "seq")):
            self._refuse_tag(event)
        if event.anchor:
            self._anchors.pop(event.anchor, None)  # inside itself, the name stands for nothing
        frame = _Frame(items, event.anchor, event.start_mark)
        self._frames.append(frame)
        return frame

    def _close(self, event: Any) -> tuple[Any, Any, _Frame | None]:
        """The finished container, where it began, and the frame around it."""
        frame = self._frames.pop()
        weight = frame.weight + len(frame.items)
        if frame.anchor:
            size = weight + (event.end_mark.index - frame.start.index) // 64
            self._anchors[frame.anchor] = (frame.items, size, frame.height)
        if not self._frames:
            self._root = frame.items
            return frame.items, frame.start, None
        around = self._frames[-1]
        around.weight += weight
        around.height = max(around.height, frame.height + 1)
        return frame.items, frame.start, around

    def _alias(self, event: Any, frame: _Frame | None) -> Any:
        found = self._anchors.get(event.anchor)
        if found is None:
            self._report(Code.ALIAS, f'no finished value "&{event.anchor}" above this alias', event.start_mark)
            return None
        value, weight, height = found
        self._expansion += weight
        if self._expansion > MAX_EXPANSION:
            raise self._refused(Code.ALIAS, f"aliases expand to more than {MAX_EXPANSION:,} values", event.start_mark)
        if len(self._frames) + height > MAX_DEPTH:
            raise self._refused(Code.TOO_DEEP, f"more than {MAX_DEPTH} levels of nesting", event.start_mark)
        if frame is not None:
            frame.weight += weight
            frame.height = max(frame.height, height + 1)
        return value

    def _plain(self, event: Any) -> Any:
        try:
            return plain_value(event.value)
        except ValueError as error:
            self._report(Code.NUMBER, str(error), event.start_mark, "quote it if a text is meant")
            return event.value

    def _tagged(self, event: Any) -> Any:
        text, tag = event.value, event.tag.removeprefix(_CORE)
        if tag in ("str", "!"):
            return text
        wanted = {"null": type(None), "bool": bool, "int": int, "float": float}.get(tag)
        if wanted is None:
            self._refuse_tag(event)
            return text
        try:
            value = plain_value(text)
        except ValueError:
            value = text
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is not wanted:
            self._report(Code.TAG, f"this is no {tag} of YAML 1.2", event.start_mark)
        return value

    def _refuse_tag(self, event: Any) -> None:
        tag = event.tag
        shown = "!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag
        message = f"the tag {shown[:80]} is not supported here"
        self._report(Code.TAG, message, event.start_mark, "write the value without a tag")

    def _refuse_key(self, key: Any, items: Container[Any], mark: Any) -> None:
        if type(key) is str and key in items:
            self._report(Code.DUPLICATE_KEY, f'the key "{key[:80]}" stands twice in this mapping', mark)
        elif key == "<<":
            help = "use an alias for the whole value, or repeat it"
            self._report(Code.MERGE_KEY, "YAML 1.2 has no merge keys (<<)", mark, help)
        elif isinstance(key, dict | list):
            self._report(Code.KEY, "a key is a text, not a list or mapping", mark, "quote it if a text is meant")
        else:
            self._report(Code.KEY, "a key is a text, not a number, boolean or null", mark, "quote it")

    def _report(self, code: Code, message: str, mark: Any, help: str = "") -> None:
        if len(self.faults) >= MAX_FAULTS:
            raise self._refused(code, f"more than {MAX_FAULTS} errors; reading stops here", mark)
        self.faults.append(Fault(code, message, mark.line, mark.column, help, self._path()))

    def _refused(self, code: Code, message: str, mark: Any) -> _Refused:
        return _Refused(Fault(code, message, mark.line, mark.column, path=self._path()))

    def _path(self) -> Path:
        """Where reading stands."""
        steps: list[str | int] = []
        for frame in self._frames:
            if type(frame.items) is list:
                steps.append(len(frame.items))
            elif type(frame.key) is str:
                steps.append(frame.key)
        return tuple(steps)


def _is_plain(event: Any) -> bool:
    return type(event) is ScalarEvent and bool(event.implicit[0])


_OTHER_BREAKS = "\x85\u2028\u2029"


def in_lines(text: str) -> str:
    """The text with the lines that people and YAML 1.2 see, character for character as long.

    libyaml ends lines as YAML 1.1 does, at three more characters: positions would be wrong, and the rest of a comment
    a value. They stand for nothing here, as `load` refuses them.
    """
    for one in _OTHER_BREAKS:
        text = text.replace(one, "\ufffd")
    return text


def load(text: str) -> Loaded:
    """Read one document. Never raises for what `text` says; cost is bounded by the limits above."""
    if len(text) > MAX_DOCUMENT:
        limit = MAX_DOCUMENT // 1024 // 1024
        return Loaded(None, (Fault(Code.TOO_LARGE, f"a document has at most {limit} MiB", 0, 0, "split it with ---"),))
    builder = _Builder()
    written, text = text, in_lines(text)
    if written != text:
        builder.faults += _break_faults(written)
    try:
        builder.run(CParser(text))
    except _Refused as refused:
        builder.faults.append(refused.fault)
    except yaml.MarkedYAMLError as error:
        builder.faults.append(_syntax_fault(text, error))
    except ReaderError as error:
        builder.faults.append(_character_fault(text, error))
    except UnicodeEncodeError as error:
        builder.faults.append(_fault_at(text, error.start, Code.NOT_UTF8, "half of a surrogate pair is no character"))
    return Loaded(builder.data, tuple(builder.faults))


_HINTS = (
    ("mapping values are not allowed", 'a ": " is not possible here', "quote the text, or check the indentation"),
    ("did not find expected key", "the mapping is broken here", "check the indentation of this line and the one above"),
    ("could not find expected ':'", 'a ":" is missing after the key', "check this line and the one above"),
    ("did not find expected '-' indicator", "the list is broken here", "check the indentation of this line"),
    ("did not find expected ',' or ']'", 'a "," or "]" is missing', "check the lines above"),
    ("did not find expected ',' or '}'", 'a "," or "}" is missing', "check the lines above"),
    ("did not find expected node content", "a value is missing here", "check the lines above"),
    ("expected alphabetic or numeric", "a text that begins with * or & needs quotes", 'write "*" or "*.example.com"'),
    ("cannot start any token", "this character begins no value", "quote the text"),
    ("unexpected document indicator", "the document ends inside a quoted value", "close the quote"),
    ("undefined tag handle", "a tag that is not declared", "write the value without a tag"),
)


def _syntax_fault(text: str, error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem or error.context or "not YAML")
    if mark is None:
        return Fault(Code.SYNTAX, problem, 0, 0)
    if error.context_mark is not None and not text[mark.index :].strip():
        opened = text[error.context_mark.index : error.context_mark.index + 1]
        if opened and opened in "[{'\"":
            message = f"what is opened here with {opened} is not closed"
            return Fault(Code.SYNTAX, message, error.context_mark.line, error.context_mark.column)
    line = text[: mark.index].rpartition("\n")[2] + text[mark.index :].partition("\n")[0]
    indentation = line[: len(line) - len(line.lstrip())]
    if "\t" in indentation and mark.column <= len(indentation):
        column = indentation.index("\t")
        return Fault(Code.TAB, "a tab indents this line", mark.line, column, "YAML is indented with spaces")
    for sign, message, help in _HINTS:
        if sign in problem:
            return Fault(Code.SYNTAX, message, mark.line, mark.column, help)
    return Fault(Code.SYNTAX, problem, mark.line, mark.column)


def _character_fault(text: str, error: ReaderError) -> Fault:
    before = text.encode()[: error.position].decode(errors="ignore")
    character = error.character if isinstance(error.character, int) else ord(error.character[:1] or "?")
    return _fault_at(
        text, len(before), Code.CONTROL_CHARACTER, f"the character U+{character:04X} is not allowed in YAML"
    )


def _break_faults(text: str) -> Iterator[Fault]:
    for found in islice(re.finditer(f"[{_OTHER_BREAKS}]", text), MAX_FAULTS):
        code = f"{ord(found[0]):04X}"
        message = f"the character U+{code} ends a line for some who read YAML, and not for others"
        help = f'write "\\u{code}" in double quotes, or remove it'
        yield _fault_at(text, found.start(), Code.CONTROL_CHARACTER, message, help)


def _fault_at(text: str, index: int, code: Code, message: str, help: str = "") -> Fault:
    start = text.rfind("\n", 0, index) + 1
    return Fault(code, message, text.count("\n", 0, start), index - start, help)
