"""Certificates of the xDS server that come from elsewhere: three files, read anew when they change.

What is in force is always a pair that fits and an authority to verify with: while the files on disk are not that (one of
them is replaced before the others, or wrong), the last good ones stay, and `problem` says why. Used by `app` in the place
of `authority`; threads of gRPC call it at every handshake.
"""

from __future__ import annotations

import threading
from pathlib import Path

from cryptography import x509

from controlplane.errors import ConfigurationError
from controlplane.pki import files, issuing
from controlplane.pki.authority import ServerMaterial

_MAX_CHAIN = 8
"""Authorities between a peer's certificate and one that is trusted."""


class ConfiguredKeys:
    """The server's certificate chain and key, and the authorities of its clients."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path) -> None:
        """Read them once. Raises ConfigurationError when they cannot be used."""
        self._files = (certificate, key, client_ca)
        self._lock = threading.Lock()
        self._stamps: tuple[files.Stamp, ...] = ()
        self.problem = ""
        self._stamps, self._material, self._authorities = self._load()

    def server_credentials_material(self) -> ServerMaterial:
        """What the next handshake should use; cheap while no file changed."""
        with self._lock:
            if self.problem or self._stamps != tuple(map(files.stamp, self._files)):
                try:
                    self._stamps, self._material, self._authorities = self._load()
                    self.problem = ""
                except ConfigurationError as error:
                    self.problem = str(error)
            return self._material

    def trusts(self, certificate: bytes, chain: bytes = b"") -> bool:
        """Whether an authority trusted now signed this certificate, directly or by way of its own chain (PEM)."""
        self.server_credentials_material()
        try:
            leaf = x509.load_pem_x509_certificate(certificate)
            between = x509.load_pem_x509_certificates(chain) if chain else []
        except ValueError:
            return False
        for _ in range(_MAX_CHAIN):
            if any(issuing.signed_by(leaf, authority) for authority in self._authorities):
                return True
            issuer = next((one for one in between if one != leaf and issuing.signed_by(leaf, one)), None)
            if issuer is None:
                return False
            leaf = issuer
        return False

    def _load(self) -> tuple[tuple[files.Stamp, ...], ServerMaterial, list[x509.Certificate]]:
        # The stamps first: what is replaced while it is read has other stamps, and is read again.
        stamps = tuple(map(files.stamp, self._files))
        chain, key, client_ca = (_content(file) for file in self._files)
        certificate_file, key_file, client_file = self._files
        try:
            certificate = x509.load_pem_x509_certificates(chain)[0]
        except ValueError as error:
            raise ConfigurationError(f"{certificate_file}: no certificate in PEM: {error}") from None
        try:
            private = issuing.private_key(key)
        except ValueError as error:
            raise ConfigurationError(f"{key_file}: no unencrypted private key in PEM: {error}") from None
        if not issuing.same_key(certificate, private):
            raise ConfigurationError(f"{key_file}: not the key of the certificate in {certificate_file}")
        try:
            authorities = x509.load_pem_x509_certificates(client_ca)
        except ValueError as error:
            raise ConfigurationError(f"{client_file}: no certificate in PEM: {error}") from None
        return stamps, ServerMaterial(chain, key, client_ca), authorities


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
