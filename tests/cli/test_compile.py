"""`compile`: what it leaves out it says, and what it prints an Envoy reads as it was meant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from controlplane.cli.exit import Exit
from tests.cli.conftest import GATEWAY, Run
from tests.support.envoy import binary

AWKWARD = ("y", "n", "Y", "N", "0X1F", "-0X1F", "+0x1F", "017", "0o17", "1e3", "1_000", "yes", "On", "~", "null", ".5")
"""Texts that some reader of YAML takes for a boolean, a number or nothing."""


@pytest.mark.envoy
def test_envoy_reads_every_text_of_a_static_configuration_as_a_text(run: Run, tmp_path: Path) -> None:
    headers = ", ".join(f'x-{at}: "{text}"' for at, text in enumerate(AWKWARD))
    text = GATEWAY.replace("      to:", f"      transform: {{request: {{headers: {{set: {{{headers}}}}}}}}}\n      to:")
    text = text.replace("path: {prefix: /}", 'path: {prefix: /}, query: [{name: "y", exact: "0X1F"}]')
    result = run("compile", "-", "--static", stdin=text)
    assert result.returncode == Exit.OK, result.stderr
    (tmp_path / "envoy.yaml").write_text(result.stdout)
    checked = subprocess.run(
        [binary(), "--mode", "validate", "-c", tmp_path / "envoy.yaml", "-l", "error", "--disable-hot-restart"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_lacks_its_secret_is_named(run: Run) -> None:
    """Else somebody runs an Envoy without its HTTPS, and learns it from his users."""
    text = GATEWAY.replace(
        "protocol: HTTP}]",
        "protocol: HTTP}, {name: https, port: 10443, protocol: HTTPS, "
        "tls: [{hosts: [shop.example.com], certificate: {secretRef: shop-tls}}]}]",
    )
    for arguments in [("--static",), ()]:
        result = run("compile", "-", *arguments, stdin=text)
        assert result.returncode == Exit.OK
        assert 'warning[GW0206]: no secret "platform/shop-tls"' in result.stderr
        assert "--secrets DIR" in result.stderr
        assert result.stdout
    assert not run("validate", "-", "-q", stdin=text).stderr  # which says nothing of secrets unless asked to


def test_a_mistyped_gateway_is_named_beside_other_problems(run: Run) -> None:
    broken = GATEWAY.replace("backend: web", "backend: wbe")
    result = run("compile", "-", "--gateway", "platform/egde", stdin=broken)
    assert (result.returncode, result.stdout) == (Exit.PROBLEMS, "")
    assert "GW0202" in result.stderr
    assert 'no gateway "platform/egde"' in result.stderr
    assert 'did you mean "platform/edge"?' in result.stderr
    unusable = run("compile", "-", "--gateway", "platform/edge", stdin=GATEWAY.replace("port: 10080", "port: x"))
    assert unusable.returncode == Exit.PROBLEMS
    assert "no gateway" not in unusable.stderr
