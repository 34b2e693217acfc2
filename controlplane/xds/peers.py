"""What a verified client certificate says about its holder."""

from __future__ import annotations

from cryptography import x509


def certificate_uris(pem: bytes) -> tuple[str, ...]:
    """The URI names of the certificate (RFC 5280, 4.2.1.6), in their order.

    None when it has no such extension, and when its extensions cannot be read: the handshake does not look at all of
    them, and who has no name is refused for that.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
