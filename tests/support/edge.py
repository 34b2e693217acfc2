"""An Envoy that serves gateway specs from a standalone configuration: the quickest way from a spec to real answers.

In specs of tests `@name@` stands for the port of the backend of that name. Ports of listeners are names only: the
Envoy listens on free ports of loopback, and `Edge` knows which.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane.cli.offline import SOURCE, read_secrets
from controlplane.compile.offline import Compiled, compile_objects
from controlplane.compile.standalone import standalone
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import rows
from tests.support.client import Connection, Headers, Http2, Response, Upgrade
from tests.support.envoy import Envoy
from tests.support.services import without_services

HTTP = 8080
HTTPS = 8443
"""The port that listeners of specs name; requests go to `HTTP` unless told otherwise."""

_BEGINNING = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: shop, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}"""


def gateway_text(rest: str) -> str:
    """A GatewaySpec for the proxies of these tests; `rest` is what its `spec` says beside the fleet, from the next line on."""
    return f"{_BEGINNING}{rest}"


def filled(text: str, ports: Mapping[str, int]) -> str:
    """The spec with `@name@` replaced."""
    return re.sub(r"@(\w+)@", lambda name: str(ports[name[1]]), text)


def compiled(text: str, secrets: Path | None = None) -> Compiled:
    """All documents of a text, compiled for a node that sees all their gateways. Errors of syntax raise."""
    text, services = without_services(text)
    parsed = parse_text(text, "spec.yaml", SOURCE)
    problems = [str(diagnostic) for one in parsed for diagnostic in one.diagnostics]
    if problems:
        raise AssertionError("\n".join(problems))
    documents = {one.ref: one.document for one in parsed if one.ref and one.document}
    found = {ref: rows(ref, document) for ref, document in documents.items()}
    content, _ = read_secrets(secrets) if secrets else ({}, [])
    gateways = sorted(ref.full_name for ref in found if ref.kind == "GatewaySpec")
    return compile_objects(found, content, tuple(gateways), services=services)  # type: ignore[arg-type]  # GatewayName is a str


def configuration(result: Compiled, secrets: Path | None = None) -> dict[str, Any]:
    """The standalone configuration of all gateways."""
    return standalone(result.resources(tuple(result.gateways)), secrets)


class Edge:
    """A running Envoy with these specs. `change` is made to the configuration before: nobody waits for long times to pass."""

    def __init__(
        self,
        spec: str,
        ports: Mapping[str, int] | None = None,
        secrets: Path | None = None,
        change: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        result = compiled(filled(spec, ports or {}), secrets)
        self.diagnostics = result.diagnostics
        content = configuration(result, secrets)
        for listener in content["static_resources"].get("listeners", ()):
            listener["address"]["socket_address"].update(address="127.0.0.1", port_value=0)
        change(content)
        self.envoy = Envoy(content)
        self._kept: Connection | None = None

    def port(self, port: int = HTTP) -> int:
        """Where the listener that the spec puts on this port really listens."""
        return self.envoy.port(f"0.0.0.0:{port}")

    def request(
        self,
        target: str = "/",
        host: str | None = "shop.example.com",
        method: str = "GET",
        headers: Headers = (),
        body: bytes = b"",
        *,
        port: int = HTTP,
        tls: ssl.SSLContext | None = None,
        sni: str | None = None,
        preface: bytes = b"",
    ) -> Response:
        """One request on a connection of its own."""
        with Connection(self.port(port), tls, sni, preface) as connection:
            return connection.request(target, host, method, headers, body)

    @property
    def get(self) -> Any:
        """`request`, for a GET to the host that most specs declare."""
        return partial(self.request, method="GET")

    def connect(self, port: int = HTTP, tls: ssl.SSLContext | None = None, sni: str | None = None) -> Connection:
        """A connection that is kept."""
        return Connection(self.port(port), tls, sni)

    def http2(self, port: int = HTTP, tls: ssl.SSLContext | None = None, sni: str | None = None) -> Http2:
        """An HTTP/2 connection; in clear by prior knowledge."""
        return Http2(self.port(port), tls, sni)

    def upgrade(
        self,
        target: str,
        host: str = "shop.example.com",
        *,
        protocol: str = "websocket",
        headers: Headers = (),
        port: int = HTTP,
    ) -> Upgrade:
        """Ask for a WebSocket, or for another protocol."""
        return Upgrade(self.port(port), target, host, protocol=protocol, headers=headers)

    def __enter__(self) -> Self:
        self.envoy.ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.envoy.stop()
