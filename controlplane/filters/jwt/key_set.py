"""The keys of a JSON Web Key Set that can verify a token, judged as Envoy judges them.

One provider whose keys Envoy refuses would hold up the whole JWT filter of a proxy, with the providers of every other
gateway in it. So Envoy never gets the text that somebody wrote, but a set made anew of what was looked at here. Used for
keys in a spec, and by the compiler for keys in a secret.
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
MAX_RSA_BITS = 16384
"""BoringSSL's bound."""

_NEEDED = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_EXPONENTS = (3, 65537)
"""Envoy knows no others."""
_ALGORITHM_OF_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_ED25519_BYTES = 32
_NO_KEY_SET = 'not a JSON Web Key Set ({"keys": [...]})'


def usable_keys(text: str | bytes) -> str:
    """The key set that Envoy gets for this one: the members that count, of the keys that can verify a token.

    Keys that cannot be used beside others are left out. Raises ValueError that says why there is nothing to send.
    """
    usable: list[dict[str, str]] = []
    problem = ""  # of the first key that cannot be used
    for key in _keys(text):
        kind = key.get("kty")
        if not isinstance(kind, str) or kind not in _NEEDED:
            raise ValueError(f"key type {str(kind)[:40]!r}: only RSA, EC and OKP keys verify without sharing a secret")
        if "d" in key:
            raise ValueError("the key set holds a private key")
        try:
            usable.append(_usable(kind, key))
        except ValueError as error:
            problem = problem or str(error)
    if not usable:
        raise ValueError(problem or "the key set is empty")
    return json.dumps({"keys": usable}, separators=(",", ":"))


def _keys(text: str | bytes) -> list[dict[str, Any]]:
    """The keys of a set in strict JSON. Python would take other encodings, names that stand twice, and NaN."""
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            raise ValueError("the key set is not UTF-8 text") from None
    if text.startswith("\ufeff"):
        raise ValueError("the key set begins with a byte order mark: save it without one")
    try:
        whole = json.loads(text, object_pairs_hook=_members, parse_constant=_no_number, parse_int=float)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(_NO_KEY_SET) from None
    keys = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError(_NO_KEY_SET)
    return keys


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!r} stands twice in one object of the key set")
        found[name] = value
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no value of JSON")


def _usable(kind: str, key: Mapping[str, Any]) -> dict[str, str]:
    """A key as it is sent. Raises ValueError that says why it verifies nothing."""
    needed = _NEEDED[kind]
    if not all(isinstance(key.get(part), str) and key[part] for part in needed):
        raise ValueError(f"an {kind} key needs {', '.join(needed)}")
    said = {name: _said(key[name]) for name in ("kid", "alg") if key.get(name) is not None}
    algorithm = said.get("alg")
    try:
        numbers = {name: _bytes(key[name]) for name in needed if name != "crv"}
    except ValueError:
        raise ValueError(f"the numbers of an {kind} key are base64url, without padding") from None
    match kind:
        case "RSA":
            return {"kty": kind, **said, **_rsa(numbers["n"], numbers["e"], algorithm)}
        case "EC":
            return {"kty": kind, "crv": key["crv"], **said, **_ec(key["crv"], numbers["x"], numbers["y"], algorithm)}
    if key["crv"] != "Ed25519" or algorithm not in {None, "EdDSA"}:
        raise ValueError("an OKP key has crv Ed25519, and alg EdDSA if any")
    if len(numbers["x"]) != _ED25519_BYTES:
        raise ValueError("x of an Ed25519 key has 32 bytes")
    return {"kty": kind, "crv": key["crv"], **said, "x": _encoded(numbers["x"])}


def _said(value: Any) -> str:
    try:
        value.encode()  # not half of a surrogate pair
    except (AttributeError, UnicodeEncodeError):
        raise ValueError("kid and alg of a key are texts") from None
    return str(value)


def _rsa(modulus: bytes, exponent: bytes, algorithm: str | None) -> dict[str, str]:
    if algorithm is not None and not re.fullmatch(r"[RP]S(256|384|512)", algorithm):
        raise ValueError(f"alg {algorithm[:40]!r} is not for an RSA key")
    n, e = int.from_bytes(modulus), int.from_bytes(exponent)
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise ValueError(f"an RSA key has at least {MIN_RSA_BITS} bits, and at most {MAX_RSA_BITS}")
    if n % 2 == 0 or e not in _EXPONENTS:
        raise ValueError(f"an RSA key has an odd n, and e is {' or '.join(map(str, _EXPONENTS))}")
    return {"n": _encoded(modulus.lstrip(b"\0")), "e": _encoded(exponent.lstrip(b"\0"))}


def _ec(curve: str, x: bytes, y: bytes, algorithm: str | None) -> dict[str, str]:
    expected = _ALGORITHM_OF_CURVE.get(curve)
    if expected is None or algorithm not in {None, expected}:
        raise ValueError(f"an EC key has crv {', '.join(_ALGORITHM_OF_CURVE)}, and the alg that belongs to it if any")
    from cryptography.hazmat.primitives.asymmetric import ec

    known: dict[str, Any] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
    try:
        ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), known[curve]()).public_key()
    except ValueError:
        raise ValueError(f"x and y of an EC key are a point of {curve}") from None
    return {"x": _encoded(x), "y": _encoded(y)}


def _bytes(text: str) -> bytes:
    """Base64url. Padding does not belong there (RFC 7515, section 2); where it is right it is taken, and not sent on."""
    bare = text.rstrip("=")
    data = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    if _encoded(data) != bare or text not in {bare, bare + "=" * (-len(bare) % 4)}:
        raise ValueError("not base64url")
    return data


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
