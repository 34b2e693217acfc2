"""Keys and JSON Web Tokens, made at run time: good ones, and every kind of bad one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://id.example.com/"
AUDIENCE = "shop-api"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def rsa_key(name: str = "one") -> rsa.RSAPrivateKey:
    """The RSA key of this name; the same name gives the same key within a run."""
    return _rsa_key(name)


@cache
def _rsa_key(_: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def ec_key(name: str = "one") -> ec.EllipticCurvePrivateKey:
    """The P-256 key of this name."""
    return _ec_key(name)


@cache
def _ec_key(_: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def jwk(key: PrivateKey, kid: str = "k1") -> dict[str, str]:
    """The public half as a JSON Web Key."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_numbers()
        return {"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig", "n": _number(public.n), "e": _number(public.e)}
    point = key.public_key().public_numbers()
    x, y = (_encoded(value.to_bytes(32, "big")) for value in (point.x, point.y))
    return {"kty": "EC", "kid": kid, "alg": "ES256", "crv": "P-256", "x": x, "y": y}


def key_set(*keys: PrivateKey) -> str:
    """The text of a JSON Web Key Set: `k1`, `k2`, … in order."""
    return json.dumps({"keys": [jwk(key, f"k{number}") for number, key in enumerate(keys, 1)]})


def pem(key: PrivateKey) -> bytes:
    """The public half in PEM: what an attacker would sign with when HS256 is taken for RS256."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def token(
    key: PrivateKey | bytes | None = None,
    *,
    header: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    **claims: Any,
) -> str:
    """A token for an hour, good unless told otherwise.

    `key`: a private key (default: `rsa_key()`), bytes for HS256, or empty bytes for `alg: none`. Claims are added to
    `iss`, `aud`, `sub` and `exp`; those named in `without` are left out.
    """
    signer = rsa_key() if key is None else key
    algorithm = (
        "RS256"
        if isinstance(signer, rsa.RSAPrivateKey)
        else "ES256"
        if isinstance(signer, ec.EllipticCurvePrivateKey)
        else "HS256"
        if signer
        else "none"
    )
    now = int(time.time())
    content = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "iat": now, "exp": now + 3600, **claims}
    content = {name: value for name, value in content.items() if name not in without}
    head = {"alg": algorithm, "typ": "JWT", "kid": "k1", **(header or {})}
    signed = f"{_encoded(json.dumps(head).encode())}.{_encoded(json.dumps(content).encode())}"
    return f"{signed}.{_encoded(_signature(signer, signed.encode()))}"


def _signature(key: PrivateKey | bytes, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return hmac.new(key, data, hashlib.sha256).digest() if key else b""
