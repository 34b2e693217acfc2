"""A port that several gateways listen on: who has its protocol and its TLS hosts."""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3 import listener_pb2

from controlplane.compile.compiler import Compiler
from controlplane.compile.xds_types import LISTENER
from controlplane.names import GatewayName
from controlplane.spec.gateway import KINDS
from controlplane.spec.rows import rows
from tests.compile import worlds
from tests.e2e.plane import gateway, respond
from tests.support.edge import compiled, gateway_text

VIEW = (GatewayName("platform/a"), GatewayName("platform/b"))


class Port:
    """Two gateways, `a` and `b`, on port 8443; each has a certificate that is called as it is."""

    def __init__(self) -> None:
        self.compiler = Compiler()
        for name in ("a", "b"):
            self.compiler.put_secret(*worlds.secret(name))
        self.issues: dict[Any, Any] = {}

    def put(self, name: str, hosts: list[str], declared: list[str], claim: str = "", **listener: Any) -> None:
        tls = [{"hosts": hosts, "certificate": {"secretRef": name}}] if hosts else []
        way_in = {"name": "in", "port": 8443, "protocol": "HTTPS" if tls else "HTTP", "tls": tls, **listener}
        said = gateway(name, listeners=[way_in], routes=[respond("main", "/", name, declared)] if declared else [])
        ref = worlds.ref(said)
        self.compiler.put(ref, rows(ref, KINDS["GatewaySpec"].model_validate(said), claim))
        self.compiler.add_view(VIEW)

    def served(self) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
        """The hosts of each certificate, and who is told of a conflict at its listener."""
        self.issues |= self.compiler.commit_now().issues
        [body] = [one.body for one in self.compiler.resources(VIEW) if one.type_url == LISTENER]
        chains = listener_pb2.Listener.FromString(body).filter_chains
        hosts = {one.name.rpartition(":")[2]: list(one.filter_chain_match.server_names) for one in chains}
        told = dict.fromkeys(
            (issue.subject.rpartition("/")[2], issue.path.rpartition("].")[2])
            for found in self.issues.values()
            for issue in found
            if issue.code == "GW0213" and "listeners" in issue.path
        )
        return hosts, list(told)


def test_the_older_gateway_has_a_tls_host() -> None:
    port = Port()
    port.put("a", ["x.test"], ["x.test"], claim="2026")
    port.put("b", ["x.test"], ["x.test"], claim="2025")
    assert port.served() == ({"b": ["x.test"]}, [("a", "hosts")])
    port.put("a", ["x.test"], ["x.test"], claim="2024")
    assert port.served() == ({"a": ["x.test"]}, [("b", "hosts")])


def test_a_host_is_lost_only_where_the_older_gateway_is_and_can_serve_it() -> None:
    """A proxy that has the younger gateway alone serves all of it, and so do both while the older one has no certificate."""
    port = Port()
    port.put("a", ["*.test"], [])
    port.put("b", ["*.test", "b.else"], ["x.test"])
    alone = VIEW[1:]
    port.compiler.add_view(alone)

    def misdirects(view: tuple[GatewayName, ...]) -> bool:
        port.compiler.commit_now()
        (body,) = (one.body for one in port.compiler.resources(view) if b"b|x.test|?" in one.body)
        return b"gatewayspec/misdirected" in body

    assert (misdirects(VIEW), misdirects(alone)) == (True, False)
    port.compiler.remove_secret(worlds.secret("a")[0])
    assert not misdirects(VIEW)
    port.compiler.put_secret(*worlds.secret("a"))
    port.put("b", ["*.test", "b.else"], ["x.test"], claim="2025")
    port.put("a", ["*.test"], [], claim="2026")
    assert not misdirects(VIEW)


def test_the_older_gateway_decides_the_protocol() -> None:
    port = Port()
    port.put("a", [], ["x.test"], claim="2026")
    port.put("b", ["x.test"], ["x.test"], claim="2025")
    assert port.served() == ({"b": ["x.test"]}, [("a", "protocol")])


def test_the_older_gateway_decides_about_a_redirect() -> None:
    """The other one is told: what it says has no effect."""
    port = Port()
    port.put("a", [], ["x.test"], redirect={"port": 443})
    port.put("b", [], ["y.test"], redirect={"port": 8443})
    assert port.served()[1] == [("b", "redirect")]
    port.put("b", [], ["y.test"], redirect={"port": 443})
    assert port.served()[1] == []


def test_a_narrower_certificate_does_not_take_a_host_that_an_older_gateway_declares() -> None:
    port = Port()
    port.put("a", ["*.test"], ["x.test", "*.y.test"])
    for hosts in (["x.test"], ["*.y.test"], ["z.y.test"]):
        port.put("b", [*hosts, "free.test"], [])
        left, told = (hosts, []) if hosts == ["z.y.test"] else ([], [("b", "hosts")])
        assert port.served() == ({"a": ["*.test"], "b": sorted([*left, "free.test"])}, told), hosts
    port.put("b", ["x.test"], ["x.test"])
    assert port.served() == ({"a": ["*.test"]}, [("b", "hosts")])
    port.put("a", ["*.test"], ["*.test"])
    assert port.served() == ({"a": ["*.test"], "b": ["x.test"]}, [])
    port.put("b", ["x.test"], ["x.test"], claim="1")
    port.put("a", ["*.test"], ["x.test"], claim="2")
    assert port.served() == ({"a": ["*.test"], "b": ["x.test"]}, []), "the older one may"


def test_gateways_that_show_one_certificate_for_a_host_share_it() -> None:
    port = Port()
    port.put("a", ["*.test"], ["x.test"])
    shared = [{"hosts": ["*.test", "x.test"], "certificate": {"secretRef": "a"}}]
    port.put("b", ["*.test"], ["x.test"], tls=shared)
    assert port.served() == ({"a": ["*.test", "x.test"]}, [])


def test_a_port_that_another_listener_of_the_gateway_has_is_said_to_be_that_ones() -> None:
    text = gateway_text("""
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
    - {name: other, port: 8080, protocol: HTTP, clientIP: {trustedHops: 1}}
  routes:
    - {name: one, hosts: [a.test], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}
""")
    (said,) = compiled(text).diagnostics
    assert said.path == "spec.listeners[other].clientIP"
    assert said.message.startswith('0.0.0.0:8080 belongs to listener "http" of this gateway')
