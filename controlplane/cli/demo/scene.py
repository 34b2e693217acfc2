"""What the demo writes into its folder: a gateway, the routes of a team, and the key set that verifies tokens."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from string import Template

from controlplane.cli.demo.tokens import AUDIENCE, ISSUER, Issuer

ORIGIN = "https://shop.example.com"
BURST = 3
"""Requests that the rate-limited route lets through at once."""
LABEL = "role=demo"

GATEWAY = Template("""\
# The gateway: which proxies serve it, where they listen, who issues tokens, and policies that routes use by name.
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: demo}
spec:
  fleet:
    selector: {matchLabels: {role: demo}}
  listeners:
    - {name: http, address: 127.0.0.1, port: $port, protocol: HTTP}
  identity:
    jwt:
      - name: demo-issuer
        issuer: $issuer
        audiences: [$audience]
        jwks: {secretRef: demo-keys}               # secrets/demo/demo-keys/jwks.json
        claimsToHeaders: {sub: x-user-id}
  policies:
    - name: browser
      cors: {origins: ["$origin"], methods: [GET, POST], headers: [content-type], maxAge: 10m}
    - name: few
      rateLimit: {local: [{requests: $burst, per: minute, burst: $burst}]}
""")

ROUTES = Template("""\
# The routes of a team. Every route says who may call it: `auth`, or `public: true` for everybody.
# Edit this file while the demo is up: each save is served some milliseconds later.
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: shop, namespace: demo}
spec:
  gateway: demo/edge
  backends:
    - {name: stable, members: [{static: {address: 127.0.0.1, port: $stable}}]}
    - {name: canary, members: [{static: {address: 127.0.0.1, port: $canary}}]}
  routes:
    - name: hello
      hosts: ["*"]
      match: [{path: {prefix: /hello}}]
      public: true
      use: [browser]
      transform: {response: {headers: {set: {x-edition: "$edition"}}}}
      to: [{backend: stable}]
    - name: orders
      hosts: ["*"]
      match: [{path: {prefix: /orders}}]
      auth: {anyOf: [{jwt: demo-issuer}]}
      to: [{backend: stable}]
    - name: limited
      hosts: ["*"]
      match: [{path: {prefix: /limited}}]
      public: true
      use: [few]
      to: [{backend: stable}]
    - name: split
      hosts: ["*"]
      match: [{path: {prefix: /split}}]
      public: true
      to: [{backend: stable, weight: 75}, {backend: canary, weight: 25}]
""")

SLIP = ("      use: [browser]\n", "      use: [browser]\n      retires: 3\n")
"""The mistake that the demo makes: what is replaced, by what."""


class Scene:
    """The demo's folder and what is in it."""

    def __init__(self, folder: Path, listener: int, stable: int, canary: int) -> None:
        """The ports: where Envoy listens, and where the two backends do."""
        self.folder = folder
        self.specs = folder / "specs"
        self.secrets = folder / "secrets"
        self.state = folder / "state"
        self.routes_file = self.specs / "shop.yaml"
        self.token_file = folder / "token"
        self.issuer = Issuer()
        self._ports = {"port": listener, "stable": stable, "canary": canary}

    def write(self, edition: str) -> None:
        """Write everything for the first time."""
        self.specs.mkdir()
        keys = self.secrets / "demo" / "demo-keys"
        keys.mkdir(parents=True, mode=0o700)
        (keys / "jwks.json").write_text(self.issuer.key_set(), encoding="utf-8")
        said = {"issuer": ISSUER, "audience": AUDIENCE, "origin": ORIGIN, "burst": BURST}
        (self.specs / "gateway.yaml").write_text(GATEWAY.substitute(self._ports, **said), encoding="utf-8")
        self.save(self.routes(edition))

    def routes(self, edition: str) -> str:
        """The team's document; `edition` is what its public route says in a header."""
        return ROUTES.substitute(self._ports, edition=edition)

    def broken_routes(self, edition: str) -> str:
        """The same with a mistake."""
        return self.routes(edition).replace(*SLIP)

    def save(self, text: str) -> None:
        """Save the team's document as editors do: beside the old one, then renamed over it."""
        beside = self.routes_file.with_name(".shop.yaml.new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.routes_file)


class Port:
    """A free port of 127.0.0.1. A context manager: until it is left, nobody else gets the port by chance.

    The socket shares the port with Envoy (SO_REUSEPORT) and does not listen, so Envoy has all connections. Where
    Envoy does not share ports (macOS), the port is only known to have been free a moment ago.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        if sys.platform == "linux":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number = int(self._socket.getsockname()[1])
        if sys.platform != "linux":
            self._socket.close()

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_: object) -> None:
        self._socket.close()
