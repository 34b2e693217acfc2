"""Reading what a command was given: files, folders and stdin become valid objects and diagnostics.

Shared by `validate` and `compile`. Nothing here stops at the first problem: a command shows all of them at once.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from controlplane.cli.terminal import writes_unicode
from controlplane.errors import Diagnostic, InvalidInput, Place, Severity
from controlplane.names import GATEWAY_KIND, ObjectRef
from controlplane.sources.base import SpecObject
from controlplane.sources.declared import duplicate
from controlplane.sources.reading import is_spec_file, read_regular, scan
from controlplane.spec.codes import Code
from controlplane.spec.gateway import Document
from controlplane.spec.parse import Load, Parsed, parse_text
from controlplane.spec.pieces import MAX_FILE, decode, too_large
from controlplane.spec.remainder import remainder
from controlplane.spec.rows import Kind, rows
from controlplane.spec.yaml import load

STDIN = "-"
STDIN_NAME = "<stdin>"


class Rest(NamedTuple):
    """A document without its faulty routes, whose paths are `left_out`: nothing else is to be said of them."""

    content: SpecObject
    left_out: frozenset[str]

    def concerns(self, diagnostic: Diagnostic) -> bool:
        """Whether this is a mistake in what is left of the document; of what is unused or late in it nobody knows."""
        path = diagnostic.path
        ours = any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in self.left_out)
        return diagnostic.severity is Severity.ERROR and not ours


@dataclass(slots=True)
class Input:
    """Everything that was read: documents that can be used, and the `rests` of others.

    `texts` holds each file's text, for snippets and positions.
    """

    objects: list[SpecObject] = field(default_factory=list)
    rests: list[Rest] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    files: int = 0
    hides_gateways: bool = False
    """Whether a document of which nothing can be used may be a gateway: then unknown names elsewhere may be its names."""
    declared: list[tuple[ObjectRef, str, Place]] = field(default_factory=list)
    """What each document says it is, however broken it may be, with its text and place."""

    @property
    def routes(self) -> int:
        """How many routes the valid objects declare."""
        return sum(kind is Kind.ROUTE for one in self.objects for kind, _ in one.rows)


def read(paths: Sequence[str], load: Load = load) -> Input:
    """Read all paths; an object that is declared twice is an error, and the first declaration counts."""
    found = Input()
    seen: set[str] = set()
    for path in paths:
        for file in _files(path, found):
            identity = file if file == STDIN else _identity(file)
            if identity not in seen:
                seen.add(identity)
                _read_file(file, found, load, named=file == path)
    _refuse_duplicates(found)
    return found


def _identity(file: str) -> str:
    """The name of a file in its real folder: two names are two files, as for `serve`, also when one is a symlink."""
    folder, name = os.path.split(file)
    return str(Path(os.path.realpath(folder), name))


def _unreadable(found: Input, code: Code, file: str, reason: str, help: str = "") -> None:
    found.files += 1
    found.hides_gateways = True
    found.diagnostics.append(Diagnostic(code, reason, help=help, place=Place(file)))


def _files(path: str, found: Input) -> Iterator[str]:
    """The files that a path stands for, sorted; of a folder those that `serve` would read."""
    if path == STDIN or not _is_folder(path):
        yield path
        return
    try:
        tree = scan(path, is_spec_file)
    except OSError as error:
        _unreadable(found, Code.ROOT_UNREADABLE, path, f"the folder cannot be read: {error.strerror or error}")
        return
    for folder, trouble in sorted(tree.troubles.items()):
        name = str(Path(path, folder))
        _unreadable(found, Code.UNREADABLE, name, f"the folder cannot be read: {trouble.strerror or trouble}")
    if not tree.files and not tree.troubles:
        _unreadable(
            found, Code.ROOT_UNREADABLE, path, "the folder holds no spec file", "their names end in .yaml or .yml"
        )
    for name in sorted(tree.files):
        yield str(Path(path, name))


def _is_folder(path: str) -> bool:
    """Whether this is a folder, as far as anyone can tell; reading it says what is wrong otherwise."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _bytes(file: str, shown: str, *, named: bool) -> bytes:
    """The content of a file. Raises OSError and InvalidInput; never reads more than a spec file may have."""
    if file == STDIN:
        if sys.stdin is None:  # the shell's <&-
            raise OSError(errno.EBADF, "standard input is closed")
        data = sys.stdin.buffer.read(MAX_FILE + 1)
    elif named and stat.S_ISFIFO(Path(file).stat().st_mode):  # what a shell's <(…) is
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    else:
        data, _ = read_regular(file, shown, MAX_FILE)
    if len(data) > MAX_FILE:
        raise too_large(shown, len(data))
    return data


def _read_file(file: str, found: Input, load: Load, *, named: bool) -> None:
    name = STDIN_NAME if file == STDIN else file
    try:
        text = decode(_bytes(file, name, named=named), name)
    except OSError as error:
        _unreadable(found, Code.UNREADABLE, name, f"the file cannot be read: {error.strerror or error}")
        return
    except InvalidInput as error:
        found.files += 1
        found.hides_gateways = True
        # What a running control plane passes over is an error for whoever asked to have it read.
        found.diagnostics += (replace(one, severity=Severity.ERROR) for one in error.diagnostics)
        return
    found.files += 1
    found.texts[name] = text
    for parsed in parse_text(text, name, load=load):
        found.diagnostics += parsed.diagnostics
        if parsed.ref is None:
            found.hides_gateways = True
            continue
        found.declared.append((parsed.ref, parsed.text, Place(name, parsed.line)))
        if parsed.document is not None:
            found.objects.append(_spec(parsed, parsed.document, name))
            continue
        rest = remainder(parsed, name)
        found.diagnostics += rest.diagnostics
        if rest.document is not None:
            found.rests.append(Rest(_spec(parsed, rest.document, name), rest.left_out))
        else:
            found.hides_gateways |= parsed.ref.kind == GATEWAY_KIND


def _spec(parsed: Parsed, document: Document, file: str) -> SpecObject:
    assert parsed.ref is not None
    return SpecObject(parsed.ref, rows(parsed.ref, document), parsed.text, file, parsed.line)


def _refuse_duplicates(found: Input) -> None:
    first: dict[ObjectRef, Place] = {}
    for ref, text, place in found.declared:
        if (incumbent := first.setdefault(ref, place)) is not place:
            found.diagnostics.append(duplicate(ref, text, place, incumbent))
    found.objects[:] = {one.ref: one for one in reversed(found.objects)}.values()
    found.objects.reverse()
    known = {one.ref for one in found.objects}
    found.rests[:] = {one.content.ref: one for one in reversed(found.rests) if one.content.ref not in known}.values()


def structured(value: Any, output_format: str) -> str:
    """Plain data as `json` or `yaml`, in the order given, without aliases."""
    if output_format == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    import yaml

    from controlplane.envoy_yaml import quote_texts

    class Dumper(yaml.CSafeDumper):
        """Repeats equal lists and mappings instead of referring to them."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    quote_texts(Dumper)
    text: str = yaml.dump(
        value,
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=writes_unicode(),
        width=110,
        default_flow_style=False,
    )
    return text
