"""Key sets that Envoy would refuse are errors of their provider: Envoy would hold up every provider of the proxy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.filters.jwt.key_set import key_set_problem
from controlplane.filters.jwt.spec import Jwks, TokenPlace
from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.spec.listener import Listener
from tests.support.tokens import ec_key, jwk, rsa_key

ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "Xki5xK9rQBNE_Yc0GtpwsAZH62hLTbtEVijBVrSeuzg"}


def problem(*keys: dict[str, Any]) -> str | None:
    return key_set_problem(json.dumps({"keys": list(keys)}))


def test_keys_that_verify_are_accepted() -> None:
    assert problem(jwk(rsa_key()), jwk(ec_key())) is None
    assert problem(ED25519) is None


@pytest.mark.parametrize(
    "change",
    [{"n": "!!!"}, {"n": "AQAB"}, {"e": "~"}, {"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256"}, {"n": ""}, {"n": 5}],
)
def test_rsa_keys_that_do_not_verify_are_refused(change: dict[str, Any]) -> None:
    assert problem({**jwk(rsa_key()), **change})


@pytest.mark.parametrize("change", [{"crv": "P-999"}, {"x": "AQAB"}, {"crv": "P-521"}, {"alg": "ES384"}])
def test_ec_keys_that_do_not_verify_are_refused(change: dict[str, Any]) -> None:
    assert problem({**jwk(ec_key()), **change})


@pytest.mark.parametrize("change", [{"crv": "X25519"}, {"x": "AAAA"}, {"alg": "RS256"}])
def test_ed25519_keys_that_do_not_verify_are_refused(change: dict[str, Any]) -> None:
    assert problem({**ED25519, **change})


def test_an_unusable_key_beside_a_usable_one_does_not_matter() -> None:
    assert problem({**jwk(rsa_key()), "n": "!!"}, jwk(ec_key())) is None


def test_shared_secrets_and_private_keys_are_refused_wherever_they_stand() -> None:
    assert problem(jwk(rsa_key()), {"kty": "oct", "k": "c2VjcmV0"})
    assert problem(jwk(rsa_key()), {**jwk(ec_key()), "d": "AQAB"})


@pytest.mark.parametrize(
    "uri",
    [
        "https://a.example/x y", "https://a_b/x", "https://*.a.example/", f"https://{'a' * 300}.example/",
        "https://bücher.example/", "https://a.example/\n", "file:///etc/passwd", "https://u:p@a.example/", "https://a:0/",
    ],
)  # fmt: skip
def test_addresses_of_key_sets_that_envoy_refuses(uri: str) -> None:
    with pytest.raises(ValidationError):
        Jwks(uri=uri)


@pytest.mark.parametrize(
    "place", [{"query": ""}, {"query": "t&x=\n"}, {"cookie": "a b;"}, {"header": "x-token", "prefix": "B\n"}]
)
def test_places_of_tokens_that_no_request_can_have(place: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        TokenPlace.model_validate(place)


@pytest.mark.parametrize("key", ["header:", "header:a b", "header::path", "header:a\n", "headers:a", "ip"])
def test_keys_of_limits_name_a_header(key: str) -> None:
    with pytest.raises(ValidationError):
        LocalLimit.model_validate({"key": key, "requests": 1, "per": "second"})


@pytest.mark.parametrize("address", ["::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1%eth0"])
def test_addresses_that_no_listener_can_bind(address: str) -> None:
    with pytest.raises(ValidationError):
        Listener.model_validate({"name": "a", "port": 80, "protocol": "HTTP", "address": address})
