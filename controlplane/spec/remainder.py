"""What a document says beside its faulty routes: the mistakes in the rest of it are found in the same go.

Used by the command line. A control plane takes a document whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError

from controlplane.errors import Diagnostic
from controlplane.spec.explain import MANY, explain, fault_paths
from controlplane.spec.gateway import KINDS, Document
from controlplane.spec.parse import Parsed
from controlplane.spec.yaml import Path, load

_ROUNDS = 16
"""Values by themselves come first, then what they have to do with each other, of which a list says the first alone."""


class Remainder(NamedTuple):
    """`document` is None when more than routes is wrong. It has others in their places, which `left_out` are the paths of.

    `diagnostics`: what was found in the rest of it.
    """

    document: Document | None
    left_out: frozenset[str] = frozenset()
    diagnostics: tuple[Diagnostic, ...] = ()


def remainder(parsed: Parsed, file: str) -> Remainder:
    """What is left of a document of this file that cannot be used."""
    loaded = load(parsed.text)
    if loaded.faults or parsed.ref is None:
        return Remainder(None)
    data, model, subject = loaded.data, KINDS[parsed.ref.kind], parsed.ref.subject
    names: dict[int, str] = {}
    found: list[Diagnostic] = []
    for again in range(_ROUNDS):
        try:
            document = model.model_validate(data)
        except ValidationError as error:
            if again:
                found += explain(model, error, parsed.text, data, file, parsed.line, subject)
            if error.error_count() > MANY:
                break
            paths = fault_paths(model, error, data)
            if any(path[:2] != ("spec", "routes") or len(path) < 3 for path in paths):
                break
            _leave_out(data["spec"]["routes"], paths, names)
        else:
            return Remainder(document, frozenset(f"spec.routes[{name}]" for name in names.values()), tuple(found))
    return Remainder(None, diagnostics=tuple(found))


def _leave_out(routes: list[Any], paths: Iterable[Path], names: dict[int, str]) -> None:
    """Put routes in the places of faulty ones that have nothing to do with any other, but for their names if these are good."""
    nameless = {path[2] for path in paths if path[3:] == ("name",)}
    for number in sorted({int(path[2]) for path in paths}):
        own = routes[number].get("name") if isinstance(routes[number], dict) and number not in nameless else None
        names[number] = own if isinstance(own, str) else f"left-out-{number}"
        routes[number] = {
            "name": names[number],
            "hosts": [f"left-out-{number}.invalid"],
            "match": [{"path": {"exact": "/"}}],
            "public": True,
            "respond": {"status": 503},
        }
