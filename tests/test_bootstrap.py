"""The bootstrap: a real Envoy accepts each form of it, and connects with it to the server it is for and to no other."""

from __future__ import annotations

import json
import select
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controlplane.bootstrap import ADMIN_PATHS, HostPort, Variant, address, bootstrap, render
from controlplane.cli.envoy import find
from controlplane.errors import ConfigurationError
from controlplane.pki.authority import Authority
from controlplane.pki.identity import Identity, identify
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "envoy" / "bootstrap.example.yaml"

LABELS = {"role": "edge", "region": "eu"}
AWKWARD = {"y": "y", "n": "no", "0x10": "0x10", "1e3": "1e3", "null": "~", "oct": "010", "a": "é: #\n'\"\\", "": " "}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "state")


def document(authority: Authority | None, xds: str = "127.0.0.1:18000", **changes: Any) -> dict[str, Any]:
    arguments = {"node_id": "edge-1", "cluster": "edge", "labels": LABELS, "authority": authority} | changes
    return bootstrap(xds_address=xds, **arguments)


def xds_cluster(of: dict[str, Any]) -> dict[str, Any]:
    (cluster,) = of["static_resources"]["clusters"]
    assert isinstance(cluster, dict)
    return cluster


# -- what it says -----------------------------------------------------------------------------------------------------


def test_it_waits_for_its_first_configuration_over_delta_ads(authority: Authority) -> None:
    dynamic = document(authority)["dynamic_resources"]
    assert dynamic["ads_config"]["api_type"] == "DELTA_GRPC"
    assert dynamic["ads_config"]["set_node_on_first_message_only"] is True
    for kind in ("lds_config", "cds_config"):
        assert dynamic[kind] == {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    assert document(authority, variant=Variant.SOTW)["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"


def test_the_certificate_is_that_of_the_node(authority: Authority) -> None:
    context = xds_cluster(document(authority, lifetime=timedelta(days=7)))["transport_socket"]["typed_config"]
    tls = context["common_tls_context"]
    (pair,) = tls["tls_certificates"]
    pem = pair["certificate_chain"]["inline_string"].encode()
    found = identify(pem, authority.trust_domain)
    assert (found.id, found.cluster, dict(found.labels)) == ("edge-1", "edge", LABELS)
    assert authority.inspect(pem).remaining <= timedelta(days=7)
    assert tls["validation_context"]["trusted_ca"]["inline_string"] == authority.trust_bundle.decode()
    assert tls["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4), st.text(max_size=20))
def test_any_label_is_rendered_as_what_it_is(labels: dict[str, str], cluster: str) -> None:
    made = bootstrap("edge-1", cluster, labels, "127.0.0.1:18000")
    node = yaml.safe_load(render(made))["node"]
    assert node == {"id": "edge-1", "cluster": cluster, "metadata": {"labels": labels}}


@pytest.mark.parametrize(
    ("text", "host", "port", "kind"),
    [
        ("10.0.0.5:18000", "10.0.0.5", 18000, "STATIC"),
        ("[2001:db8::5]:18000", "2001:db8::5", 18000, "STATIC"),
        ("xds.example.com:443", "xds.example.com", 443, "STRICT_DNS"),
        ("localhost:1", "localhost", 1, "STRICT_DNS"),
    ],
)
def test_every_kind_of_address(authority: Authority, text: str, host: str, port: int, kind: str) -> None:
    cluster = xds_cluster(document(authority, text))
    (locality,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": host, "port_value": port}
    assert cluster["type"] == kind


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "host:port"),
        ("10.0.0.5", "host:port"),
        ("10.0.0.5:", "host:port"),
        (":18000", "host:port"),
        ("http://10.0.0.5:18000", "brackets"),
        ("2001:db8::5:18000", "brackets"),
        ("10.0.0.5:99999", "above 65535"),
        ("10.0.0.5:\uff11\uff18", "host:port"),
        ("10.0.0.5:0", "port 0"),
        ("[10.0.0.5]:1", "only an IPv6 address"),
        ("[fe80::1%eth0]:1", "only an IPv6 address"),
        ("10.0.0.256:1", "neither an IP address nor a host name"),
        ("a b:1", "neither an IP address nor a host name"),
        ("-a:1", "neither an IP address nor a host name"),
        ("a..b:1", "neither an IP address nor a host name"),
        ("a/b:1", "neither an IP address nor a host name"),
        ("0.0.0.0:18000", "one to listen on"),
        ("[::]:18000", "one to listen on"),
    ],
)
def test_an_address_that_cannot_work_is_refused(authority: Authority, text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        document(authority, text)


def test_an_address_is_what_it_says() -> None:
    assert address("[::1]:1") == HostPort("::1", 1)
    assert address("[::1]:1").is_loopback
    assert address("127.9.9.9:1").is_loopback
    assert not address("localhost.example.com:1").is_loopback


@pytest.mark.parametrize("text", ["10.0.0.5:18000", "xds.example.com:18000", "[2001:db8::5]:1"])
def test_without_tls_it_stays_on_this_machine(text: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback only"):
        document(None, text)


@pytest.mark.parametrize("text", ["0.0.0.0:9901", "10.0.0.5:9901", "[::]:9901", "admin.example.com:9901"])
def test_the_admin_listener_stays_on_this_machine(authority: Authority, text: str) -> None:
    with pytest.raises(ConfigurationError, match="no authentication"):
        document(authority, admin_address=text)


def test_a_node_that_cannot_be_named_is_refused(authority: Authority) -> None:
    with pytest.raises(ConfigurationError, match="is no node id"):
        document(authority, node_id="edge/1")


# -- what Envoy says --------------------------------------------------------------------------------------------------

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "state of the world": {"variant": Variant.SOTW},
    "IPv6": {"xds": "[2001:db8::5]:18000", "admin_address": "[::1]:9901"},
    "a name": {"xds": "xds.example.com:443", "admin_address": "localhost:9901"},
    "an admin socket": {"admin_address": "unix:/tmp/envoy-admin.sock"},
    "a memory limit": {"memory_limit_bytes": 2 << 30},
    "awkward labels": {"labels": AWKWARD},
    "insecure": {"authority": None, "xds": "localhost:18000"},
}


@pytest.mark.envoy
@pytest.mark.parametrize("form", FORMS)
def test_a_real_envoy_accepts_it(tmp_path: Path, authority: Authority, form: str) -> None:
    file = tmp_path / "bootstrap.yaml"
    file.write_text(render(document(**({"authority": authority} | FORMS[form]))))
    command = [find(), "--mode", "validate", "-c", file, "-l", "warning"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert not found.stderr.strip(), "no warning, such as of a deprecated field"


@contextmanager
def envoy(folder: Path, made: dict[str, Any]) -> Iterator[str]:
    """An Envoy that runs with this bootstrap; the address of its admin listener."""
    file, said = folder / "bootstrap.yaml", folder / "admin"
    said.unlink(missing_ok=True)
    file.write_text(render(made))
    command = [find(), "-c", file, "-l", "off", "--admin-address-path", said, "--use-dynamic-base-id"]
    process = subprocess.Popen([*command, "--concurrency", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (said.exists() and said.read_text()):
            assert process.poll() is None, "Envoy ended"
            assert time.monotonic() < deadline, "no admin listener"
            select.select([], [], [], 0.02)
        yield said.read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def status(admin: str, path: str, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{admin}{path}", method=method), timeout=PATIENCE
        ) as ok:
            return int(ok.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.envoy
def test_the_admin_listener_only_shows(tmp_path: Path, authority: Authority) -> None:
    """Whoever reaches it must not be able to end the proxy, or to change how it routes."""
    with envoy(tmp_path, document(authority, labels=AWKWARD)) as admin:
        assert admin.startswith("127.0.0.1:")
        assert status(admin, "/ready") == 503, "it waits for its control plane"
        for path in ADMIN_PATHS:
            if path != "/ready":
                assert status(admin, path) == 200
        assert status(admin, "/stats?filter=xds&format=json") == 200
        for path in (
            "/quitquitquit",
            "/logging?level=trace",
            "/runtime_modify?a=b",
            "/healthcheck/fail",
            "/cpuprofiler",
        ):
            assert status(admin, path, "POST") == 403
        for path in ("/", "/drain_listeners", "/stats/../quitquitquit", "/stats/recentlookups", "/tap"):
            assert status(admin, path) == 403
        with urllib.request.urlopen(f"http://{admin}/server_info", timeout=PATIENCE) as answer:
            assert json.load(answer)["node"]["metadata"]["labels"] == AWKWARD


class Server:
    """An xDS server as far as TLS goes: it hands out who connected."""

    def __init__(self, folder: Path, authority: Authority, pair: bytes = b"") -> None:
        material = authority.server_credentials_material()
        (folder / "server.pem").write_bytes(pair or material.key + material.chain)
        self._trust_domain = authority.trust_domain
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(folder / "server.pem")
        self._context.load_verify_locations(cadata=material.client_authorities.decode())
        self._context.set_alpn_protocols(["h2"])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE)
        self.port = self._socket.getsockname()[1]

    def accept(self) -> Identity | ssl.SSLError:
        """The identity of the next that connects, or why its handshake failed."""
        plain, _ = self._socket.accept()
        plain.settimeout(PATIENCE)
        try:
            with self._context.wrap_socket(plain, server_side=True) as secured:
                assert secured.selected_alpn_protocol() == "h2"
                assert secured.recv(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # the handshake is over on both sides
                peer = secured.getpeercert(binary_form=True)
                assert peer is not None
                return identify(peer, self._trust_domain)
        except ssl.SSLError as error:
            return error
        finally:
            plain.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[Server]:
    made = Server(tmp_path, authority)
    yield made
    made.close()


@pytest.mark.envoy
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_real_envoy_connects_with_its_identity(
    tmp_path: Path, authority: Authority, server: Server, host: str
) -> None:
    with envoy(tmp_path, document(authority, f"{host}:{server.port}")):
        found = server.accept()
    assert isinstance(found, Identity)
    assert (found.id, found.cluster, dict(found.labels)) == ("edge-1", "edge", LABELS)


@pytest.mark.envoy
def test_an_old_bootstrap_outlives_a_rotation(tmp_path: Path, authority: Authority) -> None:
    """It trusts only the old authority; the server's certificate is of the new one."""
    old = document(authority)
    authority.rotate()
    server = Server(tmp_path, authority)
    try:
        (endpoint,) = xds_cluster(old)["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["address"]["socket_address"]["port_value"] = server.port
        with envoy(tmp_path, old):
            assert isinstance(server.accept(), Identity)
    finally:
        server.close()


@pytest.mark.envoy
@pytest.mark.parametrize("other", ["another authority's server", "a node that plays the server"])
def test_a_real_envoy_talks_to_no_other_server(tmp_path: Path, authority: Authority, other: str) -> None:
    if other == "a node that plays the server":
        issued = authority.issue_node("edge-2", "edge", LABELS)
        server = Server(tmp_path, authority, issued.key + issued.certificate)
    else:
        server = Server(tmp_path, Authority.open(tmp_path / "other"))
    try:
        with envoy(tmp_path, document(authority, f"127.0.0.1:{server.port}")):
            assert isinstance(server.accept(), ssl.SSLError)
    finally:
        server.close()


# -- the example in the repository ------------------------------------------------------------------------------------

COMMENTS = {
    "node": "Who this proxy is. Gateways select it by the labels in its certificate; these can only narrow them.",
    "dynamic_resources": "Everything else comes over one stream (delta ADS); without it the proxy waits and does not serve.",
    "static_resources": "Where the control plane is: HTTP/2 with mutual TLS 1.3, checked every 30 s.",
    "admin": "For people on this machine: reads only, any free port (--admin-address-path FILE says which).",
    "layered_runtime": "Limits that are not part of a listener.",
    "overload_manager": "Past these the proxy refuses rather than dies.",
    "stats_flush_on_admin": "Statistics are gathered when somebody asks for them.",
}


def example(folder: Path) -> str:
    """A bootstrap with placeholders for what differs each time, and a comment above each part."""
    made = document(Authority.open(folder / "state"), "xds.example.com:18000")
    tls = xds_cluster(made)["transport_socket"]["typed_config"]["common_tls_context"]
    tls["tls_certificates"][0]["certificate_chain"]["inline_string"] = "(the proxy's certificate, PEM)\n"
    tls["tls_certificates"][0]["private_key"]["inline_string"] = "(its private key, PEM)\n"
    tls["validation_context"]["trusted_ca"]["inline_string"] = "(the control plane's authorities, PEM)\n"
    lines = [
        "# What `controlplane bootstrap --xds xds.example.com:18000 --node-id edge-1 --node-cluster edge \\",
        "#   --label role=edge --label region=eu` prints, without the certificates. See README.md for the reasons.",
        "# Made by: python -m tests.test_bootstrap",
    ]
    for line in render(made).splitlines():
        if comment := COMMENTS.get(line.partition(":")[0]):
            lines += ["", f"# {comment}"]
        lines.append(line)
    return "\n".join(lines) + "\n"


def test_the_example_is_what_is_made_today(tmp_path: Path) -> None:
    assert EXAMPLE.read_text() == example(tmp_path), "python -m tests.test_bootstrap writes it anew"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        EXAMPLE.write_text(example(Path(temporary)))
    print(f"wrote {EXAMPLE}", file=sys.stderr)
