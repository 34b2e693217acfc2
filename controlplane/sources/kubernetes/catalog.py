"""The services that are referred to, as one cluster knows them: kept per service, pushed per service.

Fed by the mirrors of services and EndpointSlices and by reads of single services. A service is pushed once both kinds
have been read for it, and then whenever it differs. An event of an object costs what its service costs, however many
others there are. What nobody refers to is dropped as soon as its name is known.

Versions keep readers apart that run beside each other: an object replaces only an older one, nothing older than the
last whole read of a service counts, and what was seen to go does not come back with a read that is older than that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping

import msgspec

from controlplane.errors import Diagnostic, Place, Severity
from controlplane.model.conduct import HOLD
from controlplane.model.endpoint import Health, Service
from controlplane.names import ServiceRef
from controlplane.sources.base import Sink
from controlplane.sources.kubernetes import objects
from controlplane.sources.kubernetes.known import Key, Known, Part, Read
from controlplane.sources.kubernetes.setback import Setback
from controlplane.sources.kubernetes.slices import (
    FAMILIES,
    Regions,
    Slice,
    converted,
    merged,
    service,
    with_former_names,
)
from controlplane.spec.codes import Code

MOVE_SECONDS = 0.1
"""An EndpointSlice that only loses endpoints in good health may be the first half of a move to another slice: so long
they stay, unless they come back. Pods that end in order say so first (`terminating`), and are not held."""

PUSH_SECONDS = 100e-6
"""For each endpoint of a service, the least time between two pushes of it: those of five thousand and more, which take some
tenths of a second to work out and to send, are half a second apart, and hold up nobody else while they flap (faults F39,
F41). The first change after quiet goes out at once."""
LONGEST_PUSH_SECONDS = 0.5


class Catalog:
    """All services of one cluster that somebody refers to."""

    def __init__(self, source: str, regions: Regions, setback: Setback | None = None) -> None:
        """Set `sink` before anything is fed."""
        self.sink: Sink
        self.setback = setback or Setback(HOLD.total_seconds())
        self.setback.over = self.confirm
        self.known: dict[Key, Known] = {}
        self._source = source
        self._regions = regions
        self._owners: dict[Key, Key] = {}  # of an EndpointSlice: the one service that has it
        self._left: dict[Key, int] = {}  # slices that went since something is to be read, and at which version
        self._dirty: dict[Key, None] = {}
        self._pending: dict[Key, None] = {}
        self._unsaid: set[Key] = set()
        self._named: set[Key] = set()  # with slices of names, which was said

    def want(self, keys: Iterable[Key]) -> None:
        """Refer to these, too."""
        for key in keys:
            if key not in self.known:
                self.known[key] = Known()
                self._pending[key] = None
                self._unsaid.add(key)

    def forget(self, keys: Iterable[Key]) -> None:
        """Refer to these no longer."""
        for key in keys:
            if (known := self.known.pop(key, None)) is not None:
                self._pending.pop(key, None)
                self._unsaid.discard(key)
                self.setback.forget(key)
                self.setback.pushed(key)
                for name in known.slices:
                    self._owners.pop((key[0], name), None)
                self._say_named(key, ())

    def confirm(self, keys: Collection[Key]) -> None:
        """Push these again as sure, once they have been read anew."""
        for key in keys:
            if (known := self.known.get(key)) is not None:
                known.confirming = set(Part)
                self._pending[key] = None

    def pending(self) -> list[Key]:
        """Services that are to be read, for the first or for a second time."""
        return list(self._pending)

    def covered(self, namespace: str | None) -> dict[Key, bool]:
        """The services that a list which begins now speaks of, and whether it is the second read that was asked for."""
        return {key: self.is_confirming(key) for key in self.known if namespace in (None, key[0])}

    def is_confirming(self, key: Key) -> bool:
        """Whether a second read of this service was asked for."""
        known = self.known.get(key)
        return known is not None and known.confirming is not None

    @property
    def caught_up(self) -> bool:
        """Whether everything that is referred to has been pushed, or stays as it was."""
        return not self._unsaid

    # -- whole reads ---------------------------------------------------------------------------------------------

    def read_service(self, key: Key, declared: objects.Service | None, read: Read) -> None:
        """The service as a list says it; None: there is none."""
        if (known := self.known.get(key)) is None:
            return
        if read.rewound or read.version >= _newest(known, known.declared):
            known.doubtful |= known.declared is not None and declared is None
            known.declared = declared
        if read.rewound and declared is None:
            self.setback.lacks(key)
        self._was_read(key, known, Part.SERVICE, read)

    def read_slices(self, key: Key, found: Mapping[str, objects.EndpointSlice], read: Read) -> None:
        """All slices of a service as a list says them."""
        if (known := self.known.get(key)) is None:
            return
        if known.is_newer(Part.SLICES, read):
            self._was_read(key, known, Part.SLICES, read)
            return
        if read.rewound:
            self._left.clear()
        before = known.slices
        known.slices = {name: one for name, one in before.items() if one.version > read.version and not read.rewound}
        for name, one in found.items():
            if name in known.slices or self._left.get((key[0], name), -1) > read.version:
                continue
            if self._take(key, name, one.metadata.version, rewound=read.rewound):
                known.slices[name] = converted(one, self._regions)
        for name in before.keys() - known.slices.keys():
            del self._owners[key[0], name]
        known.doubtful |= bool(_addresses(before) - _addresses(known.slices))
        if read.rewound and not _addresses(known.slices):
            self.setback.lacks(key)
        self._was_read(key, known, Part.SLICES, read)

    def _take(self, key: Key, name: str, version: int, *, rewound: bool) -> bool:
        """Make a service the owner of a slice; whether it is: another one that has it may have a newer one."""
        before = self._owners.get((key[0], name))
        if before is not None and before != key:  # its label has changed
            theirs = self.known[before].slices
            if theirs[name].version > version and not rewound:
                return False
            del theirs[name]
            self._dirty[before] = None
        self._owners[key[0], name] = key
        return True

    def _was_read(self, key: Key, known: Known, part: Part, read: Read) -> None:
        known.unread.discard(part)
        if not known.unread and known.confirming is None:
            self._pending.pop(key, None)
        if not known.is_newer(part, read):
            known.floors[part] = read.version
            if known.confirming is not None and read.confirms:
                known.confirming.discard(part)
        self._dirty[key] = None

    # -- events --------------------------------------------------------------------------------------------------

    def put_service(self, declared: objects.Service) -> None:
        """A service as it is now."""
        self._service_event(declared.metadata, declared)

    def delete_service(self, declared: objects.Service) -> None:
        """A service as it was when it was deleted."""
        self._service_event(declared.metadata, None)

    def _service_event(self, metadata: objects.Metadata, now: objects.Service | None) -> None:
        key = (metadata.namespace, metadata.name)
        known = self.known.get(key)
        if known is not None and metadata.version > _newest(known, known.declared):
            known.declared = now
            if now is None:
                known.floors[Part.SERVICE] = metadata.version
            self._dirty[key] = None

    def put_slice(self, one: objects.EndpointSlice) -> None:
        """A slice as it is now."""
        namespace, name = one.metadata.namespace, one.metadata.name
        key = (namespace, owner(one))
        before = self._owners.get((namespace, name))
        if before is not None and before != key:  # its label has changed
            self._drop_slice(before, name, one.metadata.version)
            if (namespace, name) in self._owners:
                return  # and has changed back since
        known = self.known.get(key)
        if known is None:
            self._note_left(one.metadata)
            return
        old = known.slices.get(name)
        if one.metadata.version <= max(known.floors[Part.SLICES], old.version if old else -1):
            return
        known.slices[name] = converted(one, self._regions)
        self._owners[namespace, name] = key
        self._dirty[key] = None

    def delete_slice(self, one: objects.EndpointSlice) -> None:
        """A slice as it was when it was deleted."""
        self._note_left(one.metadata)
        key = self._owners.get((one.metadata.namespace, one.metadata.name))
        if key is not None:
            self._drop_slice(key, one.metadata.name, one.metadata.version)

    def _note_left(self, metadata: objects.Metadata) -> None:
        """A slice is gone, or of a service that nobody refers to: a read that is on its way may not know yet."""
        if self._pending:
            self._left[metadata.namespace, metadata.name] = metadata.version
        else:
            self._left.clear()

    def _drop_slice(self, key: Key, name: str, version: int) -> None:
        known = self.known[key]
        if version > max(known.floors[Part.SLICES], known.slices[name].version):
            del known.slices[name]
            del self._owners[key[0], name]
            if Part.SLICES not in known.unread:
                known.floors[Part.SLICES] = version  # a watch tells in order: what is known is whole as of now
            self._dirty[key] = None

    # -- what is pushed ------------------------------------------------------------------------------------------

    def flush(self, event_time: float) -> bool:
        """Push what has changed, unless it was pushed a moment ago; whether anything was."""
        if not self._dirty:
            return False
        dirty, self._dirty = self._dirty, {}
        pushed, now = False, time.monotonic()
        for key in dirty:
            if (known := self.known.get(key)) is None or self._put_off(key, known, event_time, now):
                continue
            if self._push(key, known):
                pushed = True
                many = len(known.said.endpoints) if isinstance(known.said, Service) else 0
                known.not_before = now + min(PUSH_SECONDS * many, LONGEST_PUSH_SECONDS)
        if pushed:
            self.sink.flush(event_time)
        return pushed

    def _put_off(self, key: Key, known: Known, event_time: float, now: float) -> bool:
        """Whether it is too early for another push of this service, which then comes when it is time."""
        if now >= known.not_before:
            return False
        if known.waits is None:
            known.waits = event_time
            asyncio.get_running_loop().call_later(known.not_before - now, self._due, key, known)
        return True

    def _due(self, key: Key, known: Known) -> None:
        """It is time for what was put off."""
        event_time, known.waits, known.not_before = known.waits, None, 0.0
        if self.known.get(key) is known and event_time is not None:
            self._dirty[key] = None
            self.flush(event_time)

    def _push(self, key: Key, known: Known) -> bool:
        if known.unread:
            return False
        confirmed = known.confirming is not None and not known.confirming
        if confirmed:
            known.doubtful, known.confirming = False, None
            self._pending.pop(key, None)
        ref = ServiceRef(self._source, *key)
        self._say_named(key, known.slices.values())
        sure = confirmed or not (known.doubtful or known.said == "nothing")
        now: Service | None = None
        if known.declared is not None:
            now = service(known.declared, known.slices.values())
            if isinstance(before := self.setback.before(key) or known.said, Service):
                now = with_former_names(now, before)
        if self.setback.keeps(key, known.said, now):
            self._unsaid.discard(key)
            return False
        if now is not None and not confirmed:
            now = self._still_leaving(key, known, now)
        if now == known.said and not confirmed:
            return False
        known.said = now
        self.setback.pushed(key)
        self._unsaid.discard(key)
        if now is None:
            known.leaving.clear()
            self.sink.remove_service(ref, sure=sure)
        else:
            self.sink.put_service(ref, now, sure=sure)
        return True

    def _say_named(self, key: Key, slices: Iterable[Slice]) -> None:
        """Slices of names (`addressType: FQDN`) give no endpoints: whoever wrote them must be told."""
        named = any(one.family not in FAMILIES for one in slices)
        if named == (key in self._named):
            return
        (self._named.add if named else self._named.discard)(key)
        message = f'service "{key[0]}/{key[1]}" has EndpointSlices of names (addressType: FQDN), which are no endpoints'
        help = "use a Service of type ExternalName, or a dns member"
        place = Place(f"{self._source}:{key[0]}/{key[1]}")
        said = Diagnostic(Code.UNUSABLE_INSTANCE, message, help=help, severity=Severity.WARNING, place=place)
        self.sink.problems(self._source, f"service {key[0]}/{key[1]}", (said,) if named else ())

    def _still_leaving(self, key: Key, known: Known, now: Service) -> Service:
        """The service with the endpoints that may only be on the move, be it to a slice with another name of a port."""
        if not isinstance(known.said, Service) or known.said.external_name or now.external_name:
            return now
        moment = time.monotonic()
        other_family = _family(now) not in {_family(known.said), None}
        names = {port.name for port in now.ports}
        unusable = {ports for ports in {one.ports for one in now.endpoints} if not _has_any(ports, names)}
        here = {one.address for one in now.endpoints if not unusable or one.ports not in unusable}
        gone = [
            one
            for one in known.said.endpoints
            if one.address not in here
            and one.address not in known.leaving
            and one.health < Health.DRAINING
            and _has_any(one.ports, names)
        ]
        added = here - {one.address for one in known.said.endpoints}
        known.leaving = {
            address: (one, until)
            for address, (one, until) in known.leaving.items()
            if address not in here and until > moment
        }
        if gone and (other_family or not added):
            known.leaving |= {one.address: (one, moment + MOVE_SECONDS) for one in gone}
            asyncio.get_running_loop().call_later(MOVE_SECONDS + 0.005, self._settle, key)
        if not known.leaving:
            return now
        stay = [one for one, _ in known.leaving.values()]
        return msgspec.structs.replace(now, endpoints=merged(stay if other_family else (*now.endpoints, *stay)))

    def _settle(self, key: Key) -> None:
        """Endpoints that were to come back by now have not."""
        if key in self.known:
            self._dirty[key] = None
            self.flush(time.monotonic())


def owner(one: objects.EndpointSlice) -> str:
    """The name of the service that a slice is a part of; "" for none."""
    return (one.metadata.labels or {}).get(objects.SERVICE_LABEL, "")


def _has_any(ports: Iterable[tuple[str, int]], names: Collection[str]) -> bool:
    """Whether an endpoint has one of the ports that its service declares; of one that declares none, any will do."""
    return not names or any(name in names for name, _ in ports)


def _family(one: Service) -> str | None:
    """The address family of its endpoints, which is one; None without any."""
    return next((FAMILIES[":" in endpoint.address] for endpoint in one.endpoints), None)


def _newest(known: Known, declared: objects.Service | None) -> int:
    return max(known.floors[Part.SERVICE], declared.metadata.version if declared else -1)


def _addresses(slices: Mapping[str, Slice]) -> set[str]:
    return {endpoint.address for one in slices.values() for endpoint in one.endpoints}
