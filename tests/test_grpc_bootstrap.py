"""The bootstrap of gRPC without a proxy, and the command that prints it. Real clients read it in tests/e2e/test_grpc.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controlplane.errors import ConfigurationError
from controlplane.grpc_bootstrap import SYSTEM_TRUST, grpc_bootstrap
from tests.e2e.commands import controlplane

NODE = ("till-1", "tills", {"role": "edge"})


def test_it_names_files_and_holds_none(tmp_path: Path) -> None:
    document = grpc_bootstrap(*NODE, "cp.example.com:18000", tmp_path)
    [server] = document["xds_servers"]
    assert server["server_uri"] == "cp.example.com:18000"
    assert server["server_features"] == ["xds_v3"]
    [credentials] = server["channel_creds"]
    assert credentials["type"] == "tls"
    assert credentials["config"]["private_key_file"] == str(tmp_path / "node.key")
    assert document["node"] == {
        "id": "till-1",
        "cluster": "tills",
        "metadata": {"labels": {"role": "edge"}},
        "locality": {},
    }
    pairs = {name: one["config"]["certificate_file"] for name, one in document["certificate_providers"].items()}
    assert pairs == {"default": str(tmp_path / "node.crt"), "server": str(tmp_path / "server.crt")}
    assert "%s" in document["server_listener_resource_name_template"]


def test_relative_folders_are_found_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    document = grpc_bootstrap(*NODE, "127.0.0.1:1", Path("certs"), Path("backends.crt"))
    config = document["certificate_providers"]["default"]["config"]
    assert config["private_key_file"] == str(tmp_path / "certs" / "node.key")
    assert config["ca_certificate_file"] == str(tmp_path / "backends.crt")
    # Backends are verified by these; the control plane by its own authority.
    assert document["xds_servers"][0]["channel_creds"][0]["config"]["ca_certificate_file"].endswith("certs/ca.crt")


def test_every_provider_that_resources_name_is_there_without_certificates() -> None:
    """A name that a bootstrap lacks is a NACK."""
    document = grpc_bootstrap(*NODE, "127.0.0.1:1", None, insecure=True)
    assert document["xds_servers"][0]["channel_creds"] == [{"type": "insecure"}]
    for provider in ("default", "server"):
        config = document["certificate_providers"][provider]["config"]
        assert config["ca_certificate_file"] == str(SYSTEM_TRUST)
        assert "private_key_file" not in config


@pytest.mark.parametrize(
    ("address", "said"),
    [("10.0.0.1:18000", "loopback"), ("0.0.0.0:1", "listen on"), ("127.0.0.1:0", "port 0"), ("nonsense", "host:port")],
)
def test_addresses_that_cannot_be_are_refused(address: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        grpc_bootstrap(*NODE, address, None, insecure=True)


BOOTSTRAP = ("bootstrap", "--xds", "127.0.0.1:18000", "--node-id", "n", "--node-cluster", "c")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grpc"], "--certificates DIR"),
        (["--grpc", "--insecure", "--admin", "127.0.0.1:1"], "--admin is for an Envoy"),
        (["--backend-ca", "ca.crt", "--insecure"], "belongs to --grpc"),
        (["--grpc", "--certificates", "certs", "--lifetime", "3000h"], "90 days"),
    ],
)
def test_options_that_do_not_go_together_write_nothing(tmp_path: Path, options: list[str], said: str) -> None:
    there = [str(tmp_path / one) if one == "certs" else one for one in options]
    done = controlplane(*BOOTSTRAP, "--state", str(tmp_path / "state"), *there)
    assert done.returncode == 64
    assert said in done.stderr
    assert not done.stdout
    assert not (tmp_path / "certs").exists()


def test_insecure_issues_nothing(tmp_path: Path) -> None:
    done = controlplane(*BOOTSTRAP, "--state", str(tmp_path / "state"), "--grpc", "--insecure")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["node"]["id"] == "n"
    assert not (tmp_path / "state").exists()
