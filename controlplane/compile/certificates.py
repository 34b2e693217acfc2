"""Whether certificates, keys and authorities can be used by Envoy.

Import it where a secret is met: `cryptography` takes longer to load than to check many files of specs without any.
"""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from controlplane.compile.rows import CertificateStatus
from controlplane.model.secret import Period, Secret

MAX_CHAIN = 100_000
"""Bytes of a certificate chain; a longer one is a mistake."""

MIN_RSA_BITS = 2048
"""Envoy takes no shorter key."""

_PEM_BLOCK = re.compile(rb"^-----BEGIN", re.MULTILINE)


def certificate_status(secret: Secret) -> CertificateStatus:
    """Whether `tls.crt` and `tls.key` are a usable pair. Whether it has expired is a matter of time: see `period`."""
    chain, key = secret.get("tls.crt"), secret.get("tls.key")
    if not chain or not key:
        return CertificateStatus("has no " + ("tls.crt" if not chain else "tls.key"))
    if len(chain) > MAX_CHAIN:
        return CertificateStatus("tls.crt is too long")
    for name, pem in (("tls.crt", chain), ("tls.key", key)):
        if problem := _pem_problem(pem):
            return CertificateStatus(f"{name} {problem}")
    if _is_cut_off(chain):
        return CertificateStatus(f"tls.crt {_CUT_OFF}")
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        return CertificateStatus("tls.crt is not a PEM certificate chain")
    try:
        private = load_pem_private_key(key, password=None)
        public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certified = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return CertificateStatus("tls.key is not an unencrypted PEM private key")
    if public != certified:
        return CertificateStatus("tls.key does not belong to tls.crt")
    return CertificateStatus(_leaf_problem(leaf))


def _pem_problem(pem: bytes) -> str | None:
    """Envoy looks for blocks at the beginning of lines alone, and takes a mark of UTF-8 for text before one."""
    if len(_PEM_BLOCK.findall(pem)) < pem.count(b"-----BEGIN"):
        return "has text before -----BEGIN in its line"
    return None


_CUT_OFF = "has a block that does not end: it is cut off"


def _is_cut_off(pem: bytes) -> bool:
    """Whether a block begins and does not end. Envoy refuses the whole then; of a key it reads the first block alone."""
    end: bytes | None = None
    for line in pem.split(b"\n"):
        if line.startswith(b"-----BEGIN"):
            if end is not None:
                return True
            end = line.rstrip().replace(b"BEGIN", b"END", 1)
        elif end is not None and line.startswith(end):
            end = None
    return end is not None


def _leaf_problem(leaf: x509.Certificate) -> str | None:
    """Why Envoy would refuse a certificate that is well-formed, or None. (source/common/tls/context_impl.cc)"""
    public = leaf.public_key()
    if leaf.public_key_algorithm_oid == x509.PublicKeyAlgorithmOID.RSASSA_PSS:
        return "has an RSASSA-PSS key: use RSA, P-256, P-384, P-521 or Ed25519"
    match public:
        case rsa.RSAPublicKey() if public.key_size < MIN_RSA_BITS:
            return f"has an RSA key of {public.key_size} bits: {MIN_RSA_BITS} at least"
        case ec.EllipticCurvePublicKey() if not isinstance(public.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            return f"has a key on {public.curve.name}: use P-256, P-384 or P-521"
        case rsa.RSAPublicKey() | ec.EllipticCurvePublicKey() | ed25519.Ed25519PublicKey():
            pass
        case _:
            return "has a key of a kind that Envoy does not take: use RSA, P-256, P-384, P-521 or Ed25519"
    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return None
    except ValueError:
        return "has extensions that cannot be read"
    if x509.TLSFeatureType.status_request in features:
        return "asks for a stapled OCSP response (must-staple), which nobody gives"
    return None


def period(secret: Secret) -> Period:
    """When the certificate of a usable pair is valid."""
    leaf = x509.load_pem_x509_certificates(secret.get("tls.crt") or b"")[0]
    return Period(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())


def trust_problem(secret: Secret, key: str) -> str | None:
    """Why a file of a secret cannot be used as certificate authorities, or None."""
    bundle = secret.get(key)
    if not bundle:
        return f"has no {key}"
    if problem := _pem_problem(bundle):
        return f"{key} {problem}"
    if _is_cut_off(bundle):
        return f"{key} {_CUT_OFF}"
    try:
        x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return f"{key} is not a PEM bundle of certificates"
    return None
