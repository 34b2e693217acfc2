"""What users write to change headers."""

from __future__ import annotations

from pydantic import Field, model_validator

from controlplane.model.written import ChangedHeaderName, HeaderValue, Written


class HeaderChanges(Written):
    """First `remove`, then `set` (replaces), then `add` (appends).

    Values are literal: `%` is not a command here.
    """

    set: dict[ChangedHeaderName, HeaderValue] = Field(default_factory=dict, max_length=64)
    add: dict[ChangedHeaderName, HeaderValue] = Field(default_factory=dict, max_length=64)
    remove: tuple[ChangedHeaderName, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> HeaderChanges:
        for name in self.set:
            if name in self.add or name in self.remove:
                raise ValueError(f'"{name}" stands in set and in add or remove; say one of them')
        return self
