"""What the demo writes into its folder: the specs, a signing key made on the spot, and tokens signed with it."""

from __future__ import annotations

import base64
import json
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://id.demo.example/"
AUDIENCE = "demo-api"
ORIGIN = "https://shop.example.com"
BURST = 3
"""Requests that the rate-limited route lets through at once."""

GATEWAY = """\
# The gateway of the demo. Edit and save: Envoy answers by it some milliseconds later.
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: edge, namespace: demo}}
spec:
  fleet:
    selector: {{matchLabels: {{role: demo}}}}
  listeners:
    - {{name: http, address: 127.0.0.1, port: {listener}, protocol: HTTP}}
  identity:
    jwt:
      - name: demo-issuer
        issuer: {issuer}
        audiences: [{audience}]
        jwks: {{secretRef: demo-keys}}
        claimsToHeaders: {{sub: x-user-id}}
  policies:
    - name: browser
      cors: {{origins: ["{origin}"], methods: [GET, POST], headers: [content-type], maxAge: 10m}}
    - name: few
      rateLimit: {{local: [{{requests: {burst}, per: minute, burst: {burst}}}]}}
"""

ROUTES = """\
# The routes of a team. Every route says who may call: `auth`, or `public: true` for everybody.
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {{name: shop, namespace: demo}}
spec:
  gateway: demo/edge
  backends:
    - {{name: hello, members: [{{static: {{address: 127.0.0.1, port: {hello}}}}}]}}
    - {{name: orders, members: [{{static: {{address: 127.0.0.1, port: {orders}}}}}]}}
  routes:
    - name: hello
      hosts: ["*"]
      match: [{{path: {{prefix: /hello}}}}]
      public: true
      use: [browser]
      transform:
        response: {{headers: {{set: {{x-edition: "{edition}"}}}}}}
      to: [{{backend: hello}}]
    - name: orders
      hosts: ["*"]
      match: [{{path: {{prefix: /orders}}}}]
      auth: {{anyOf: [{{jwt: demo-issuer}}]}}
      to: [{{backend: orders}}]
    - name: limited
      hosts: ["*"]
      match: [{{path: {{prefix: /limited}}}}]
      public: true
      use: [few]
      to: [{{backend: hello}}]
"""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses now, each another one."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """An issuer of tokens, with a key that lives as long as the demo."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def key_set(self) -> str:
        """The public key as a JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        x, y = (_base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "demo", "x": x, "y": y}]})

    def token(self, subject: str) -> str:
        """A token for an hour. (RFC 7515, RFC 7518 section 3.4)"""
        header = {"alg": "ES256", "typ": "JWT", "kid": "demo"}
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 3600}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, on 127.0.0.1."""

    listener: int
    xds: int
    admin: int
    envoy_admin: int
    hello: int
    orders: int


class Scene:
    """The demo's folder and what is in it."""

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.folder = folder
        self.ports = ports
        self.specs = folder / "specs"
        self.secrets = folder / "secrets"
        self.state = folder / "state"
        self.routes_file = self.specs / "shop.yaml"
        self.signer = Signer()

    def write(self) -> None:
        """Write everything for the first time."""
        self.specs.mkdir()
        keys = self.secrets / "demo" / "demo-keys"
        keys.mkdir(parents=True, mode=0o700)
        (keys / "jwks.json").write_text(self.signer.key_set(), encoding="utf-8")
        text = GATEWAY.format(
            listener=self.ports.listener, issuer=ISSUER, audience=AUDIENCE, origin=ORIGIN, burst=BURST
        )
        (self.specs / "gateway.yaml").write_text(text, encoding="utf-8")
        self.save(self.routes("1"))

    def routes(self, edition: str) -> str:
        """The team's document; `edition` is what its public route says in a header."""
        return ROUTES.format(hello=self.ports.hello, orders=self.ports.orders, edition=edition)

    def save(self, text: str) -> None:
        """Save the team's document as editors do: beside the old one, then renamed over it."""
        beside = self.routes_file.with_name(".shop.yaml.new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.routes_file)
