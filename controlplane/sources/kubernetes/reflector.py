"""One kind of object, kept in step with a cluster: listed once, watched from there, listed again only when history is lost.

A reflector tells its `Mirror` what there is and never that nothing is: a failure leaves everything as it was. A list
counts when its last page is here; what it lacks is then told as missing, which is less than deleted. Watches are asked to
end after half a minute, so that one that died without a word is found out, and go on where they ended.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import structlog

from controlplane.sources.kubernetes.client import Client, Parameters, Refused, Trouble
from controlplane.sources.kubernetes.nesting import shallow
from controlplane.sources.kubernetes.objects import (
    Event,
    Metadata,
    Object,
    Page,
    Status,
    version_number,
)

log = structlog.get_logger(__name__)

PAGE = 500
"""Objects of one page of a list."""
WATCH_SECONDS = (30, 40)
"""How long a watch is asked to last: with the client's slack a dead one is found out in 50 s at the latest."""
FIRST_DELAY, LONGEST_DELAY = 1.0, 8.0
"""Seconds between attempts when they fail: at most one a second for each kind, and back within 8 s of a long outage."""
LONGEST_RETRY_AFTER = 60.0
LARGE = 64 * 1024
"""Bytes of an object that is prepared beside the event loop: what takes longest to parse of these takes 0.3 s."""
_ONCE_IS_NOTHING = (Trouble.UNREACHABLE, Trouble.AUTH_FAILED)
"""A watch that breaks, or a token that has just been replaced: the next attempt says whether anything is wrong."""
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""For objects that are large and change often, of which only the labels are used."""
SLICE_SECONDS = 0.004
"""How long the event loop may be held at a time while a list, or what a watch tells at once, is decoded."""


class Mirror(Protocol):
    """Where the objects of a reflector go. Values are bytes of JSON.

    A method that raises RecursionError has changed nothing: it is called again with less of the object.
    """

    def begin(self) -> None:
        """A list begins: what was said since the last `begin` without an `end` does not count."""

    def item(self, data: msgspec.Raw) -> None:
        """One object of the list."""

    def end(self, version: int, *, rewound: bool) -> None:
        """The list is complete. `rewound`: it is older than what was told before; the cluster has been restored."""

    def changed(self, data: msgspec.Raw) -> None:
        """An object as it is now."""

    def deleted(self, data: msgspec.Raw) -> None:
        """An object as it was when it was deleted."""

    def flush(self, event_time: float) -> None:
        """What arrived together ends here; the oldest of it was noticed at this time (time.monotonic)."""


@dataclass(slots=True)
class Health:
    """How a reflector is doing. `trouble` is None while it works; `since` is when that last changed (time.monotonic)."""

    listed: bool = False
    trouble: Trouble | None = None
    reason: str = ""
    since: float = 0.0
    lists: int = 0
    watches: int = 0

    @property
    def answered(self) -> bool:
        """It has listed everything once, or has said that it cannot."""
        return self.listed or self.trouble is not None


class Landmark(NamedTuple):
    """The first object of a list, by which a cluster is recognised: its key, by which lists are sorted, and its uid."""

    key: str
    uid: str

    @classmethod
    def at(cls, metadata: Metadata) -> Landmark:
        """An object by its metadata."""
        return cls(f"{metadata.namespace}/{metadata.name}", metadata.uid)

    @classmethod
    def of(cls, page: Page) -> Landmark:
        """The first one of the first page; of an empty list one that stands behind every other."""
        if not page.items:
            return cls("\x7f", "")
        return cls.at(msgspec.json.decode(page.items[0], type=Object).metadata)


class Reflector:
    """Keeps one mirror in step."""

    def __init__(
        self,
        client: Client,
        path: str,
        mirror: Mirror,
        report: Callable[[], None],
        *,
        what: str,
        parameters: Parameters | None = None,
        metadata_only: bool = False,
        prepare: Callable[[msgspec.Raw], None] | None = None,
        highest: int = 0,
    ) -> None:
        """`report` is called when `health` has changed and after every list; `what` names the kind for people.

        `prepare` is given a large object on a thread, before the mirror is. `highest`: the version that the cluster had told before.
        """
        self.what = what
        self.health = Health(since=time.monotonic())
        self._client = client
        self._path = path
        self._mirror = mirror
        self._report = report
        self._prepare = prepare
        self._parameters = dict(parameters or {})
        self._accept = _METADATA_LIST if metadata_only else _JSON
        self._accept_watch = _METADATA if metadata_only else _JSON
        self._version = ""
        self._server = ""
        self._first: Landmark | None = None
        self.highest = highest
        """The version of the newest that was told."""
        self._listed_at = -LONGEST_DELAY
        self._again = asyncio.Event()
        self._broken = False

    def list_again(self) -> None:
        """List everything soon, though the watch is in order."""
        self._again.set()

    def broken(self, reason: str) -> None:
        """Something went wrong that nobody thought of: begin again with a list."""
        self._version = ""
        self._say(Trouble.BROKEN, reason)

    async def run(self) -> None:
        """Work until cancelled."""
        delay = FIRST_DELAY
        while True:
            began = time.monotonic()
            try:
                if self._version and await self._client.server() != self._server:
                    self._version = ""  # those of one server say nothing at another, perhaps of another cluster
                if not self._version:
                    await self._list()
                elif self._broken:
                    await self._check_history()
                self._broken = not await self._watch()
                delay = FIRST_DELAY
            except Refused as refused:
                self._failed(refused)
                if refused.trouble is Trouble.GONE and time.monotonic() - self._listed_at > LONGEST_DELAY:
                    continue  # nothing has failed: it is only time for a list, and the last one was long ago
                delay = FIRST_DELAY if time.monotonic() - began > LONGEST_DELAY else delay
                await asyncio.sleep(pause(delay, refused.retry_after))
                delay = min(delay * 2, LONGEST_DELAY)

    def _failed(self, refused: Refused) -> None:
        if refused.trouble is Trouble.GONE:
            log.info("kubernetes history is gone; listing again", path=self._path, reason=str(refused))
            self._version = ""
        elif self._broken or not self._version or refused.trouble not in _ONCE_IS_NOTHING:
            self._say(refused.trouble, str(refused))
        if refused.trouble is Trouble.NOT_FOUND:
            self._version = (
                ""  # whether the kind was away or the server was starting, a list tells and history does not
            )
        self._broken = True

    async def _list(self) -> None:
        """Everything, page by page. A token that expires in the middle begins it again, in one piece."""
        event_time = self._listed_at = time.monotonic()
        self._again.clear()
        self._server = await self._client.server()
        try:
            version = await self._pages(PAGE)
        except Refused as refused:
            if refused.trouble is not Trouble.GONE:
                raise
            version = await self._one_page()
        number = version_number(version)
        self._mirror.end(number, rewound=number < self.highest)
        self._version, self.highest = version, number
        self.health.lists += 1
        self.health.listed = True
        self._mirror.flush(event_time)
        self._report()

    async def _one_page(self) -> str:
        try:
            return await self._pages(0)
        except Refused as refused:
            if refused.trouble is not Trouble.GONE:
                raise
            raise Refused(
                Trouble.BROKEN, f"a list that asks for no version is refused for its age: {refused}"
            ) from None

    async def _pages(self, limit: int) -> str:
        self._mirror.begin()
        asked = {**self._parameters, **({"limit": str(limit)} if limit else {})}
        while True:
            body = await self._client.get(self._path, asked, self._accept)
            try:
                page = await _page(body)
                if "continue" not in asked:
                    self._first = Landmark.of(page)
                if not page.metadata.resource_version:
                    raise Refused(Trouble.BROKEN, f"the list of {self.what} has no resourceVersion")
                until = time.monotonic() + SLICE_SECONDS
                for item in page.items or ():
                    if len(item) > LARGE:
                        await self._prepared(item)
                    self._item(item)
                    if time.monotonic() > until:
                        await asyncio.sleep(0)
                        until = time.monotonic() + SLICE_SECONDS
            except msgspec.MsgspecError as error:
                raise Refused(Trouble.BROKEN, f"the list of {self.what} makes no sense: {error}") from None
            if not page.metadata.continue_:
                return page.metadata.resource_version
            asked["continue"] = page.metadata.continue_

    async def _check_history(self) -> None:
        """Whether the cluster is behind what it has told, or another one: nothing that we know holds then.

        It was restored from a backup, and a watch from a version that does not exist yet would be silent until it does; or
        somebody put another cluster into its place, which may be ahead, and a watch tells nothing of what it lacks.
        """
        body = await self._client.get(self._path, {**self._parameters, "limit": "1"}, self._accept)
        try:
            page = await _page(body)
            first = Landmark.of(page)
        except msgspec.MsgspecError as error:
            raise Refused(Trouble.BROKEN, f"the list of {self.what} makes no sense: {error}") from None
        version = page.metadata.resource_version
        if version_number(version) < version_number(self._version):
            raise Refused(Trouble.GONE, f"the cluster is at {version}, behind {self._version}")
        if self._first is not None and self._first != first:
            raise Refused(Trouble.GONE, f"the first of its {self.what} is not the one that was there")

    async def _watch(self) -> bool:
        """Follow until the watch ends, or until everything is to be listed again; whether it lasted as long as was asked."""
        began = time.monotonic()
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311  so that many watches do not end at once
        asked_for = {**self._parameters, "resourceVersion": self._version}
        lines = self._client.watch(self._path, asked_for, seconds, self._accept_watch)
        following = asyncio.ensure_future(self._follow(lines))
        again = asyncio.ensure_future(self._again.wait())
        try:
            await asyncio.wait((following, again), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (following, again):
                task.cancel()
            await asyncio.gather(following, again, return_exceptions=True)
        if self._again.is_set():
            self._version = ""
        elif time.monotonic() - began < FIRST_DELAY:
            raise Refused(Trouble.UNREACHABLE, "the watch ended at once")
        return time.monotonic() - began > seconds - WATCH_SECONDS[0] / 2

    async def _follow(self, lines: AsyncGenerator[list[bytes], None]) -> None:
        async with aclosing(lines):
            async for batch in lines:
                if not batch:
                    self.health.watches += 1
                    self._broken = False
                    self._say(None, "")
                event_time = time.monotonic()
                until = event_time + SLICE_SECONDS
                for line in batch:
                    if len(line) > LARGE:
                        await self._prepared(line, of_event=True)
                    self._event(line)
                    if time.monotonic() > until:
                        await asyncio.sleep(0)
                        until = time.monotonic() + SLICE_SECONDS
                self._mirror.flush(event_time)

    async def _prepared(self, data: msgspec.Raw | bytes, *, of_event: bool = False) -> None:
        """Have a large object read beside the event loop. What is wrong with it shows when the mirror reads it."""
        if self._prepare is not None:
            with suppress(msgspec.MsgspecError, RecursionError):
                one = msgspec.json.decode(data, type=Event).object if of_event else msgspec.Raw(data)
                await asyncio.to_thread(self._prepare, one)

    def _item(self, data: msgspec.Raw) -> None:
        try:
            self._mirror.item(data)
        except RecursionError:
            self._mirror.item(msgspec.Raw(shallow(bytes(data))))

    def _event(self, line: bytes) -> None:
        try:
            try:
                version = self._tell(line)
            except RecursionError:
                version = self._tell(shallow(line))
        except msgspec.MsgspecError as error:
            # What was missed cannot be known: only a list tells.
            self._version = ""
            raise Refused(Trouble.BROKEN, f"an event of {self.what} makes no sense: {error}") from None
        self._version, self.highest = version, version_number(version)

    def _tell(self, line: bytes) -> str:
        """Hand on what an event says; the version that it is of."""
        event = msgspec.json.decode(line, type=Event)
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=Status)
            trouble = Trouble.GONE if status.code == 410 else Trouble.BROKEN
            raise Refused(trouble, f"the watch says {status.code} {status.message}")
        metadata = msgspec.json.decode(event.object, type=Object).metadata
        version = metadata.resource_version or self._version
        if version_number(version) < version_number(self._version):
            raise Refused(Trouble.GONE, f"the cluster is at {version}, behind {self._version}")
        match event.type:
            case "ADDED" | "MODIFIED":
                self._mirror.changed(event.object)
                if self._first is not None:
                    self._first = min(self._first, Landmark.at(metadata))
            case "DELETED":
                self._mirror.deleted(event.object)
                if self._first == Landmark.at(metadata):
                    self._first = None  # whichever is the first now
        return version

    def _say(self, trouble: Trouble | None, reason: str) -> None:
        health = self.health
        if (trouble, reason) != (health.trouble, health.reason):
            health.trouble, health.reason, health.since = trouble, reason, time.monotonic()
            self._report()


async def _page(body: bytes) -> Page:
    """A page of a list; one object that is nested too deeply costs its own depth alone. Raises msgspec.MsgspecError."""
    try:
        return msgspec.json.decode(body, type=Page)
    except RecursionError:
        return msgspec.json.decode(await asyncio.to_thread(shallow, body), type=Page)


def pause(delay: float, retry_after: float) -> float:
    """How long to wait: with jitter, and never less than the server asks for, within reason."""
    wait = random.uniform(FIRST_DELAY, max(FIRST_DELAY, delay))  # noqa: S311
    return max(wait, min(retry_after, LONGEST_RETRY_AFTER) * random.uniform(1.0, 1.1))  # noqa: S311
