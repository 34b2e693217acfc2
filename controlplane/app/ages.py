"""Since when each resource is as it is, told by what publications touched. For those who look on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from controlplane.snapshot.content import Touched
from controlplane.snapshot.store import Store


class Since(NamedTuple):
    """When a resource got its content: in which publication, and on the clock."""

    sequence: int
    at: float


@dataclass(slots=True)
class Ages:
    """By part, type URL and name; of what one publication touched it is one object."""

    store: Store
    clock: Callable[[], float]
    _since: dict[Hashable, dict[str, dict[str, Since]]] = field(default_factory=dict)

    def touched(self, parts: Iterable[Hashable], before: int) -> dict[Hashable, Touched]:
        """By part: what publications after `before` touched."""
        found = ((part, self.store.view((part,)).touched_since(before)) for part in parts)
        return {part: touched for part, touched in found if touched}

    def published(self, touched: Mapping[Hashable, Touched], sequence: int) -> None:
        """This was touched by the publication of this number."""
        since = Since(sequence, self.clock())
        for part, by_type in touched.items():
            view = self.store.view((part,))
            for type_url, names in by_type.items():
                known = self._since.setdefault(part, {}).setdefault(type_url, {})
                known.update(dict.fromkeys(names, since))
                there = view.versions(type_url)  # at hand for one part; its names would be listed anew each time
                for name in names:
                    if name not in there:
                        known.pop(name, None)

    def of(self, parts: Iterable[Hashable], type_url: str, name: str) -> Since | None:
        """Since when what stands under a name in these parts is so: in the first that has it."""
        found = (self._since.get(part, {}).get(type_url, {}).get(name) for part in parts)
        return next((since for since in found if since is not None), None)

    def plain(self, since: Since | None) -> dict[str, Any]:
        """As data, for JSON."""
        age = round(self.clock() - since.at, 3) if since is not None else None
        return {"sequence": since.sequence if since is not None else None, "ageSeconds": age}
