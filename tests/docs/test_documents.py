"""What the documentation shows must work: examples are valid, tables are complete, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from controlplane.admin.server import Look, application
from controlplane.app.rollcall import Word
from controlplane.cli.documents import read
from controlplane.cli.main import run
from controlplane.cli.offline import compiled
from controlplane.compile import codes as compile_codes
from controlplane.config import Configuration
from controlplane.config import read as read_configuration
from controlplane.errors import Diagnostic
from controlplane.spec.codes import MEANINGS, Code
from controlplane.telemetry.metrics import Metrics
from tests.docs.pages import ROOT, anchors

PAGES = sorted(page for folder in ("docs", "envoy", "manifests", "protos") for page in (ROOT / folder).rglob("*.md"))
PAGES += sorted(ROOT.glob("*.md"))
EXAMPLES = ROOT / "manifests" / "examples"


def _problems(paths: list[Path]) -> list[str]:
    found = read([str(path) for path in paths])
    _, diagnostics = compiled(found, None)
    return [_text(one) for one in diagnostics]


def _text(one: Diagnostic) -> str:
    return f"{one.place} {one.code} {one.path}: {one.message}"


def test_the_examples_of_the_reference_are_one_valid_gateway(tmp_path: Path) -> None:
    """Fragments are sections of the gateway that the page begins with."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "specs.md").read_text(), re.DOTALL | re.MULTILINE)
    documents = [yaml.safe_load(block) for block in blocks if block.startswith("apiVersion")]
    fragments = [yaml.safe_load(block) for block in blocks if not block.startswith("apiVersion")]
    gateway = next(document for document in documents if document["kind"] == "GatewaySpec")
    for fragment in fragments:
        gateway["spec"] |= fragment
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(document))
    assert len(fragments) >= 5
    assert _problems([tmp_path]) == []


@pytest.mark.parametrize("folder", sorted(path for path in EXAMPLES.iterdir() if path.is_dir()), ids=lambda p: p.name)
def test_example_specs_are_valid(folder: Path) -> None:
    assert _problems([folder]) == []


def test_the_table_of_errors_has_every_code_and_what_to_do() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = {cells[0]: cells[1:] for cells in re.findall(r"^\| (GW\d{4}) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)}
    of_compile = {str(value) for name, value in vars(compile_codes).items() if name.isupper()}
    assert set(rows) == {str(code) for code in Code} | of_compile
    assert {code: rows[code][0] for code in Code} == MEANINGS
    assert list(rows) == sorted(rows)


def _fields(schema: dict[str, Any], of: dict[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    """Each field below a place of a JSON Schema, and its default as the page writes it."""
    kinds = [of, of.get("items", {}), *of.get("anyOf", ())]
    if (reference := next((kind["$ref"] for kind in kinds if "$ref" in kind), None)) is not None:
        many = "[]" if "items" in of else ""
        yield from _fields(schema, schema["$defs"][reference.rpartition("/")[2]], name + many)
    elif "properties" in of:
        for key, below in of["properties"].items():
            yield from _fields(schema, below, f"{name}.{key}" if name else key)
    elif "default" not in of:
        yield name, "*needed*"
    elif of["default"] is None:
        yield name, "-"
    else:
        text = json.dumps(of["default"])
        bare = text.strip('"') or text
        yield name, f"`{bare}`"


def test_the_reference_of_the_configuration_has_every_field_with_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["schema", "--kind", "Configuration"]) == 0
    schema = json.loads(capsys.readouterr().out)
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z]+[.][^`]+)` \| (.*?) \| ", page, re.MULTILINE)
    assert sorted(rows) == sorted(_fields(schema, schema))


def test_the_example_of_the_configuration_can_be_used(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "configuration.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "controlplane.yaml").write_text(block)
    found = read_configuration(tmp_path / "controlplane.yaml")
    assert found.model_fields_set == set(Configuration.model_fields)


def test_the_table_of_metrics_has_all_of_them() -> None:
    metrics = Metrics()
    metrics.watch_certificates(lambda: 0.0, lambda: 0.0, lambda: 0.0)
    metrics.watch_expiry(lambda: 0.0)
    there = {
        (f"{one.name}_total" if one.type == "counter" else one.name, one.type) for one in metrics.registry.collect()
    }
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `((?:controlplane|process)_\w+)` \| (\w+)", page, re.MULTILINE)) == there


def test_the_table_of_the_fleet_has_every_state() -> None:
    page = (ROOT / "docs" / "fleet.md").read_text()
    (table,) = re.findall(r"^\| state \| \|\n\|---\|---\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    named = [word for cell in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for word in cell.split(", ")]
    assert sorted(named) == sorted(Word)


def test_the_map_of_the_architecture_has_every_package_and_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    named = {name.rstrip("/") for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    there = {path.name for path in (ROOT / "controlplane").iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert named == there


@pytest.mark.parametrize("package", ["app", "compile", "xds"])
def test_the_map_of_a_large_package_has_every_module(package: str) -> None:
    """Whoever comes to one of thirty modules must find the others; whoever adds one says where it belongs."""
    folder = ROOT / "controlplane" / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    there = {path.stem for path in folder.iterdir() if not path.name.startswith("_")}
    assert there <= set(re.findall(r"\w+", text))


def test_the_table_of_the_admin_api_has_every_path() -> None:
    there = {resource.canonical for resource in application(cast(Look, None)).router.resources()}
    page = (ROOT / "docs" / "admin-api.md").read_text()
    assert set(re.findall(r"^\| `(/[^`]+)` \|", page, re.MULTILINE)) == there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}#{anchor}"


def test_the_code_refers_to_pages_that_are_there() -> None:
    """A reason that stands on a page nobody can find is none."""
    decisions = {int(page.name[:4]) for page in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    for file in (ROOT / "controlplane").rglob("*.py"):
        text = file.read_text()
        pages = [page for page in re.findall(r"(?<![\w/.-])[a-z/-]+\.md\b", text) if not (ROOT / page).exists()]
        numbers = [number for number in re.findall(r"\bADR (\d+)", text) if int(number) not in decisions]
        assert not pages + numbers, file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_modules_that_are_there(page: Path) -> None:
    for name in re.findall(r"\b\w[\w/.-]*\.py\b", page.read_text()):
        found = [ROOT / name, *(ROOT / "controlplane").rglob(name), *(ROOT / "tests").rglob(name)]
        assert any(file.exists() for file in found), name
