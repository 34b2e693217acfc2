"""Options of the whole suite; they must stand here for pytest to know them wherever it is started."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from controlplane.xds.environment import WITHOUT_EXPERIMENTS

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what channels say of their end would stand between the dots
os.environ.setdefault("GRPC_EXPERIMENTS", WITHOUT_EXPERIMENTS)  # servers inside of tests are those of `serve`

# How long an example takes says what else the machine does. The rest is Hypothesis's own choice, in CI another one.
settings.register_profile("patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is compiled now to the .out.yaml files, and remove those without a case; read the diff",
    )
    parser.addoption("--soak-minutes", type=float, default=30.0, help="how long the soak test takes (default: 30)")
