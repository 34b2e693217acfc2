"""Key sets that Envoy would refuse are errors of their provider: Envoy would hold up every provider of the proxy."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.filters.jwt.key_set import usable_keys
from controlplane.filters.jwt.spec import Jwks, TokenPlace
from controlplane.filters.local_ratelimit.spec import LocalLimit
from controlplane.spec.listener import Listener
from controlplane.spec.parse import parse_text
from tests.support.edge import compiled, configuration
from tests.support.envoy import validate
from tests.support.tokens import ec_key, jwk, key_set, rsa_key

ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "Xki5xK9rQBNE_Yc0GtpwsAZH62hLTbtEVijBVrSeuzg"}


def sent(*keys: dict[str, Any]) -> list[dict[str, Any]]:
    """The keys that Envoy gets."""
    found: list[dict[str, Any]] = json.loads(usable_keys(json.dumps({"keys": list(keys)})))["keys"]
    return found


def problem(*keys: dict[str, Any]) -> str | None:
    try:
        sent(*keys)
    except ValueError as error:
        return str(error)
    return None


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()


def with_more(more: str) -> str:
    """A good key set with another member."""
    return key_set(ec_key())[:-1] + f', "more": {more}}}'


def test_keys_that_verify_are_accepted() -> None:
    assert problem(jwk(rsa_key()), jwk(ec_key())) is None
    assert problem(ED25519) is None


@pytest.mark.parametrize(
    "change",
    [
        {"n": "!!!"}, {"n": "AQAB"}, {"e": "~"}, {"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256"}, {"n": ""}, {"n": 5},
        {"n": number((1 << 20480) - 1)}, {"n": number((1 << 16384) + 1)}, {"n": number((1 << 2048) - 2)},
        {"e": number((1 << 200) + 1)}, {"e": number(17)}, {"e": "AQ"}, {"e": "AQAB="}, {"kid": 5}, {"kid": "\ud800"}, {"alg": 5},
    ],
)  # fmt: skip
def test_rsa_keys_that_do_not_verify_are_refused(change: dict[str, Any]) -> None:
    assert problem({**jwk(rsa_key()), **change})


@pytest.mark.parametrize(
    "change", [{"crv": "P-999"}, {"x": "AQAB"}, {"crv": "P-521"}, {"alg": "ES384"}, {"crv": ["P-256"]}]
)
def test_ec_keys_that_do_not_verify_are_refused(change: dict[str, Any]) -> None:
    assert problem({**jwk(ec_key()), **change})


@pytest.mark.parametrize("change", [{"crv": "X25519"}, {"x": "AAAA"}, {"alg": "RS256"}])
def test_ed25519_keys_that_do_not_verify_are_refused(change: dict[str, Any]) -> None:
    assert problem({**ED25519, **change})


def test_an_unusable_key_beside_a_usable_one_does_not_matter() -> None:
    assert problem({**jwk(rsa_key()), "n": "!!"}, jwk(ec_key())) is None


@pytest.mark.parametrize("end", ["==", "===", "\n", " ", "+", "é", "A"])
def test_numbers_are_base64url_and_nothing_more(end: str) -> None:
    key = jwk(ec_key())
    assert problem({**key, "x": key["x"] + end})


def test_envoy_gets_what_was_looked_at_and_nothing_else() -> None:
    """Also the padding that some issuers write, and a zero before a number, are forms that it need not know."""
    ec, rsa = jwk(ec_key(), "a\0é"), jwk(rsa_key())
    written = {**ec, "x": ec["x"] + "=", "kid": "a\0é", "use": "sig", "x5c": [1e300], "é\ud800": [[[{}]]], "alg": None}
    zero = base64.urlsafe_b64encode(b"\0" + base64.urlsafe_b64decode(rsa["n"] + "==")).decode()
    assert sent({**ED25519, "x": "!"}, written, {**rsa, "n": zero, "e": number(3), "key_ops": ["verify"]}) == [
        {"kty": "EC", "crv": "P-256", "kid": "a\0é", "x": ec["x"], "y": ec["y"]},
        {"kty": "RSA", "kid": "k1", "alg": "RS256", "n": rsa["n"], "e": "Aw"},
    ]


@pytest.mark.parametrize("more", ["NaN", "-Infinity", '{"a": 1, "a": 1}', '"\x01"', "1,", "'a'", "[" * 100_000])
def test_json_is_read_strictly(more: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|twice"):
        usable_keys(with_more(more))


@pytest.mark.parametrize(
    "text", ["", "5", "[]", "{}", '{"keys": {}}', '{"keys": []}', '{"keys": [5]}', '{"keys": [[]]}']
)
def test_what_is_no_key_set(text: str) -> None:
    with pytest.raises(ValueError, match=r"key set|Key Set"):
        usable_keys(text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match=r"UTF-8|byte order mark|JSON"):
        usable_keys(key_set(ec_key()).encode(encoding))


PROVIDERS = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: shop, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  routes: [{name: web, hosts: [a.test], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}]
  identity: {jwt: @providers@}
"""


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("clockSkew: 0s", "clockSkew is 1s to 5m"), ("clockSkew: 999ms", "clockSkew is 1s to 5m"),
        ("clockSkew: 1500ms", "in whole seconds"), ("clockSkew: 301s", "clockSkew is 1s to 5m"),
        ("clockSkew: 1s", ""), ("clockSkew: 5m", ""), ("cache: 0s", "cache is at least 10s"),
        ("cache: 9999ms", "cache is at least 10s"), ("cache: 10s", ""),
    ],
)  # fmt: skip
def test_times_that_envoy_takes_for_others(field: str, message: str) -> None:
    """It takes no skew for its default of a minute, and fetches keys all the time that it may keep no longer than 5 s."""
    cache, skew = (field, "clockSkew: 2s") if "cache" in field else ("cache: 1m", field)
    provider = f"{{name: p, issuer: i, audiences: [a], jwks: {{uri: 'https://a.test/', {cache}}}, {skew}}}"
    (parsed,) = parse_text(PROVIDERS.replace("@providers@", f"[{provider}]"), "spec.yaml")
    found = [str(diagnostic) for diagnostic in parsed.diagnostics]
    assert len(found) == bool(message)
    assert not message or (message in found[0] and field.partition(":")[0] in found[0])


@pytest.mark.parametrize(
    ("jwks", "message"),
    [
        ("uri: 'https://a.test/', key: jwks.json", "jwks.key: key is a file of a secret; it belongs to secretRef"),
        ("uri: 'https://a.test/', ca: {secretRef: s, key: ''}", "jwks.ca.key: must not be empty"),
        ("secretRef: s, key: ''", "jwks.key: must not be empty"),
        ("secretRef: s, key: k", ""),
    ],
)
def test_the_file_of_a_secret_is_one(jwks: str, message: str) -> None:
    """What is accepted is obeyed."""
    provider = f"{{name: p, issuer: i, audiences: [a], jwks: {{{jwks}}}}}"
    (parsed,) = parse_text(PROVIDERS.replace("@providers@", f"[{provider}]"), "spec.yaml")
    found = [str(diagnostic) for diagnostic in parsed.diagnostics]
    assert len(found) == bool(message)
    assert not message or found[0].endswith(message)


@pytest.mark.envoy
def test_envoy_accepts_what_is_accepted_here(tmp_path: Path) -> None:
    """The first ones it would refuse as they are written."""
    key, modulus = jwk(ec_key()), {"kty": "RSA", "e": "AQAB"}
    texts = [
        with_more("[" * 150 + "]" * 150),
        with_more('"\\ud800"'),
        with_more("1e999"),
        json.dumps({"keys": [{**key, "kid": "\ud800"}, key]}),
        json.dumps({"keys": [{**key, "kid": "a\0é\n🙂"}]}),
        json.dumps({"keys": [{**key, "x": key["x"] + "="}]}),
        json.dumps({"keys": [{**modulus, "n": number((1 << 16384) - 1)}]}),
        json.dumps({"keys": [{**modulus, "e": "Aw", "n": number((1 << 2048) - 1)}]}),
        json.dumps({"keys": [{**ED25519, "x": "A" * 43}]}),
    ]
    providers = [
        {"name": f"p{index}", "issuer": "i", "audiences": ["a"], "jwks": {"inline": text}}
        for index, text in enumerate(texts)
    ]
    content = configuration(compiled(PROVIDERS.replace("@providers@", json.dumps(providers))))
    assert json.dumps(content).count("local_jwks") == len(texts) + 1
    assert validate(content, tmp_path) is None


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
