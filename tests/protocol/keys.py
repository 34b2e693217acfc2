"""Keys and certificates made while a test runs."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority of its own."""

    def __init__(self, name: str = "test CA", parent: Authority | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (parent or self).certify(self)

    def subordinate(self, name: str) -> Authority:
        """An authority whose certificate this one has signed."""
        return Authority(name, self)

    def certify(
        self,
        other: Authority,
        *extensions: x509.ExtensionType,
        lifetime: timedelta = timedelta(days=1),
    ) -> bytes:
        """A certificate for the key and the name of another; an authority's, unless the extensions say otherwise."""
        builder = self._builder(other._name, other._key, lifetime)
        for extension in extensions or (x509.BasicConstraints(ca=True, path_length=None),):
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + lifetime)
        )

    def issue(self, *uris: str, lifetime: timedelta = timedelta(hours=1), names: bytes | None = None) -> Pair:
        """A certificate for 127.0.0.1 with these URI names; `names` are the bytes of the extension instead."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([]), key, lifetime)
        named: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        named += [x509.UniformResourceIdentifier(uri) for uri in uris]
        extension: x509.ExtensionType = x509.SubjectAlternativeName(named)
        if names is not None:
            extension = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, names)
        builder = builder.add_extension(extension, critical=False)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        private = serialization.PrivateFormat.PKCS8
        pem = serialization.Encoding.PEM
        return Pair(certificate.public_bytes(pem), key.private_bytes(pem, private, serialization.NoEncryption()))


def locked(key: bytes) -> bytes:
    """The same key under a passphrase."""
    private = serialization.load_pem_private_key(key, None)
    how = serialization.BestAvailableEncryption(b"secret")
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def of_unknown_curve(key: bytes) -> bytes:
    """A P-256 key that says it is on a curve that the TLS library does not have (SM2, GB/T 32918)."""
    private = serialization.load_pem_private_key(key, None)
    form = serialization.PrivateFormat.PKCS8
    der = private.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    p256, sm2 = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a811ccf5501822d")
    assert p256 in der
    body = base64.encodebytes(der.replace(p256, sm2))
    return b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"
