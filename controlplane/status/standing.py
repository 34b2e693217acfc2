"""What is known of one custom resource, as the `status` that people read with kubectl. Pure: no clock, no cluster.

A status is bounded: one condition set, the worst error, counts of proxies. Two statuses that say the same are equal but for
the times of transitions, which stay where nothing changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.errors import Diagnostic, Severity

MAX_MESSAGE, MAX_HELP, MAX_PATH = 2048, 1024, 1024
"""Characters, as in the custom resource definitions."""

TWIN = "GW0226"
"""Another source has an object of the same name, and that one counts."""

_REASONS = {
    "GW0201": "UnknownGateway",
    "GW0213": "Conflict",
    "GW0211": "Conflict",
    "GW0220": "NotGranted",
    "GW0217": "RefusedByProxy",
    TWIN: "Conflict",
    "GW0299": "InternalError",
}


@dataclass(frozen=True, slots=True)
class Proxies:
    """Where the proxies of a gateway stand with what was compiled last: `synced` have acknowledged it."""

    matched: int = 0
    synced: int = 0
    nacked: int = 0

    @property
    def pending(self) -> int:
        """Those that have neither acknowledged nor refused it."""
        return self.matched - self.synced - self.nacked


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of an object. `generation` is the one that the diagnostics are about.

    `snapshot` and `counts` are for gateways alone: what is said of a route must not change with every other route.
    """

    generation: int
    diagnostics: tuple[Diagnostic, ...]
    proxies: Proxies
    snapshot: str = ""
    counts: bool = False


def status(standing: Standing, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status; `before` is the one in the cluster, `now` the time (RFC 3339) of conditions that turn."""
    errors = [one for one in standing.diagnostics if one.severity is Severity.ERROR]
    said: dict[str, Any] = {"observedGeneration": standing.generation}
    if standing.snapshot:
        said["snapshot"] = standing.snapshot
    stands_back = any(one.code == TWIN for one in errors)
    programmed = _STANDS_BACK if stands_back else _programmed(standing.proxies)
    conditions = [_compiled(errors, len(standing.diagnostics)), programmed]
    known = {str(one.get("type")): one for one in _conditions(before)}
    if not standing.counts:
        conditions[1] = _kept(conditions[1], known.get("Programmed"), standing.generation)
    said["conditions"] = [_timed(one, known.get(one["type"]), standing.generation, now) for one in conditions]
    if standing.counts:
        proxies = standing.proxies
        fleet = {"matched": proxies.matched, "synced": proxies.synced, "pending": proxies.pending}
        said["fleet"] = {**fleet, "nacked": proxies.nacked}
    if errors:
        worst = min(errors, key=_rank)
        said["errors"] = len(errors)
        said["lastError"] = {
            "code": str(worst.code),
            "path": worst.path[:MAX_PATH],
            "message": worst.message[:MAX_MESSAGE],
            "help": worst.help[:MAX_HELP],
        }
    return said


def own(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is ours of a status: others may add to it."""
    ours = {name: value for name, value in found.items() if name in _OURS}
    if "conditions" in ours:
        listed = [one for one in _conditions(found) if one.get("type") in _CONDITIONS]
        ours["conditions"] = sorted(listed, key=lambda one: str(one["type"]))
    return ours


def _conditions(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that are any: others may write them, and not every definition checks what."""
    listed = found.get("conditions")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


_OURS = {"observedGeneration", "snapshot", "conditions", "fleet", "errors", "lastError"}
_CONDITIONS = ["Compiled", "Programmed"]
_STANDS_BACK = {
    "type": "Programmed",
    "status": "False",
    "reason": "Conflict",
    "message": "no proxy gets it: another source has an object of its name",
}


def _rank(one: Diagnostic) -> tuple[bool, bool, str, str, str]:
    """What disables the whole object comes first, errors of syntax and schema among it; then by code and place."""
    return one.code != TWIN, not one.code.startswith(("GW00", "GW01")), str(one.code), one.path, one.message


def _compiled(errors: Iterable[Diagnostic], problems: int) -> dict[str, str]:
    found = list(errors)
    if not found:
        message = "compiled" if not problems else f"compiled, with {problems} warnings: see GET /v1/problems"
        return {"type": "Compiled", "status": "True", "reason": "Compiled", "message": message}
    worst = min(found, key=_rank)
    invalid = worst.code.startswith(("GW00", "GW01"))
    rest = "; the last good version is in force" if invalid else "; everything else of it is served"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = f"{worst.path + ': ' if worst.path else ''}{worst.message}{more}{'' if worst.code == TWIN else rest}"
    reason = _REASONS.get(str(worst.code), "Invalid" if invalid else "Unresolved")
    return {"type": "Compiled", "status": "False", "reason": reason, "message": message[:MAX_MESSAGE]}


def _programmed(proxies: Proxies) -> dict[str, str]:
    if proxies.nacked:
        said = ("False", "Refused", f"{proxies.nacked} of {proxies.matched} proxies refuse some of it")
    elif proxies.pending:
        said = ("False", "Pending", "not every proxy has acknowledged it yet")
    elif not proxies.matched:
        said = ("True", "NoProxies", "no proxy is connected; the next one gets it")
    else:
        said = _ACKNOWLEDGED
    return _condition(said)


_ACKNOWLEDGED = ("True", "Programmed", "every connected proxy has acknowledged it")


def _kept(condition: dict[str, str], before: Mapping[str, Any] | None, generation: int) -> dict[str, str]:
    """What was said of a route that proxies have: it stays so when proxies come and go, as they all do when replicas restart."""
    if before is None or condition["reason"] not in {"Pending", "NoProxies"}:
        return condition
    was = before.get("status"), before.get("reason"), before.get("observedGeneration")
    return _condition(_ACKNOWLEDGED) if was == (*_ACKNOWLEDGED[:2], generation) else condition


def waits(status: Mapping[str, Any]) -> bool:
    """Whether it says that something is on its way to proxies."""
    return any(one["reason"] == "Pending" for one in status["conditions"])


def _condition(said: tuple[str, str, str]) -> dict[str, str]:
    return {"type": "Programmed", "status": said[0], "reason": said[1], "message": said[2]}


def _timed(condition: dict[str, str], before: Mapping[str, Any] | None, generation: int, now: str) -> dict[str, Any]:
    same = before is not None and before.get("status") == condition["status"]
    turned = before.get("lastTransitionTime", now) if before is not None and same else now
    return {**condition, "observedGeneration": generation, "lastTransitionTime": turned}
