"""What each command gives: starter project, compiled resources, schema, versions, completion, certificates."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml

from controlplane import __version__
from controlplane.cli.exit import Exit
from controlplane.model.regex import MAX_PROGRAM
from tests.cli.conftest import GATEWAY, Run


def test_init_writes_a_project_without_problems(run: Run, tmp_path: Path) -> None:
    made = run("init", "shop")
    assert made.returncode == Exit.OK
    assert not made.stdout
    checked = run("validate", "shop/specs", "--secrets", "shop/secrets")
    assert checked.returncode == Exit.OK, checked.stderr
    assert checked.stderr.startswith("OK: 2 files, 2 routes, 0 problems")
    assert stat.S_IMODE((tmp_path / "shop/secrets").stat().st_mode) == 0o700


def test_what_the_starter_has_in_comments_works_too(run: Run, tmp_path: Path) -> None:
    """A reader removes the '#' and expects a gateway."""
    run("init", "shop")
    file = tmp_path / "shop/specs/gateway.yaml"
    lines = [line.replace("# ", "", 1) if line.startswith(("    # -", "    #  ", "  # identity", "  #   ")) else line
             for line in file.read_text().splitlines()]  # fmt: skip
    file.write_text("\n".join(lines) + "\n")
    assert "identity" in yaml.safe_load(file.read_text())["spec"]
    checked = run("validate", "shop/specs")
    assert checked.returncode == Exit.OK, checked.stderr


def test_init_never_replaces_unasked(run: Run, tmp_path: Path) -> None:
    run("init", "shop")
    file = tmp_path / "shop/specs/hello.yaml"
    file.write_text("mine")
    assert run("init", "shop").returncode == Exit.FAILED
    assert file.read_text() == "mine"
    assert run("init", "shop", "--force").returncode == Exit.OK
    assert file.read_text() != "mine"


def test_init_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    assert run("init", "shop", "--dry-run").returncode == Exit.OK
    assert not (tmp_path / "shop").exists()


def test_compile_is_deterministic_and_the_same_in_both_formats(run: Run, specs: Path) -> None:
    first, second = run("compile", "specs"), run("compile", "specs")
    assert first.returncode == Exit.OK
    assert first.stdout == second.stdout
    assert yaml.safe_load(first.stdout) == json.loads(run("compile", "specs", "-o", "json").stdout)


def test_compile_does_not_depend_on_the_order_of_a_document(run: Run) -> None:
    data = yaml.safe_load(GATEWAY)
    other = {
        "name": "api",
        "hosts": ["*"],
        "match": [{"path": {"prefix": "/api"}}],
        "public": True,
        "to": [{"backend": "web"}],
    }
    data["spec"]["routes"].append(other)
    reordered = yaml.safe_load(yaml.safe_dump(data))
    reordered["spec"]["routes"].reverse()
    one = run("compile", "-", stdin=yaml.safe_dump(data)).stdout
    assert one
    assert one == run("compile", "-", stdin=yaml.safe_dump(reordered)).stdout


def test_compile_shows_the_types_asked_for(run: Run, specs: Path) -> None:
    found = json.loads(run("compile", "specs", "-o", "json", "--type", "cds,lds").stdout)
    assert list(found["resources"]) == ["lds", "cds"]
    assert found["gateways"] == ["platform/edge"]
    assert all(entry["version"] and entry["resource"] for entries in found["resources"].values() for entry in entries)


def test_compile_shows_what_grpc_gets_and_what_is_withheld_from_it(run: Run, specs: Path) -> None:
    """Before any such client is connected: the running control plane says it then."""
    shown = run("compile", "specs", "-o", "json", "--client", "grpc")
    assert shown.returncode == Exit.OK
    assert "GW0225" in shown.stderr
    resources = json.loads(shown.stdout)["resources"]
    assert list(resources) == ["lds", "rds", "cds", "eds"]
    assert resources["rds"]
    assert "GW0225" not in run("compile", "specs").stderr
    assert run("compile", "specs", "--client", "grpc", "--static").returncode == Exit.USAGE


def test_compile_needs_to_know_which_gateway(run: Run, specs: Path) -> None:
    (specs / "other.yaml").write_text(GATEWAY.replace("name: edge", "name: other").replace("10080", "10081"))
    several = run("compile", "specs")
    assert several.returncode == Exit.USAGE
    assert "--gateway platform/edge or platform/other" in several.stderr
    assert run("compile", "specs", "--gateway", "platform/other").returncode == Exit.OK
    merged = run("compile", "specs", "--gateway", "platform/other", "--gateway", "platform/edge", "-o", "json")
    assert len(json.loads(merged.stdout)["resources"]["lds"]) == 2
    unknown = run("compile", "specs", "--gateway", "platform/egde")
    assert unknown.returncode == Exit.USAGE
    assert 'did you mean "platform/edge"?' in unknown.stderr


def test_static_is_a_whole_configuration(run: Run, specs: Path) -> None:
    found = yaml.safe_load(run("compile", "specs", "--static").stdout)
    assert found["static_resources"]["listeners"]
    assert found["static_resources"]["clusters"]
    runtime = found["layered_runtime"]["layers"][0]["static_layer"]
    assert runtime["re2.max_program_size.error_level"] == MAX_PROGRAM, "what `validate` accepts, Envoy does too"
    assert found["overload_manager"]["resource_monitors"]
    assert "ads" not in json.dumps(found)
    assert run("compile", "specs", "--static", "--type", "lds").returncode == Exit.USAGE


def test_compile_never_prints_a_private_key(run: Run, tmp_path: Path) -> None:
    from controlplane.pki.authority import Authority

    issued = Authority.open(tmp_path / "state").issue_node("web", "c", {})
    folder = tmp_path / "secrets/platform/shop-tls"
    folder.mkdir(parents=True)
    (folder / "tls.crt").write_bytes(issued.certificate)
    (folder / "tls.key").write_bytes(issued.key)
    listener = "{name: https, port: 10443, protocol: HTTPS, tls: [{hosts: ['*'], certificate: {secretRef: shop-tls}}]}"
    text = GATEWAY.replace("{name: http, port: 10080, protocol: HTTP}", listener)
    canary = issued.key.decode().splitlines()[1]
    for arguments in [(), ("--static",), ("-o", "json"), ("--type", "sds"), ("-v",)]:
        result = run("compile", "-", "--secrets", "secrets", *arguments, stdin=text)
        assert result.returncode == Exit.OK, result.stderr
        assert canary not in result.stdout + result.stderr
        assert "shop-tls" in result.stdout


def test_secrets_are_judged_only_when_they_are_given(run: Run, tmp_path: Path) -> None:
    listener = "{name: https, port: 10443, protocol: HTTPS, tls: [{hosts: ['*'], certificate: {secretRef: nope}}]}"
    text = GATEWAY.replace("{name: http, port: 10080, protocol: HTTP}", listener)
    (tmp_path / "secrets").mkdir()
    assert run("validate", "-", stdin=text).returncode == Exit.OK
    judged = run("validate", "-", "--secrets", "secrets", stdin=text)
    assert judged.returncode == Exit.PROBLEMS
    assert "<stdin>:6:" in judged.stderr
    assert run("validate", "-", "--secrets", "gone", stdin=text).returncode == Exit.UNREADABLE


@pytest.mark.parametrize("kind", ["all", "GatewaySpec", "RouteSpec", "Configuration"])
def test_schema_is_strict_in_both_formats(run: Run, kind: str) -> None:
    found = json.loads(run("schema", "--kind", kind).stdout)
    assert found["$schema"].startswith("https://json-schema.org/")
    assert found == yaml.safe_load(run("schema", "--kind", kind, "-o", "yaml").stdout)
    closed = [part for part in found["$defs"].values() if part.get("type") == "object"]
    assert closed
    assert all(part.get("additionalProperties") is False for part in closed)


def test_defaults_of_the_schema_are_what_one_would_write(run: Run) -> None:
    from controlplane.config import Configuration

    guards = json.loads(run("schema", "--kind", "Configuration").stdout)["$defs"]["Guards"]["properties"]
    assert guards["massRemoval"]["default"] == "50%"
    written = {name: part["default"] for name, part in guards.items()}
    assert Configuration.model_validate({"guards": written}) == Configuration()


def test_version_is_the_same_everywhere(run: Run) -> None:
    assert f"controlplane      {__version__}" in run("version").stdout
    assert json.loads(run("version", "-o", "json").stdout)["versions"]["controlplane"] == __version__
    assert run("--version").stdout == f"controlplane {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert result.returncode == Exit.OK
    assert "_CONTROLPLANE_COMPLETE" in result.stdout


def test_completion_knows_commands_and_options(run: Run) -> None:
    found = run(_CONTROLPLANE_COMPLETE="bash_complete", COMP_WORDS="controlplane va", COMP_CWORD="1").stdout
    assert "validate" in found
    found = run(_CONTROLPLANE_COMPLETE="bash_complete", COMP_WORDS="controlplane validate --fa", COMP_CWORD="2").stdout
    assert "--fail-on" in found


def test_bootstrap_is_yaml_with_a_certificate_of_the_state_folder(run: Run) -> None:
    arguments = ("--state", "state", "--xds", "127.0.0.1:18000", "--node-id", "edge-1", "--node-cluster", "edge")
    result = run("bootstrap", *arguments, "--label", "role=edge", "--label", "zone=a=b", "--admin", "127.0.0.1:9901")
    assert result.returncode == Exit.OK, result.stderr
    found = yaml.safe_load(result.stdout)
    assert found["node"]["id"] == "edge-1"
    assert found["node"]["metadata"]["labels"] == {"role": "edge", "zone": "a=b"}
    assert "PRIVATE KEY" in result.stdout
    assert "PRIVATE KEY" not in result.stderr
    insecure = run("bootstrap", *arguments, "--insecure")
    assert "PRIVATE KEY" not in insecure.stdout


@pytest.mark.parametrize(
    "change",
    [
        ("--xds", "nowhere"),
        ("--xds", "127.0.0.1:70000"),
        ("--label", "role"),
        ("--label", "=x"),
        ("--admin", "0.0.0.0:9901"),
        ("--lifetime", "91d"),
        ("--lifetime", "5000h"),
        ("--node-id", "../up"),
    ],
)
def test_bootstrap_refuses_what_cannot_work(run: Run, change: tuple[str, str]) -> None:
    base = ("--state", "state", "--xds", "127.0.0.1:1", "--node-id", "a", "--node-cluster", "b")
    result = run("bootstrap", *base, *change)
    assert result.returncode == Exit.USAGE, result.stderr
    assert not result.stdout


def test_pki_shows_issues_and_rotates(run: Run, tmp_path: Path) -> None:
    assert run("pki", "show", "--state", "state").returncode == Exit.FAILED
    assert not (tmp_path / "state").exists()
    issue = ("pki", "issue", "--state", "state", "--node-id", "edge-1", "--node-cluster", "edge", "--out", "out")
    assert run(*issue).returncode == Exit.OK
    assert stat.S_IMODE((tmp_path / "out/node.key").stat().st_mode) == 0o600
    rotated = run("pki", "rotate", "--state", "state")
    assert rotated.returncode == Exit.OK
    old = rotated.stdout.strip()
    shown = json.loads(run("pki", "show", "--state", "state", "-o", "json").stdout)["certificates"]
    assert [one["role"] for one in shown][:2] == ["issuing", "trusted"]
    assert shown[1]["fingerprint"] == old
    assert run("pki", "show", "--state", "state", "--warn-days", "99999").returncode == Exit.PROBLEMS
    assert run("pki", "rotate", "--state", "state", "--distrust", "00").returncode == Exit.USAGE
    assert run("pki", "rotate", "--state", "state", "--distrust", old[:16]).returncode == Exit.OK
    shown = json.loads(run("pki", "show", "--state", "state", "-o", "json").stdout)["certificates"]
    assert old not in [one["fingerprint"] for one in shown]


def test_pki_revokes_and_lifts(run: Run, tmp_path: Path) -> None:
    assert run("pki", "revoke", "--state", "state", "--node-id", "edge-1").returncode == Exit.FAILED
    issue = ("pki", "issue", "--state", "state", "--node-id", "edge-1", "--node-cluster", "edge", "--out", "out")
    serial = run(*issue).stderr.strip().rpartition(" ")[2]
    revoke = ("pki", "revoke", "--state", "state")
    for whom in ((), ("--node-id", "a/b"), ("--serial", "xyz")):
        assert run(*revoke, *whom).returncode == Exit.USAGE
    assert "would deny" in run(*revoke, "--serial", serial, "--dry-run").stderr
    assert not (tmp_path / "state/denied").exists()
    denied = run(*revoke, "--node-id", "edge-1", "--serial", serial.upper(), "--reason", "stolen")
    assert denied.returncode == Exit.OK
    listed = run(*revoke, "--list").stdout.splitlines()
    assert [line.split()[:3] for line in listed] == [["node", "edge-1", "stolen"], ["serial", serial, "stolen"]]
    assert "denied already" in run(*revoke, "--node-id", "edge-1").stderr
    refused = run(*issue)
    assert refused.returncode == Exit.USAGE
    assert "--lift" in refused.stderr
    assert run(*revoke, "--node-id", "edge-1", "--lift").returncode == Exit.OK
    assert run(*issue).returncode == Exit.OK
    assert "not denied" in run(*revoke, "--node-id", "edge-1", "--lift").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--specs", "specs", "--xds", "nowhere"),
        ("--specs", "specs", "--insecure", "--xds", "0.0.0.0:18000"),
        ("--specs", "specs", "--admin", "0.0.0.0:18080"),
    ],
)
def test_serve_refuses_what_cannot_work(run: Run, specs: Path, arguments: tuple[str, ...]) -> None:
    result = run("serve", *arguments)
    assert result.returncode == Exit.USAGE
    assert result.stderr.startswith("error: ")


def test_serve_shows_where_its_configuration_is_wrong(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cp.yaml").write_text("xds:\n  listen: 127.0.0.1:18000\n  tsl: {}\n")
    result = run("serve", "--config", "cp.yaml")
    assert result.returncode == Exit.PROBLEMS
    assert "cp.yaml:3:3" in result.stderr
    assert run("serve", "--config", "gone.yaml").returncode == Exit.FAILED


def test_custom_resource_definitions_in_both_formats(run: Run) -> None:
    documents = list(yaml.safe_load_all(run("schema", "--crd").stdout))
    assert documents == list(yaml.safe_load_all(run("schema", "--crd", "-o", "yaml").stdout))
    assert json.loads(run("schema", "--crd", "-o", "json").stdout) == {
        "apiVersion": "v1",
        "kind": "List",
        "items": documents,
    }
