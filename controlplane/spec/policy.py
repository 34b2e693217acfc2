"""Policies: named once on the gateway, used by name; the order of use means nothing."""

from __future__ import annotations

from pydantic import model_validator

from controlplane.filters.cors.spec import Cors
from controlplane.filters.local_ratelimit.spec import RateLimit
from controlplane.model.written import Name, Written


class Policy(Written):
    """One field per filter that policies can configure."""

    name: Name
    cors: Cors | None = None
    rate_limit: RateLimit | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Policy:
        if self.cors is None and self.rate_limit is None:
            raise ValueError("a policy needs at least one of cors, rateLimit")
        return self
