"""Pairs that Envoy would refuse are refused before they are sent, and pairs are told apart by their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from controlplane.compile.certificates import certificate_status, period, trust_problem
from controlplane.model.secret import Secret

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey
BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = datetime(2026, 2, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def pair(key: Key = KEY, *, staple: bool = False) -> dict[str, bytes]:
    """A self-signed pair for January 2026."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example.com")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(BEGINS).not_valid_after(ENDS)
    if staple:
        builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {"tls.crt": signed.public_bytes(Encoding.PEM), "tls.key": private}


def problem(files: dict[str, bytes]) -> str | None:
    return certificate_status(Secret.of(files)).problem


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        KEY,
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p256", "p384", "p521", "ed25519"],
)
def test_keys_that_envoy_takes(key: Key) -> None:
    assert problem(pair(key)) is None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA key of 1024 bits"),
        (ec.generate_private_key(ec.SECP224R1()), "secp224r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (dsa.generate_private_key(2048), "a kind that Envoy does not take"),
    ],
    ids=["rsa1024", "p224", "k1", "dsa"],
)
def test_keys_that_envoy_refuses(key: Key, words: str) -> None:
    """A new filter chain with such a pair would wait for ever, and hold up the next edit of its listener."""
    assert words in (problem(pair(key)) or "")


def test_texts_that_envoy_reads_otherwise() -> None:
    good = pair()
    indented = b"".join(b"  " + line for line in good["tls.crt"].splitlines(keepends=True))
    assert problem({**good, "tls.crt": indented}) == "tls.crt has text before -----BEGIN in its line"
    assert problem({**good, "tls.key": b"\xef\xbb\xbf" + good["tls.key"]}) == (
        "tls.key has text before -----BEGIN in its line"
    )
    assert trust_problem(Secret.of({"ca.crt": b"\xef\xbb\xbf" + good["tls.crt"]}), "ca.crt")
    assert "must-staple" in (problem(pair(staple=True)) or "")


@pytest.mark.parametrize(
    "rest",
    [
        pair()["tls.crt"][:300],
        b"-----BEGIN CERTIFICATE-----\n",
        pair()["tls.crt"][:300] + b"\n" + pair()["tls.crt"],
        pair()["tls.crt"].rpartition(b"-----END")[0] + b"-----END X-----\n",
    ],
    ids=["half", "begin", "and-another", "other-end"],
)
def test_a_chain_that_is_cut_off_is_refused_though_its_leaf_is_whole(rest: bytes) -> None:
    """A file that was written in part, or copied from a terminal: Envoy takes nothing of it, and the former pair is better."""
    good = pair()
    said = "has a block that does not end: it is cut off"
    assert problem({**good, "tls.crt": good["tls.crt"] + rest}) == f"tls.crt {said}"
    assert trust_problem(Secret.of({"ca.crt": good["tls.crt"] + rest}), "ca.crt") == f"ca.crt {said}"


def test_texts_that_are_as_good() -> None:
    good = pair()
    sec1 = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    for files in (
        {**good, "tls.key": sec1},
        {name: text.replace(b"\n", b"\r\n") for name, text in good.items()},
        {**good, "tls.crt": b"subject=shop\n" + good["tls.crt"] + b"the end\n"},
        {**good, "tls.crt": good["tls.key"] + good["tls.crt"]},
        {**good, "tls.key": good["tls.key"] + good["tls.key"][:60]},  # the first block alone is read
    ):
        assert problem(files) is None
    locked = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    assert "unencrypted" in (problem({**good, "tls.key": locked}) or "")


def test_a_pair_has_its_time() -> None:
    secret = Secret.of(pair())
    second = timedelta(seconds=1)
    assert period(secret).fault((BEGINS - second).timestamp()) == "is not valid before 2026-01-01 00:00 UTC"
    assert period(secret).fault(BEGINS.timestamp()) is None
    assert period(secret).fault((ENDS - second).timestamp()) is None
    assert period(secret).fault(ENDS.timestamp()) == "has expired (2026-02-01 00:00 UTC)"
