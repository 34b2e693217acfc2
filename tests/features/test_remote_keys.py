"""Key sets that Envoy fetches itself: it waits for none, and without keys nobody passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.features.conftest import Backends
from tests.support.backends import HttpBackend
from tests.support.edge import Edge, gateway_text
from tests.support.ports import free_port
from tests.support.tokens import key_set, rsa_key, token
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

SPEC = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity:
    jwt:
      - {name: fetched, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {uri: "http://127.0.0.1:@keys@/jwks.json", cache: 10s}}
      - {name: by-name, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {uri: "http://localhost:@keys@/jwks.json"}}
      - {name: gone, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {uri: "http://127.0.0.1:@gone@/jwks.json"}}
      - {name: nonsense, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {uri: "http://127.0.0.1:@keys@/nonsense.json"}}
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: fetched, hosts: [shop.example.com], match: [{path: {prefix: /fetched}}], auth: {anyOf: [{jwt: fetched}]}, to: [{backend: one}]}
    - {name: by-name, hosts: [shop.example.com], match: [{path: {prefix: /by-name}}], auth: {anyOf: [{jwt: by-name}]}, to: [{backend: one}]}
    - {name: gone, hosts: [shop.example.com], match: [{path: {prefix: /gone}}], auth: {anyOf: [{jwt: gone}]}, to: [{backend: one}]}
    - {name: nonsense, hosts: [shop.example.com], match: [{path: {prefix: /nonsense}}], auth: {anyOf: [{jwt: nonsense}]}, to: [{backend: one}]}
    - {name: public, hosts: [shop.example.com], match: [{path: {prefix: /public}}], public: true, to: [{backend: one}]}
""")


@pytest.fixture(scope="module")
def keys() -> Iterator[HttpBackend]:
    with HttpBackend("keys") as server:
        server.documents = {"/jwks.json": key_set(rsa_key()).encode(), "/nonsense.json": b"<html>"}
        yield server


@pytest.fixture(scope="module")
def edge(ports: dict[str, int], keys: HttpBackend) -> Iterator[Edge]:
    with Edge(SPEC, {**ports, "keys": keys.port, "gone": free_port()}) as running:
        yield running


def status(edge: Edge, path: str, key: str = "one") -> int:
    answer = edge.request(path, headers={"authorization": f"Bearer {token(rsa_key(key))}"})
    return answer.status


@pytest.mark.parametrize("path", ["/fetched", "/by-name"])
def test_fetched_keys(edge: Edge, backends: Backends, path: str) -> None:
    until(lambda: status(edge, path) == 200, "the keys have been fetched")
    assert status(edge, path, "mallory") == 401
    assert edge.request(path).status == 401


@pytest.mark.parametrize("path", ["/gone", "/nonsense"])
def test_without_keys_nobody_passes(edge: Edge, backends: Backends, path: str) -> None:
    assert status(edge, path) in {401, 503}
    assert edge.request(path).status == 401
    assert backends.one.requests == 0


def test_nothing_else_waits_for_keys(edge: Edge, backends: Backends) -> None:
    assert edge.request("/public").status == 200


def test_rotated_keys_are_fetched(edge: Edge, backends: Backends, keys: HttpBackend) -> None:
    keys.documents["/jwks.json"] = key_set(rsa_key("rotated")).encode()
    until(lambda: status(edge, "/fetched", "rotated") == 200, "the rotated keys")
    assert status(edge, "/fetched") == 401
