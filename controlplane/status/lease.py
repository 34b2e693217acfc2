"""Which replica writes: the holder of a Lease in the cluster itself, renewed while it works and given back at the end.

The rules are those of client-go's leader election: whether a holder is alive is judged by whether its lease changes, on the
clock of the one who waits, so that clocks need not agree. Two who think that they hold it can only be the old one, which
stood still, and the new one; a write that is about an older version of an object than the cluster has is refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from controlplane.sources.kubernetes.client import Client, Refused, Trouble

log = structlog.get_logger(__name__)

LASTS_SECONDS = 15
RENEW_SECONDS = 5.0
"""Two renewals may fail before somebody else takes over."""
ANSWER_SECONDS = 5.0
"""How long one request may take: a connection that died in silence must not outlast the lease."""
_API = "/apis/coordination.k8s.io/v1/namespaces"


@dataclass(slots=True)
class _Known:
    """The lease as it was seen last, and when it is over unless it changes (a monotonic time)."""

    seen: tuple[Any, ...]
    over: float


class Lease:
    """One lease in one cluster. `holds` is whether this process may write now."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        changed: Callable[[], None],
        failed: Callable[[str | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identity` names this process among all that want the lease; `changed` is called when `holds` has.

        `failed` is told why the lease cannot be had when that is not because somebody else has it, and None when it can.
        """
        self._client = client
        self._path = f"{_API}/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._changed = changed
        self._failed = failed
        self._clock = clock
        self._until = float("-inf")
        self._known: _Known | None = None
        self._held = False

    @property
    def holds(self) -> bool:
        """Whether it is ours; a lease that could not be renewed in time is not."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Try to hold it until cancelled."""
        try:
            while True:
                began, until = self._clock(), self._until
                try:
                    self._failed(await self._try(began))
                except Refused as refused:
                    if refused.trouble is not Trouble.CONFLICT:
                        self._failed(str(refused))
                except Exception as error:  # whatever a cluster says, there is a next try
                    log.exception("lease failed", lease=self._path)
                    self._failed(f"{type(error).__name__}: {error}")
                # One that took too long to renew was not ours for a moment, in which nobody wrote.
                lapsed = self._held and self._clock() >= until
                if self.holds != self._held:
                    self._held = self.holds
                    log.info("status is written by this process" if self._held else "status is written by another")
                    self._changed()
                elif lapsed:
                    self._changed()
                await asyncio.sleep(self._pause(began))
        finally:
            if self.holds:
                await self._give_back()

    def _pause(self, began: float) -> float:
        """How long until the next try: not longer than until the lease of another one is over."""
        now, at = self._clock(), began + RENEW_SECONDS
        if self._known is not None and not self.holds and now < self._known.over:
            at = min(at, self._known.over)
        return max(0.0, at - now)

    async def _try(self, began: float) -> str | None:
        """Get it or keep it; why that is not to be had as long as nobody mends it."""
        try:
            lease = await self._get()
        except Refused as refused:
            if refused.trouble is not Trouble.NOT_FOUND:
                raise
            await self._write("POST", self._path, {"metadata": self._metadata(), "spec": self._spec(0)})
            self._until = began + LASTS_SECONDS
            return None
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"), spec.get("leaseDurationSeconds"))
        if self._known is None or self._known.seen != seen:
            # It may have been renewed while we asked. Our own time, by contrast, counts from before we asked.
            self._known = _Known(seen, self._clock() + (spec.get("leaseDurationSeconds") or LASTS_SECONDS))
        if holder not in {"", self._identity} and began < self._known.over:
            self._until = float("-inf")
            return self._strange(holder)
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        lease["spec"] = self._spec(transitions, spec.get("acquireTime") if holder == self._identity else None)
        # The resource version goes along: whoever else writes meanwhile has it, and we get a conflict.
        await self._write("PUT", f"{self._path}/{self._name}", lease)
        self._until = began + LASTS_SECONDS
        return None

    def _strange(self, holder: str) -> str | None:
        """Why this holder writes nothing of what is ours; identities begin with the name of the fleet."""
        if holder.partition("/")[0] == self._identity.partition("/")[0]:
            return None
        return (
            f"the Lease {self._namespace}/{self._name} is held by {holder}, which is no replica of this fleet: "
            "each fleet needs a leaseNamespace of its own, and all its replicas the same identity.cluster"
        )

    async def _give_back(self) -> None:
        """The next one need not wait. What fails here ends by itself."""
        self._until = float("-inf")
        try:
            async with asyncio.timeout(1.0):
                lease = await self._get()
                if lease.get("spec", {}).get("holderIdentity") == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._write("PUT", f"{self._path}/{self._name}", lease)
        except (Refused, TimeoutError, ValueError):
            return

    async def _get(self) -> Any:
        return json.loads(await _in_time(self._client.get(f"{self._path}/{self._name}", {})))

    async def _write(self, method: str, path: str, lease: dict[str, Any]) -> None:
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease}
        await _in_time(self._client.send(method, path, json.dumps(body).encode(), "application/json", {}))

    def _metadata(self) -> dict[str, str]:
        return {"name": self._name, "namespace": self._namespace}

    def _spec(self, transitions: int, acquired: str | None = None) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LASTS_SECONDS,
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }


async def _in_time(answer: Awaitable[bytes]) -> bytes:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except TimeoutError:
        raise Refused(Trouble.UNREACHABLE, f"no answer within {ANSWER_SECONDS:g} s") from None
