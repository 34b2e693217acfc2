"""What users write for local rate limits."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from controlplane.model.written import PositiveCount, Written, seen_header_name


class Per(StrEnum):
    """The unit in which requests are counted."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"

    @property
    def interval(self) -> timedelta:
        """Its length."""
        return {"second": timedelta(seconds=1), "minute": timedelta(minutes=1), "hour": timedelta(hours=1)}[self.value]


_UNCOUNTED = {
    "x-real-ip": "removed from every request before it is counted, since any client can say it",
    "x-forwarded-for": "begun by clients as they like, so that each request could have a bucket of its own",
    "x-request-id": "made anew for every request, so that no two of them would share a bucket",
}
"""Headers that tell no clients apart, and why."""


def _key(text: str) -> str:
    if text == "clientIP":
        return text
    if text.startswith("header:"):
        name = seen_header_name(text.removeprefix("header:"))
        if why := _UNCOUNTED.get(name):
            raise ValueError(
                f'"{name}" is {why}: use clientIP, with clientIP.trustedHops of the listener behind a load balancer'
            )
        return f"header:{name}"
    raise ValueError('a key is "clientIP" or "header:<name>"')


class LocalLimit(Written):
    """At most `requests` per unit, in bursts of `burst`, counted by each Envoy for itself.

    With a key every client (or header value) has a bucket of its own; without one, all share a bucket.
    """

    key: Annotated[str, AfterValidator(_key)] | None = None
    requests: PositiveCount
    per: Per
    burst: PositiveCount | None = None

    @model_validator(mode="after")
    def _burst_holds_requests(self) -> LocalLimit:
        if self.burst is not None and self.burst < self.requests:
            raise ValueError("burst must be at least requests")
        return self


class RateLimit(Written):
    """The limits of a policy; a request must pass all of them."""

    local: Annotated[tuple[LocalLimit, ...], Field(min_length=1, max_length=8)]
