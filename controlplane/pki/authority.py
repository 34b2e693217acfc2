"""The private certificate authority in the state folder: made on first use, issuing, rotated without an outage.

Files, below the state folder (0700), each 0600 and replaced in one step:

- `ca/ca.crt`: every authority that is trusted, the issuing one first;
- `ca/ca.key`: the key that issues; its certificate is the one in `ca.crt` with this key. `ca.crt` is always written
  before `ca.key` and read after it, so that the pair cannot be seen mismatched, whatever dies in between;
- `ca/cross.crt`: successors under the signatures of their predecessors (see `rotate`);
- `ca/trust-domain`;
- `server/server.pem`: key and certificate of the xDS server.

`serve`, `bootstrap` and `pki` open it, in processes of their own; a running server sees what another process changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.errors import ConfigurationError
from controlplane.pki import files, issuing
from controlplane.pki.identity import DEFAULT_TRUST_DOMAIN, valid_trust_domain
from controlplane.pki.issuing import Signer

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""What a server certificate always covers."""

CA_RENEWAL = timedelta(days=180)
"""A successor takes over this long before the end: twice the life of a node's certificate, so that every bootstrap
that knows only the old authority has expired before the authority does."""

_READ_ATTEMPTS = 3
"""A reader may meet one change by another process; three in a row is damage."""


class Issued(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class ServerMaterial(NamedTuple):
    """What the xDS server's TLS needs, as PEM; equal values mean that nothing changed."""

    chain: bytes
    key: bytes
    client_authorities: bytes


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """One certificate for `pki show`; `role` is "issuing", "trusted" or "server"."""

    role: str
    subject: str
    fingerprint: str
    serial: str
    not_before: datetime
    not_after: datetime
    remaining: timedelta
    names: tuple[str, ...] = ()

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.remaining <= timedelta(0)


@dataclass(frozen=True, slots=True)
class _Authorities:
    """The content of `ca/` at one time."""

    signer: Signer
    trusted: tuple[x509.Certificate, ...]
    crossed: tuple[x509.Certificate, ...]
    trust_domain: str


@dataclass(frozen=True, slots=True)
class _Server:
    certificate: x509.Certificate
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class _Material:
    """What was handed out last, what it was made of, and the times between which it needs no second look."""

    value: ServerMaterial
    authorities: _Authorities
    server: _Server
    names: frozenset[str]
    since: datetime
    until: datetime

    def holds(self, authorities: _Authorities, server: _Server | None, names: frozenset[str], now: datetime) -> bool:
        same = self.authorities is authorities and self.server is server and self.names == names
        return same and self.since <= now < self.until


class Authority:
    """The authority of one state folder. Safe to use from several threads: TLS handshakes call from gRPC's."""

    def __init__(self, state: Path, now: Callable[[], datetime]) -> None:
        """Use `open`."""
        self.folder = state / "ca"
        self._server_file = state / "server" / "server.pem"
        self._now = now
        self._lock = threading.RLock()
        self._names = frozenset(LOCAL_NAMES)
        self._authorities: tuple[object, _Authorities] | None = None
        self._server: tuple[object, _Server] | None = None
        self._material: _Material | None = None
        self._unreadable = ""
        self._unwritable = ""

    @classmethod
    def open(
        cls, state: Path, trust_domain: str | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> Authority:
        """The authority of a state folder, made when absent; ConfigurationError when its files cannot be used.

        The trust domain is chosen once, when the authority is made; later it must be the same or None. An authority
        that ends within half a year is replaced here, where that is possible.
        """
        authority = cls(state, now)
        domain = trust_domain or DEFAULT_TRUST_DOMAIN
        if not valid_trust_domain(domain):
            raise ConfigurationError(f"{domain!r} is no trust domain: a-z 0-9 . _ - only")
        try:
            if not (authority.folder / "ca.key").exists():
                first = issuing.new_authority(domain, now())
                content = {
                    "ca.crt": issuing.certificate_pem(first.certificate),
                    "ca.key": issuing.key_pem(first.key),
                    "trust-domain": f"{domain}\n".encode(),
                }
                files.create_folder(authority.folder, content)
            found = authority._read()
        except OSError as error:
            raise ConfigurationError(
                f"{authority.folder}: the certificate authority is not accessible: {error}"
            ) from error
        if trust_domain not in {None, found.trust_domain}:
            raise ConfigurationError(
                f"{authority.folder}: of trust domain {found.trust_domain!r}, not {trust_domain!r}"
            )
        if found.signer.certificate.not_valid_after_utc - now() < CA_RENEWAL:
            authority._succeed()
        return authority

    @property
    def problem(self) -> str:
        """Why what is in use is not what is on disk, "" when it is: files damaged meanwhile, or not to be written."""
        return self._unreadable or self._unwritable

    @property
    def trust_domain(self) -> str:
        """The SPIFFE trust domain."""
        return self._read().trust_domain

    @property
    def trust_bundle(self) -> bytes:
        """The authorities to trust now, as PEM, the issuing one first."""
        return issuing.certificate_pem(*self._valid(self._read()))

    def issue_node(
        self, node_id: str, cluster: str, labels: Mapping[str, str], lifetime: timedelta = issuing.NODE_LIFETIME
    ) -> Issued:
        """A new key and certificate for a proxy; ConfigurationError says what is wrong with the arguments."""
        return self._issue(
            lifetime,
            lambda found, key: issuing.node_certificate(
                found.signer, key, found.trust_domain, node_id, cluster, labels, lifetime, self._now()
            ),
        )

    def issue_serving(self, node_id: str, lifetime: timedelta = issuing.NODE_LIFETIME) -> Issued:
        """A new key and certificate that a node shows to its own clients; ConfigurationError as for `issue_node`."""
        return self._issue(
            lifetime,
            lambda found, key: issuing.serving_certificate(
                found.signer, key, found.trust_domain, node_id, lifetime, self._now()
            ),
        )

    def _issue(
        self, lifetime: timedelta, make: Callable[[_Authorities, ec.EllipticCurvePublicKey], x509.Certificate]
    ) -> Issued:
        if not timedelta(0) < lifetime <= issuing.NODE_LIFETIME:
            raise ConfigurationError(
                f"a node's certificate lives up to {issuing.NODE_LIFETIME.days} days, not {lifetime}"
            )
        key = issuing.new_key()
        try:
            certificate = make(self._read(), key.public_key())
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        return Issued(issuing.certificate_pem(certificate), issuing.key_pem(key))

    def server_certificate(self, names: Iterable[str]) -> ServerMaterial:
        """The server's certificate for these names beside localhost; kept until a third of its life is left.

        A name that a certificate cannot hold is left out: proxies know the server by its SPIFFE ID.
        """
        with self._lock:
            self._names = frozenset(name for name in names if name and name.isascii()) | frozenset(LOCAL_NAMES)
            return self.server_credentials_material()

    def server_credentials_material(self) -> ServerMaterial:
        """What the next handshake should use; cheap while no file changed and nothing is due (some microseconds).

        The chain carries the cross-signed authorities, so that proxies which trust only an older one still connect.
        """
        with self._lock:
            now, found, stored = self._now(), self._read(), self._stored_server()
            if self._material and self._material.holds(found, stored, self._names, now):
                return self._material.value
            server = self._current_server(found, stored)
            trusted, crossed = self._valid(found), self._crossed(found)
            chain = issuing.certificate_pem(server.certificate, *crossed)
            value = ServerMaterial(chain, server.key_pem, issuing.certificate_pem(*trusted))
            until = min(_due(server.certificate), *(c.not_valid_after_utc for c in (*trusted, *crossed)))
            self._material = _Material(value, found, server, self._names, now, until)
            return value

    def trusts(self, certificate: bytes, chain: bytes = b"") -> bool:
        """Whether an authority trusted now signed this certificate (PEM or DER); for live streams after a change."""
        try:
            pem = certificate.lstrip().startswith(b"-----BEGIN")
            leaf = x509.load_pem_x509_certificate(certificate) if pem else x509.load_der_x509_certificate(certificate)
        except ValueError:
            return False
        return any(issuing.signed_by(leaf, authority) for authority in self._valid(self._read()))

    def rotate(self) -> str:
        """A new authority issues from now on; the fingerprint of the old one, which stays trusted until `distrust`.

        Nobody is cut off: proxies with old certificates are accepted, and proxies that trust only the old authority
        accept the server, because the old one signed the new one's key too (`cross.crt`).
        """
        with files.locked(self.folder):
            found = self._read()
            now = self._now()
            successor = issuing.new_authority(found.trust_domain, now)
            crossed = (issuing.cross_signed(successor.certificate, found.signer, now), *self._crossed(found))
            files.replace(self.folder / "cross.crt", issuing.certificate_pem(*crossed))
            trusted = (successor.certificate, *self._valid(found))
            files.replace(self.folder / "ca.crt", issuing.certificate_pem(*trusted))
            files.replace(self.folder / "ca.key", issuing.key_pem(successor.key))
        self.server_credentials_material()
        return issuing.fingerprint(found.signer.certificate)

    def distrust(self, fingerprint: str) -> None:
        """Trust an old authority no longer; its certificates are worth nothing from the next handshake on."""
        with files.locked(self.folder):
            found = self._read()
            if fingerprint == issuing.fingerprint(found.signer.certificate):
                raise ConfigurationError("this authority issues; rotate first, then distrust the old one")
            kept = tuple(c for c in found.trusted if issuing.fingerprint(c) != fingerprint)
            if kept == found.trusted:
                known = ", ".join(issuing.fingerprint(c)[:16] for c in found.trusted)
                raise ConfigurationError(f"no trusted authority has the fingerprint {fingerprint} (known: {known}…)")
            crossed = tuple(c for c in found.crossed if any(issuing.signed_by(c, k) for k in kept))
            files.replace(self.folder / "ca.crt", issuing.certificate_pem(*kept))
            files.replace(self.folder / "cross.crt", issuing.certificate_pem(*crossed))

    def certificates(self) -> list[CertificateStatus]:
        """Every certificate of this folder with its time left, the issuing authority first."""
        found = self._read()
        issuer = found.signer.certificate
        listed = [self._status("issuing" if c == issuer else "trusted", c) for c in found.trusted]
        listed.sort(key=lambda status: status.role != "issuing")
        server = self._stored_server()
        return [*listed, self._status("server", server.certificate)] if server else listed

    def inspect(self, certificate: bytes, role: str = "node") -> CertificateStatus:
        """The same for any certificate, such as that of a bootstrap."""
        return self._status(role, x509.load_pem_x509_certificate(certificate))

    def _status(self, role: str, certificate: x509.Certificate) -> CertificateStatus:
        names = tuple(sorted(issuing.hosts(certificate)))
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        subject, print_ = certificate.subject.rfc4514_string(), issuing.fingerprint(certificate)
        serial = f"{certificate.serial_number:x}"
        return CertificateStatus(role, subject, print_, serial, begins, ends, ends - self._now(), names)

    def _succeed(self) -> None:
        """Rotate near the end of the issuing authority; where nothing can be written it issues to its end."""
        try:
            self.rotate()
        except OSError as error:
            self._unwritable = f"the authority ends soon and its successor cannot be written: {error}"

    def _read(self) -> _Authorities:
        """The authorities on disk, parsed again only when a file changed; the last good ones when it is damaged."""
        with self._lock:
            try:
                for _ in range(_READ_ATTEMPTS):
                    stamps = tuple(files.stamp(self.folder / name) for name in ("ca.key", "ca.crt", "cross.crt"))
                    if self._authorities and self._authorities[0] == stamps:
                        return self._authorities[1]
                    found = self._parse()
                    if found is not None:
                        self._authorities, self._unreadable = (stamps, found), ""
                        return found
                raise ConfigurationError(f"{self.folder}: ca.key belongs to no certificate in ca.crt; restore both")
            except ConfigurationError as error:
                if self._authorities is None:
                    raise
                self._unreadable = str(error)
                return self._authorities[1]

    def _parse(self) -> _Authorities | None:
        """The files as they are; None when key and certificates do not fit, as when one was replaced meanwhile."""
        try:
            key = issuing.private_key(files.read_private(self.folder / "ca.key"))
            trusted = tuple(x509.load_pem_x509_certificates((self.folder / "ca.crt").read_bytes()))
            cross_file = self.folder / "cross.crt"
            cross_pem = cross_file.read_bytes() if cross_file.exists() else b""
            crossed = tuple(x509.load_pem_x509_certificates(cross_pem)) if cross_pem else ()
            trust_domain = (self.folder / "trust-domain").read_text().strip()
        except (ValueError, OSError) as error:
            raise ConfigurationError(f"{self.folder}: the certificate authority cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not valid_trust_domain(trust_domain):
            raise ConfigurationError(f"{self.folder}: not an authority of this program")
        issuer = next((c for c in trusted if issuing.same_key(c, key)), None)
        return None if issuer is None else _Authorities(Signer(issuer, key), trusted, crossed, trust_domain)

    def _valid(self, found: _Authorities) -> tuple[x509.Certificate, ...]:
        """The trusted authorities whose time is not over; the issuing one is always among them, and first."""
        now, issuer = self._now(), found.signer.certificate
        others = (c for c in found.trusted if c != issuer and c.not_valid_after_utc > now)
        return (issuer, *others)

    def _crossed(self, found: _Authorities) -> tuple[x509.Certificate, ...]:
        now = self._now()
        return tuple(c for c in found.crossed if c.not_valid_after_utc > now)

    def _stored_server(self) -> _Server | None:
        """The server's pair on disk, parsed again only when the file changed; None when absent or damaged."""
        found = files.stamp(self._server_file)
        if self._server is None or self._server[0] != found:
            try:
                pem = files.read_private(self._server_file)
                certificate = x509.load_pem_x509_certificate(pem)
                key = issuing.private_key(pem)
            except (OSError, ValueError, ConfigurationError):
                return None  # a new one costs nothing
            if not isinstance(key, ec.EllipticCurvePrivateKey) or not issuing.same_key(certificate, key):
                return None
            self._server = (found, _Server(certificate, issuing.key_pem(key)))
        return self._server[1]

    def _current_server(self, found: _Authorities, stored: _Server | None) -> _Server:
        """The stored pair when it is of the issuing authority, for all names, and not due; otherwise a new one."""
        names, now = self._names, self._now()
        if stored is not None:
            certificate = stored.certificate
            in_time = certificate.not_valid_before_utc <= now < _due(certificate)
            issued_here = issuing.signed_by(certificate, found.signer.certificate)
            if issued_here and in_time and names <= issuing.hosts(certificate):
                return stored
            if names == frozenset(LOCAL_NAMES):  # a command that rotates does not know by which names `serve` is called
                names |= issuing.hosts(certificate)
        key = issuing.new_key()
        certificate = issuing.server_certificate(found.signer, key.public_key(), found.trust_domain, names, now)
        server = _Server(certificate, issuing.key_pem(key))
        try:
            files.replace(self._server_file, server.key_pem + issuing.certificate_pem(certificate))
            self._unwritable = ""
        except OSError as error:
            self._unwritable = f"the server's certificate cannot be written: {error}"
        self._server = (files.stamp(self._server_file), server)
        return server


def _due(certificate: x509.Certificate) -> datetime:
    """When a certificate is to be replaced: with a third of its life left."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return ends - (ends - begins) / 3
