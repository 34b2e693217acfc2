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
from typing import Any

from controlplane.cli.terminal import writes_unicode
from controlplane.errors import Diagnostic, InvalidInput, Place, Severity
from controlplane.names import GATEWAY_KIND, ObjectRef
from controlplane.sources.base import SpecObject
from controlplane.sources.declared import duplicate
from controlplane.sources.reading import is_spec_file, read_regular, scan
from controlplane.spec.codes import Code
from controlplane.spec.parse import MAX_FILE, decode, parse_text, too_large
from controlplane.spec.rows import Kind, rows

STDIN = "-"
STDIN_NAME = "<stdin>"


@dataclass(slots=True)
class Input:
    """Everything that was read. `texts` holds each file's text, for snippets and positions."""

    objects: list[SpecObject] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    files: int = 0
    hides_gateways: bool = False
    """Whether a document that cannot be used may be a gateway: then unknown names elsewhere may be its names."""

    @property
    def routes(self) -> int:
        """How many routes the valid objects declare."""
        return sum(kind is Kind.ROUTE for one in self.objects for kind, _ in one.rows)


def read(paths: Sequence[str]) -> Input:
    """Read all paths; an object that is declared twice is an error, and the first declaration counts."""
    found = Input()
    seen: set[str] = set()
    for path in paths:
        for file in _files(path, found):
            identity = file if file == STDIN else _identity(file)
            if identity not in seen:
                seen.add(identity)
                _read_file(file, found, named=file == path)
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


def _read_file(file: str, found: Input, *, named: bool) -> None:
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
    for parsed in parse_text(text, name):
        found.diagnostics += parsed.diagnostics
        if parsed.document is None or parsed.ref is None:
            found.hides_gateways |= parsed.ref is None or parsed.ref.kind == GATEWAY_KIND
        else:
            content = rows(parsed.ref, parsed.document)
            found.objects.append(SpecObject(parsed.ref, content, parsed.text, name, parsed.line))


def _refuse_duplicates(found: Input) -> None:
    first: dict[ObjectRef, SpecObject] = {}
    for one in found.objects:
        incumbent = first.setdefault(one.ref, one)
        if incumbent is not one:
            place = Place(one.file, one.line)
            found.diagnostics.append(duplicate(one.ref, one.text, place, Place(incumbent.file, incumbent.line)))
    found.objects[:] = first.values()


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
