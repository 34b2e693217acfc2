"""`pki` and `bootstrap` on state folders that are not as they should be, and dry runs that say what would be."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from controlplane.cli import pki
from controlplane.cli.exit import Exit
from controlplane.pki.authority import Authority
from tests.cli.conftest import Run

BOOTSTRAP = ("bootstrap", "--state", "state", "--xds", "127.0.0.1:1", "--node-id", "edge-1", "--node-cluster", "edge")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with an authority and the certificate of a server."""
    Authority.open(tmp_path / "state").server_certificate(())
    return tmp_path / "state"


def test_a_server_certificate_that_cannot_be_read_is_listed_and_counts(run: Run, state: Path) -> None:
    """An alarm that reads the exit code must not take silence for health."""
    assert run("pki", "show").returncode == Exit.OK
    (state / "server" / "server.pem").write_text("junk")
    for arguments in [(), ("--warn-days", "30")]:
        result = run("pki", "show", *arguments)
        assert result.returncode == Exit.PROBLEMS
        assert "server   unreadable" in result.stdout
        assert "server.pem cannot be read" in result.stderr
    listed = json.loads(run("pki", "show", "-o", "json").stdout)
    assert listed["unreadable"] == [{"role": "server", "file": "state/server/server.pem"}]
    (state / "server" / "server.pem").unlink()
    assert run("pki", "show").returncode == Exit.OK, "serve makes one when it starts"


def test_any_number_of_days_is_a_number_of_days(run: Run, state: Path) -> None:
    result = run("pki", "show", "--warn-days", "9999999999")
    assert result.returncode == Exit.PROBLEMS
    assert "internal error" not in result.stderr


@pytest.mark.parametrize("damage", ["junk", "mode"])
def test_an_authority_that_cannot_be_used_is_no_mistake_of_the_caller(run: Run, state: Path, damage: str) -> None:
    """One cause, one code, whichever command meets it."""
    key = state / "ca" / "ca.key"
    if damage == "junk":
        key.write_text("junk")
    else:
        key.chmod(0o644)
    for arguments in [BOOTSTRAP, ("pki", "show"), ("pki", "rotate"), ("pki", "issue", *BOOTSTRAP[5:], "--out", "x")]:
        result = run(*arguments)
        assert result.returncode == Exit.FAILED, (arguments, result.stderr)
        assert str(Path("state/ca")) in result.stderr


def test_a_deny_list_that_cannot_be_read_is_no_mistake_of_the_caller(run: Run, state: Path) -> None:
    (state / "denied").write_text("nonsense\n")
    for arguments in [BOOTSTRAP, ("pki", "revoke", "--list"), ("pki", "revoke", "--node-id", "edge-1")]:
        result = run(*arguments)
        assert result.returncode == Exit.FAILED
        assert "denied:1" in result.stderr


def test_nobody_is_denied_where_no_control_plane_looks(run: Run, tmp_path: Path) -> None:
    """A thief's certificate would go on working, and whoever revoked it would think it does not."""
    (tmp_path / "wrong").mkdir()
    for arguments in [("--node-id", "edge-1"), ("--list",), ("--node-id", "edge-1", "--dry-run")]:
        result = run("pki", "revoke", "--state", "wrong", *arguments)
        assert result.returncode == Exit.FAILED
        assert "wrong is no state folder" in result.stderr
    assert not list((tmp_path / "wrong").iterdir())


def test_a_dry_run_says_what_would_be(run: Run, state: Path) -> None:
    revoke = ("pki", "revoke", "--node-id", "edge-1")
    assert "not denied: node edge-1" in run(*revoke, "--lift", "--dry-run").stderr
    assert "would deny node edge-1" in run(*revoke, "--dry-run").stderr
    assert run(*revoke).returncode == Exit.OK
    assert "denied already: node edge-1" in run(*revoke, "--dry-run").stderr
    assert "would lift node edge-1" in run(*revoke, "--lift", "--dry-run").stderr
    listing = run("pki", "revoke", "--list", "--node-id", "edge-1", "--lift")
    assert listing.returncode == Exit.USAGE
    assert "node edge-1" in run("pki", "revoke", "--list").stdout


def test_a_dry_run_refuses_whom_it_cannot_distrust(run: Run, state: Path) -> None:
    old = run("pki", "rotate").stdout.strip()
    (issuing,) = (one.fingerprint for one in Authority.open(state).certificates() if one.role == "issuing")
    for dry in [("--dry-run",), ()]:
        for wrong, reason in [("bogusbogus", "no old authority"), (old[:7], "8 characters"), (issuing, "rotate first")]:
            result = run("pki", "rotate", "--distrust", wrong, *dry)
            assert result.returncode == Exit.USAGE
            assert reason in result.stderr
    assert run("pki", "rotate", "--distrust", old[:8], "--dry-run").returncode == Exit.OK
    assert len(json.loads(run("pki", "show", "-o", "json").stdout)["certificates"]) == 3
    assert run("pki", "rotate", "--distrust", old[:8]).returncode == Exit.OK


def test_a_key_goes_into_no_file_that_somebody_put_there(tmp_path: Path) -> None:
    """Where others may write, such as in /tmp, a file whose name can be guessed may be theirs, to be read by them."""
    stranger = tmp_path / "stranger"
    stranger.touch()
    (tmp_path / f".node.key.{os.getpid()}").symlink_to(stranger)
    (tmp_path / "node.key").symlink_to(stranger)
    pki._replace(tmp_path / "node.key", b"the key")
    assert stranger.read_bytes() == b""
    written = (tmp_path / "node.key").lstat()
    assert (stat.S_ISREG(written.st_mode), stat.S_IMODE(written.st_mode)) == (True, 0o600)
