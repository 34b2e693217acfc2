"""What users write to change headers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from controlplane.model.written import ChangedHeaderName, FieldError, HeaderValue, Written


def _each_name_once(said: Any) -> Any:
    """Names in other letters are one name, of whose values all but the last would be lost."""
    seen: set[str] = set()
    for name in said if isinstance(said, dict) else ():
        if (lower := str(name).lower()) in seen:
            raise FieldError((name,), f'"{lower}" stands here twice: the case of its letters makes no other header')
        seen.add(lower)
    return said


_Values = Annotated[dict[ChangedHeaderName, HeaderValue], Field(max_length=64), BeforeValidator(_each_name_once)]


class HeaderChanges(Written):
    """First `remove`, then `set` (replaces), then `add` (appends).

    Values are literal: `%` is not a command here.
    """

    set: _Values = Field(default_factory=dict)
    add: _Values = Field(default_factory=dict)
    remove: tuple[ChangedHeaderName, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> HeaderChanges:
        for name in self.set:
            if name in self.add or name in self.remove:
                raise ValueError(f'"{name}" stands in set and in add or remove; say one of them')
        return self
