"""What of a secret succeeds the one in force: a pair or authorities that cannot be used do not replace those that can.

Pure; the intake asks. What stays is part of what is in force from then on, and so of what is kept for the next start.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.compile.certificates import certificate_status, period, trust_problem
from controlplane.model.secret import Secret

_PAIR = ("tls.crt", "tls.key")
_AUTHORITIES = "ca.crt"
OUTLIVING = (*_PAIR, _AUTHORITIES)
"""The files of a secret that outlive it: traffic goes on with the previous certificate."""


@dataclass(frozen=True, slots=True)
class Successor:
    """What is in force from now on. `refused` says in words what is not taken, `untimely` whether only for its time."""

    secret: Secret
    refused: tuple[str, ...] = ()
    untimely: bool = False


def successor(before: Secret | None, secret: Secret, now: float) -> Successor:
    """What is in force after a secret came at this time (seconds of the epoch)."""
    if before is None:
        return Successor(secret)
    files, refused = dict(secret.items), []
    pair, authorities = refusal_of_pair(before, secret, now), _refusal_of_authorities(before, secret)
    if pair is not None:
        files |= {name: value for name, value in before.items if name in _PAIR}
        refused.append(f"{pair}; its previous certificate stays in force")
    if authorities is not None:
        files |= {name: value for name, value in before.items if name == _AUTHORITIES}
        refused.append(f"{authorities}; its previous authorities stay in force")
    return Successor(Secret.of(files), tuple(refused), pair is not None and certificate_status(secret).problem is None)


def refusal_of_pair(before: Secret, secret: Secret, now: float) -> str | None:
    """Why a pair does not replace the one in force; None when it does, or when that one is no better."""
    if certificate_status(before).problem is not None:
        return None
    if problem := certificate_status(secret).problem:
        return problem
    return None if period(before).fault(now) else period(secret).fault(now)


def _refusal_of_authorities(before: Secret, secret: Secret) -> str | None:
    """The same for authorities; who has none any more may never have needed them."""
    if not secret.get(_AUTHORITIES) or trust_problem(before, _AUTHORITIES) is not None:
        return None
    return trust_problem(secret, _AUTHORITIES)
