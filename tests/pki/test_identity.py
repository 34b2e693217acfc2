"""Who is let in: one good certificate, and every kind of bad one, all signed by the right authority.

The TLS handshake checks signatures; these are certificates that it would accept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.pki import issuing
from controlplane.pki.identity import (
    ATTESTATION,
    MAX_ATTESTATION_BYTES,
    Identity,
    Refused,
    identify,
    node_uri,
    server_uri,
    valid_trust_domain,
)

TRUST = "td.test"
NOW = datetime(2030, 6, 1, tzinfo=UTC)
SIGNER = issuing.new_authority(TRUST, NOW)
KEY = ec.generate_private_key(ec.SECP256R1())
GOOD = "spiffe://td.test/node/edge-1"


def uri(*values: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(value) for value in values])


def usage(*purposes: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(purposes)


CLIENT = usage(ExtendedKeyUsageOID.CLIENT_AUTH)


def certificate(
    *extensions: x509.ExtensionType,
    begins: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=1),
    common_name: str = "edge-1",
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(SIGNER.certificate.subject)
    builder = builder.public_key(KEY.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begins).not_valid_after(ends)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(SIGNER.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def attested(text: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(ATTESTATION, bytes([0x0C, len(text)]) + text)


def issued(**changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "trust_domain": TRUST, "node_id": "edge-1", "cluster": "edge", "labels": {"role": "edge", "region": "eu"},
        "lifetime": timedelta(days=1), "now": NOW,
    } | changes  # fmt: skip
    return issuing.certificate_pem(issuing.node_certificate(SIGNER, KEY.public_key(), **arguments))


def refusal(bad: bytes, at: datetime = NOW) -> str:
    with pytest.raises(Refused) as caught:
        identify(bad, TRUST, at)
    return caught.value.reason


def test_a_node_is_who_its_certificate_says_it_is() -> None:
    found = identify(issued(), TRUST, NOW)
    assert (found.id, found.cluster, dict(found.labels)) == ("edge-1", "edge", {"role": "edge", "region": "eu"})
    assert found.not_after == NOW + timedelta(days=1)
    assert int(found.serial, 16) > 0


def test_der_and_pem_are_read_alike() -> None:
    pem = issued()
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    assert identify(der, TRUST, NOW) == identify(pem, TRUST, NOW)


def test_without_attestation_nothing_is_attested() -> None:
    assert identify(certificate(CLIENT, uri(GOOD)), TRUST, NOW).labels == {}


SERVER, ANY = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
SIGNS = x509.KeyUsage(True, False, False, False, False, True, False, False, False)

BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "a server's purpose": (lambda: certificate(usage(SERVER), uri(GOOD)), "not client authentication alone"),
    "every purpose": (lambda: certificate(usage(ANY), uri(GOOD)), "not client authentication alone"),
    "two purposes": (
        lambda: certificate(usage(ExtendedKeyUsageOID.CLIENT_AUTH, SERVER), uri(GOOD)),
        "not client authentication alone",
    ),
    "no purpose": (lambda: certificate(uri(GOOD)), "no extended key usage"),
    "a common name only": (lambda: certificate(CLIENT, common_name=GOOD), "a common name is not an identity"),
    "names without a URI": (
        lambda: certificate(CLIENT, x509.SubjectAlternativeName([x509.DNSName("edge-1")])),
        "no URI name",
    ),
    "two URIs": (lambda: certificate(CLIENT, uri(GOOD, "spiffe://td.test/node/edge-2")), "several URI names"),
    "the same URI twice": (lambda: certificate(CLIENT, uri(GOOD, GOOD)), "several URI names"),
    "an empty URI": (lambda: certificate(CLIENT, uri("")), "empty"),
    "a NUL": (lambda: certificate(CLIENT, uri(GOOD + "\0.evil")), "NUL"),
    "a NUL in the domain": (lambda: certificate(CLIENT, uri("spiffe://td.test\0.evil/node/edge-1")), "NUL"),
    "an overlong URI": (lambda: certificate(CLIENT, uri(GOOD + "a" * 2048)), "too long"),
    "an overlong id": (lambda: certificate(CLIENT, uri(GOOD + "a" * 255)), "does not name a node"),
    "another scheme": (lambda: certificate(CLIENT, uri("https://td.test/node/edge-1")), "no SPIFFE ID"),
    "an upper-case scheme": (lambda: certificate(CLIENT, uri("SPIFFE://td.test/node/edge-1")), "no SPIFFE ID"),
    "no scheme": (lambda: certificate(CLIENT, uri("edge-1")), "no SPIFFE ID"),
    "another trust domain": (lambda: certificate(CLIENT, uri("spiffe://evil/node/edge-1")), "another trust domain"),
    "an upper-case trust domain": (
        lambda: certificate(CLIENT, uri("spiffe://TD.test/node/edge-1")),
        "another trust domain",
    ),
    "a longer trust domain": (
        lambda: certificate(CLIENT, uri("spiffe://td.test.evil/node/edge-1")),
        "another trust domain",
    ),
    "no trust domain": (lambda: certificate(CLIENT, uri("spiffe:///node/edge-1")), "another trust domain"),
    "a port": (lambda: certificate(CLIENT, uri("spiffe://td.test:443/node/edge-1")), "port"),
    "user information": (lambda: certificate(CLIENT, uri("spiffe://td.test@evil/node/edge-1")), "user information"),
    "a query": (lambda: certificate(CLIENT, uri(GOOD + "?role=edge")), "query"),
    "a fragment": (lambda: certificate(CLIENT, uri(GOOD + "#x")), "fragment"),
    "percent-encoding": (lambda: certificate(CLIENT, uri("spiffe://td.test/node/edge%2d1")), "percent-encoding"),
    "path traversal": (lambda: certificate(CLIENT, uri("spiffe://td.test/x/../node/edge-1")), "relative"),
    "a dot as id": (lambda: certificate(CLIENT, uri("spiffe://td.test/node/..")), "relative"),
    "a doubled slash": (lambda: certificate(CLIENT, uri("spiffe://td.test/node//edge-1")), "empty path segment"),
    "a trailing slash": (lambda: certificate(CLIENT, uri(GOOD + "/")), "empty path segment"),
    "a space": (lambda: certificate(CLIENT, uri(GOOD + " ")), "not allowed"),
    "a line break": (lambda: certificate(CLIENT, uri(GOOD + "\n")), "not allowed"),
    "no path": (lambda: certificate(CLIENT, uri("spiffe://td.test")), "empty path segment"),
    "no id": (lambda: certificate(CLIENT, uri("spiffe://td.test/node")), "does not name a node"),
    "the server's identity": (lambda: certificate(CLIENT, uri(server_uri(TRUST))), "does not name a node"),
    "more than an id": (lambda: certificate(CLIENT, uri(GOOD + "/more")), "does not name a node"),
    "another kind": (lambda: certificate(CLIENT, uri("spiffe://td.test/admin/edge-1")), "does not name a node"),
    "its time over": (
        lambda: certificate(CLIENT, uri(GOOD), begins=NOW - timedelta(days=2), ends=NOW - timedelta(days=1)),
        "expired",
    ),
    "its last second": (lambda: certificate(CLIENT, uri(GOOD), ends=NOW), "expired"),
    "its time to come": (lambda: certificate(CLIENT, uri(GOOD), begins=NOW + timedelta(seconds=1)), "not yet valid"),
    "an authority as a leaf": (
        lambda: certificate(CLIENT, uri(GOOD), x509.BasicConstraints(ca=True, path_length=None)),
        "authority",
    ),
    "a leaf that may sign": (lambda: certificate(CLIENT, uri(GOOD), SIGNS), "may sign"),
    "the authority itself": (lambda: issuing.certificate_pem(SIGNER.certificate), "authority"),
    "the server's certificate": (
        lambda: issuing.certificate_pem(
            issuing.server_certificate(SIGNER, KEY.public_key(), TRUST, ["localhost"], NOW)
        ),
        "not client authentication alone",
    ),
    "no certificate": (lambda: b"", "malformed"),
    "garbage": (lambda: b"\x30\x82\x01\x00garbage", "malformed"),
    "garbage as PEM": (lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "malformed"),
}


@pytest.mark.parametrize("kind", BAD)
def test_every_other_certificate_is_refused(kind: str) -> None:
    make, reason = BAD[kind]
    assert reason in refusal(make())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"cluster":"edge"}',
        b'{"cluster":1,"labels":{}}',
        b'{"cluster":"edge","labels":{"a":1}}',
        b'{"cluster":"edge","labels":["a"]}',
        b'{"cluster":"edge","labels":{"a":"1","a":"2"}}',
        b'{"cluster":"edge","labels":{},"more":1}',
        b'{"labels":{},"cluster":"edge"}',
        b'{"cluster":"edge", "labels":{}}',
        b'{"cluster":"\\ud800","labels":{}}',
        b"\xff\xfe",
    ],
)
def test_an_attestation_has_one_spelling(text: bytes) -> None:
    assert refusal(certificate(CLIENT, uri(GOOD), attested(text))) == "the attestation is malformed"


@pytest.mark.parametrize("value", [b"", b"\x0c", b"\x0c\x05{}", b"\x13\x02{}", b"\x0c\x81\x02{}", b"\x0c\x80{}\0\0"])
def test_an_attestation_is_der(value: bytes) -> None:
    extension = x509.UnrecognizedExtension(ATTESTATION, value)
    assert refusal(certificate(CLIENT, uri(GOOD), extension)) == "the attestation is malformed"


def test_a_reason_never_repeats_the_peers_bytes() -> None:
    assert "evil" not in refusal(certificate(CLIENT, uri("spiffe://evil/node/edge-1")))


@settings(deadline=None)
@given(st.text(max_size=40), st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=6))
def test_what_is_attested_comes_back(cluster: str, labels: dict[str, str]) -> None:
    found = identify(issued(cluster=cluster, labels=labels), TRUST, NOW)
    assert (found.cluster, dict(found.labels)) == (cluster, labels)


@pytest.mark.parametrize("size", [1, 40, 100, 200, 230, 300, 5000, MAX_ATTESTATION_BYTES - 27])
def test_attestations_of_every_length_come_back(size: int) -> None:
    assert identify(issued(cluster="c" * size, labels={}), TRUST, NOW).cluster == "c" * size


def test_an_attestation_is_bounded() -> None:
    with pytest.raises(ValueError, match="more than 8192"):
        issued(cluster="c" * MAX_ATTESTATION_BYTES)


@settings(deadline=None)
@given(st.text(max_size=12))
def test_an_id_that_can_be_issued_is_read_back_and_no_other(node_id: str) -> None:
    try:
        name = node_uri(TRUST, node_id)
    except ValueError:
        return
    found = identify(certificate(CLIENT, uri(name)), TRUST, NOW)
    assert isinstance(found, Identity)
    assert found.id == node_id


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_bytes_never_do_more_than_be_refused(noise: bytes) -> None:
    with pytest.raises(Refused):
        identify(noise, TRUST, NOW)


def test_a_flipped_certificate_is_refused_or_somebody_but_never_an_error() -> None:
    """That its signature is wrong is the handshake's to say."""
    der = certificate(CLIENT, uri(GOOD), attested(b'{"cluster":"","labels":{}}'))
    for position in range(len(der)):
        flipped = bytearray(der)
        flipped[position] ^= 0x20
        with contextlib.suppress(Refused):
            identify(bytes(flipped), TRUST, NOW)


@pytest.mark.parametrize(
    ("name", "valid"), [("a.b-c_1", True), ("", False), ("A", False), ("a/b", False), ("a:1", False)]
)
def test_trust_domains(name: str, valid: bool) -> None:
    assert valid_trust_domain(name) is valid
