"""Whose path it is, where teams want the same requests of a host: the older claim keeps them. (ADR 9)

A path of another namespace is refused where it would take requests from an older one: because it says the same, because
it is more specific, or because its host is. The gateway has granted more than fits; nobody loses what he serves by that.
Two things decide otherwise: the gateway's own routes have their paths before everybody, and give up what they granted;
and who was granted less than the other, within what the other was granted, was meant to have that part.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from controlplane.compile import codes
from controlplane.compile.chains import names_host
from controlplane.compile.grants import Grant, within
from controlplane.compile.placement import covering_patterns, covers
from controlplane.compile.rows import CompiledRoute, Entry, HostKey, Issue, MatchKey, SaidPath, Scope, ShardKey
from controlplane.filters.shard_lua.compile import FALLBACK
from controlplane.graph.engine import Index, Read
from controlplane.model import regex
from controlplane.names import ElementKey, GatewayName
from controlplane.spec.match import PathMatch

if TYPE_CHECKING:
    from controlplane.compile.pipeline import Tables

_WILD = (1, 2)
"""The kinds of `Order` that are tried before prefixes, whatever these are: templates and regexes."""

Refusals = Index[ShardKey, frozenset[MatchKey], Scope]


class Wanted(NamedTuple):
    """A path of a host that a match of another namespace wants, sorted by age."""

    claim: str
    route: ElementKey
    number: int
    host: str
    path: SaidPath
    rank: tuple[int, int]
    """Its place among paths: smaller is tried before."""
    lost_to: ElementKey | None = None
    """The route of the gateway that has this very path."""

    @property
    def match(self) -> MatchKey:
        """What it belongs to."""
        return self.route, self.number, self.host

    def by_age(self) -> tuple[object, ...]:
        """What it is sorted by: whether it was lost in one shard of several decides nothing, and cannot be compared."""
        return self[:-1]

    @property
    def namespace(self) -> str:
        """Who wants it."""
        return self.route.object.namespace


def is_foreign(route: ElementKey, gateway: GatewayName) -> bool:
    """Whether a route is of another namespace than its gateway."""
    return route.object.namespace != gateway.partition("/")[0]


def shards_of_team(key: ElementKey, route: CompiledRoute) -> Iterator[ShardKey]:
    """Every shard that an entry of a route of another namespace stands in."""
    if is_foreign(key, route.gateway):
        for place in route.placements:
            if place.serves:
                for entry in route.entries:
                    yield ShardKey(route.gateway, place.group, place.host, entry.segment or FALLBACK)


def team_paths(
    read: Read, tables: Tables, key: ShardKey, members: tuple[tuple[ElementKey, CompiledRoute], ...]
) -> Iterator[tuple[ShardKey, tuple[Wanted, ...]]]:
    """What other namespaces want in a shard: without the rest of their routes, which changes more often."""
    own: dict[tuple[SaidPath, str], ElementKey] = {}
    for route_key, route in read.find(tables.routes_by_shard, key):
        if not is_foreign(route_key, key.gateway):
            for entry, declared in _placed(key, route):
                own.setdefault((entry.signature.path, declared), route_key)
    wanted = set()
    for _, route in members:
        for entry, declared in _placed(key, route):
            order, path = entry.order, entry.signature.path
            rank, lost_to = (order.kind, order.specificity), own.get((path, declared))
            wanted.add(Wanted(order.claim, order.route, order.number, declared, path, rank, lost_to))
    yield key, tuple(sorted(wanted))


def _placed(key: ShardKey, route: CompiledRoute) -> Iterator[tuple[Entry, str]]:
    """The entries of a route that stand in a shard, each with the host that it was declared for."""
    for place in route.placements:
        if place.serves and (place.group, place.host) == (key.group, key.host):
            for entry in route.entries:
                if (entry.segment or FALLBACK) == key.segment:
                    yield entry, place.declared


def is_held(read: Read, tables: Tables, scope: Scope, key: HostKey) -> bool:
    """Whether a team that was granted a host as a whole finds older paths of other teams there, by a wider declaration.

    It takes them not by declaring the host: that stays open, and the team has the paths that it says.
    """
    assert key.team
    age, document = key.team
    older = [
        one
        for one in _wanted(read, tables, scope, covering_patterns(scope[2]))
        if one.host != key.declared
        and covers(one.host, key.declared)
        and one.namespace != document.namespace
        and (one.claim, one.route.object) < (age, document)
    ]
    if not older:
        return False
    whole = [*_granted(read.get(tables.grants, (scope[0], document.namespace)), key.declared, _EVERYTHING)]
    return not all(_meant(read, tables, scope[0], whole, one) for one in older)


def _wanted(read: Read, tables: Tables, scope: Scope, hosts: Iterable[str]) -> Iterator[Wanted]:
    """What teams want under these hosts of a group, in all segments."""
    gateway, group, _ = scope
    for host in hosts:
        for _, found in read.find(tables.team_paths_by_scope, (gateway, group, host)):
            yield from (one for one in found if one.lost_to is None)


def refused_floating(
    read: Read, tables: Tables, key: ShardKey, wanted: tuple[Wanted, ...]
) -> Iterator[tuple[ShardKey, frozenset[MatchKey]]]:
    """The matches without a literal first segment that are refused on a host: any segment may be in their way."""
    if key.segment != FALLBACK:
        return
    scope = (key.gateway, key.group, key.host)
    first, *wider = _own_hosts(read, tables, key)
    # Of one declaration only templates and regexes are tried before the paths of a segment.
    if names_host(read, tables, scope) or any(one.rank[0] in _WILD for one in wanted):
        wider.append(first)
    rivals = {*wanted, *_wanted(read, tables, scope, wider)}
    claim = read.get(tables.claims, scope)
    if claim is not None and claim.open:
        # Older paths of others hold the host open: what has no shard of its own has no place there.
        wanted = tuple(one._replace(lost_to=one.lost_to or _oldest_of_others(one, rivals)) for one in wanted)
        rivals = set(wanted)
    yield from _settle(read, tables, key, wanted, rivals)


def _oldest_of_others(one: Wanted, rivals: Iterable[Wanted]) -> ElementKey | None:
    others = [other for other in rivals if other.namespace != one.namespace and other.host != one.host]
    return min(others, key=Wanted.by_age).route if others else None


def refused_in_segment(
    read: Read, tables: Tables, key: ShardKey, wanted: tuple[Wanted, ...]
) -> Iterator[tuple[ShardKey, frozenset[MatchKey]]]:
    """The matches of a segment that are refused there."""
    if key.segment == FALLBACK:
        return
    rivals = set(wanted)
    for host in _own_hosts(read, tables, key):
        there, floating = key._replace(host=host), key._replace(host=host, segment=FALLBACK)
        lost = read.get(tables.refused_floating, floating) or frozenset()
        for place in (there, floating):
            found = read.get(tables.team_paths, place)
            rivals.update(one for one in found or () if one.match not in lost)
    yield from _settle(read, tables, key, wanted, rivals)


def _own_hosts(read: Read, tables: Tables, key: ShardKey) -> Iterator[str]:
    """The host of a shard and the wildcards that cover it, of those that the gateway has."""
    for host in covering_patterns(key.host):
        claim = read.get(tables.claims, (key.gateway, key.group, host))
        if host == key.host or (claim is not None and claim.owner == key.gateway):
            yield host


def refused(read: Read, tables: Tables, key: ShardKey) -> frozenset[MatchKey]:
    """The matches of a shard that are refused."""
    table = tables.refused_floating if key.segment == FALLBACK else tables.refused_in_segment
    return read.get(table, key) or frozenset()


def refused_of_host(read: Read, indexes: Iterable[Refusals], scope: Scope) -> set[MatchKey]:
    """The matches of a host that are refused in one of its shards."""
    return {match for index in indexes for _, found in read.find(index, scope) for match in found}


def _settle(
    read: Read, tables: Tables, key: ShardKey, wanted: tuple[Wanted, ...], rivals: set[Wanted]
) -> Iterator[tuple[ShardKey, frozenset[MatchKey]]]:
    """From the oldest to the youngest: each has its path unless that takes from one that has its own."""

    def may(one: Wanted, other: Wanted) -> bool:
        """Whether the younger was granted a part of what the older was granted, on purpose: but not the very same path."""
        if (one.host, one.path) == (other.host, other.path):
            return False
        grant = read.get(tables.grants, (key.gateway, one.namespace))
        return _meant(read, tables, key.gateway, _granted(grant, one.host, _path(one)), other)

    have: Paths[Wanted] = Paths()
    lost: dict[Wanted, ElementKey] = {}
    for one in sorted(rivals, key=Wanted.by_age):
        owner = one.lost_to
        if owner is None:
            found = (other for other in have.near(one.path) if _loses(one, other) and not may(one, other))
            owner = next((other.route for other in found), None)
        if owner is None:
            have.add(one.path, one)
        else:
            lost[one] = owner
    mine = {one: lost[one] for one in wanted if one in lost}
    for one, route in mine.items():
        message = f'this path under host "{key.host}" belongs to route "{route.element}" of {route.object}'
        help = "choose another path, or agree with its owner; when that route goes, this one is served"
        read.note(Issue(one.route, f"match[{one.number}].path", codes.CONFLICT, message, help))
    if mine:
        yield key, frozenset(one.match for one in mine)


def _loses(one: Wanted, other: Wanted) -> bool:
    """Whether the younger would take requests from the older: more specific by host or by path, or equal."""
    return (
        one.namespace != other.namespace
        and covers(other.host, one.host)
        and (one.host != other.host or one.rank <= other.rank)
        and may_meet(one.path, other.path)
    )


def _meant(read: Read, tables: Tables, gateway: GatewayName, mine: Iterable[tuple[str, str]], other: Wanted) -> bool:
    """Whether one of these grants is for a part of whatever the other has its path by."""
    theirs = [*_granted(read.get(tables.grants, (gateway, other.namespace)), other.host, _path(other))]
    return any(all(_narrower(this, that) for that in theirs) for this in mine)


_EVERYTHING = PathMatch(prefix="/")


def _path(wanted: Wanted) -> PathMatch:
    return _path_match(*wanted.path)


def _path_match(kind: str, text: str) -> PathMatch:
    said: dict[str, Any] = {kind: text}
    return PathMatch.model_construct(**said)  # it was validated when it was read: a large regex takes milliseconds


def _granted(grant: Grant | None, host: str, path: PathMatch) -> Iterator[tuple[str, str]]:
    """Every host pattern and path prefix by which a path of a host was granted."""
    for delegate in grant.delegates if grant is not None else ():
        for pattern in delegate.hosts:
            if covers(pattern, host):
                yield from ((pattern, prefix) for prefix in delegate.path_prefixes if within(prefix, path))


def _narrower(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return one != other and covers(other[0], one[0]) and within(other[1], PathMatch(prefix=one[1]))


T = TypeVar("T")


class Paths(Generic[T]):
    """Things that are said of paths, to be found by what lies near them."""

    def __init__(self) -> None:
        self._literal: dict[str, list[T]] = {}
        self._sorted: list[str] = []
        self._wild: list[T] = []

    def add(self, path: SaidPath, one: T) -> None:
        """One more."""
        shape = _shape(path)
        if shape.literal is None:
            self._wild.append(one)
        else:
            if shape.literal not in self._literal:
                insort(self._sorted, shape.literal)
            self._literal.setdefault(shape.literal, []).append(one)

    def near(self, path: SaidPath) -> Iterator[T]:
        """All whose paths may overlap with this one."""
        yield from self._wild
        text = _shape(path).literal
        if text is None:
            for found in self._literal.values():
                yield from found
            return
        for end in range(1, len(text)):
            if text[end - 1] == "/" or text[end] == "/":
                yield from self._literal.get(text[:end], ())
        for at in range(bisect_left(self._sorted, text), len(self._sorted)):
            if not self._sorted[at].startswith(text):
                break
            yield from self._literal[self._sorted[at]]


class Follows(Enum):
    """What stands behind the segments."""

    NOTHING = 0
    MAYBE_MORE = 1
    MORE = 2


class Shape(msgspec.Struct, frozen=True):
    """What is known of the paths that a match takes: their first segments (None: any), and what may follow."""

    segments: tuple[str | None, ...]
    follows: Follows
    stem: str = ""
    """How the segment that follows begins."""
    literal: str | None = None
    """The text of an exact path or of a prefix."""


def may_meet(one: SaidPath, other: SaidPath) -> bool:
    """Whether some path may be taken by both."""
    return overlap(_shape(one), _shape(other))


@lru_cache(maxsize=16_384)
def _shape(path: SaidPath) -> Shape:
    return shape(_path_match(*path))


def shape(path: PathMatch) -> Shape:
    """The shape of what a match takes. Of a regex only its literal beginning is known."""
    if path.regex is not None:
        literal, whole = regex.literal(path.regex)
        if whole and literal:
            return Shape(_segments(literal), Follows.NOTHING)
        begin, _, stem = literal.rpartition("/")
        return Shape(_segments(begin) if begin else (), Follows.MORE, stem)
    if path.template is not None:
        parts = [None if part.startswith(("*", "{")) else part for part in path.template[1:].split("/")]
        if "**" in path.template:
            deep = next(at for at, part in enumerate(path.template[1:].split("/")) if "**" in part)
            return Shape(tuple(parts[:deep]), Follows.MORE)
        return Shape(tuple(parts), Follows.NOTHING)
    if path.exact is not None:
        return Shape(_segments(path.exact), Follows.NOTHING, literal=path.exact)
    text = path.prefix or "/"
    if text.endswith("/"):
        return Shape(_segments(text)[:-1], Follows.MORE, literal=text)
    return Shape(_segments(text), Follows.MAYBE_MORE, literal=text)


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path[1:].split("/"))


def overlap(one: Shape, other: Shape) -> bool:
    """Whether some path may be taken by both."""
    if any(None not in pair and pair[0] != pair[1] for pair in zip(one.segments, other.segments, strict=False)):
        return False
    short, long = sorted((one, other), key=lambda shape: len(shape.segments))
    if len(short.segments) == len(long.segments):
        if Follows.NOTHING in (one.follows, other.follows):
            return Follows.MORE not in (one.follows, other.follows)
        return one.stem.startswith(other.stem) or other.stem.startswith(one.stem)
    following = long.segments[len(short.segments)]
    return short.follows is not Follows.NOTHING and (following is None or following.startswith(short.stem))
