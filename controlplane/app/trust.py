"""Who is let in, now: the authorities that are trusted, the deny list, and the time.

`Fleet` asks at the start of a stream and whenever it looks again; `watch` sees what changed on disk and whose certificate
has ended, so that whoever is not let in any more loses its streams within seconds, and not with its next reconnect.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Protocol

import structlog
from cryptography import x509

from controlplane.config import Configuration
from controlplane.errors import Diagnostic
from controlplane.pki.authority import Authority, ServerMaterial
from controlplane.pki.configured import ConfiguredKeys
from controlplane.pki.denial import DenyList
from controlplane.pki.identity import DEFAULT_TRUST_DOMAIN, Identity, Refused, identify
from controlplane.sources.beside import Beside
from controlplane.spec.codes import Code
from controlplane.xds.nodes import Denied, Node, Peer

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""How often the files are looked at (a few `stat` calls)."""
CACHED = 10_000
"""Certificates that are remembered."""

SLICE = 20
"""Certificates that are verified again before others have their turn: some milliseconds."""

_NEVER = datetime.max.replace(tzinfo=UTC)


class _Known(NamedTuple):
    """Who a certificate is, and what came with it."""

    identity: Identity
    chain: bytes


class Keys(Protocol):
    """Where the server's certificates come from: the state folder's authority, or configured files."""

    @property
    def problem(self) -> str:
        """Why what is in use is not what is on disk."""
        ...

    def server_credentials_material(self) -> ServerMaterial:
        """What the next handshake should use."""
        ...

    def trusts(self, certificate: bytes, chain: bytes = b"") -> bool:
        """Whether an authority trusted now signed this certificate."""
        ...


class Trust:
    """Decides about certificates. Used on the event loop only."""

    def __init__(
        self,
        keys: Keys,
        denied: DenyList,
        trust_domain: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        touch: Callable[[], object] = lambda: None,
    ) -> None:
        """`touch` touches the disk that the files are on, and is asked beside the event loop first: it may not answer."""
        self._keys = keys
        self._touch = touch
        self._denied = denied
        self._trust_domain = trust_domain
        self._now = now
        self._material = keys.server_credentials_material()
        self._known: dict[bytes, _Known] = {}
        self._unverified: dict[bytes, _Known] = {}
        self._distrusted: set[tuple[bytes, bytes]] = set()  # certificates and what came with them
        self._next_end = _NEVER
        self._failure = ""

    @classmethod
    def open(cls, configuration: Configuration) -> Trust | None:
        """With the configured certificates or the state folder's own authority; None when nobody shows any.

        Raises ConfigurationError.
        """
        xds, state, domain = configuration.xds, configuration.state.path, configuration.identity.trust_domain
        if xds.insecure:
            return None
        keys: Keys
        if xds.tls is not None:
            keys = ConfiguredKeys(xds.tls.certificate, xds.tls.key, xds.tls.client_ca)
        else:
            keys = authority = Authority.open(state, domain)
            names = {xds.listen.host, socket.gethostname(), *xds.names} - {"0.0.0.0", "::"}  # noqa: S104
            authority.server_certificate(names)
            domain = authority.trust_domain
        denied = DenyList.open(state, *(() if xds.deny_list is None else (xds.deny_list,)))
        return cls(keys, denied, domain or DEFAULT_TRUST_DOMAIN, touch=state.stat)

    def server_keys(self) -> ServerMaterial:
        """What the next handshake should use; called on threads of gRPC."""
        return self._keys.server_credentials_material()

    def meet(self, peer: Peer) -> Identity:
        """Who the peer is. Raises Denied when it is nobody, or not welcome any more."""
        found = self.known(peer)
        if found is None or found.not_after <= self._now():
            found = self._identify(peer)
        if self._denied.denies(found):
            log.warning("denied", node=found.id, serial=found.serial)
            raise Denied("the client certificate is revoked")
        return found

    def identity(self, node: Node, peer: Peer) -> Identity:
        """Who the peer is. Raises Denied when it is nobody, not this node, or not welcome any more."""
        found = self.meet(peer)
        if found.id != node.id:
            log.warning("node id is not that of its certificate", node=node.id, certificate=found.id)
            raise Denied("the certificate is for another node id")
        return found

    def known(self, peer: Peer) -> Identity | None:
        """Who the peer was found to be."""
        known = self._known.get(peer.certificate)
        return known.identity if known is not None else None

    def _identify(self, peer: Peer) -> Identity:
        self._known.pop(peer.certificate, None)
        try:
            found = identify(peer.certificate, self._trust_domain, self._now())
        except Refused as refused:
            log.warning("certificate refused", peer=peer.address, reason=str(refused))
            raise Denied("the client certificate identifies no node of this control plane") from None
        # The handshake has verified it, but a connection may be older than the last change of the authorities.
        distrusted = (peer.certificate, peer.chain) in self._distrusted
        if distrusted or not self._trusts(peer.certificate, peer.chain):
            log.warning("certificate of an authority that is not trusted", node=found.id, serial=found.serial)
            raise Denied("the client certificate is of an authority that is not trusted any more")
        if len(self._known) >= CACHED:
            self._known.clear()
        self._known[peer.certificate] = _Known(found, peer.chain)
        self._next_end = min(self._next_end, found.not_after)
        return found

    async def watch(self, changed: Callable[[], None], say: Callable[[Sequence[Diagnostic]], None]) -> None:
        """Look again and again; `changed` when somebody who was let in may not be welcome any more.

        `say` is told why what is in force is not what is on disk.
        """
        again, beside = False, Beside()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await beside.ask(self._touch)
                again |= self.look()
                await self.verify()
                if again:
                    changed()
                    again = False
            except Exception as error:  # noqa: BLE001  whatever it is, the process and its streams go on
                self._failed(error)
            say(self.problems)

    def look(self) -> bool:
        """Whether decisions of before may be wrong now: the authorities or the deny list changed, or a time is over.

        Whom an authority signed for that is trusted no more is not known until it is verified again.
        """
        again = self._denied.look()
        try:
            material = self._keys.server_credentials_material()
            self._failure = ""
        except Exception as error:  # noqa: BLE001  the deny list is obeyed all the same
            material = self._material
            self._failed(error)
        before, self._material = self._material, material
        if material.client_authorities != before.client_authorities:
            if not _each(before.client_authorities) <= _each(material.client_authorities):
                self._unverified |= self._known
                self._known.clear()
            self._distrusted.clear()
            again = True
        if (now := self._now()) >= self._next_end:
            self._known = {pem: one for pem, one in self._known.items() if one.identity.not_after > now}
            self._next_end = min((one.identity.not_after for one in self._known.values()), default=_NEVER)
            again = True
        return again

    async def verify(self) -> None:
        """Verify who was known before the authorities changed, in slices, so that the review of a fleet is one of names."""
        for number, (pem, known) in enumerate(list(self._unverified.items()), 1):
            if pem not in self._known:
                if self._trusts(pem, known.chain):
                    self._known[pem] = known
                    self._next_end = min(self._next_end, known.identity.not_after)
                else:
                    self._distrusted.add((pem, known.chain))
            del self._unverified[pem]
            if number % SLICE == 0:
                await asyncio.sleep(0)

    def _trusts(self, certificate: bytes, chain: bytes) -> bool:
        try:
            return self._keys.trusts(certificate, chain)
        except Exception as error:  # noqa: BLE001  a review goes on to the others
            self._failed(error)
            return False

    def _failed(self, error: Exception) -> None:
        """A look went wrong in a way that nobody foresaw: what was in force stays, and it is said once."""
        failure = f"a look at certificates and deny lists failed: {type(error).__name__}: {error}"
        if failure != self._failure:
            log.error("trust is not up to date", exc_info=error)
        self._failure = failure

    @property
    def seconds_left(self) -> float:
        """Until the first certificate that was let in ends; infinite when there is none."""
        return math.inf if self._next_end is _NEVER else (self._next_end - self._now()).total_seconds()

    @property
    def server_seconds_left(self) -> float:
        """Of the certificate that this server shows."""
        return (_server(self._material).not_valid_after_utc - self._now()).total_seconds()

    @property
    def authority_seconds_left(self) -> float:
        """Of the authority of clients that ends last: afterwards nobody is let in."""
        ends = max(one.not_valid_after_utc for one in _authorities(self._material))
        return (ends - self._now()).total_seconds()

    @property
    def problems(self) -> list[Diagnostic]:
        """Why what is in force is not what is on disk, or is no good."""
        texts = (self._failure, self._keys.problem, self._denied.problem, *self._untimely())
        return [Diagnostic(Code.TRUST_STALE, text) for text in texts if text]

    def _untimely(self) -> Iterator[str]:
        now, server = self._now(), _server(self._material)
        if not server.not_valid_before_utc <= now < server.not_valid_after_utc:
            begins, ends = (f"{at:%Y-%m-%d %H:%M}" for at in (server.not_valid_before_utc, server.not_valid_after_utc))
            yield f"the certificate of the xDS server is not within its time ({begins} to {ends} UTC): no proxy can connect"
        if self.authority_seconds_left <= 0:
            yield "the time of every authority of proxies' certificates is over: no proxy is let in"


@lru_cache(1)
def _server(material: ServerMaterial) -> x509.Certificate:
    return x509.load_pem_x509_certificates(material.chain)[0]


@lru_cache(1)
def _authorities(material: ServerMaterial) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(material.client_authorities)


def _each(authorities: bytes) -> set[bytes]:
    """The certificates of a PEM text."""
    return {one.strip() for one in authorities.split(b"-----END CERTIFICATE-----")}
