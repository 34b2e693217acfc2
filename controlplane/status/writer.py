"""Writes the status of the custom resources of one cluster: what changed, gathered, bounded in rate, and never twice.

By server-side apply of the status alone, so that nothing of anybody else is touched. What is in the cluster is compared
first: nothing is written when nothing changed, also after a restart, and what somebody else made of it is put right. The
source ignores statuses: a write starts nothing anew. Every write names the version of the object that it is about: one that
comes late, from a process that stood still meanwhile, is refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog

from controlplane.names import ObjectRef
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.client import Client, Refused, Trouble
from controlplane.sources.kubernetes.nesting import read
from controlplane.sources.kubernetes.objects import Metadata, version_number
from controlplane.sources.kubernetes.specs import Seen
from controlplane.spec.gateway import API_VERSION
from controlplane.status.lease import Lease
from controlplane.status.standing import Standing, own, status, waits

log = structlog.get_logger(__name__)

GATHER_SECONDS = 0.25
"""How long a first change waits for more: most proxies have acknowledged by then, and one write says everything."""
INTERVAL_SECONDS = 2.0
"""An object is written at most once in this time."""
REST, LONGEST_REST_SECONDS = 9.0, 2.0
"""After a few writes there are none for so many times as long as they took: an API server takes some 10 ms of a processor for
each, which changes on their way to proxies want, too."""
RETRY_SECONDS = 5.0
AGAIN_SECONDS = 1.0
CROWD, A_WRITER, AT_ONCE = 80, 20, 16
"""So many that are due rest no more, and are written side by side: one writer for so many of them, so many writers at most. A
thousand at once are written in 2 s, a few one after the other."""
MANAGER = "controlplane-status"
_CONTENT = "application/apply-patch+yaml"
_PARAMETERS = {"fieldManager": MANAGER, "force": "true"}


class _Answer(msgspec.Struct, frozen=True):
    """The object after a write."""

    metadata: Metadata = Metadata()
    status: msgspec.Raw = msgspec.Raw(b"{}")


_answers = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written of an object, what the API server made of it, and when (time.monotonic)."""

    uid: str
    resource_version: str
    asked: Mapping[str, Any]
    answered: Mapping[str, Any]
    at: float

    def is_ahead_of(self, seen: Seen) -> bool:
        """Whether the watch has not told of it yet."""
        return version_number(seen.resource_version) < version_number(self.resource_version)


class Resources(Protocol):
    """The custom resources of a cluster, as its source sees them."""

    def seen(self, ref: ObjectRef) -> Seen | None:
        """One of them, or None when there is none."""

    def refs(self) -> Iterable[ObjectRef]:
        """All of them."""


class Writer:
    """The status of one cluster's objects. `touch` is called from the event loop and returns at once."""

    def __init__(
        self,
        access: Access,
        resources: Resources,
        standing: Callable[[ObjectRef, Seen], Standing | None],
        failed: Callable[[str | None], None],
        *,
        namespace: str,
        identity: str,
    ) -> None:
        """`standing` says what is known of an object (None: not looked at yet); the lease is in `namespace`.

        `failed` is told why nothing can be written, and None when that has changed.
        """
        self._access = access
        self._resources = resources
        self._standing = standing
        self._failed = failed
        self._namespace = namespace
        self._identity = identity
        self._due: dict[ObjectRef, float] = {}
        self._written: dict[ObjectRef, _Written] = {}
        self._underway: set[ObjectRef] = set()
        self._rests_until = float("-inf")
        self._wake = asyncio.Event()
        self._lease: Lease | None = None
        self.writes = 0
        """How many were made."""
        self._reasons: dict[ObjectRef | None, str] = {}  # why not; None: the lease
        self._told: str | None = None

    def touch(self, refs: Iterable[ObjectRef]) -> None:
        """Something about these may be otherwise now."""
        now = time.monotonic()
        for ref in refs:
            if ref not in self._due:
                last = self._written[ref].at if ref in self._written else float("-inf")
                self._due[ref] = max(now + GATHER_SECONDS, last + INTERVAL_SECONDS)
                self._wake.set()

    def noticed(self, ref: ObjectRef) -> None:
        """The watch shows another generation or status of it: by our own write, or there is something to put right."""
        if ref not in self._underway and not self._is_as_written(ref):
            self.touch((ref,))

    def _is_as_written(self, ref: ObjectRef) -> bool:
        seen, written = self._resources.seen(ref), self._written.get(ref)
        if seen is None or written is None or seen.uid != written.uid:
            return False
        if seen.generation != written.asked["observedGeneration"]:
            return False
        if seen.resource_version == written.resource_version or written.is_ahead_of(seen):
            return True
        return _decoded(seen.status) == written.answered

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self._lease is not None and self._lease.holds

    async def run(self) -> None:
        """Write until cancelled."""
        async with Client(self._access) as client:
            self._lease = Lease(
                client, self._namespace, "controlplane-status", self._identity, self._led, partial(self._fail, None)
            )
            lease = asyncio.create_task(self._lease.run())
            try:
                await self._write_what_is_due(client)
            finally:
                lease.cancel()
                await asyncio.gather(lease, return_exceptions=True)

    def _led(self) -> None:
        """This process writes from now on: whatever others wrote is compared with what is known here."""
        self._written.clear()
        for ref in [ref for ref in self._reasons if ref is not None]:
            self._fail(ref, None)
        if self.leads:
            self.touch(self._resources.refs())

    def _fail(self, what: ObjectRef | None, reason: str | None) -> None:
        """What cannot be written, or why the lease (None) cannot be had; what can be is told with None.

        The first reason is told as long as it holds, so that what becomes of others is no news.
        """
        if reason is None:
            self._reasons.pop(what, None)
        else:
            self._reasons[what] = reason
        first = next(iter(self._reasons.values()), None)
        if first != self._told:
            self._told = first
            self._failed(first)

    async def _write_what_is_due(self, client: Client) -> None:
        while True:
            self._wake.clear()
            now = time.monotonic()
            wait = self._next_round(now) - now
            if wait > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                continue
            due = [ref for ref, at in self._due.items() if at <= now]
            for ref in due:
                del self._due[ref]
            if self.leads:
                await self._write_all(client, due)
                ended = time.monotonic()
                if len(due) < CROWD:
                    self._rests_until = ended + min(REST * (ended - now), LONGEST_REST_SECONDS)

    def _next_round(self, now: float) -> float:
        """When to write, as far as is known; a time that has passed: now."""
        due = sorted(self._due.values())
        if not due:
            return now + 3600
        rested = max(due[0], self._rests_until)
        return rested if len(due) < CROWD else min(rested, due[CROWD - 1])

    async def _write_all(self, client: Client, refs: Collection[ObjectRef]) -> None:
        waiting = iter(sorted(refs))

        async def work() -> None:
            for ref in waiting:
                try:
                    await self._write(client, ref)
                except Exception as error:  # whatever a cluster says, it must not end the process
                    log.exception("status not written", object=str(ref))
                    self._fail(ref, f"{type(error).__name__}: {error}")
                    self._due[ref] = time.monotonic() + RETRY_SECONDS

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(refs) // A_WRITER) if len(refs) >= CROWD else 1):
                group.create_task(work())

    async def _write(self, client: Client, ref: ObjectRef) -> None:
        seen = self._resources.seen(ref)
        if seen is None:
            self._written.pop(ref, None)
            self._fail(ref, None)
            return
        standing = self._standing(ref, seen)
        if standing is None:
            return
        written = self._written.get(ref)
        if written is not None and written.uid != seen.uid:
            written = None
        ahead = written is not None and written.is_ahead_of(seen)
        before = written.answered if written is not None and ahead else _decoded(seen.status)
        made = status(standing, before, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        if waits(made):
            self._due[ref] = time.monotonic() + INTERVAL_SECONDS  # nobody says when they have it
        if made == before:
            self._fail(ref, None)
            return
        if written is not None and (made, before) == (written.asked, written.answered):
            return  # the API server makes something else of it, and would again
        # This process may have stood still for long: somebody else writes by now.
        if not self.leads:
            return
        version = written.resource_version if written is not None and ahead else seen.resource_version
        self._underway.add(ref)
        try:
            answer = read(_answers, await client.send("PATCH", *_request(ref, seen.uid, version, made)))
        except Refused as refused:
            self._refused(ref, refused)
            return
        finally:
            self._underway.discard(ref)
        self.writes += 1
        self._fail(ref, None)
        now = time.monotonic()
        self._written[ref] = _Written(seen.uid, answer.metadata.resource_version, made, _decoded(answer.status), now)
        self.noticed(ref)  # what the watch told meanwhile

    def _refused(self, ref: ObjectRef, refused: Refused) -> None:
        """It is looked at again as long as it is seen: a server that starts says that it is not there, too."""
        if refused.trouble is Trouble.CONFLICT:  # another version or object by now, which the watch tells in a moment
            self._written.pop(ref, None)  # of a cluster that was restored, no version is ahead
            self._due[ref] = time.monotonic() + AGAIN_SECONDS
            return
        if refused.trouble is not Trouble.NOT_FOUND:
            self._fail(ref, str(refused))
        self._due[ref] = time.monotonic() + max(RETRY_SECONDS, refused.retry_after)


def _request(ref: ObjectRef, uid: str, version: str, made: Mapping[str, Any]) -> tuple[str, bytes, str, dict[str, str]]:
    metadata = {"name": ref.name, "namespace": ref.namespace, "uid": uid}
    if version:
        metadata["resourceVersion"] = version
    body = {"apiVersion": API_VERSION, "kind": ref.kind, "metadata": metadata, "status": made}
    path = f"/apis/{API_VERSION}/namespaces/{ref.namespace}/{ref.kind.lower()}s/{ref.name}/status"
    return path, json.dumps(body).encode(), _CONTENT, _PARAMETERS


def _decoded(written: msgspec.Raw) -> dict[str, Any]:
    """Our own part of a status."""
    try:
        found = json.loads(bytes(written))
    except (ValueError, RecursionError):
        return {}
    return own(found) if isinstance(found, dict) else {}
