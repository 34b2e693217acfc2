"""A certificate authority for tests, with leaves by host and clients; secrets folders as Kubernetes mounts them."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes

    def write(self, secrets: Path, name: str, namespace: str = "platform") -> None:
        """As the secret `namespace/name`; each file is replaced in one step."""
        write_secret(secrets, name, {"tls.crt": self.certificate, "tls.key": self.key}, namespace)

    @property
    def serial(self) -> int:
        """What tells two certificates of one host apart."""
        return x509.load_pem_x509_certificate(self.certificate).serial_number


class Authority:
    """Signs leaves for hosts and clients."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(_usage(sign=True), critical=True)
            .sign(self._key, SHA256())
        )

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    def leaf(
        self,
        *hosts: str,
        client: bool = False,
        groups: Sequence[str] = (),
        life: timedelta = timedelta(days=1),
        delay: timedelta = timedelta(),
    ) -> Pair:
        """A certificate for these names (or addresses, or URIs), for servers unless for a client, valid after `delay`.

        `groups` are organisations.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        certificate = (
            _builder(_name(hosts[0], groups), self._name, key, life, delay)
            .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(_usage(sign=False), critical=True)
            .sign(self._key, SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(certificate.public_bytes(Encoding.PEM), private)


@cache
def authority() -> Authority:
    """The authority that the tests of one process share."""
    return Authority()


def write_secret(secrets: Path, name: str, files: dict[str, bytes], namespace: str = "platform") -> None:
    """The secret `namespace/name`, each file replaced in one step."""
    folder = secrets / namespace / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        written = folder / f".{file}"
        written.write_bytes(content)
        written.rename(folder / file)


def _name(text: str, organisations: Sequence[str] = ()) -> x509.Name:
    named = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, one) for one in organisations]
    return x509.Name([*named, x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    life: timedelta = timedelta(days=1),
    delay: timedelta = timedelta(),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC) + delay
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + min(life, timedelta()) - timedelta(minutes=5))
        .not_valid_after(now + life)
    )


def serving(folder: Path, pair: Pair, clients: bytes | None = None) -> ssl.SSLContext:
    """A TLS context of a server with this pair, which asks clients for certificates of this authority, if any."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=clients.decode() if clients else None)
    certificate, key = folder / "server.crt", folder / "server.key"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    context.load_cert_chain(certificate, key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
