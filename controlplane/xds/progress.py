"""Where one stream stands with one type: what it lacks, what is under way, what it has acknowledged.

A stream that is in sync needs no entry for a name: it holds the version of its view, except for the names in
`changed` and `gone`. Its lanes say for how long the others wait for this type. Time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from sys import maxsize
from typing import NamedTuple

from controlplane.snapshot.listing import Listing
from controlplane.snapshot.substitution import NO_SUBSTITUTES, Substitutes
from controlplane.xds.heartbeats import Heartbeats
from controlplane.xds.lanes import Lane
from controlplane.xds.nameset import NOTHING, shared
from controlplane.xds.observer import Refusal, State, TypeStatus
from controlplane.xds.subscription import Subscription
from controlplane.xds.types import ResourceType

UNKNOWN = "?"
"""The version of what a client may hold or not: no resource has it."""


@dataclass(slots=True)
class Push:
    """A response under way, the `number`th of its stream. A tick is set when it carried all that waited in that lane.

    `held` are the versions of what changed that the client held before ("" for none); of what answers a request it may
    hold anything. `before` is, in the state of the world, the set that `listing` was made from.
    """

    number: int
    version: str
    listing: Listing
    before: Listing | None
    held: dict[str, str]
    cursor: int
    sent: float
    limit: float
    additions_tick: int | None = None
    late_tick: int | None = None
    removals_tick: int | None = None
    complete: bool = False
    hold: float = 0.0
    heartbeat: bool = False

    @property
    def nonce(self) -> str:
        """What the client says of which response it speaks."""
        return f"{self.number:x}"

    def after(self, over: Sequence[Push]) -> None:
        """A full set: what those before it brought is in it too, and is taken over, or refused, with it."""
        resources = {one.name: one for push in (*over, self) for one in push.listing.resources}
        self.listing = Listing.of(resources.values(), self.listing.absent)
        self.before = over[0].before
        for push in reversed(over):  # what it held before the first of them counts
            self.held |= {one.name: push.held.get(one.name, UNKNOWN) for one in push.listing.resources}


class Refused(NamedTuple):
    """Content of a refused response, by the nonce of the last one that held it; `held` is what the client had before."""

    nonce: str
    version: str
    held: str


class Progress:
    """One type on one stream."""

    __slots__ = (
        "acked_nonce", "acked_version", "additions", "again", "asked", "beats", "changed", "complaints", "finish", "follows", "gone", "grace", "in_flight",
        "initial", "keeps", "kind", "large", "late", "left", "postponed", "refusal", "refused_new", "removals", "replaced", "resumed", "returning", "sent",
        "sent_nonce", "sent_version", "settled", "since", "spared_until", "stuck", "subscription", "trials", "unnamed", "unsure", "whole",
    )  # fmt: skip

    def __init__(self, kind: ResourceType, now: float) -> None:
        self.kind = kind
        self.subscription = Subscription(kind)
        self.changed: dict[str, str] = {}  # name to the version the client holds: content differs from the view's
        self.postponed: frozenset[str] = NOTHING  # those in `changed` that are late
        self.gone: dict[str, str] = {}  # name to the version the client holds: the view has it no more
        self.asked = NOTHING  # to be answered at once, whatever the client holds
        self.whole = False  # everything is to be answered
        self.finish = False  # one answer is due, even an empty one
        self.initial: Sequence[bytes] = ()  # versions of a resume that no view was there to compare with
        self.resumed = False  # the client came back with versions
        self.grace = 0.0  # until then other types may not have been asked for by a client that came back
        self.keeps = 0.0  # until then it keeps what is gone
        self.beats: Heartbeats | None = None  # of resources with a TTL, which most streams never see
        self.large = False  # a response was too large for some clients, which was told
        self.additions = Lane()
        self.late: Lane | None = None  # additions and changes of late resources, which few types have
        self.removals = Lane()
        self.in_flight: list[Push] = []
        self.sent: Listing | None = None  # state of the world, full-state types: the last response
        self.left: Listing | None = None  # clusters of whole sets that were refused, of which it did not complain
        self.replaced: Substitutes = NO_SUBSTITUTES  # what the client is shown instead of what is there
        self.unsure = NOTHING  # of these: what others refused, so that the client may have it all the same
        self.again: dict[str, Refused] = {}  # by name: what was refused, perhaps for others, and is sent again
        self.complaints: dict[str, Refusal] = {}  # of what it refused and is therefore spared, by name
        self.spared_until = 0.0  # while it is: what earlier content needs is not removed
        self.follows = False  # whether it ever said how it took some, or came back with some: else silence says nothing
        self.returning = False  # state of the world, full-state types: it may have what we know nothing of
        self.stuck = False  # what it refused is not told apart from what it has: nothing is sent until the type changes
        self.trials: list[frozenset[str]] = []  # of a refused response: names to be sent again, a group at a time
        self.unnamed = 0  # responses in a row that were refused without a name in the message
        self.refusal: Refusal | None = None
        self.refused_new: frozenset[str] = frozenset()  # names of that response which the client did not hold before
        self.settled = 0
        self.since = now
        self.sent_nonce = ""
        self.sent_version = ""
        self.acked_nonce = ""
        self.acked_version = ""

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is under way, nothing was refused."""
        return not (
            self.changed
            or self.gone
            or self.asked
            or self.whole
            or self.finish
            or self.in_flight
            or self.trials
            or self.refusal
        )

    @property
    def content(self) -> bool:
        """Whether it complains of nothing, and nothing is on its way to it."""
        return self.accepting and not self.gone

    @property
    def accepting(self) -> bool:
        """The same, but for what goes."""
        waits = self.changed or self.asked or self.whole or self.in_flight or self.trials
        return not (self.complaints or self.stuck or waits)

    @property
    def static(self) -> bool:
        """Whether a whole set would delete what the client has from before, and must therefore wait."""
        return self.returning and (self.stuck or any(self.replaced.get(name) is None for name in self.complaints))

    @property
    def timely(self) -> bool:
        """Whether something waits, beside what is late."""
        return self.whole or len(self.changed) > len(self.postponed)

    @property
    def in_step(self) -> bool:
        """Whether the client wants all there is, and has it; nor can any of it be late."""
        lacks = self.changed or self.gone or self.whole or self.refused_new
        return self.kind.full_state and self.subscription.everything and not lacks

    def waiting(self, most: int = maxsize) -> frozenset[str]:
        """Names in `changed` that are not late."""
        if self.postponed:
            return frozenset(self.changed) - self.postponed
        return frozenset(self.changed if len(self.changed) <= most else islice(self.changed, most))

    def lacks(self, name: str, held: str, tick: int) -> None:
        """Note that the client holds this version of a name, and is to be sent another."""
        if self.gone.pop(name, None) is not None:
            self.additions.follow(self.removals, tick)
        self.changed[name] = held
        self.additions.again(name, tick)

    def loses(self, name: str, held: str, tick: int) -> None:
        """Note that the client holds this version of a name, and is to be told that it is gone."""
        if self.changed.pop(name, None) is not None:
            self.removals.follow(self.additions, tick)
        self.gone[name] = held
        self.removals.again(name, tick)

    def postpone(self, name: str) -> Lane:
        """This name, in `changed`, is late: the lane that it waits in."""
        self.postponed |= {name}
        if self.late is None:
            self.late = Lane()
        return self.late

    def postpone_waits(self, seconds: float) -> None:
        """The waits for this type end later."""
        for lane in (self.additions, self.late, self.removals):
            if lane is not None:
                lane.postpone(seconds)
        for push in self.in_flight:
            push.limit += seconds

    def ask(self, names: frozenset[str]) -> None:
        """These are to be answered, whatever the client holds."""
        self.asked = self.asked | names if self.asked else shared(names)
        for name in names.intersection(self.gone) if self.gone else ():
            self.gone[name] = UNKNOWN  # who asks may have dropped it

    def show(self, replaced: Substitutes) -> None:
        """What the client is shown from now on instead of what is there; what it refused itself is among its complaints."""
        new = replaced.keys() - self.replaced.keys() - self.changed.keys() - self.complaints.keys()
        self.unsure = self.unsure.intersection(replaced).union(new)
        self.replaced = replaced
        self.complaints = {name: one for name, one in self.complaints.items() if name in replaced}

    @property
    def doubtful(self) -> frozenset[str]:
        """Names that are held back, but perhaps not from this client: it may have what was there, or something earlier."""
        return self.unsure.union(name for name, good in self.replaced.items() if good is None)

    @property
    def noted(self) -> frozenset[str]:
        """All names of which something is to be sent, or repeated."""
        return self.asked.union(self.changed, self.gone, self.beats.names if self.beats is not None else ())

    def forget(self, names: frozenset[str]) -> None:
        """The client does not want these any more, or not by this name: nothing is said of those it does not cover."""
        dropped = frozenset(name for name in names if not self.subscription.covers(name))
        self.asked -= dropped
        for name in dropped & self.changed.keys():
            del self.changed[name]
        for name in dropped & self.gone.keys():
            del self.gone[name]
        if self.beats is not None:
            self.beats.end(dropped)
        self.relax()

    def sent_now(self, listing: Listing) -> None:
        """The client is sent this: nothing of it is to be noted any more."""
        if self.changed:
            for one in listing.resources:
                self.changed.pop(one.name, None)
        if self.gone:
            for name in (*listing.absent, *(one.name for one in listing.resources)):
                self.gone.pop(name, None)
            if not self.gone:
                self.removals.nothing()
        if not self.changed:
            self.changed = {}  # one that was large keeps its memory
        if self.postponed:
            self.postponed = self.postponed.intersection(self.changed)

    def relax(self) -> None:
        """Nobody waits for a lane in which nothing is left."""
        if self.postponed:
            self.postponed = self.postponed.intersection(self.changed)
        if self.late is not None and not self.postponed:
            self.late.nothing()
        if not self.whole and len(self.changed) == len(self.postponed):
            self.additions.nothing()
        if not self.gone:
            self.removals.nothing()

    def status(self, bound: float, unanswered: float | None, *, returned: bool) -> TypeStatus:
        """Where the stream stands with this type, for people.

        `unanswered`: when the oldest response of the stream went out that lacks its ACK; what waits, waits for that. Where
        there is none, it waits since it was wanted: `bound` seconds before the cap of its lane. `returned`: the client came
        back with everything, and was sent nothing.
        """
        since = self.since
        unacked = self.in_flight[0].sent if self.in_flight else unanswered
        nack = self.refusal or next(reversed(self.complaints.values()), None)
        if nack is not None:
            state = State.NACK
        elif not self.sent_version and not returned:
            state = State.NOT_SENT
        elif self.changed or self.gone or not all(push.heartbeat for push in self.in_flight):
            state = State.PENDING
            if unacked is not None:
                since = unacked
            elif (cap := min(lane.cap for lane in (self.additions, self.late, self.removals) if lane)) < inf:
                since = cap - bound
        else:
            state = State.SYNCED
        return TypeStatus(
            type_url=self.kind.url,
            state=state,
            since=nack.at if nack is not None else since,
            unacked=unacked,
            wildcard=self.subscription.wildcard,
            names=len(self.subscription.names),
            sent_nonce=self.sent_nonce,
            sent_version=self.sent_version,
            acked_nonce=self.acked_nonce,
            acked_version=self.acked_version,
            settled=self.settled,
            nack=nack,
            held={
                name: good.version if good is not None else None
                for name, good in self.replaced.items()
                if self.subscription.covers(name)
            },
        )
