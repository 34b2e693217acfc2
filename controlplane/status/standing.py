"""What is known of one custom resource, as the `status` that people read with kubectl. Pure: no clock, no cluster.

A status is bounded: one condition set, the worst error, counts of proxies. Two statuses that say the same are equal but for
the times of transitions, which stay where nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.compile import codes
from controlplane.errors import Diagnostic, Severity

MAX_MESSAGE, MAX_HELP, MAX_PATH = 2048, 1024, 1024
"""Characters, as in the custom resource definitions."""

_REASONS = {
    codes.UNKNOWN_GATEWAY: "UnknownGateway",
    codes.CONFLICT: "Conflict",
    codes.EQUAL_ROUTES: "Conflict",
    codes.NOT_GRANTED: "NotGranted",
    codes.REJECTED: "RefusedByProxy",
    codes.EXPIRY: "Expired",
    codes.NAMESAKE: "Conflict",
    codes.FAILED: "InternalError",
}


@dataclass(frozen=True, slots=True)
class Proxies:
    """Where the proxies of a gateway stand with what was compiled last: `synced` have acknowledged it.

    Those that are connected to this replica: others know of theirs, and nobody adds them up.
    """

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
    `in_force` is whether any version of it is; `good` is the generation of that one, 0 when nobody knows it. `is_served`
    is whether proxies are offered any of its routes, when it has some.
    """

    generation: int
    diagnostics: tuple[Diagnostic, ...]
    proxies: Proxies
    snapshot: str = ""
    counts: bool = False
    in_force: bool = True
    good: int = 0
    is_served: bool = True


def status(standing: Standing, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status; `before` is the one in the cluster, `now` the time (RFC 3339) of conditions that turn."""
    errors = [one for one in standing.diagnostics if one.severity is Severity.ERROR]
    said: dict[str, Any] = {"observedGeneration": standing.generation}
    if standing.snapshot:
        said["snapshot"] = standing.snapshot
    conditions = [_compiled(errors, standing), _condition(_withheld(errors, standing) or _programmed(standing.proxies))]
    known = {str(one.get("type")): one for one in _conditions(before)}
    conditions[1] = _kept(conditions[1], known.get("Programmed"), standing)
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


def _rank(one: Diagnostic) -> tuple[bool, bool, str, str, str]:
    """What disables the whole object comes first, errors of syntax and schema among it; then by code and place."""
    return one.code != codes.NAMESAKE, not _is_invalid(one), str(one.code), one.path, one.message


def _compiled(errors: Sequence[Diagnostic], standing: Standing) -> dict[str, str]:
    if not errors:
        problems = len(standing.diagnostics)
        message = f"compiled, with {problems} warnings: see GET /v1/problems" if problems else "compiled"
        return {"type": "Compiled", "status": "True", "reason": "Compiled", "message": message}
    worst = min(errors, key=_rank)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = f"{worst.path + ': ' if worst.path else ''}{worst.message}{more}{_rest(worst, standing)}"
    return {"type": "Compiled", "status": "False", "reason": _reason(worst), "message": message[:MAX_MESSAGE]}


def _reason(error: Diagnostic) -> str:
    return _REASONS.get(str(error.code), "Invalid" if _is_invalid(error) else "Unresolved")


def _rest(worst: Diagnostic, standing: Standing) -> str:
    """What becomes of everything that the worst error is not about."""
    if worst.code == codes.NAMESAKE:
        return ""
    if worst.code == codes.UNKNOWN_GATEWAY:
        return "; nothing of it is served until there is one"
    if not _is_invalid(worst):
        return "; everything else of it is served" if standing.is_served else "; nothing of it is served"
    return "; the last good version is in force" if standing.in_force else "; nothing of it is in force"


def _is_invalid(error: Diagnostic) -> bool:
    """Whether nobody can use an object that has it."""
    return error.code.startswith(("GW00", "GW01"))


_Said = tuple[str, str, str]
"""Status, reason and message of a condition."""
_ACKNOWLEDGED = ("True", "Programmed", "every proxy connected to the replica that writes this has acknowledged it")


def _withheld(errors: Sequence[Diagnostic], standing: Standing) -> _Said | None:
    """Why no proxy gets this generation; None when proxies do."""
    found = {str(one.code) for one in errors}
    if codes.NAMESAKE in found:
        return "False", "Conflict", "no proxy gets it: another source has an object of its name"
    if codes.UNKNOWN_GATEWAY in found:
        return "False", "UnknownGateway", "no proxy gets it: there is no such gateway"
    if standing.good == standing.generation or not any(map(_is_invalid, errors)):
        return None if standing.is_served else _unserved(errors)
    if not standing.in_force:
        return "False", "Invalid", "no proxy gets it: it cannot be used, and there is no good version of it"
    which = f"generation {standing.good}, the last good one," if standing.good else "the last good version"
    return "False", "LastGood", f"no proxy gets generation {standing.generation}: {which} stays in force"


def _unserved(errors: Sequence[Diagnostic]) -> _Said:
    """None of its routes is among what proxies are offered: because of errors, or for want of a listener."""
    if errors:
        return "False", _reason(min(errors, key=_rank)), "no proxy gets it: none of its routes is served"
    return "False", "NoListener", "no proxy gets it: no listener accepts the hosts of its routes"


def _programmed(proxies: Proxies) -> _Said:
    if proxies.nacked:
        whose = "proxies connected to the replica that writes this"
        return "False", "Refused", f"{proxies.nacked} of {proxies.matched} {whose} refuse some of it"
    if proxies.pending:
        return "False", "Pending", "not every proxy connected to the replica that writes this has acknowledged it yet"
    if not proxies.matched:
        return "True", "NoProxies", "no proxy is connected to the replica that writes this; the next one gets it"
    return _ACKNOWLEDGED


def _kept(condition: dict[str, str], before: Mapping[str, Any] | None, standing: Standing) -> dict[str, str]:
    """What was said of this generation before, where that is true still and is more than is known now.

    Proxies that have a route come and go, as they all do when replicas restart; which generation was the last good one,
    none knows that was not there.
    """
    if before is None or before.get("observedGeneration") != standing.generation:
        return condition
    was, reason = (before.get("status"), before.get("reason")), condition["reason"]
    if reason in {"Pending", "NoProxies"} and not standing.counts and was == _ACKNOWLEDGED[:2]:
        return _condition(_ACKNOWLEDGED)
    if reason == "LastGood" and not standing.good and was == ("False", "LastGood"):
        return {**condition, "message": str(before.get("message"))[:MAX_MESSAGE]}
    return condition


def waits(status: Mapping[str, Any]) -> bool:
    """Whether it says that something is on its way to proxies."""
    return any(one["reason"] == "Pending" for one in status["conditions"])


def _condition(said: _Said) -> dict[str, str]:
    return {"type": "Programmed", "status": said[0], "reason": said[1], "message": said[2]}


def _timed(condition: dict[str, str], before: Mapping[str, Any] | None, generation: int, now: str) -> dict[str, Any]:
    same = before is not None and before.get("status") == condition["status"]
    turned = before.get("lastTransitionTime", now) if before is not None and same else now
    return {**condition, "observedGeneration": generation, "lastTransitionTime": turned}
