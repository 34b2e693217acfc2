"""Who a peer is: the SPIFFE ID and the attested labels in its certificate, and every reason to refuse it.

The xDS server calls `identify` when a stream starts; the authority writes certificates with `node_uri` and
`attestation`, so that both sides of the format stand in one module. That the certificate was signed by a trusted
authority is settled before: by the TLS handshake, and by `Authority.trusts` when the authorities changed since.
Written after https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md and SPIFFE-ID.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from controlplane.errors import ControlPlaneError

DEFAULT_TRUST_DOMAIN = "gatewayspec.local"
"""No public name: trust domains of private authorities must not claim one."""

ATTESTATION = x509.ObjectIdentifier("1.2.840.113556.1.8000.2554.8136.25828.36954.20393.42055.10663119.15118749")
"""The extension that holds what the authority attests beside the identity.

A SPIFFE certificate has exactly one URI name, so labels cannot be a second one; a private extension is what RFC 5280
offers. It is not critical: a verifier that does not know it (the TLS library) still accepts the certificate. The arc
is the one that takes a random UUID (1fc864e4-905a-4fa9-a447-a2b4cfe6b19d) in seven small pieces and needs no
registration; 2.25.<UUID> would say the same, but its 128-bit arc cannot be parsed by the X.509 library of Go.
Its value is a UTF8String with canonical JSON: `{"cluster":"edge","labels":{"region":"eu","role":"edge"}}`.
"""

MAX_ID_CHARACTERS = 255
MAX_ATTESTATION_BYTES = 8192
"""A certificate travels in every handshake; a few dozen labels fit."""

_URI_MAX_BYTES = 2048
"""SPIFFE-ID, section 2.3."""
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_UTF8_STRING = 0x0C
_RSA_BITS = 2048
_CURVE_BITS = 256


class Refused(ControlPlaneError):
    """The certificate identifies nobody. The reason is for our log, never for the peer."""

    def __init__(self, reason: str) -> None:
        """Keep the reason, a phrase without bytes of the certificate."""
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate proves: the node, its cluster and labels, and until when.

    `serial` is hexadecimal, for revocation and logs. A certificate without attestation has no cluster and no labels.
    """

    id: str
    cluster: str
    labels: Mapping[str, str]
    not_after: datetime
    serial: str


def node_uri(trust_domain: str, node_id: str) -> str:
    """`spiffe://<trust domain>/node/<id>`; ValueError says what an id may consist of."""
    if not _SEGMENT.fullmatch(node_id) or node_id in {".", ".."} or len(node_id) > MAX_ID_CHARACTERS:
        raise ValueError(f"{node_id!r} is no node id: 1 to {MAX_ID_CHARACTERS} of a-z A-Z 0-9 . _ -, not . or ..")
    return f"spiffe://{trust_domain}/node/{node_id}"


def server_uri(trust_domain: str) -> str:
    """`spiffe://<trust domain>/server`: the xDS server, by whatever address a proxy reaches it."""
    return f"spiffe://{trust_domain}/server"


def valid_trust_domain(trust_domain: str) -> bool:
    """SPIFFE-ID, section 2.1: lower-case letters, digits, dots, dashes and underscores."""
    return _TRUST_DOMAIN.fullmatch(trust_domain) is not None


def attestation(cluster: str, labels: Mapping[str, str]) -> x509.UnrecognizedExtension:
    """The extension that attests a node's cluster and labels; ValueError when it would be too large."""
    text = _canonical(cluster, labels)
    if len(text) > MAX_ATTESTATION_BYTES:
        raise ValueError(f"cluster and labels take {len(text)} bytes, more than {MAX_ATTESTATION_BYTES}")
    return x509.UnrecognizedExtension(ATTESTATION, bytes([_UTF8_STRING]) + _der_length(len(text)) + text)


def identify(certificate: bytes, trust_domain: str, at: datetime | None = None) -> Identity:
    """The identity that a peer's certificate (PEM or DER) proves at a time (None: now); raises `Refused`."""
    now = at or datetime.now(UTC)
    try:
        leaf = _load(certificate)
        extensions = leaf.extensions
        begins, ends, serial = leaf.not_valid_before_utc, leaf.not_valid_after_utc, leaf.serial_number
        strong = _is_strong(leaf)
    except Exception:  # noqa: BLE001  the parser's errors have no common base, and each means the same here
        _refuse("the certificate is malformed")
    if now < begins:
        _refuse("the certificate is not yet valid")
    if now >= ends:
        _refuse("the certificate has expired")
    if not strong:
        _refuse("the key or the signature of the certificate is weak")
    _require_client_leaf(extensions)
    node_id = _node_id(_uri(extensions), trust_domain)
    cluster, labels = _attested(extensions)
    return Identity(node_id, cluster, MappingProxyType(labels), ends, f"{serial:x}")


def _load(certificate: bytes) -> x509.Certificate:
    if certificate.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_certificate(certificate)
    return x509.load_der_x509_certificate(certificate)


def _is_strong(leaf: x509.Certificate) -> bool:
    """A key of 112 bits of security or more, and no signature over MD5 or SHA-1: configured authorities are not ours.

    NIST SP 800-131A, sections 3 and 9.
    """
    match leaf.public_key():
        case rsa.RSAPublicKey(key_size=bits):
            strong = bits >= _RSA_BITS
        case ec.EllipticCurvePublicKey(key_size=bits):
            strong = bits >= _CURVE_BITS
        case ed25519.Ed25519PublicKey():
            strong = True
        case _:
            strong = False
    return strong and not isinstance(leaf.signature_hash_algorithm, hashes.MD5 | hashes.SHA1)


def _require_client_leaf(extensions: x509.Extensions) -> None:
    """Refuse authorities, and every purpose but "client" alone: our authority issues nothing else to nodes."""
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                _refuse("a certificate authority's own certificate identifies no node")
            case x509.KeyUsage(key_cert_sign=True) | x509.KeyUsage(crl_sign=True):
                _refuse("a certificate that may sign others identifies no node")
    purposes = next((e.value for e in extensions if isinstance(e.value, x509.ExtendedKeyUsage)), None)
    if purposes is None:
        _refuse("the certificate has no extended key usage")
    if list(purposes) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        _refuse("the extended key usage is not client authentication alone")


def _uri(extensions: x509.Extensions) -> str:
    """The one URI name. https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md#2-spiffe-id."""
    names = next((e.value for e in extensions if isinstance(e.value, x509.SubjectAlternativeName)), None)
    if names is None:
        _refuse("the certificate has no subject alternative name; a common name is not an identity")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        _refuse("the certificate has no URI name")
    if len(uris) > 1:
        _refuse("the certificate has several URI names")
    return uris[0]


def _node_id(uri: str, trust_domain: str) -> str:
    """The id in `spiffe://<trust domain>/node/<id>`. Each way to be wrong has its own reason, for whoever debugs it."""
    if not uri:
        _refuse("the URI name is empty")
    if "\0" in uri:
        _refuse("the URI name has a NUL character")
    if len(uri.encode("utf-8", "surrogateescape")) > _URI_MAX_BYTES:
        _refuse("the URI name is too long")
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme != "spiffe":
        _refuse("the URI name is no SPIFFE ID")
    for character, what in (
        ("%", "percent-encoding"),
        ("?", "a query"),
        ("#", "a fragment"),
        ("@", "user information"),
    ):
        if character in rest:
            _refuse(f"the SPIFFE ID has {what}")
    domain, _, path = rest.partition("/")
    if ":" in domain:
        _refuse("the SPIFFE ID has a port")
    if domain != trust_domain:
        _refuse("the SPIFFE ID is of another trust domain")
    segments = path.split("/")
    if any(segment in {".", ".."} for segment in segments):
        _refuse("the SPIFFE ID has a relative path segment")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        _refuse("the SPIFFE ID has an empty path segment or a character that is not allowed")
    if len(segments) != len(("node", "id")) or segments[0] != "node" or len(segments[1]) > MAX_ID_CHARACTERS:
        _refuse("the SPIFFE ID does not name a node")
    return segments[1]


def _attested(extensions: x509.Extensions) -> tuple[str, dict[str, str]]:
    """The cluster and the labels of the attestation; nothing is attested without one."""
    value = next((e.value for e in extensions if e.oid == ATTESTATION), None)
    if value is None:
        return "", {}
    if not isinstance(value, x509.UnrecognizedExtension):
        _refuse("the attestation is malformed")
    der = value.value
    try:
        text = _utf8_string(der)
        document = json.loads(text)
        cluster, labels = document["cluster"], document["labels"]
        plain = isinstance(cluster, str) and all(isinstance(label, str) for label in labels.values())
        # One encoding only: what the authority signed is what every reader understands (no repeated keys, no extras).
        if not plain or text != _canonical(cluster, labels):
            _refuse("the attestation is malformed")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _refuse("the attestation is malformed")
    return cluster, labels


def _canonical(cluster: str, labels: Mapping[str, str]) -> bytes:
    document = {"cluster": cluster, "labels": dict(labels)}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _utf8_string(der: bytes) -> bytes:
    """The content of a DER UTF8String."""
    for header in range(2, 5):
        content = der[header:]
        if der[:header] == bytes([_UTF8_STRING]) + _der_length(len(content)):
            return content
    raise ValueError("no UTF8String")


def _der_length(length: int) -> bytes:
    """The definite length of X.690, section 8.1.3, up to 65535."""
    if length < 0x80:
        return bytes([length])
    return bytes([0x81, length]) if length < 0x100 else bytes([0x82, *length.to_bytes(2)])


def _refuse(reason: str) -> NoReturn:
    raise Refused(reason)
