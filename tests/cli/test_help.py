"""`--help` of anything answers at once: nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from controlplane.cli.exit import Exit
from controlplane.cli.main import COMMANDS
from tests.cli.conftest import Run

HEAVY = (
    "aiohttp",
    "cryptography",
    "envoy",
    "envoy_data_plane",
    "google.protobuf",
    "grpc",
    "kubernetes",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "structlog",
    "watchfiles",
    "xds",
    "yaml",
)

PROBE = """
import sys
from controlplane.cli.main import run
code = run(sys.argv[1:])
heavy = {heavy!r}
loaded = sorted(n for n in sys.modules if any(n == h or n.startswith(h + ".") for h in heavy))
print("loaded:", *loaded, file=sys.stderr)
sys.exit(code)
"""

LEAVES = [(), *((name,) for name in COMMANDS), ("pki", "show"), ("pki", "issue"), ("pki", "rotate"), ("pki", "revoke"),
          *(("fleet", name) for name in ("status", "get", "wait"))]  # fmt: skip


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_loads_nothing_heavy(command: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *command, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == Exit.OK
    assert result.stdout.startswith("Usage: controlplane")
    assert result.stderr.splitlines()[-1].strip() == "loaded:"


@pytest.mark.parametrize("command", ["version", "completion"])
def test_light_commands_stay_light(command: str) -> None:
    arguments = {"version": ["version"], "completion": ["completion", "bash"]}[command]
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr.splitlines()[-1].strip() == "loaded:"


def test_validate_needs_no_server(tmp_path: object) -> None:
    """Only `serve` pays for grpc, kubernetes and the second codec."""
    heavy = ("grpc", "kubernetes", "aiohttp", "envoy_data_plane", "watchfiles", "prometheus_client")
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=heavy), "validate", "-"],
        input="kind: nope\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == Exit.PROBLEMS
    assert result.stderr.splitlines()[-1].strip() == "loaded:"


@pytest.mark.parametrize("command", LEAVES[1:], ids=" ".join)
def test_every_leaf_has_examples(run: Run, command: tuple[str, ...]) -> None:
    text = run(*command, "--help").stdout
    assert "Examples:" in text
    assert "controlplane" in text.split("Examples:")[1]


def test_help_of_a_command_is_its_help(run: Run) -> None:
    assert run("help", "validate").stdout.split() == run("validate", "--help").stdout.split()
    assert run("help", "pki", "rotate").stdout.split() == run("pki", "rotate", "--help").stdout.split()
    wrong = run("help", "pki", "rotat")
    assert wrong.returncode == Exit.USAGE
    assert 'no command or topic "pki rotat"' in wrong.stderr
    assert run("help").stdout.split() == run("--help").stdout.split()


@pytest.mark.parametrize("group", [(), ("fleet",), ("pki",)], ids=" ".join)
def test_a_list_of_commands_breaks_off_nowhere(run: Run, group: tuple[str, ...]) -> None:
    """Whoever meets the program reads this first, in eighty columns."""
    text = run(*group, "--help", COLUMNS="80").stdout
    listed = text.partition("Commands:")[2].partition("Examples:")[0]
    assert len(listed.splitlines()) > 3
    assert "..." not in listed
