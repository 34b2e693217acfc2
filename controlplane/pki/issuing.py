"""The X.509 of this control plane: authorities, cross-signed authorities, nodes and the xDS server.

Pure builders over keys and times, used by `authority` alone. All keys are ECDSA P-256: every TLS library has it, keys
and signatures are small, and a handshake costs a fraction of RSA's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.pki import identity

CA_LIFETIME = timedelta(days=3650)
"""Ten years. The key lies on the disk that a shorter life would have to protect it from, replacing it is a command
(and happens by itself near the end), and an authority that ends unnoticed takes a fleet's configuration with it."""

NODE_LIFETIME = timedelta(days=90)
"""The longest life of a proxy's certificate."""

SERVER_LIFETIME = timedelta(days=90)

SKEW = timedelta(minutes=5)
"""Certificates begin this long before now: clocks of a fleet differ."""

_COMMON_NAME_MAX = 64
"""RFC 5280, ub-common-name. Nobody reads identity from it."""


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority that can sign: its certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """The certificates as one PEM text, in this order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 of the certificate, in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def new_authority(trust_domain: str, now: datetime) -> Signer:
    """A self-signed authority. Its path length is not limited: a successor that it cross-signs is one step more."""
    key = new_key()
    # The serial makes the names of successive authorities differ, so that chains are built without trial and error.
    serial = x509.random_serial_number()
    subject = _name(f"{trust_domain} authority {serial:x}"[:_COMMON_NAME_MAX])
    builder = _authority_builder(subject, key.public_key(), serial).issuer_name(subject)
    builder = builder.not_valid_before(now - SKEW).not_valid_after(now + CA_LIFETIME)
    builder = _linked(builder, key.public_key(), key.public_key())
    return Signer(builder.sign(key, hashes.SHA256()), key)


def cross_signed(successor: x509.Certificate, by: Signer, now: datetime) -> x509.Certificate:
    """The successor's name and key under an older authority's signature.

    A proxy whose bootstrap holds only the older authority thereby accepts a server that the successor issued.
    """
    key = _public_key(successor)
    ends = min(successor.not_valid_after_utc, by.certificate.not_valid_after_utc)
    builder = _authority_builder(successor.subject, key, x509.random_serial_number())
    builder = builder.issuer_name(by.certificate.subject).not_valid_before(now - SKEW).not_valid_after(ends)
    return _linked(builder, key, by.key.public_key()).sign(by.key, hashes.SHA256())


def node_certificate(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    node_id: str,
    cluster: str,
    labels: Mapping[str, str],
    lifetime: timedelta,
    now: datetime,
) -> x509.Certificate:
    """A proxy's certificate: one SPIFFE ID, client authentication only, attested labels, never longer than 90 days."""
    uri = x509.UniformResourceIdentifier(identity.node_uri(trust_domain, node_id))
    begins = now - SKEW
    ends = min(now + lifetime, begins + NODE_LIFETIME)
    builder = _leaf_builder(signer, key, node_id, begins, ends, ExtendedKeyUsageOID.CLIENT_AUTH)
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    builder = builder.add_extension(identity.attestation(cluster, labels), critical=False)
    return builder.sign(signer.key, hashes.SHA256())


def serving_certificate(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    node_id: str,
    lifetime: timedelta,
    now: datetime,
) -> x509.Certificate:
    """What a node shows to those who call it: its SPIFFE ID, server authentication only, and no host name.

    So it opens no stream of the node, and passes for no control plane: clients of that know it by SPIFFE ID or host name.
    """
    uri = x509.UniformResourceIdentifier(identity.node_uri(trust_domain, node_id))
    begins = now - SKEW
    ends = min(now + lifetime, begins + NODE_LIFETIME)
    builder = _leaf_builder(signer, key, "serving node", begins, ends, ExtendedKeyUsageOID.SERVER_AUTH)
    return builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False).sign(signer.key, hashes.SHA256())


def server_certificate(
    signer: Signer, key: ec.EllipticCurvePublicKey, trust_domain: str, names: Iterable[str], now: datetime
) -> x509.Certificate:
    """The xDS server's certificate: its SPIFFE ID for proxies, and host names and addresses for other gRPC clients."""
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.server_uri(trust_domain))]
    alternatives += [_host(name) for name in sorted(set(names))]
    begins = now - SKEW
    builder = _leaf_builder(signer, key, "xds", begins, begins + SERVER_LIFETIME, ExtendedKeyUsageOID.SERVER_AUTH)
    return builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False).sign(
        signer.key, hashes.SHA256()
    )


def hosts(certificate: x509.Certificate) -> frozenset[str]:
    """The host names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return frozenset(names.get_values_for_type(x509.DNSName)) | frozenset(addresses)


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key signed the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001  InvalidSignature, ValueError, TypeError: whatever is wrong with it, it is not signed
        return False
    return True


def private_key(pem: bytes) -> PrivateKeyTypes:
    """The key in a PEM text. Raises ValueError for whatever is none that can be used: damaged, encrypted, unknown."""
    try:
        return serialization.load_pem_private_key(pem, None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error


def same_key(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Whether the certificate is for this key."""
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "authorities here have P-256 keys"
    return key


def _authority_builder(subject: x509.Name, key: ec.EllipticCurvePublicKey, serial: int) -> x509.CertificateBuilder:
    usage = _usage(digital_signature=False, signs=True)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key).serial_number(serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.add_extension(usage, critical=True)


def _leaf_builder(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    common_name: str,
    begins: datetime,
    ends: datetime,
    purpose: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    issuer = signer.certificate
    builder = x509.CertificateBuilder().subject_name(_name(common_name[:_COMMON_NAME_MAX])).issuer_name(issuer.subject)
    builder = builder.public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begins).not_valid_after(min(ends, issuer.not_valid_after_utc))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True, signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return _linked(builder, key, signer.key.public_key())


def _linked(
    builder: x509.CertificateBuilder, subject: ec.EllipticCurvePublicKey, issuer: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    """Key identifiers, by which a verifier finds the right authority among several."""
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(subject), critical=False)
    return builder.add_extension(authority, critical=False)


def _usage(*, digital_signature: bool, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
