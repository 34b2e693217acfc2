"""What a verified client certificate says about its holder."""

from __future__ import annotations

from cryptography import x509


def certificate_uris(pem: bytes) -> tuple[str, ...]:
    """The URI names of the certificate (RFC 5280, 4.2.1.6), in their order; none when it has no such extension."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
