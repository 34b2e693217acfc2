"""What the exit code and the output are when the world around a command is not as it should be."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.cli.exit import Exit
from tests.cli.conftest import GATEWAY, Run

FORMATS = ("text", "json", "github", "sarif")


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """One line of bash, in which `cp` is the command."""
    script = f'cp() {{ {shlex.quote(sys.executable)} -m controlplane "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=os.environ | variables, capture_output=True, check=False, timeout=60
    )


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", GATEWAY.replace("name: web\n", 'name: "wéb😀"\n')), ("\udcff.yaml", "a: 1\n")],
    ids=["text", "name"],
)
def test_characters_that_the_output_lacks_change_no_exit_code(
    tmp_path: Path, output_format: str, name: str, text: str
) -> None:
    """A build log in ASCII, and a file whose name is no UTF-8: what is wrong is said all the same."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / name).write_text(text)
    for encoding in ("ascii", "utf-8:strict"):
        done = shell(f"cp validate specs -o {output_format}", tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == Exit.PROBLEMS, done.stderr
        assert b"internal error" not in done.stderr
        if output_format in {"json", "sarif"}:
            assert json.loads(done.stdout)


def test_yaml_for_an_output_without_unicode_says_the_same(tmp_path: Path, specs: Path) -> None:
    (specs / "gateway.yaml").write_text(
        GATEWAY.replace("to: [{backend: web}]", 'respond: {status: 200, body: "é: 😀"}')
    )
    import yaml

    plain, unicode = (
        yaml.safe_load(shell("cp compile specs", tmp_path, PYTHONIOENCODING=encoding).stdout)
        for encoding in ("ascii", "utf-8")
    )
    assert plain == unicode
    assert "é: 😀" in str(plain)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("(cp validate specs -o json; echo $? > code) | true", Exit.OK),
        ("(cp validate bad -o json; echo $? > code) | true", Exit.PROBLEMS),
        ("(cp --help; echo $? > code) | true", Exit.OK),
        ("(cp validate specs 2>&1 >out; echo $? > code) | true", Exit.OK),
        ("cp validate specs 2>&-; echo $? > code", Exit.OK),
        ("cp validate bad 2>&-; echo $? > code", Exit.PROBLEMS),
        ("cp validate specs 2>/dev/full; echo $? > code", Exit.OK),
        ("cp validate bad 2>/dev/full; echo $? > code", Exit.PROBLEMS),
        ("cp validate specs -o json >/dev/full; echo $? > code", Exit.FAILED),
        ("cp version >&-; echo $? > code", Exit.FAILED),
        ("cp validate - <&-; echo $? > code", Exit.UNREADABLE),
    ],
)
def test_who_cannot_be_told_changes_no_exit_code(tmp_path: Path, specs: Path, line: str, code: Exit) -> None:
    """A reader that has gone loses what it did not want; only a disk that loses the result is a failure of the command."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.yaml").write_text(GATEWAY.replace("backend: web", "backend: wbe"))
    done = shell(line, tmp_path)
    assert (tmp_path / "code").read_text().strip() == str(int(code)), done.stderr
    assert b"internal error" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("wrong", ["x" * 300, "folder/locked/x.yaml"], ids=["long", "locked"])
def test_one_path_that_cannot_be_looked_at_hides_nothing(
    run: Run, specs: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Root may look everywhere, so the refusal of the system is played here."""
    if "locked" in wrong:
        _locked(monkeypatch, "locked")
    (specs / "gateway.yaml").write_text(GATEWAY.replace("backend: web", "bakend: web"))
    result = run("validate", "specs", wrong, "-o", "json")
    assert result.returncode == Exit.UNREADABLE
    found = json.loads(result.stdout)["diagnostics"]
    assert {"GW0001", "GW0101"} <= {one["code"] for one in found}


def test_secrets_that_cannot_be_looked_at_hide_nothing(
    run: Run, specs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secrets" / "locked").mkdir(parents=True)
    _locked(monkeypatch, "locked")
    (specs / "gateway.yaml").write_text(GATEWAY.replace("backend: web", "backend: wbe"))
    result = run("validate", "specs", "--secrets", "secrets")
    assert result.returncode == Exit.UNREADABLE
    assert "GW0303" in result.stderr
    assert "secrets/locked" in result.stderr
    assert "GW0202" in result.stderr


def _locked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stat = Path.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if name in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)


def test_a_link_to_a_spec_beside_it_declares_it_twice(run: Run, specs: Path) -> None:
    """As for `serve`, which reads by name."""
    (specs / "h.yaml").symlink_to("gateway.yaml")
    result = run("validate", "specs")
    assert result.returncode == Exit.PROBLEMS
    assert "GW0301" in result.stderr


def test_a_folder_is_read_once_whatever_it_is_called(run: Run, specs: Path, tmp_path: Path) -> None:
    (tmp_path / "same").symlink_to("specs")
    result = run("validate", "specs", "same", "specs/../specs/gateway.yaml")
    assert result.returncode == Exit.OK
    assert "1 file," in result.stderr


def test_names_of_files_reach_terminals_and_programs_as_text(run: Run, specs: Path) -> None:
    (specs / "gateway.yaml").rename(specs / "a\x1b[31m\n::error::b %41#.yaml")
    (specs / "z.yaml").write_text(GATEWAY)
    shown = run("validate", "specs", "--color", "never").stderr
    assert "\x1b" not in shown
    assert "\n::error" not in shown
    (specs / "z.yaml").rename(specs / "z %41#.yaml")
    result = json.loads(run("validate", "specs", "-o", "sarif").stdout)["runs"][0]["results"][0]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "specs/z%20%2541%23.yaml"


def test_an_empty_force_color_forces_nothing(run: Run) -> None:
    assert "\x1b" not in run("validate", "nowhere", FORCE_COLOR="").stderr
    assert "\x1b" in run("validate", "nowhere", FORCE_COLOR="1").stderr


def test_paths_are_completed_by_the_shell(run: Run) -> None:
    for command in ("validate", "compile"):
        result = run(COMP_WORDS=f"controlplane {command} ", COMP_CWORD="2", _CONTROLPLANE_COMPLETE="bash_complete")
        assert result.stdout.startswith("file,"), result
