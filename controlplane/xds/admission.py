"""Who may open a stream now: bounds for one identity, for all, and for how many begin at once.

When a replica goes away, its whole fleet comes to the next one in the same second. First answers are the dear ones:
some are made at a time, the rest wait their turn, and what would wait too long is told to come back
(https://github.com/grpc/grpc/blob/master/doc/statuscodes.md: UNAVAILABLE may be tried again). The server asks; nothing
here knows grpc or a session.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import sha256

from controlplane.xds.bounds import Limits
from controlplane.xds.nodes import Ended, Node, Peer, Status
from controlplane.xds.turns import Turns


def identity(node: Node | None, peer: Peer) -> Hashable | None:
    """Whose streams are counted together: those of one certificate's names, or of one that has none; without a
    certificate those of one node id. None if not known.
    """
    if peer.uris or not peer.certificate:
        return peer.uris or (node.id if node is not None else None)
    return sha256(peer.certificate).digest()


_SWEPT = 1000
"""Accounts, from which on those that are idle are forgotten."""


class Rate:
    """A token bucket: so many at once, so many a second after that."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._clock = clock
        self._tokens = self._burst
        self._at = clock()

    def take(self, amount: float = 1) -> bool:
        """Whether one more may begin; what weighs more than a whole burst may when the bucket is full."""
        tokens = self._fill()
        if tokens < min(amount, self._burst):
            return False
        self._tokens = tokens - amount
        return True

    @property
    def full(self) -> bool:
        """Whether it is as if it were new."""
        return self._fill() >= self._burst

    def _fill(self) -> float:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        return self._tokens


class Account:
    """What one identity uses: its open streams, and its rates."""

    __slots__ = ("openings", "requests", "streams")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.streams = 0
        self.openings = Rate(limits.identity_openings_burst, limits.identity_openings_per_second, clock)
        self.requests = Rate(limits.identity_requests_burst, limits.identity_requests_per_second, clock)

    @property
    def idle(self) -> bool:
        """Whether a new account would do as well."""
        return not self.streams and self.openings.full and self.requests.full


class Crowding(Ended):
    """Refused for what this identity itself does."""


class Admission:
    """Of one server. Every refusal is an `Ended` with a reason that says what to do."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._rate = Rate(limits.openings_burst, limits.openings_per_second, clock)
        self.turns = Turns(limits)
        """Of those that begin."""
        self._accounts: dict[Hashable, Account] = {}
        self._sweep_at = _SWEPT
        self.open = 0
        """Streams that were let in and have not left."""

    def enter(self, who: Hashable | None) -> Account | None:
        """Let a stream in; its account when it is known whose it is. Raises `Ended` when there are too many."""
        if self.open >= self._limits.streams:
            reason = f"this server holds {self._limits.streams} streams and takes no more"
            raise Ended(Status.RESOURCE_EXHAUSTED, reason)
        account = self.introduce(who) if who is not None else None
        if not self._rate.take():
            self._leave(account)
            raise Ended(Status.UNAVAILABLE, "too many streams are opened at once; try again in a few seconds")
        self.open += 1
        return account

    def introduce(self, who: Hashable) -> Account:
        """It is known whose a stream is: count it. Raises `Crowding` when that one has, or opens, too many."""
        account = self._accounts.get(who)
        if account is None:
            self._sweep()
            account = self._accounts[who] = Account(self._limits, self._clock)
        if account.streams >= self._limits.identity_streams:
            reason = f"more than {self._limits.identity_streams} streams of one identity; close some first"
            raise Crowding(Status.RESOURCE_EXHAUSTED, reason)
        if not account.openings.take():
            raise Crowding(Status.RESOURCE_EXHAUSTED, "streams of one identity are opened too often; try again later")
        account.streams += 1
        return account

    def asked(self, account: Account, size: int) -> None:
        """A request of so many bytes that no response brought about. Raises `Ended` when they are too many."""
        self._charge(account, 1 + size // self._limits.request_bytes)

    def introduced_anew(self, account: Account) -> None:
        """A node says something else of itself than before. Raises `Ended` when it does so too often."""
        self._charge(account, self._limits.node_change_requests)

    @staticmethod
    def _charge(account: Account, requests: int) -> None:
        if not account.requests.take(requests):
            raise Crowding(Status.RESOURCE_EXHAUSTED, "one identity asks too much; try again later")

    def leave(self, account: Account | None) -> None:
        """A stream that entered has ended."""
        self.open -= 1
        self._leave(account)

    @staticmethod
    def _leave(account: Account | None) -> None:
        if account is not None:
            account.streams -= 1

    def _sweep(self) -> None:
        """Forget accounts that a new one would do for; now and then, so that each opening costs the same."""
        if len(self._accounts) >= self._sweep_at:
            self._accounts = {who: account for who, account in self._accounts.items() if not account.idle}
            self._sweep_at = max(_SWEPT, 2 * len(self._accounts))
