"""Certificates of listeners and backends whose time is over, or nearly.

Asked from time to time, with the time: what is compiled knows no clock, and a certificate that ends stays in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf

from controlplane.compile import codes
from controlplane.compile.pipeline import Tables
from controlplane.compile.secrets import CERTIFICATE
from controlplane.errors import Diagnostic, Severity
from controlplane.model.secret import Period, Secret, utc
from controlplane.names import SecretRef
from controlplane.spec.backend import Backend
from controlplane.spec.listener import Listener

SOON = timedelta(days=14).total_seconds()
"""Before its end a certificate is worth a warning, but not before four fifths of its time: some live for days only."""


@dataclass(slots=True)
class Expiry:
    """Looks at the secrets that are in use."""

    tables: Tables
    _periods: dict[SecretRef, tuple[Secret, Period | None]] = field(default_factory=dict)
    """What was read, as long as the secret is the same."""

    def seconds_left(self, now: float) -> float:
        """Of the certificate that ends first; infinite when none is in use."""
        return min((period.ends for period in self._used().values()), default=inf) - now

    def diagnostics(self, now: float) -> tuple[Diagnostic, ...]:
        """One for each element that uses a certificate which is not, or not much longer, within its time."""
        said = {
            ref: judged for ref, period in self._used().items() if (judged := _judged(ref, period, now)) is not None
        }
        if not said:
            return ()
        help = "put a new pair into its place; no restart is needed"
        return tuple(
            Diagnostic(codes.EXPIRY, said[ref][1], path, help, severity=said[ref][0], subject=subject)
            for ref, subject, path in self._uses()
            if ref in said
        )

    def _used(self) -> dict[SecretRef, Period]:
        rows = (self.tables.chain_secrets.rows, self.tables.backend_secrets.rows)
        used = {use.secret for uses in rows for use in uses if use.key == CERTIFICATE}
        before, self._periods = self._periods, {}
        for ref in used:
            if (secret := self.tables.secrets.rows.get(ref)) is not None:
                known = before.get(ref)
                self._periods[ref] = known if known and known[0] is secret else (secret, _period(secret))
        return {ref: period for ref, (_, period) in self._periods.items() if period is not None}

    def _uses(self) -> Iterator[tuple[SecretRef, str, str]]:
        """Every use of a certificate: the secret, the object, the path in it."""
        for key, element in sorted(self.tables.listeners.rows.items()):
            assert isinstance(element.part, Listener)
            for index, entry in enumerate(element.part.tls):
                ref = SecretRef(key.object.source, key.object.namespace, entry.identity)
                yield ref, key.object.subject, f"spec.listeners[{key.element}].tls[{index}].certificate.secretRef"
        for key, element in sorted(self.tables.backends.rows.items()):
            assert isinstance(element.part, Backend)
            if (tls := element.part.tls) is not None and tls.client_certificate is not None:
                ref = SecretRef(key.object.source, key.object.namespace, tls.client_certificate.secret_ref)
                yield ref, key.object.subject, f"spec.backends[{key.element}].tls.clientCertificate.secretRef"


def _period(secret: Secret) -> Period | None:
    """Of the leaf; None for what is no usable pair, which others say."""
    from controlplane.compile.certificates import certificate_status, period

    return period(secret) if certificate_status(secret).problem is None else None


def _judged(ref: SecretRef, period: Period, now: float) -> tuple[Severity, str] | None:
    certificate = f'the certificate of secret "{ref.namespace}/{ref.name}"'
    if (fault := period.fault(now)) is not None:
        return Severity.ERROR, f"{certificate} {fault}: peers refuse it"
    if period.ends - now < min(SOON, (period.ends - period.begins) / 5):
        return Severity.WARNING, f"{certificate} ends soon: {utc(period.ends)}"
    return None
