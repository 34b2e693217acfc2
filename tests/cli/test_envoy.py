"""Finding Envoy: whichever of the two packages named `envoy` was installed last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.cli import envoy
from controlplane.cli.exit import Failure


def test_the_wheel_is_found_without_importing_its_package() -> None:
    code = "import sys; from controlplane.cli import envoy; print(envoy.of_wheel()); assert 'envoy' not in sys.modules"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert os.access(found.stdout.strip(), os.X_OK)


def test_types_of_envoy_import_beside_the_wheel() -> None:
    """Both packages install `envoy/__init__.py`; neither may hide `envoy.config`, nor may this repository's folder."""
    code = "import envoy.config.cluster.v3.cluster_pb2 as c; print(c.Cluster.DESCRIPTOR.full_name)"
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "envoy.config.cluster.v3.Cluster"


def test_a_wish_comes_first(tmp_path: Path) -> None:
    program = tmp_path / "my-envoy"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(Failure, match="not a program"):
        envoy.find(program)
    program.chmod(0o755)
    assert envoy.find(program) == program.resolve()


def test_path_is_the_fallback_and_its_absence_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy, "of_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure) as caught:
        envoy.find()
    assert f"-m pip install '{envoy.WHEEL}'" in caught.value.help
    program = tmp_path / "envoy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert envoy.find() == program
