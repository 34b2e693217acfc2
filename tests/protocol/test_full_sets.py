"""What is remembered of the sets that were sent: some, whatever there is, and nothing that followed them."""

from __future__ import annotations

import gc
import weakref

from controlplane.resources import Resource
from controlplane.snapshot.listing import Listing
from controlplane.xds import full_sets
from controlplane.xds.full_sets import FullSets
from tests.protocol.dialogue import CDS

BODY = 1 << 20


def made(content: str, *, of: int = 20, body: int = 1) -> Listing:
    return Listing.of(
        (Resource(CDS, f"{number:02}", f"{content} {number} ".encode() * body) for number in range(of)), shared=True
    )


def test_what_is_remembered_is_bounded_by_its_bytes_and_the_latest_stay() -> None:
    sets = FullSets()
    every = [made(str(number), of=1, body=BODY // 4) for number in range(64)]
    for one in every:
        sets.sent(CDS, one, one)
    known = [sets.known(CDS, one.version) is not None for one in every]
    assert known == sorted(known)
    assert known[-1]
    assert 0 < sum(known) * every[0].size <= full_sets.REMEMBERED_BYTES < sum(one.size for one in every)


def test_of_what_changes_little_much_is_remembered() -> None:
    """All of these together, each counted in full, are more than the bound."""
    sets = FullSets()
    first = listing = made("first", of=100, body=1000)
    sets.sent(CDS, first, first)
    versions = []
    while len(versions) * first.size < 2 * full_sets.REMEMBERED_BYTES:
        change = Listing([Resource(CDS, "00", str(len(versions)).encode())])
        sets.sent(CDS, listing := listing.followed_by(change), change)
        versions.append(listing.version)
    assert all(sets.known(CDS, version) is not None for version in [first.version, *versions])


def test_a_set_that_comes_and_goes_keeps_nothing_that_followed_it() -> None:
    """Else one that is sent again and again would keep all that there ever was."""
    sets = FullSets()
    listing = made("first")
    followed = []
    for content in (b"on", b"off") * 8:
        change = Listing([Resource(CDS, "00", content)])
        sets.sent(CDS, listing := listing.followed_by(change), change)
        followed.append(weakref.ref(listing))
    del listing
    gc.collect()
    assert [one for one in followed if one() is not None] == []


def test_those_who_come_back_together_have_the_same_set() -> None:
    """What is made of it is made once for all of them."""
    sets = FullSets()
    sets.sent(CDS, one := made("first"), one)
    had = sets.known(CDS, one.version)
    assert had is not None
    assert had is sets.known(CDS, one.version)
    assert had.version == one.version
