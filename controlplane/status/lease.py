"""Which replica writes: the holder of a Lease in the cluster itself, renewed while it works and given back at the end.

The rules are those of client-go's leader election: whether a holder is alive is judged by whether its lease changes, on the
clock of the one who waits, so that clocks need not agree. Two who think that they hold it can only be the old one, which
stood still, and the new one; a write that is about an older version of an object than the cluster has is refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from controlplane.sources.kubernetes.client import Client, Refused, Trouble

log = structlog.get_logger(__name__)

LASTS_SECONDS = 15
RENEW_SECONDS = 5.0
"""Three renewals may fail before somebody else takes over."""
_API = "/apis/coordination.k8s.io/v1/namespaces"


@dataclass(slots=True)
class _Known:
    """The lease as it was seen last, and when that was (a monotonic time)."""

    seen: tuple[Any, ...]
    at: float


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
                until = self._until
                try:
                    await self._try()
                    self._failed(None)
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
                await asyncio.sleep(RENEW_SECONDS)
        finally:
            if self.holds:
                await self._give_back()

    async def _try(self) -> None:
        began = self._clock()
        try:
            lease = json.loads(await self._client.get(f"{self._path}/{self._name}", {}))
        except Refused as refused:
            if refused.trouble is not Trouble.NOT_FOUND:
                raise
            await self._write("POST", self._path, {"metadata": self._metadata(), "spec": self._spec(0)})
            self._until = began + LASTS_SECONDS
            return
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if self._known is None or self._known.seen != seen:
            # It may have been renewed while we asked. Our own time, by contrast, counts from before we asked.
            self._known = _Known(seen, self._clock())
        lasts = spec.get("leaseDurationSeconds") or LASTS_SECONDS
        if holder not in {"", self._identity} and began < self._known.at + lasts:
            self._until = float("-inf")
            return
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        lease["spec"] = self._spec(transitions, spec.get("acquireTime") if holder == self._identity else None)
        # The resource version goes along: whoever else writes meanwhile has it, and we get a conflict.
        await self._write("PUT", f"{self._path}/{self._name}", lease)
        self._until = began + LASTS_SECONDS

    async def _give_back(self) -> None:
        """The next one need not wait. What fails here ends by itself."""
        self._until = float("-inf")
        try:
            async with asyncio.timeout(1.0):
                lease = json.loads(await self._client.get(f"{self._path}/{self._name}", {}))
                if lease.get("spec", {}).get("holderIdentity") == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._write("PUT", f"{self._path}/{self._name}", lease)
        except (Refused, TimeoutError, ValueError):
            return

    async def _write(self, method: str, path: str, lease: dict[str, Any]) -> None:
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease}
        await self._client.send(method, path, json.dumps(body).encode(), "application/json", {})

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
