"""Certificates of the xDS server that come from elsewhere: three files, read anew when they change.

What is in force is always a pair that fits and an authority to verify with: while the files on disk are not that (one of
them is replaced before the others, or wrong), the last good ones stay, and `problem` says why. Used by `app` in the place
of `authority`; threads of gRPC call it at every handshake.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from controlplane.errors import ConfigurationError
from controlplane.pki import files, issuing
from controlplane.pki.authority import ServerMaterial

_MAX_CHAIN = 16
"""Certificates of a peer that are looked at: each may take a check of a signature by each other one."""


class ConfiguredKeys:
    """The server's certificate chain and key, and the authorities of its clients."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read them once. Raises ConfigurationError when they cannot be used."""
        self._now = now
        self._files = (certificate, key, client_ca)
        self._lock = threading.Lock()
        self._stamps: tuple[files.Stamp, ...] = ()
        self.problem = ""
        self._certificate: x509.Certificate | None = None
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
        """Whether an authority trusted now signed this certificate, directly or by way of its own chain (PEM).

        Every way is tried, as the handshake does: while a fleet moves to another root, the chain may lead to both.
        """
        self.server_credentials_material()
        try:
            leaf = x509.load_pem_x509_certificate(certificate)
            between = x509.load_pem_x509_certificates(chain) if chain else []
        except ValueError:
            return False
        now = self._now()
        left = [one for one in between[:_MAX_CHAIN] if one != leaf]
        found = [(leaf, 0)]  # with the number of authorities below
        for signed, below in found:
            if any(_signs(authority, signed, below, now) for authority in self._authorities):
                return True
            issuers = [one for one in left if _signs(one, signed, below, now)]
            found += [(one, below + (one.subject != one.issuer)) for one in issuers]
            left = [one for one in left if one not in issuers]
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
        now = self._now()
        if (before := self._certificate) is not None and _is_timely(before, now) and not _is_timely(certificate, now):
            begins, ends = (
                f"{at:%Y-%m-%d %H:%M}" for at in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
            )
            raise ConfigurationError(f"{certificate_file}: not within its time ({begins} to {ends} UTC)")
        try:
            authorities = x509.load_pem_x509_certificates(client_ca)
        except ValueError as error:
            raise ConfigurationError(f"{client_file}: no certificate in PEM: {error}") from None
        self._certificate = certificate
        return stamps, ServerMaterial(chain, key, client_ca), authorities


def _is_timely(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _signs(issuer: x509.Certificate, certificate: x509.Certificate, below: int, now: datetime) -> bool:
    """Whether an authority, in its time, signed the certificate, below which there are so many others.

    RFC 5280, 6.1.4 (k), (l), (m) and (n). A root of version 1 has no extensions that could say it.
    """
    if not _is_timely(issuer, now):
        return False
    try:
        values = [extension.value for extension in issuer.extensions]
    except Exception:  # noqa: BLE001  malformed in one way or another
        return False
    basic = next((one for one in values if isinstance(one, x509.BasicConstraints)), None)
    usage = next((one for one in values if isinstance(one, x509.KeyUsage)), None)
    if basic is None:
        authority = issuer.version is x509.Version.v1 and issuer.subject == issuer.issuer
    else:
        authority = basic.ca and (basic.path_length is None or below <= basic.path_length)
    return authority and (usage is None or usage.key_cert_sign) and issuing.signed_by(certificate, issuer)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
