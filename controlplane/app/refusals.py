"""What proxies refused, as problems of the specs: which element, which field, where it stands.

Row and object are always known; the field where the proxy's message holds the field's value, or its name in Envoy's
definition. Told by the fleet when something is held back, and after every publication; the register has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from controlplane.app.problems import Problems
from controlplane.compile import codes
from controlplane.compile.provenance import Made, elements, title
from controlplane.errors import Diagnostic
from controlplane.names import ObjectRef
from controlplane.resources import Resource
from controlplane.snapshot.store import Store
from controlplane.spec.places import parse_path, shown
from controlplane.spec.yaml import Path, load
from controlplane.telemetry.metrics import Metrics, type_label
from controlplane.xds.holds import Held, Holds

Key = tuple[str, str, str]
"""Type URL, name and version of a resource."""

MEANINGFUL = 3
"""Characters of a value from which on its presence in a message is no accident."""
SHORTENED = 500
"""Characters of the message of a proxy that a problem quotes; all of it is in the log."""


class Refusals:
    """Keeps the register in step with what is held back."""

    def __init__(
        self,
        register: Problems,
        store: Store,
        holds: Holds,
        metrics: Metrics,
        in_force: Callable[[ObjectRef], ObjectRef],
    ) -> None:
        """`in_force` tells from which source the object of a name is that is compiled."""
        self._register = register
        self._in_force = in_force
        self._store = store
        self._holds = holds
        self._metrics = metrics
        self._said: dict[Key, tuple[Diagnostic, ...]] = {}

    def held(self, resource: Resource, good: Resource | None, detail: str) -> tuple[Diagnostic, ...]:
        """This resource is held back from now on; what that means, with places."""
        key = (resource.type_url, resource.name, resource.version)
        self._say(key, self._diagnose(resource, good, detail))
        self._count()
        return self.of(resource)

    def of(self, resource: Resource) -> tuple[Diagnostic, ...]:
        """The problems behind a hold, with places."""
        key = (resource.type_url, resource.name, resource.version)
        return tuple(self._register.placed(self._said.get(key, ())))

    def current(self) -> Iterator[Held]:
        """The holds of content that is published now."""
        return (held for held in self._holds.held() if self._store.has(held.resource))

    def review(self) -> None:
        """Take back what is not published any more, and say again what has come back."""
        now = {(held.resource.type_url, held.resource.name, held.resource.version): held for held in self.current()}
        for key in self._said.keys() - now.keys():
            self._say(key, ())
        for key in now.keys() - self._said.keys():
            self._say(key, self._diagnose(now[key].resource, None, now[key].detail))
        self._count()

    def _count(self) -> None:
        self._metrics.holding(type_label(held.resource.type_url) for held in self.current())

    def _say(self, key: Key, diagnostics: tuple[Diagnostic, ...]) -> None:
        if diagnostics:
            self._said[key] = diagnostics
        else:
            self._said.pop(key, None)
        self._register.say(("refused", *key), diagnostics)

    def _diagnose(self, resource: Resource, good: Resource | None, detail: str) -> tuple[Diagnostic, ...]:
        made = [self._sourced(one) for one in elements(resource, good)] or [Made("", "")]
        kind = type_label(resource.type_url)
        quoted = detail if len(detail) <= SHORTENED else f"…{detail[-SHORTENED:]}"
        stays = (
            "its last good content stays in force" if good is not None else "nothing of it is in force on new proxies"
        )
        read: dict[str, Any] = {}
        message = f'a proxy refused the {kind} "{title(resource)}" made of this: {" ".join(quoted.split())}'
        return tuple(
            Diagnostic(codes.REJECTED, message, self._field(one, detail, read), f"{stays}; change it, no restart is needed", subject=one.subject)
            for one in made
        )  # fmt: skip

    def _sourced(self, made: Made) -> Made:
        ref = ObjectRef.of_subject(made.subject)
        return made if ref is None else made._replace(subject=self._in_force(ref).subject)

    def _field(self, made: Made, detail: str, read: dict[str, Any]) -> str:
        """The path of the field that the message speaks of, else that of the element; `read` are documents by subject."""
        spec = self._register.object(made.subject)
        if spec is None:
            return made.path
        if made.subject not in read:
            read[made.subject] = load(spec.text).data
        data = read[made.subject]
        start = parse_path(made.path or "spec", data)
        element: Any = data
        for step in start:
            element = element[step]
        found = _by_value(element, detail) or _by_name(element, detail)
        return shown((*start, *found), data) if found else made.path


def _scalars(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _scalars(inner, (*path, index))
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, str(value)


def _by_value(element: Any, detail: str) -> Path:
    """Of the longest value that the message quotes; names of elements are in every message."""
    found = [
        (len(text), path)
        for path, text in _scalars(element)
        if path[-1:] != ("name",) and (_quotes(detail, text) or detail.rstrip().endswith(f": {text}"))
    ]
    return max(found, key=lambda one: one[0])[1] if found else ()


def _quotes(detail: str, text: str) -> bool:
    return len(text) >= MEANINGFUL and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", detail) is not None


def _by_name(element: Any, detail: str) -> Path:
    """Of the innermost field whose rule was broken, when the spec has a field of that name."""
    for name in reversed(re.findall(r"ValidationError\.(\w+)", detail)):
        field = name[0].lower() + name[1:]
        for path, _ in _scalars(element):
            if field in path:
                return path[: path.index(field) + 1]
    return ()
