"""Diagnostics for programs: JSON in terraform's shape, SARIF for code scanning, GitHub's workflow annotations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from controlplane import __version__
from controlplane.cli.render import Texts, token_width, totals
from controlplane.errors import Diagnostic, Severity

FORMAT_VERSION = "1.0"
"""Of our own JSON. Within a major version fields are only added."""


def _range(diagnostic: Diagnostic, texts: Texts) -> dict[str, Any] | None:
    place = diagnostic.place
    if place is None:
        return None
    found: dict[str, Any] = {"filename": place.file}
    if place.line:
        line = texts.line(place.file, place.line)
        column = place.column or 1
        width = token_width(line, column) if line is not None and place.column else 0
        found["start"] = {"line": place.line, "column": column}
        found["end"] = {"line": place.line, "column": column + width}
    return found


def _snippet(diagnostic: Diagnostic, texts: Texts) -> dict[str, Any] | None:
    place = diagnostic.place
    line = texts.line(place.file, place.line) if place else None
    if place is None or line is None:
        return None
    column = place.column or 1
    return {
        "code": line[:1000],
        "startLine": place.line,
        "highlightStartOffset": column - 1,
        "highlightEndOffset": column - 1 + (token_width(line, column) if place.column else 0),
    }


def as_json(diagnostics: Sequence[Diagnostic], texts: Texts) -> str:
    """One document with all diagnostics. https://developer.hashicorp.com/terraform/cli/commands/validate#json."""
    errors, warnings = totals(diagnostics)
    listed = []
    for diagnostic in diagnostics:
        entry: dict[str, Any] = {
            "severity": diagnostic.severity.value,
            "code": str(diagnostic.code),
            "summary": diagnostic.message,
            "detail": diagnostic.help,
            "subject": diagnostic.subject,
            "path": diagnostic.path,
        }
        if (place := _range(diagnostic, texts)) is not None:
            entry["range"] = place
        if (shown := _snippet(diagnostic, texts)) is not None:
            entry["snippet"] = shown
        listed.append(entry)
    document = {
        "formatVersion": FORMAT_VERSION,
        "valid": errors == 0,
        "errorCount": errors,
        "warningCount": warnings,
        "diagnostics": listed,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_sarif(diagnostics: Sequence[Diagnostic], texts: Texts) -> str:
    """SARIF 2.1.0. https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html."""
    results = []
    for diagnostic in diagnostics:
        result: dict[str, Any] = {
            "ruleId": str(diagnostic.code),
            "level": diagnostic.severity.value,
            "message": {"text": _sentence(diagnostic)},
        }
        if (place := _range(diagnostic, texts)) is not None:
            physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(place["filename"])}}
            if "start" in place:
                physical["region"] = {
                    "startLine": place["start"]["line"],
                    "startColumn": place["start"]["column"],
                    "endColumn": place["end"]["column"],
                }
            location: dict[str, Any] = {"physicalLocation": physical}
            if diagnostic.path:
                location["logicalLocations"] = [{"fullyQualifiedName": diagnostic.path}]
            result["locations"] = [location]
        results.append(result)
    rules = [{"id": code} for code in sorted({str(diagnostic.code) for diagnostic in diagnostics})]
    driver = {"name": "controlplane", "version": __version__, "rules": rules}
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        # Columns count code points here; SARIF's default is UTF-16 code units.
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _uri(file: str) -> str:
    """A path as a relative reference (RFC 3986, 4.2): with a colon in its first part it would have a scheme."""
    from urllib.parse import quote

    return quote(file, safe="/", errors="surrogateescape")


def _sentence(diagnostic: Diagnostic) -> str:
    where = f"{diagnostic.path}: " if diagnostic.path else ""
    return f"{where}{diagnostic.message}" + (f" ({diagnostic.help})" if diagnostic.help else "")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def as_github(diagnostics: Sequence[Diagnostic], texts: Texts) -> str:
    """One workflow command per diagnostic.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions#setting-an-error-message
    """
    lines = []
    for diagnostic in diagnostics:
        properties = {"title": str(diagnostic.code)}
        if (place := _range(diagnostic, texts)) is not None:
            properties["file"] = place["filename"]
            if "start" in place:
                properties |= {"line": str(place["start"]["line"]), "col": str(place["start"]["column"])}
        written = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
        level = "error" if diagnostic.severity is Severity.ERROR else "warning"
        lines.append(f"::{level} {written}::{_data(_sentence(diagnostic))}\n")
    return "".join(lines)


RENDERERS: dict[str, Callable[[Sequence[Diagnostic], Texts], str]] = {
    "json": as_json,
    "github": as_github,
    "sarif": as_sarif,
}
"""By the value of `-o`; `text` is in `render`."""
