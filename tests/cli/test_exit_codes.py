"""One table of exit codes, whatever the output format: scripts decide by them, and by nothing else."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from controlplane.cli.exit import MEANINGS, Exit, exit_code
from controlplane.errors import Diagnostic, Severity
from controlplane.spec.codes import Code
from tests.cli.conftest import GATEWAY, Run

INPUTS: dict[str, tuple[str | None, Exit]] = {
    "valid": (GATEWAY, Exit.OK),
    "unknown-field": (GATEWAY.replace("public: true", "public: true\n      retires: 3"), Exit.PROBLEMS),
    "unknown-backend": (GATEWAY.replace("backend: web", "backend: wbe"), Exit.PROBLEMS),
    "duplicate-key": (GATEWAY.replace("public: true", "public: true\n      public: true"), Exit.PROBLEMS),
    "not-yaml": ("a: [1, 2\n", Exit.UNREADABLE),
    "tab": ("a:\n\tb: 1\n", Exit.UNREADABLE),
    "empty": ("", Exit.UNREADABLE),
    "missing": (None, Exit.UNREADABLE),
}
FORMATS = {"validate": ("text", "json", "github", "sarif"), "compile": ("yaml", "json")}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(("command", "output_format"), [(c, f) for c, formats in FORMATS.items() for f in formats])
def test_the_format_never_changes_the_exit_code(
    run: Run, tmp_path: Path, command: str, output_format: str, name: str
) -> None:
    content, expected = INPUTS[name]
    if content is not None:
        (tmp_path / "spec.yaml").write_text(content)
    result = run(command, "spec.yaml", "-o", output_format)
    assert result.returncode == expected, result.stderr
    if output_format in {"json", "sarif"} and result.stdout:
        json.loads(result.stdout)


@pytest.mark.parametrize("output_format", FORMATS["validate"])
def test_warnings_fail_when_asked_to(run: Run, tmp_path: Path, output_format: str) -> None:
    """A value that a guardrail cuts is worth a warning; whether that fails a pipeline is the pipeline's choice."""
    text = GATEWAY.replace("  backends:", "  guardrails: {retry: {attempts: 1}}\n  backends:")
    (tmp_path / "spec.yaml").write_text(text.replace("public: true", "public: true\n      retry: {attempts: 5}"))
    arguments = ("validate", "spec.yaml", "-o", output_format)
    found = run(*arguments)
    assert found.returncode == Exit.OK
    assert "0 errors, 1 warning" in found.stderr
    assert run(*arguments, "--fail-on", "warning").returncode == Exit.PROBLEMS


def test_a_usage_error_is_64(run: Run) -> None:
    for arguments in [
        (),
        ("nope",),
        ("validate",),
        ("validate", ".", "-o", "nope"),
        ("compile", ".", "--type", "nope"),
        ("completion", "tcsh"),
        ("help", "nope"),
        ("validate", ".", "--nope"),
    ]:
        result = run(*arguments)
        assert result.returncode == Exit.USAGE, arguments
        assert not result.stdout
        assert result.stderr


def test_a_usage_error_says_what_of_it_is_wrong(run: Run) -> None:
    """Of several options, which; of a word that is none of ours, which of ours is like it."""
    for arguments, said in [
        (("validat",), "No such command 'validat'. Did you mean 'validate'?"),
        (("fleet", "wait", "1", "--timeout", "5"), "--timeout 5: a duration is"),
        (("fleet", "status", "--admin", "[::1:1"), "--admin [::1:1: an address is HOST:PORT"),
        (("fleet", "status", "--admin", "http://[::1]:1"), "--admin http://[::1]:1: an address is HOST:PORT"),
        (("fleet", "status", "--admin", "127.0.0.1:65536"), "--admin 127.0.0.1:65536: an address is HOST:PORT"),
        (("serve", "--specs", ".", "--xds", "1.2.3.4"), "--xds 1.2.3.4: an address is HOST:PORT"),
        (("serve", "--specs", ".", "--admin", "nowhere"), "--admin nowhere: an address is HOST:PORT"),
    ]:
        result = run(*arguments)
        assert (result.returncode, result.stdout) == (Exit.USAGE, "")
        assert said in result.stderr


def test_stdin_is_read_like_a_file(run: Run) -> None:
    assert run("validate", "-", stdin=GATEWAY).returncode == Exit.OK
    broken = run("validate", "-", stdin="a: [")
    assert broken.returncode == Exit.UNREADABLE
    assert "<stdin>:" in broken.stderr
    assert run("validate", "-", stdin=b"\xff\xfe\x00").returncode == Exit.UNREADABLE
    assert run("compile", "-", stdin=GATEWAY).stdout.startswith("formatVersion")


def test_a_folder_without_specs_is_no_success(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("validate", "empty")
    assert result.returncode == Exit.UNREADABLE
    assert "no spec file" in result.stderr


def test_one_unreadable_file_among_valid_ones_is_no_success(run: Run, specs: Path) -> None:
    (specs / "z.yaml").write_bytes(b"\xc3\x28\n")
    result = run("validate", "specs")
    assert result.returncode == Exit.UNREADABLE
    assert "specs/z.yaml:1:1" in result.stderr


def test_a_link_to_nowhere_is_no_success(run: Run, specs: Path) -> None:
    (specs / "z.yaml").symlink_to("gone")
    assert run("validate", "specs").returncode == Exit.UNREADABLE


def test_a_circle_of_links_is_no_success(run: Run, specs: Path) -> None:
    (specs / "y.yaml").symlink_to("z.yaml")
    (specs / "z.yaml").symlink_to("y.yaml")
    for path in ("specs", "specs/z.yaml"):
        result = run("validate", path)
        assert result.returncode == Exit.UNREADABLE
        assert "specs/z.yaml" in result.stderr


def test_a_fifo_in_a_folder_is_named_and_not_waited_for(run: Run, specs: Path) -> None:
    os.mkfifo(specs / "z.yaml")
    result = run("validate", "specs")
    assert result.returncode == Exit.UNREADABLE
    assert "specs/z.yaml" in result.stderr


def test_a_file_that_is_too_large_is_refused_without_reading_it(run: Run, specs: Path) -> None:
    with (specs / "z.yaml").open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    result = run("validate", "specs")
    assert result.returncode == Exit.UNREADABLE
    assert "MiB" in result.stderr


def test_an_object_declared_twice_is_a_problem(run: Run, specs: Path) -> None:
    (specs / "h.yaml").write_text(GATEWAY)
    result = run("validate", "specs")
    assert result.returncode == Exit.PROBLEMS
    assert "specs/h.yaml:3" in result.stderr
    assert "specs/gateway.yaml:1" in result.stderr


def test_a_file_named_twice_is_read_once(run: Run, specs: Path) -> None:
    result = run("validate", "specs", "specs/gateway.yaml")
    assert result.returncode == Exit.OK
    assert "1 file," in result.stderr


def test_the_table_is_printed_and_complete(run: Run) -> None:
    result = run("help", "exit-codes")
    assert result.returncode == Exit.OK
    for code, meaning in MEANINGS.items():
        assert f"{code.value}  {meaning}" in result.stdout
    assert set(MEANINGS) == set(Exit)


def test_a_reader_that_goes_away_is_not_an_internal_error(run: Run, specs: Path, tmp_path: Path) -> None:
    command = f'{shlex.quote(sys.executable)} -m controlplane schema | head -c 1; echo " ${{PIPESTATUS[0]}}"'
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split()[-1] in {"0", "2"}
    assert not result.stderr


@pytest.mark.parametrize(
    ("code", "severity", "fail_on", "expected"),
    [
        (Code.UNKNOWN_FIELD, Severity.ERROR, Severity.ERROR, Exit.PROBLEMS),
        (Code.UNKNOWN_FIELD, Severity.WARNING, Severity.ERROR, Exit.OK),
        (Code.UNKNOWN_FIELD, Severity.WARNING, Severity.WARNING, Exit.PROBLEMS),
        (Code.SYNTAX, Severity.ERROR, Severity.ERROR, Exit.UNREADABLE),
        (Code.NOT_A_FILE, Severity.WARNING, Severity.ERROR, Exit.UNREADABLE),
    ],
)
def test_what_weighs_more(code: Code, severity: Severity, fail_on: Severity, expected: Exit) -> None:
    assert exit_code([Diagnostic(code, "x", severity=severity)], fail_on) is expected
    problem = Diagnostic(Code.MISSING_FIELD, "y")
    assert exit_code([problem, Diagnostic(code, "x", severity=severity)], fail_on) >= Exit.PROBLEMS


def test_what_is_no_file_is_an_error_in_every_format(run: Run) -> None:
    """Exit code and document agree: `valid` is not true of something that was not read."""
    done = run("validate", "/dev/null", "-o", "json")
    assert done.returncode == Exit.UNREADABLE
    content = json.loads(done.stdout)
    assert (content["valid"], content["errorCount"]) == (False, 1)


@pytest.mark.parametrize("output_format", ["table", "json", "yaml"])
def test_a_control_plane_that_does_not_answer_is_69(run: Run, output_format: str) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        admin = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments in [
            ("status", "-o", output_format),
            ("get", "edge-1", "cds", "-o", output_format),
            ("wait", "1"),
        ]:
            result = run("fleet", *arguments, "--admin", admin)
            assert (result.returncode, result.stdout) == (Exit.UNAVAILABLE, ""), arguments
            assert f"no control plane answers on {admin}" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("fleet", "status"), ("fleet", "wait", "1"), ("fleet", "get", "a", "cds"), ("sources",)]
)
@pytest.mark.parametrize(
    "answer", [b"\x00\x01\x02 hello\r\n", *(b"HTTP/1.0 200 OK\r\n\r\n" + body for body in (b"{}", b"[]", b"1"))]
)
def test_an_answer_that_is_no_control_planes_is_2(run: Run, arguments: tuple[str, ...], answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer_once, args=(server, answer))
        thread.start()
        result = run(*arguments, "--admin", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert (result.returncode, result.stdout) == (Exit.FAILED, "")
    assert "is no control plane" in result.stderr


def _answer_once(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(answer)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--admin", "nowhere"),
        ("status", "--state", "fine"),
        ("status", "--type", "cds,nope"),
        ("get", "edge-1"),
        ("get", "edge-1", "nope"),
        ("get", "edge-1", "cds", "--bodies"),
        ("wait",),
        ("wait", "1", "--percent", "0"),
        ("wait", "1", "--timeout", "soon"),
    ],
)
def test_fleet_usage_errors(run: Run, arguments: tuple[str, ...]) -> None:
    result = run("fleet", *arguments)
    assert (result.returncode, result.stdout) == (Exit.USAGE, "")
