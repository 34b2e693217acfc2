"""Each feature as a pair of files: what users write, and what Envoy gets. `make golden` rewrites the second."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.compile.offline import compile_objects, decoded
from tests.golden.cases import FOLDER, Case, cases, orphans, rendered, resources
from tests.golden.second_codec import disagreement, messages
from tests.support.edge import configuration
from tests.support.envoy import validate

CASES = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)


@CASES
def test_compiles_to(case: Case, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    found = rendered(case, tmp_path)
    if pytestconfig.getoption("--update-golden"):
        case.expected.write_text(found)
    assert case.expected.exists(), "new case: make golden, then read what it wrote"
    assert found == case.expected.read_text(), "compiled otherwise than written down; if that is meant: make golden"


@CASES
@pytest.mark.envoy
def test_envoy_accepts(case: Case, tmp_path: Path) -> None:
    """The real Envoy is the last judge of whether a configuration is one."""
    secrets = tmp_path / "secrets"
    content = configuration(case.compile(secrets), secrets)
    assert validate(content, tmp_path) is None


@CASES
def test_the_second_codec_agrees(case: Case, tmp_path: Path) -> None:
    for resource in resources(case.compile(tmp_path)):
        for message in messages(decoded(resource)):
            assert disagreement(message) is None


@CASES
def test_bytes_do_not_depend_on_the_order_of_documents(case: Case, tmp_path: Path) -> None:
    """Names are identity: reordering a document changes nothing in Envoy."""
    once = case.compile(tmp_path)
    objects = dict(
        reversed([(ref, dict(reversed(list(rows.items())))) for ref, rows in once.compiler.declared.objects.items()])
    )
    tables = once.compiler.tables
    services = dict(reversed(list(once.compiler.endpoints.tables.services.rows.items())))
    again = compile_objects(objects, tables.secrets.rows, tuple(once.gateways), services=services)
    assert resources(again) == resources(once)
    assert again.diagnostics == once.diagnostics


def test_every_output_has_a_case(pytestconfig: pytest.Config) -> None:
    found = list(orphans())
    if pytestconfig.getoption("--update-golden"):
        for file in found:
            file.unlink()
        found = []
    assert not found, f"outputs without a case: {[str(file.relative_to(FOLDER)) for file in found]}"
