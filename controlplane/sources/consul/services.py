"""The services that are referred to: which of them to read again, when, and what may be believed of the answer.

`source` says what may have changed; workers read, and push what differs. What is read is one service with the checks of
its instances, so every push is consistent in itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import structlog

from controlplane.errors import Diagnostic, Place, Severity
from controlplane.model.endpoint import Service
from controlplane.names import ServiceRef, consul_source
from controlplane.sources.base import Sink
from controlplane.sources.consul.answers import Reading, instances, reading, with_missing
from controlplane.sources.consul.client import Answer, Client, Consistency, Failure, Settings
from controlplane.sources.consul.pace import Backoff, retry_after
from controlplane.sources.consul.queue import Ask, Job, Queue
from controlplane.spec.codes import Code

log = structlog.get_logger(__name__)

STATES = ("critical", "warning")
"""The lists of checks that are watched, by their state."""
PUSH_SECONDS = 0.5
"""The least time between two pushes of one service: the first change goes out at once, and a service that flaps costs
two pushes a second (fault F39)."""
DENIED_SECONDS = 10.0
"""How soon a service is read again whose instances were hidden: nothing tells when an access rule changes."""
LOOK_SECONDS = 0.1
"""The least time between two rounds of probes: a storm of registrations is looked at as a whole."""
_PROBE_SHARE = 2
"""A probe counts as two requests: where much is registered, probing never ends, and must leave room for reads."""
_NOTHING = {"filter": 'Service.ID == ""'}
"""No instance has an empty id: the answer says nothing but the index of the service, which is all a probe wants."""


@dataclass(slots=True)
class _Wanted:
    """`index` is that of the last read, 0 before it. `believed` is what was pushed, None when absent.

    As long as it is not `said`, it is what was in force before this process began, if anything was.
    """

    ref: ServiceRef
    index: int = 0
    said: bool = False
    believed: Service | None = None
    nodes: frozenset[str] = frozenset()
    changed_at: float = 0.0
    not_before: float = 0.0


class Services:
    """What is wanted of one datacenter."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        trouble: Callable[[str, str | None], None],
        went_back: Callable[[], None],
        before: Mapping[str, Service],
    ) -> None:
        """`trouble(what, why)` is told why something cannot be read, and None when it can; `went_back` of lost data.

        `before`: what was in force before this process began.
        """
        self._settings = settings
        self._client = client
        self._trouble = trouble
        self._went_back = went_back
        self._before = dict(before)
        self._wanted: dict[str, _Wanted] = {}
        self._spellings: dict[str, set[str]] = {}
        """What is wanted, by its name in small letters: Consul finds a service whatever the case of the letters."""
        self._by_node: dict[str, set[str]] = {}
        self._confirming: set[str] = set()
        self._hidden: set[str] = set()
        self._heard: set[str] = set()  # whose last answer is believed
        self._failing: dict[str, tuple[int, str]] = {}  # how often in a row, and why
        self._listed = dict.fromkeys(STATES, 0)
        """The index of the last answer of each list of checks."""
        self._ahead: dict[str, dict[str, int]] = {state: {} for state in STATES}
        """By list: what was read with a later index than that, and the index of the read."""
        self._queue = Queue()
        self._doubt = False
        self._looked = 0.0
        self._look_later: asyncio.TimerHandle | None = None
        self._unusable: dict[str, tuple[str, ...]] = {}
        self._sink: Sink | None = None

    @property
    def caught_up(self) -> bool:
        """Whether everything wanted was pushed, or said to be absent."""
        return all(wanted.said for wanted in self._wanted.values())

    @property
    def answered(self) -> bool:
        """Whether that is so, unless some cannot be read."""
        return bool(self._failing or self._hidden) or self.caught_up

    @property
    def lost(self) -> bool:
        """Whether there is none that is read: none was yet, or none can be any more."""
        return not self._heard

    def want(self, refs: Collection[ServiceRef]) -> None:
        """These, too."""
        now = time.monotonic()
        for ref in refs:
            if ref.name not in self._wanted:
                self._wanted[ref.name] = _Wanted(ref, believed=self._before.pop(ref.name, None))
                self._spellings.setdefault(ref.name.lower(), set()).add(ref.name)
                self._queue.add(ref.name, Ask.READ, now)

    def forget(self, refs: Collection[ServiceRef]) -> None:
        """These no longer."""
        for name in {ref.name for ref in refs} & self._wanted.keys():
            self._locate(name, frozenset())
            del self._wanted[name]
            self._spellings[name.lower()].discard(name)
            if not self._spellings[name.lower()]:
                del self._spellings[name.lower()]
            self._queue.drop(name)
            self._confirming.discard(name)
            self._heard.discard(name)
            self._see(name)
            self._say_unusable(name, ())
            self._failed(name, None)

    def confirm(self, names: Iterable[str]) -> None:
        """Read these once more, consistently."""
        self._confirming.update(name for name in names if name in self._wanted)
        if not self._doubt:
            self._ask_again(self._confirming)

    def hint(self, names: Iterable[str], at: float) -> None:
        """Something of these changed."""
        for name in {spelling for one in names for spelling in self._spellings.get(one.lower(), ())}:
            self._queue.add(name, Ask.READ, at, self._wanted[name].not_before)

    def hint_node(self, node: str, at: float) -> None:
        """Something of a node changed, which concerns all services on it."""
        self.hint(tuple(self._by_node.get(node, ())), at)

    def listed(self, state: str, index: int, at: float) -> None:
        """The list of checks in this state was answered, and what changed in it was hinted.

        A check that left the list and came back in the meantime, or the other way round, did not change it; whoever read
        the service in between has to look once more.
        """
        self._listed[state], ahead = index, self._ahead[state]
        for name in [name for name, read in ahead.items() if read <= index]:
            del ahead[name]
            if name in self._wanted:
                self._queue.add(name, Ask.PROBE, at)

    def look(self, at: float, exists: Callable[[str], bool]) -> None:
        """Something somewhere may have changed: look at the index of each, those first that changed last.

        `exists` is asked of names in small letters.
        """
        wait = self._looked + LOOK_SECONDS - at
        if wait > 0:
            if self._look_later is None:
                later = asyncio.get_running_loop().call_later
                self._look_later = later(wait, lambda: self.look(time.monotonic(), exists))
            return
        self._looked, self._look_later = at, None
        for name, wanted in sorted(self._wanted.items(), key=lambda item: item[1].changed_at, reverse=True):
            if wanted.believed is not None or exists(name.lower()):
                self._queue.add(name, Ask.PROBE, at)

    def doubt(self, *, on: bool) -> None:
        """While in doubt, what an answer lacks is not gone; afterwards everything is read again."""
        self._doubt = on
        self._ask_again(self._wanted)

    def _ask_again(self, names: Iterable[str]) -> None:
        now = time.monotonic()
        for name in names:
            self._queue.add(name, Ask.READ, now)

    async def work(self, sink: Sink) -> None:
        """Do one job after the other, until cancelled."""
        self._sink = sink
        backoff = Backoff()
        while True:
            job = await self._queue.take()
            pause = 0.0  # where one cannot be read, the next one may not either
            try:
                await self._do(job, sink)
            except Failure as failure:
                pause = backoff.failed(failure.after)
                self._failed(job.name, failure)
                self._again(job)
            except Exception:  # no input may end the source (R7)
                log.exception("reading a service failed", source=self._settings.name, service=job.name)
                pause = backoff.failed()
                self._failed(job.name, Failure("an unexpected error; see the log"))
                self._again(job)
            else:
                backoff.worked()
                self._failed(job.name, None)
            finally:
                self._queue.done(job.name)
            if pause:
                await asyncio.sleep(pause)

    def _failed(self, name: str, failure: Failure | None) -> None:
        """Whether a service could be read. A first failure is not said: the next attempt follows at once."""
        if failure is None:
            self._failing.pop(name, None)
        else:
            self._heard.discard(name)
            times, _ = self._failing.get(name, (0, ""))
            self._failing[name] = (max(times + 1, 2) if failure.denied else times + 1, str(failure))
        self._trouble("services", next((why for times, why in self._failing.values() if times > 1), None))

    def _again(self, job: Job) -> None:
        """Ask once more, the later the more often it failed."""
        if job.name in self._wanted:
            times, _ = self._failing[job.name]
            self._queue.add(job.name, job.ask, job.at, time.monotonic() + retry_after(times))

    async def _do(self, job: Job, sink: Sink) -> None:
        wanted = self._wanted.get(job.name)
        if wanted is None:
            return
        path = f"/v1/health/service/{quote(job.name, safe='')}"
        if job.ask is Ask.PROBE and wanted.index:
            answer = await self._client.read(path, _NOTHING, consistency=Consistency.LEADER, share=_PROBE_SHARE)
            if answer.index != wanted.index or answer.hidden:  # a rule that takes nodes away moves no index
                self._queue.add(job.name, Ask.READ, job.at, wanted.not_before)
            return
        sure = job.name in self._confirming and not self._doubt
        answer = await self._client.read(path, {}, consistency=Consistency.CONSISTENT if sure else Consistency.LEADER)
        if answer.index < wanted.index and not sure:  # a new leader answers before it has read all that was written
            answer = await self._client.read(path, {}, consistency=Consistency.CONSISTENT)
        try:
            found = reading(instances(answer.body), self._settings.locality, self._settings.tagged_address)
        except ValueError as error:
            raise Failure(f"its answer cannot be read: {error}") from None
        if self._wanted.get(job.name) is not wanted:
            return
        if answer.index < wanted.index:
            self._went_back()
            sure = False
        self._believe(job, wanted, answer, found, sink, sure=sure)

    def _believe(self, job: Job, wanted: _Wanted, answer: Answer, found: Reading, sink: Sink, *, sure: bool) -> None:
        """Push what the answer proves."""
        exists = bool(found.nodes)
        self._see(job.name, hidden=answer.hidden or (answer.unproven and not exists))
        if job.name in self._hidden:
            self._heard.discard(job.name)
            self._queue.add(job.name, Ask.READ, job.at, time.monotonic() + DENIED_SECONDS)
            return
        self._heard.add(job.name)
        wanted.index = answer.index
        for state, index in self._listed.items():
            if answer.index > index:
                self._ahead[state][job.name] = answer.index
        service = found.service if exists else None
        if self._doubt and wanted.believed is not None:
            service = with_missing(found.service, wanted.believed)
        elif self._doubt and service is None:
            return
        else:
            self._locate(job.name, found.nodes)
        self._say_unusable(job.name, found.unusable)
        if sure:
            self._confirming.discard(job.name)
        if wanted.said and service == wanted.believed and not sure:
            return
        if wanted.said:
            wanted.changed_at = time.monotonic()
            wanted.not_before = wanted.changed_at + PUSH_SECONDS
        wanted.said, wanted.believed = True, service
        if service is None:
            sink.remove_service(wanted.ref, sure=sure)
        else:
            sink.put_service(wanted.ref, service, sure=sure)
        sink.flush(job.at)

    def _locate(self, name: str, nodes: frozenset[str]) -> None:
        """The nodes that a service is on now."""
        wanted = self._wanted[name]
        for node in wanted.nodes - nodes:
            self._by_node[node].discard(name)
            if not self._by_node[node]:
                del self._by_node[node]
        for node in nodes - wanted.nodes:
            self._by_node.setdefault(node, set()).add(name)
        wanted.nodes = nodes

    def _see(self, name: str, *, hidden: bool = False) -> None:
        """Whether access rules hide instances of a service: then what is seen is not the truth."""
        if hidden == (name in self._hidden):
            return
        (self._hidden.add if hidden else self._hidden.discard)(name)
        some = ", ".join(sorted(self._hidden)[:5]) + (", …" if len(self._hidden) > 5 else "")
        why = f"access denied: rules hide {some} (needed: service:read for it and node:read for its nodes)"
        self._trouble("rules", why if self._hidden else None)

    def _say_unusable(self, name: str, unusable: tuple[str, ...]) -> None:
        if self._sink is None or unusable == self._unusable.get(name, ()):
            return
        source = consul_source(self._settings.name)
        said = []
        if unusable:
            some = ", ".join(unusable[:5]) + (", …" if len(unusable) > 5 else "")
            message = f'instances of service "{name}" that cannot be endpoints: {some}'
            help = "register them with an IPv4 or IPv6 address and a port"
            place = Place(f"{source}:{name}")
            said = [Diagnostic(Code.UNUSABLE_INSTANCE, message, help=help, severity=Severity.WARNING, place=place)]
            self._unusable[name] = unusable
        else:
            del self._unusable[name]
        self._sink.problems(source, f"service {name}", said)
        self._sink.flush(time.monotonic())
