"""Compiling what was read, without a server, and giving each diagnostic its place in a file.

Used by `validate` and `compile`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from controlplane.cli.documents import Input
from controlplane.compile import codes
from controlplane.compile.expiry import Expiry
from controlplane.compile.offline import Compiled, compile_objects
from controlplane.errors import Diagnostic, InvalidInput, Place, Severity
from controlplane.model.secret import Secret
from controlplane.names import Family, SecretRef, View
from controlplane.sources.base import SpecObject
from controlplane.sources.reading import read_regular
from controlplane.spec.codes import Code
from controlplane.spec.parse import locate_all

MAX_SECRET_FILE = 1024 * 1024
"""Bytes of one file of a secret, which is also what Kubernetes allows."""
SOURCE = "files"
"""The source that documents and secrets of the command line belong to."""

_NAMES_OF_A_GATEWAY = frozenset(
    {codes.UNKNOWN_GATEWAY, codes.UNKNOWN_BACKEND, codes.UNKNOWN_POLICY, codes.UNKNOWN_PROVIDER, codes.UNKNOWN_LISTENER}
)
_OF_SECRETS = frozenset({codes.UNKNOWN_SECRET, codes.UNUSABLE_SECRET})
_LEFT_OUT = "what needs it is left out here, or answers 503; --secrets DIR says where it is"


def compiled(
    found: Input,
    secrets: Path | None,
    view: View | None = None,
    family: Family = Family.ENVOY,
    *,
    says_what_is_left_out: bool = False,
) -> tuple[Compiled, list[Diagnostic]]:
    """The compiled objects, and everything that is wrong for nodes of a family, in the order of files and lines.

    Without a folder of secrets, what depends on their content is not judged; at most it is worth a warning that the
    result lacks it.
    """
    diagnostics = list(found.diagnostics)
    content: dict[SecretRef, Secret] = {}
    if secrets is not None:
        content, unreadable = read_secrets(secrets)
        diagnostics += unreadable
    objects = {one.ref: one.rows for one in found.objects}
    result = compile_objects(objects, content, view, family)
    rests = {one.content.ref.subject: one for one in found.rests}
    judged = result
    if rests:  # documents that cannot be used are in no result, but what they name and what names them is looked at
        judged = compile_objects({**objects, **{one.content.ref: one.content.rows for one in found.rests}}, content)
    said: dict[str, list[Diagnostic]] = {}
    for diagnostic in (*judged.diagnostics, *Expiry(result.compiler.tables).diagnostics(time.time())):
        if secrets is None and diagnostic.code in _OF_SECRETS:
            if not says_what_is_left_out or diagnostic.code != codes.UNKNOWN_SECRET:
                continue
            diagnostic = replace(diagnostic, severity=Severity.WARNING, help=_LEFT_OUT)
        if found.hides_gateways and diagnostic.code in _NAMES_OF_A_GATEWAY:
            continue
        if (rest := rests.get(diagnostic.subject)) is not None and not rest.concerns(diagnostic):
            continue
        said.setdefault(diagnostic.subject, []).append(diagnostic)
    origins = {one.ref.subject: one for one in (*found.objects, *(rest.content for rest in found.rests))}
    for subject, listed in said.items():
        diagnostics += _placed(listed, origins.get(subject))
    diagnostics.sort(key=lambda one: (one.place or Place(""), one.severity, str(one.code), one.path))
    return result, diagnostics


def _placed(said: list[Diagnostic], origin: SpecObject | None) -> list[Diagnostic]:
    """What is said of one object, with places; its text is read once, however much that is."""
    paths = {one: one.path or "metadata.name" for one in said if one.place is None}
    if origin is None or not paths:
        return said
    places = locate_all(origin.text, origin.file, origin.line, paths.values())
    return [one.at(places[paths[one]]) if one in paths else one for one in said]


def read_secrets(root: Path) -> tuple[dict[SecretRef, Secret], list[Diagnostic]]:
    """The secrets of a folder (`<namespace>/<name>/<file>`), and what of it cannot be read."""
    problems: list[Diagnostic] = []
    secrets = {
        SecretRef(SOURCE, namespace.name, folder.name): Secret.of(dict(_files(folder, problems)))
        for namespace in _folders(root, problems, Code.ROOT_UNREADABLE)
        for folder in _folders(namespace, problems)
    }
    return secrets, problems


def _folders(folder: Path, problems: list[Diagnostic], code: Code = Code.SECRET_UNREADABLE) -> Iterator[Path]:
    """The visible folders in a folder, sorted; `code` is for one that cannot be read itself."""
    for path in _visible(folder, problems, code):
        try:
            if path.is_dir():
                yield path
        except OSError as error:
            problems.append(_unreadable(Code.SECRET_UNREADABLE, "cannot be looked at", error, path))


def _files(folder: Path, problems: list[Diagnostic]) -> Iterator[tuple[str, bytes]]:
    """The visible files in a folder, sorted, with their content."""
    for file in _visible(folder, problems, Code.SECRET_UNREADABLE):
        try:
            if not file.is_dir():
                yield file.name, read_regular(str(file), str(file), MAX_SECRET_FILE)[0]
        except OSError as error:
            problems.append(_unreadable(Code.SECRET_UNREADABLE, "the file cannot be read", error, file))
        except InvalidInput as error:
            problems += (replace(one, severity=Severity.ERROR) for one in error.diagnostics)


def _visible(folder: Path, problems: list[Diagnostic], code: Code) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        problems.append(_unreadable(code, "the folder cannot be read", error, folder))
        return []


def _unreadable(code: Code, what: str, error: OSError, path: Path) -> Diagnostic:
    return Diagnostic(code, f"{what}: {error.strerror or error}", place=Place(str(path)))
