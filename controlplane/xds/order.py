"""Make before break on one stream: who waits for whom, until when.

Asked by the session before anything that was not asked for goes out, told by it what was pushed, acknowledged and
refused. The orders themselves are in types.py; time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from controlplane.resources import Resource
from controlplane.snapshot.substitution import Substituted
from controlplane.xds import types
from controlplane.xds.bounds import Timing
from controlplane.xds.progress import Progress, Push


@dataclass(slots=True)
class Expectation:
    """A load assignment that a cluster which was just sent waits for, until its ACK or `limit`.

    `cluster` and `nonce` are those of the responses that held the cluster, and then the load assignment.
    """

    limit: float
    cluster: str
    nonce: str = ""


class Order:
    """The waits of one stream. `window`: responses of one type that may lack their ACK before a change of it waits."""

    __slots__ = (
        "_aggregated",
        "_read",
        "_secrets",
        "_since",
        "_timing",
        "_told",
        "_types",
        "_view",
        "_window",
        "back",
        "deadline",
        "expected",
        "of_additions",
        "of_removals",
    )

    def __init__(
        self, types_of_stream: Mapping[str, Progress], timing: Timing, window: int, *, aggregated: bool
    ) -> None:
        self._types = types_of_stream
        self._timing = timing
        self._window = window
        self._view: Substituted | None = None
        self._aggregated = aggregated
        self._secrets: tuple[int, float] | None = None
        self._since = 0.0  # no change that it has not read was sent before
        self._told = self._read = 0  # the number of the last change that was sent, and of what it has said something of
        self.back = False
        """Whether the client has what it took over on an earlier stream: routes that work, and go on."""
        self.deadline: float | None = None
        """When the first of the waits that `holds_additions` and `holds_removals` reported since `begin` ends."""
        self.expected: dict[str, Expectation] = {}
        self.of_additions: list[Progress] = []
        self.of_removals: list[Progress] = []

    def sort(self) -> None:
        """The stream has a new type."""
        self.of_additions = sorted(self._types.values(), key=lambda each: types.push_rank(each.kind.url))
        self.of_removals = sorted(self._types.values(), key=lambda each: types.removal_rank(each.kind.url))

    def begin(self, view: Substituted | None) -> None:
        """Forget the deadline, for the session asks about everything that waits anew; `view` is what there is now."""
        self.deadline = None
        self._view = view

    def came_back(self) -> None:
        """The client says that it has been here: its first answers wait for each other as changes do, those sent included."""
        self.back = True
        for progress in self._types.values():
            for push in progress.in_flight:
                if not push.heartbeat:
                    push.limit = max(push.limit, push.sent + self._timing.phase)
                    progress.additions.limit = max(progress.additions.limit, push.limit)

    def told(self, number: int, now: float) -> None:
        """The client was sent a change, as this response of the stream."""
        if self._read >= self._told:
            self._since = now
        self._told = number

    def heard(self, now: float) -> None:
        """The client has said something. If it stood still before, that time does not count."""
        if (limit := self._unread(now)) is not None and now >= limit:
            self.postpone(min(now - limit + self._timing.phase, self._timing.silent))
            self._read = self._told

    def still_until(self, now: float) -> float | None:
        """Until when nothing is sent to a client that stands still; None when it does not, or not for long enough."""
        limit = self._unread(now)
        return limit + self._timing.silent if limit is not None and limit <= now < limit + self._timing.silent else None

    def _unread(self, now: float) -> float | None:
        """By when the client should have said something of the first change of which it has not, nor of what came after.

        None as long as that is not over in any case, as nearly always.
        """
        if self._read >= self._told or now < self._since + self._timing.phase:
            return None
        limits = [
            push.limit
            for progress in self._types.values()
            if progress.follows
            for push in progress.in_flight
            if push.number > self._read and push.limit >= push.sent + self._timing.phase
        ]
        return min(limits, default=None)

    def postpone(self, seconds: float) -> None:
        """For so long the client, or this process, stood still: no wait was over in that time."""
        if self._secrets is not None:
            self._secrets = self._secrets[0], self._secrets[1] + seconds
        for expectation in self.expected.values():
            expectation.limit += seconds
        for progress in self._types.values():
            progress.postpone_waits(seconds)

    def holds_additions(self, progress: Progress, now: float, wanted: int | None = None) -> bool:
        """Whether the additions and changes of this type must wait, or those of them that were `wanted` at this tick.

        A first answer waits for changes under way, but not for other first answers: a client may ask for all types at
        once and acknowledge later. It does if the client has come back, for its routes are in use.
        """
        lane = progress.additions
        wanted = lane.wanted if wanted is None else wanted
        held = self._windowed(progress, now)
        if now >= lane.cap or not self._aggregated:
            return held
        if now < progress.grace and types.EXTENSION in progress.kind.after and types.EXTENSION not in self._types:
            return self._until(progress.grace, lane.cap)  # Envoy comes back for routes before it does for filters
        for url in progress.kind.after:
            if (other := self._types.get(url)) is not None and not (
                progress.whole and other.additions.answering and not self.back
            ):
                held |= self._until(other.additions.blocks(wanted, now), lane.cap)
        if types.LOAD_ASSIGNMENT in progress.kind.after:
            held |= self._unwarmed(lane.cap, now)
        return held

    def holds_late(self, progress: Progress, now: float) -> bool:
        """Whether changes of late resources of this type must wait: for the routes that they send requests to."""
        assert progress.late is not None
        lane = progress.late
        held = self._windowed(progress, now)
        cap = lane.cap + self._timing.phase  # by its own, routes may just have gone out
        if now >= cap or not self._aggregated:
            return held
        if now < progress.grace:
            return self._until(progress.grace, cap)  # a client that comes back has not asked for all types yet
        return held | self._unrouted(lane.wanted, cap, now)

    def holds_removals(self, progress: Progress, now: float, wanted: int | None = None) -> bool:
        """Whether the removals of this type must wait, or those of them that were `wanted` at this tick.

        They wait for all additions, and for the removals that go before.
        """
        wanted = progress.removals.wanted if wanted is None else wanted
        if now < progress.keeps:
            return self._until(progress.keeps)
        held = self._windowed(progress, now)
        for other in self.of_additions:
            held |= self._until(other.additions.blocks_removal(wanted, now))
            if other.late is not None:
                held |= self._until(other.late.blocks_removal(wanted, now))
        for other in self.of_removals:
            if other is progress:
                break
            held |= self._until(other.removals.blocks_removal(wanted, now))
        return held | self._unwarmed(inf, now)

    def spares(self, progress: Progress, now: float) -> bool:
        """Whether the client goes on with earlier content that may name what is gone: it stays, up to a bound.

        So does a listener, which nothing names, while another is held back with nothing in its place: that may be the
        same one on another port.
        """
        if self._view is None:
            return False
        for other in self.of_removals:
            held = self._view.substitutes(other.kind.url)
            own = other is progress
            if own:
                counts = progress.kind.url == types.LISTENER and None in held.values()
            else:
                counts = bool(held) or self._searched(other)
            if counts and now < other.spared_until:
                self.wake(other.spared_until)
                return True
            if own:
                break
        return False

    def _searched(self, progress: Progress) -> bool:
        """Whether something of a refused response is neither taken over yet nor held back."""
        view, url = self._view, progress.kind.url
        shown = {name: view.get(url, name) for name in progress.again} if view is not None else {}
        return any(one is not None and one.version == progress.again[name].version for name, one in shown.items())

    def outlived(self, progress: Progress) -> bool:
        """Whether nothing of a refused response is there any more, and the client has what is."""
        return bool(progress.again) and progress.content and not self._searched(progress)

    def holds_secrets(self, now: float) -> bool:
        """Whether secrets that a listener under way has the client ask for must wait for the scopes that wait for it.

        A filter chain is live as soon as its certificate is there: without its scopes it would refuse every request, and
        without what is late those that only this sends to a scope.
        """
        listeners, scopes = self._types.get(types.LISTENER), self._types.get(types.SCOPED_ROUTES)
        if listeners is None or scopes is None:
            return False
        if self._secrets is None and listeners.in_flight and scopes.changed:
            self._secrets = scopes.additions.wanted, now + self._timing.phase
        if self._secrets is None:
            return False
        wanted, cap = self._secrets
        held = now < cap and self._unrouted(wanted, cap, now)
        for other in self.of_additions if now < cap else ():
            if other.late is not None:
                held |= self._until(other.late.blocks(wanted, now), cap)
        if not held:
            self._secrets = None
        return held

    def expect(self, assignments: Iterable[str], push: Push, now: float) -> None:
        """Clusters were sent by this push that are not warm before these load assignments are."""
        for name in [name for name, expectation in self.expected.items() if now >= expectation.limit]:
            del self.expected[name]
        for name in assignments:
            self.expected[name] = Expectation(now + self._timing.phase, push.nonce)

    def assigned(self, push: Push, assignments: Iterable[Resource], now: float) -> None:
        """These load assignments were sent."""
        if self.expected:
            for assignment in assignments:
                if (expectation := self.expected.get(assignment.name)) is not None:
                    expectation.nonce, expectation.limit = push.nonce, now + self._timing.phase

    def acked(self, progress: Progress, push: Push, now: float) -> None:
        """The client has taken a response over; clusters that resolve names or check health are held a little."""
        self._has_read(progress, push)
        lane = progress.additions
        if push.additions_tick is not None:
            lane.acked = max(lane.acked, push.additions_tick)
        lane.warming = max(lane.warming, now + push.hold) if push.hold else lane.warming
        if push.removals_tick is not None:
            progress.removals.acked = max(progress.removals.acked, push.removals_tick)
        if push.late_tick is not None and progress.late is not None:
            progress.late.acked = max(progress.late.acked, push.late_tick)
        if not self.expected:
            return
        if progress.kind.url == types.CLUSTER:
            for expectation in self.expected.values():
                if not expectation.nonce and expectation.cluster == push.nonce:
                    expectation.limit = min(expectation.limit, now + self._timing.warming)
        elif progress.kind.url == types.LOAD_ASSIGNMENT:
            for name in [name for name, expectation in self.expected.items() if expectation.nonce == push.nonce]:
                del self.expected[name]

    def refused(self, progress: Progress, push: Push) -> None:
        """Additions wait for the bound of the push, in case it is put right soon; removals wait much longer."""
        self._has_read(progress, push)
        for lane, tick in (
            (progress.additions, push.additions_tick),
            (progress.late, push.late_tick),
            (progress.removals, push.removals_tick),
        ):
            if lane is not None and tick is not None and lane.pushed == tick:
                lane.removal_limit = push.sent + self._timing.refused
        for name in [name for name, one in self.expected.items() if push.nonce in {one.cluster, one.nonce}]:
            del self.expected[name]

    def _has_read(self, progress: Progress, push: Push) -> None:
        progress.follows = True
        self._read = max(self._read, push.number)

    def mended(self, progress: Progress) -> None:
        """What was refused of this type was taken back, and nothing waits: nobody waits for it."""
        for lane in (progress.additions, progress.late, progress.removals):
            if lane is not None:
                lane.acked = lane.pushed

    def _unrouted(self, wanted: int, cap: float, now: float) -> bool:
        """Whether routes that were wanted at this tick are not taken over yet."""
        held = False
        for url in types.ROUTES:
            if (routes := self._types.get(url)) is not None:
                held |= self._until(routes.additions.blocks(wanted, now), cap)
        return held

    def _windowed(self, progress: Progress, now: float) -> bool:
        if len(progress.in_flight) < self._window:
            return False
        limits = [push.limit for push in progress.in_flight if now < push.limit]
        if len(limits) < self._window:
            return False
        self.wake(min(limits))
        return True

    def _unwarmed(self, cap: float, now: float) -> bool:
        """Whether a cluster still waits for its load assignment."""
        for name, expectation in self.expected.items():
            # One that is gone does not come; its cluster goes too, but both may be back before the client knows.
            there = self._view is not None and self._view.get(types.LOAD_ASSIGNMENT, name) is not None
            if there and now < expectation.limit:
                return self._until(expectation.limit, cap)  # then the next one
        return False

    def _until(self, limit: float | None, cap: float = inf) -> bool:
        if limit is None:
            return False
        self.wake(min(limit, cap))
        return True

    def wake(self, at: float) -> None:
        """Something waits until then, whoever asked."""
        if at != inf and (self.deadline is None or at < self.deadline):
            self.deadline = at
