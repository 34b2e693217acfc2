"""Whether a JSON Web Key Set can verify a token, judged as Envoy judges it.

One provider whose keys Envoy refuses would hold up the whole JWT filter of a proxy, with the providers of every other
gateway in it; so such keys are found here. Used for keys in a spec, and by the compiler for keys in a secret.
https://github.com/google/jwt_verify_lib/blob/master/src/jwks.cc and RFC 7517, 7518, 8037.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

MIN_RSA_BITS = 2048
"""RFC 7518, section 3.3."""

_NEEDED = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_ALGORITHM_OF_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_ED25519_BYTES = 32


def key_set_problem(text: str | bytes) -> str | None:
    """Why this text is not a key set that can verify a token, or None. Keys that cannot be used beside others do not matter."""
    try:
        keys = json.loads(text)["keys"]
        if not isinstance(keys, list) or not keys:
            return "the key set is empty"
        problems = []
        for key in keys:
            if key.get("kty") not in _NEEDED:
                return f"key type {key.get('kty')!r}: only RSA, EC and OKP keys verify without sharing a secret"
            if "d" in key:
                return "the key set holds a private key"
            problems.append(_key_problem(key))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 'not a JSON Web Key Set ({"keys": [...]})'
    return None if None in problems else problems[0]


def _key_problem(key: Mapping[str, Any]) -> str | None:
    kind = str(key["kty"])
    needed = _NEEDED[kind]
    if not all(isinstance(key.get(part), str) and key[part] for part in needed):
        return f"a {kind} key needs {', '.join(needed)}"
    algorithm = key.get("alg") if isinstance(key.get("alg"), str) else None
    try:
        if kind == "RSA":
            return _rsa_problem(_number(key["n"]), _number(key["e"]), algorithm)
        if kind == "EC":
            return _ec_problem(key["crv"], _number(key["x"]), _number(key["y"]), algorithm)
        if key["crv"] != "Ed25519" or algorithm not in {None, "EdDSA"}:
            return "an OKP key has crv Ed25519, and alg EdDSA if any"
        return None if len(_bytes(key["x"])) == _ED25519_BYTES else "x of an Ed25519 key has 32 bytes"
    except ValueError:
        return f"the numbers of a {kind} key are not right (base64url, a point of the curve)"


def _rsa_problem(modulus: int, exponent: int, algorithm: str | None) -> str | None:
    if algorithm is not None and not re.fullmatch(r"[RP]S(256|384|512)", algorithm):
        return f"alg {algorithm!r} is not for an RSA key"
    if modulus.bit_length() < MIN_RSA_BITS:
        return f"an RSA key has at least {MIN_RSA_BITS} bits"
    from cryptography.hazmat.primitives.asymmetric import rsa

    rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return None


def _ec_problem(curve: str, x: int, y: int, algorithm: str | None) -> str | None:
    expected = _ALGORITHM_OF_CURVE.get(curve)
    if expected is None or algorithm not in {None, expected}:
        return f"an EC key has crv {', '.join(_ALGORITHM_OF_CURVE)}, and the alg that belongs to it if any"
    from cryptography.hazmat.primitives.asymmetric import ec

    known: dict[str, Any] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
    ec.EllipticCurvePublicNumbers(x, y, known[curve]()).public_key()
    return None


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text))


def _bytes(text: str) -> bytes:
    """base64url, with or without padding; ValueError for anything else."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+={0,2}", text):
        raise ValueError("not base64url")
    bare = text.rstrip("=")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
