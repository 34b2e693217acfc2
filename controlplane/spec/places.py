"""Where in a document's text a value stands; and paths in the words of the spec.

Called only when there is something to say about a document: data without positions is cheaper to build, so positions
are read from the text again, and only those that are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from controlplane.errors import Place
from controlplane.spec.yaml import Path, in_lines, load

Position = tuple[int, int]
"""Line and column within a document's text, from 0."""


class _Spot:
    """A wanted value, or one on the way to it."""

    __slots__ = ("children", "key", "value")

    def __init__(self) -> None:
        self.children: dict[str | int, _Spot] = {}
        self.key: Position | None = None
        self.value: Position | None = None


def positions(text: str, paths: Iterable[Path], *, of_key: bool = False) -> dict[Path, Position]:
    """The position of each path: of a scalar itself, of a container's key or list element.

    A path that does not exist has the position of its nearest parent that does; `of_key` asks for the keys of scalars
    too.
    """
    wanted = set(paths)
    root = _Spot()
    for path in wanted:
        spot = root
        for step in path:
            spot = spot.children.setdefault(step, _Spot())
    with suppress(yaml.YAMLError, UnicodeEncodeError):  # what stands before the error has its position
        _walk(CParser(in_lines(text)), root)
    return {path: _position(root, path, of_key) for path in wanted}


def _position(root: _Spot, path: Path, of_key: bool) -> Position:
    found = root.value or (0, 0)
    spot = root
    for depth, step in enumerate(path, 1):
        spot = spot.children[step]
        if spot.value is None and spot.key is None:
            break
        exact = depth == len(path) and not of_key
        found = (spot.value if exact and spot.value else spot.key or spot.value) or found
    return found


class _Frame:
    """A mapping or list that is being read, and its spot when something in it is wanted."""

    __slots__ = ("index", "is_mapping", "key", "reads_value", "spot")

    def __init__(self, spot: _Spot | None, *, is_mapping: bool) -> None:
        self.spot = spot
        self.is_mapping = is_mapping
        self.index = 0
        self.reads_value = False
        self.key: _Spot | None = None  # of the value that comes next

    def take(self, name: str, mark: Position, *, is_container: bool) -> _Spot | None:
        """The spot of what comes next, an element, a key (which has none below it) or a value; `name` is its text."""
        children = self.spot.children if self.spot is not None else {}
        if not self.is_mapping:
            spot = children.get(self.index)
            self.index += 1
            if spot is not None:
                spot.value = mark
            return spot
        self.reads_value = not self.reads_value
        if self.reads_value:
            self.key = children.get(name)
            if self.key is not None and self.key.key is not None:
                self.key = None  # a key that stands twice: the first one counts
            if self.key is not None:
                self.key.key = mark
            return None
        if self.key is not None and not is_container:
            self.key.value = mark
        return self.key


def _walk(parser: Any, root: _Spot) -> None:
    """Give the spots below `root` their positions, in one reading."""
    frames: list[_Frame] = []
    while (event := parser.get_event()) is not None:
        kind = type(event)
        if kind is MappingEndEvent or kind is SequenceEndEvent:
            frames.pop()
            continue
        is_container = kind is MappingStartEvent or kind is SequenceStartEvent
        if not is_container and kind is not ScalarEvent and kind is not AliasEvent:
            continue
        mark: Position = (event.start_mark.line, event.start_mark.column)
        spot: _Spot | None = root
        if frames:
            spot = frames[-1].take(event.value if kind is ScalarEvent else "", mark, is_container=is_container)
        else:
            root.value = root.value or mark
        if is_container:
            frames.append(_Frame(spot, is_mapping=kind is MappingStartEvent))


def shown(path: Path, data: Any) -> str:
    """The path as people read it: list elements that have a name are named by it (`spec.routes[web].to[0].backend`)."""
    text = ""
    for step in path:
        if isinstance(step, int):
            element = data[step] if isinstance(data, list) and step < len(data) else None
            name = element.get("name") if isinstance(element, dict) else None
            text += f"[{name}]" if isinstance(name, str) and 0 < len(name) <= 253 else f"[{step}]"
            data = element
        else:
            text += f".{step[:253]}" if text else step[:253]
            data = data.get(step) if isinstance(data, dict) else None
    return text


_STEP = re.compile(r"\[([^\]]*)\]|\.?([^.\[\]]+)")


def parse_path(path: str, data: Any, indexes: dict[int, dict[str, int]] | None = None) -> Path:
    """The reverse of `shown`, as far as the path exists in the data.

    `indexes` keeps what was looked up, for the next path of the same data.
    """
    steps: list[str | int] = []
    indexes = {} if indexes is None else indexes
    for match in _STEP.finditer(path):
        if match[1] is None:
            if not isinstance(data, dict) or match[2] not in data:
                break
            steps.append(match[2])
            data = data[match[2]]
            continue
        if not isinstance(data, list):
            break
        index = _by_name(data, indexes).get(match[1])
        if index is None and match[1].isdecimal() and int(match[1]) < len(data):
            index = int(match[1])
        if index is None:
            break
        steps.append(index)
        data = data[index]
    return tuple(steps)


def _by_name(elements: list[Any], indexes: dict[int, dict[str, int]]) -> dict[str, int]:
    """Where in a list the elements that have names stand; of two with the same name, the first."""
    found = indexes.get(id(elements))
    if found is None:
        found = indexes[id(elements)] = {}
        for index, element in enumerate(elements):
            if isinstance(element, dict) and isinstance(name := element.get("name"), str):
                found.setdefault(name, index)
    return found


def locate(text: str, file: str, line: int, path: str) -> Place:
    """Where a path of the spec (`spec.routes[web].to[0].backend`) stands; the nearest parent when it does not exist.

    `text` is one document, which begins on `line` of `file`.
    """
    return locate_all(text, file, line, [path])[path]


def locate_all(text: str, file: str, line: int, paths: Iterable[str]) -> dict[str, Place]:
    """Where each of the paths stands, as `locate` says it: the document is read once, however many they are."""
    data = load(text).data
    indexes: dict[int, dict[str, int]] = {}
    steps = {path: parse_path(path, data, indexes) for path in paths}
    found = positions(text, steps.values())
    return {path: Place(file, line + found[at][0], found[at][1] + 1) for path, at in steps.items()}
