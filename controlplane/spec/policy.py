"""Policies: named once on the gateway, used by name; the order of use means nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
        if self.rate_limit is None and not any(self.exclusive()):
            fields = [field.alias or name for name, field in type(self).model_fields.items() if name != "name"]
            raise ValueError(f"a policy needs at least one of {', '.join(fields)}")
        return self

    def exclusive(self) -> Iterator[tuple[str, Any]]:
        """What it says to filters of which a route has one policy at most: field and value. Limits add up instead."""
        return ((name, said) for name, said in self if name not in {"name", "rate_limit"} and said is not None)
