"""Services of meshes as backends: who they are is verified, who we are is shown, and what they want to be told is told.

What stands for a sidecar has a certificate as the authority of the mesh would issue it, and accepts none but those: for
Istio an Envoy, with filter chains like those of Istio's, for Linkerd a TLS server.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import HttpBackend
from tests.support.certificates import Authority, write_secret
from tests.support.edge import Edge, gateway_text
from tests.support.envoy import Envoy

pytestmark = pytest.mark.envoy

_FILTERS = "type.googleapis.com/envoy.extensions.filters"

CATALOG = "spiffe://cluster.local/ns/shop/sa/catalog"
GATEWAY = "spiffe://cluster.local/ns/edge/sa/gateway"
LINKERD = "catalog.shop.serviceaccount.identity.linkerd.cluster.local"
DESTINATION = "catalog.shop.svc.cluster.local:8080"

SPEC = gateway_text(f"""
  listeners: [{{name: http, port: 8080, protocol: HTTP}}]
  backends:
    - name: istio
      members: [{{static: {{address: 127.0.0.1, port: @istio@}}}}]
      tls: {{mode: mutual, ca: {{secretRef: mesh, key: ca.crt}}, clientCertificate: {{secretRef: mesh}}, sanMatch: ["{CATALOG}"], alpn: [istio]}}
    - name: somebody-else
      members: [{{static: {{address: 127.0.0.1, port: @istio@}}}}]
      tls: {{mode: mutual, ca: {{secretRef: mesh, key: ca.crt}}, clientCertificate: {{secretRef: mesh}}, sanMatch: ["{CATALOG}-v2"], alpn: [istio]}}
    - name: without-alpn
      members: [{{static: {{address: 127.0.0.1, port: @istio@}}}}]
      tls: {{mode: mutual, ca: {{secretRef: mesh, key: ca.crt}}, clientCertificate: {{secretRef: mesh}}, sanMatch: ["{CATALOG}"]}}
    - name: without-identity
      members: [{{static: {{address: 127.0.0.1, port: @istio@}}}}]
      tls: {{ca: {{secretRef: mesh, key: ca.crt}}, sanMatch: ["{CATALOG}"], alpn: [istio]}}
    - name: linkerd
      members: [{{static: {{address: 127.0.0.1, port: @linkerd@}}}}]
      tls: {{mode: mutual, ca: {{secretRef: mesh, key: ca.crt}}, clientCertificate: {{secretRef: mesh}}, sni: {LINKERD}}}
    - name: beside-linkerd
      members: [{{static: {{address: 127.0.0.1, port: @plain@}}}}]
  routes:
    - {{name: istio, hosts: [a.test], match: [{{path: {{prefix: /istio}}}}], public: true, to: [{{backend: istio}}]}}
    - {{name: somebody-else, hosts: [a.test], match: [{{path: {{prefix: /somebody-else}}}}], public: true, to: [{{backend: somebody-else}}]}}
    - {{name: without-alpn, hosts: [a.test], match: [{{path: {{prefix: /without-alpn}}}}], public: true, to: [{{backend: without-alpn}}]}}
    - {{name: without-identity, hosts: [a.test], match: [{{path: {{prefix: /without-identity}}}}], public: true, to: [{{backend: without-identity}}]}}
    - {{name: linkerd, hosts: [a.test], match: [{{path: {{prefix: /linkerd}}}}], public: true, to: [{{backend: linkerd}}]}}
    - name: beside-linkerd
      hosts: [a.test]
      match: [{{path: {{prefix: /beside-linkerd}}}}]
      public: true
      transform: {{request: {{headers: {{set: {{l5d-dst-override: "{DESTINATION}"}}}}}}}}
      to: [{{backend: beside-linkerd}}]
""")


def _sidecar(folder: Path, mesh: Authority, identity: str) -> ssl.SSLContext:
    """It demands a certificate of the mesh."""
    pair = mesh.leaf(identity)
    file = folder / "sidecar.pem"
    file.write_bytes(pair.certificate + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=mesh.pem.decode())
    context.load_cert_chain(file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _manager(cluster: str) -> dict[str, Any]:
    """Forwards everything, with the identity of the client."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
    router = {"@type": f"{_FILTERS}.http.router.v3.Router"}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
    }
    return {"name": "http", "typed_config": manager}


def _permissive(mesh: Authority, workload: int) -> dict[str, Any]:
    """A sidecar as Istio configures it while clear text is taken too: mutual TLS only for who offers its protocol."""
    pair = mesh.leaf(CATALOG)
    certificate = {
        "certificate_chain": {"inline_string": pair.certificate.decode()},
        "private_key": {"inline_string": pair.key.decode()},
    }
    trust = {"trusted_ca": {"inline_string": mesh.pem.decode()}}
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [certificate],
            "validation_context": trust,
            "alpn_protocols": ["h2", "http/1.1"],
        },
        "require_client_certificate": True,
    }
    inspector = {"@type": f"{_FILTERS}.listener.tls_inspector.v3.TlsInspector"}
    listener = {
        "name": "inbound",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "listener_filters": [{"name": "tls_inspector", "typed_config": inspector}],
        "filter_chains": [
            {
                "filter_chain_match": {"application_protocols": ["istio-peer-exchange", "istio"]},
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [_manager("workload")],
            },
            {"filter_chain_match": {}, "filters": [_manager("workload")]},
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": workload}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    cluster = {"name": "workload", "load_assignment": {"cluster_name": "workload", "endpoints": endpoints}}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("mesh")
    mesh = Authority("mesh")
    ours = mesh.leaf(GATEWAY, client=True)
    files = {"ca.crt": mesh.pem, "tls.crt": ours.certificate, "tls.key": ours.key}
    write_secret(folder / "secrets", "mesh", files)
    with ExitStack() as stack:
        workload, plain = (stack.enter_context(HttpBackend(name)) for name in ("istio", "plain"))
        linkerd = stack.enter_context(HttpBackend("linkerd", _sidecar(folder, mesh, LINKERD)))
        sidecar = Envoy(_permissive(mesh, workload.port)).ready()
        stack.callback(sidecar.stop)
        ports = {"istio": sidecar.port("inbound"), "linkerd": linkerd.port, "plain": plain.port}
        found = stack.enter_context(Edge(SPEC, ports, folder / "secrets"))
        assert not found.diagnostics, found.diagnostics
        yield found


@pytest.mark.parametrize("mesh", ["istio", "linkerd"])
def test_a_workload_is_verified_by_its_identity_and_shown_ours(edge: Edge, mesh: str) -> None:
    found = edge.request(f"/{mesh}", "a.test")
    assert (found.status, found.backend) == (200, mesh)
    if mesh == "istio":
        assert (found.seen("x-forwarded-client-cert") or "").endswith(f";URI={GATEWAY}")


@pytest.mark.parametrize("wrong", ["somebody-else", "without-identity", "without-alpn"])
def test_who_is_not_who_he_should_be_gets_no_request(edge: Edge, wrong: str) -> None:
    assert edge.request(f"/{wrong}", "a.test").status == 503


def test_linkerd_is_told_the_destination_whatever_the_client_says(edge: Edge) -> None:
    """Its proxy beside Envoy goes where this header says: nobody outside may choose that."""
    found = edge.request("/beside-linkerd", "a.test", headers=[("l5d-dst-override", "vault.kube-system.svc:80")])
    assert (found.status, found.seen("l5d-dst-override")) == (200, DESTINATION)
