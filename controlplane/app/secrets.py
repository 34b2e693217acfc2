"""What sources say of secrets; a certificate that is lost or cannot be used leaves the previous pair in force.

Used by `intake`, of which it is a part. Keys of issuers are gone at once, since authentication fails closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from controlplane.app.loop import CommitLoop
from controlplane.app.problems import Problems
from controlplane.app.services import Services
from controlplane.app.successors import OUTLIVING, refusal_of_pair, successor
from controlplane.compile.codes import SECRET_LOST, UNUSABLE_SECRET
from controlplane.errors import Diagnostic
from controlplane.model.secret import Secret
from controlplane.names import FILES, SecretRef

SOURCE = "secrets"
"""The source of the secrets that documents in files refer to: a folder."""


def source_of(ref: SecretRef) -> str:
    """The source that says a secret."""
    return SOURCE if ref.source == FILES else ref.source


class Secrets:
    """Every secret that is in force."""

    def __init__(
        self,
        before: Mapping[SecretRef, Secret],
        *,
        keep: Callable[[SecretRef, Secret | None], None],
        services: Services,
        register: Problems,
        wall_clock: Callable[[], float],
    ) -> None:
        """`before`: what was in force before this process began. `keep` writes behind to the state on disk."""
        self.in_force: dict[SecretRef, Secret] = dict(before)
        self._loop: CommitLoop
        self._keep = keep
        self._services = services
        self._register = register
        self._wall_clock = wall_clock
        self._early: dict[SecretRef, Secret] = {}  # with pairs that are not within their time
        self._lost: set[SecretRef] = set()
        self._unconfirmed: set[SecretRef] = set(before)
        services.unnamed |= {ref for ref in before if ref.source != FILES}

    def attach(self, loop: CommitLoop) -> None:
        """Where edits go. What was in force before comes first: it is the last good one."""
        self._loop = loop
        for ref, secret in self.in_force.items():
            self._edit(ref, secret)

    def put(self, ref: SecretRef, secret: Secret) -> None:
        """A secret as it is now. A pair or authorities that cannot be used do not replace those that can."""
        self._unconfirmed.discard(ref)
        self._lost.discard(ref)
        self._early.pop(ref, None)
        found = successor(self.in_force.get(ref), secret, self._wall_clock())
        if found.untimely:
            self._early[ref] = secret
        secret = found.secret
        help = "write tls.crt and tls.key that belong together and are within their time, and a whole ca.crt"
        said = [Diagnostic(UNUSABLE_SECRET, f'secret "{ref.subject}" {why}', help=help) for why in found.refused]
        self.in_force[ref] = secret
        self._edit(ref, secret)
        self._keep(ref, secret)
        self._say_lost(ref, said)

    def remove(self, ref: SecretRef) -> None:
        """A secret is gone."""
        self._unconfirmed.discard(ref)
        self._early.pop(ref, None)
        before = self.in_force.pop(ref, None)
        kept = {name: value for name in OUTLIVING if before and (value := before.get(name)) is not None}
        if kept:
            self._lost.add(ref)
            self.in_force[ref] = Secret.of(kept)
            self._edit(ref, self.in_force[ref])
            self._keep(ref, self.in_force[ref])
            message = f'secret "{ref.subject}" is gone; its certificate stays in force'
            self._say_lost(ref, [Diagnostic(SECRET_LOST, message, help="put it back, or remove what refers to it")])
        else:
            self._forget(ref)

    def remove_unconfirmed(self) -> None:
        """The folder has been read: what was in force before and is not there is gone. Others are given on demand: later."""
        for ref in [ref for ref in self._unconfirmed if source_of(ref) == SOURCE]:
            self.remove(ref)

    def forget_unused(self, is_used: Callable[[SecretRef], bool]) -> None:
        """Secrets that are gone, or are given for a document that names them, stay as long as something refers to them."""
        for ref in [ref for ref in self._lost | self._services.unnamed if not is_used(ref)]:
            self._lost.discard(ref)
            self._unconfirmed.discard(ref)
            self._services.unnamed.discard(ref)
            self._early.pop(ref, None)
            if self.in_force.pop(ref, None) is not None:
                self._forget(ref)
            self._say_lost(ref, ())

    def take_early(self) -> bool:
        """Pairs whose time has come, or whose predecessors' time is over; whether there are any."""
        now = self._wall_clock()
        due = [ref for ref, pair in self._early.items() if not refusal_of_pair(self.in_force[ref], pair, now)]
        for ref in due:
            self.put(ref, self._early[ref])
        return bool(due)

    def _forget(self, ref: SecretRef) -> None:
        self._loop.edit(ref, lambda compiler: compiler.remove_secret(ref))
        self._keep(ref, None)

    def _edit(self, ref: SecretRef, secret: Secret) -> None:
        self._loop.edit(ref, lambda compiler: compiler.put_secret(ref, secret))

    def _say_lost(self, ref: SecretRef, diagnostics: Sequence[Diagnostic]) -> None:
        self._register.say(("lost", ref), diagnostics)
