"""Requests through Envoy: what is asked, what should come back, and what did."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from controlplane.cli.demo.scene import BURST, ORIGIN

SPLIT_REQUESTS = 80
"""With a quarter for the canary, none of so many reaching it is one case in ten thousand million."""
_PROBE_SECONDS = 0.001
_ANSWER_SECONDS = 30.0
"""So long only on a machine that has a lot else to do."""
"""Between two requests while a change is awaited: short for the clock, long enough to leave the processor to others."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Status 0 stands for no answer at all."""

    status: int
    headers: Mapping[str, str]
    body: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What was asked, what came back, and what should have (empty: that did)."""

    name: str
    request: str
    got: str
    expected: str = ""

    @property
    def holds(self) -> bool:
        """Whether it came as expected."""
        return not self.expected


def check(name: str, request: str, expected: str, got: str) -> Check:
    """The check that one text is another."""
    return Check(name, request, got, "" if got == expected else expected)


def ask(address: str, method: str, path: str, headers: Mapping[str, str] | None = None) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=_ANSWER_SECONDS)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        return Reply(response.status, {key.lower(): value for key, value in response.getheaders()}, body)
    except (OSError, http.client.HTTPException):
        return Reply(0, {})
    finally:
        connection.close()


def requests(envoy: str, token: str) -> Iterator[Check]:
    """Every check of the first round, in the order in which they are shown."""

    def get(path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return ask(envoy, "GET", path, headers)

    yield check("public route", "GET /hello", "200", str(get("/hello").status))
    yield check("JWT, no token", "GET /orders", "401", str(get("/orders").status))
    reply = get("/orders", {"authorization": f"Bearer {token}"})
    user = json.loads(reply.body).get("user") if reply.status == 200 else None
    yield check("JWT, token", "GET /orders", "200, x-user-id: alice", f"{reply.status}, x-user-id: {user}")
    altered = {"authorization": f"Bearer {token[:-6]}AAAAAA"}
    yield check("JWT, altered token", "GET /orders", "401", str(get("/orders", altered).status))
    statuses = [get("/limited").status for _ in range(BURST + 1)]
    wanted = [200] * BURST + [429]
    yield check("rate limit", f"GET /limited x {BURST + 1}", " ".join(map(str, wanted)), " ".join(map(str, statuses)))
    reply = ask(envoy, "OPTIONS", "/hello", {"origin": ORIGIN, "access-control-request-method": "GET"})
    allowed = reply.headers.get("access-control-allow-origin", "no origin")
    yield check("CORS preflight", "OPTIONS /hello", f"200, allows {ORIGIN}", f"{reply.status}, allows {allowed}")
    seen = Counter(json.loads(get("/split").body or "{}").get("backend", "none") for _ in range(SPLIT_REQUESTS))
    both = set(seen) == {"stable", "canary"}
    got = ", ".join(f"{count} {name}" for name, count in seen.most_common())
    yield Check("weights 75 : 25", f"GET /split x {SPLIT_REQUESTS}", got, "" if both else "answers of both backends")
    yield check("unknown path", "GET /nowhere", "404", str(get("/nowhere").status))


def edition(envoy: str) -> str:
    """What the public route says in its header."""
    return ask(envoy, "GET", "/hello").headers.get("x-edition", "none")


def milliseconds_until(envoy: str, wanted: str, since: float, seconds: float = _ANSWER_SECONDS) -> float | None:
    """Milliseconds from `since` (time.perf_counter) until Envoy answers with this edition; None when it does not."""
    connection = http.client.HTTPConnection(envoy, timeout=_ANSWER_SECONDS)
    try:
        while time.perf_counter() - since < seconds:
            connection.request("GET", "/hello")
            response = connection.getresponse()
            response.read()
            if response.getheader("x-edition") == wanted:
                return (time.perf_counter() - since) * 1000
            time.sleep(_PROBE_SECONDS)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return None


def acknowledged(admin: str) -> str | None:
    """The version of the Envoy that has acknowledged everything it was sent, or None. (`GET /v1/nodes`)"""
    reply = ask(admin, "GET", "/v1/nodes")
    for node in json.loads(reply.body)["nodes"] if reply.status == 200 else ():
        states = {each["type"]: each["state"] for each in node["types"]}
        if node["settled"] == node["sequence"] and "lds" in states and set(states.values()) == {"synced"}:
            version: str = node["envoy"]
            return version
    return None


def problem(admin: str) -> str | None:
    """`code` of something that is wrong with the specs, or None. (`GET /v1/problems`)"""
    reply = ask(admin, "GET", "/v1/problems")
    found = json.loads(reply.body)["problems"] if reply.status == 200 else ()
    return next((str(one["code"]) for one in found), None)
