"""Requests through Envoy, and the table of what came back."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.cli.demo.scene import BURST, ORIGIN
from controlplane.cli.terminal import Paint, Terminal


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Status 0 stands for no answer at all."""

    status: int
    headers: Mapping[str, str]
    body: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A request, what it should have given, and what it gave."""

    name: str
    request: str
    expected: str
    got: str

    @property
    def holds(self) -> bool:
        """Whether both are the same."""
        return self.expected == self.got


def ask(port: int, method: str, path: str, headers: Mapping[str, str] | None = None) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        return Reply(response.status, {key.lower(): value for key, value in response.getheaders()}, body)
    except (OSError, http.client.HTTPException):
        return Reply(0, {})
    finally:
        connection.close()


def run(port: int, token: str) -> list[Check]:
    """Every check of the demo, in the order in which they are shown."""
    checks = []

    def check(name: str, request: str, expected: str, got: str) -> None:
        checks.append(Check(name, request, expected, got))

    check("public route", "GET /hello", "200", str(ask(port, "GET", "/hello").status))
    check("JWT, no token", "GET /orders", "401", str(ask(port, "GET", "/orders").status))
    bearer = {"authorization": f"Bearer {token}"}
    reply = ask(port, "GET", "/orders", bearer)
    check("JWT, token", "GET /orders", "200 as alice", f"{reply.status}{' as alice' if 'alice' in reply.body else ''}")
    tampered = {"authorization": f"Bearer {token[:-6]}AAAAAA"}
    check("JWT, tampered", "GET /orders", "401", str(ask(port, "GET", "/orders", tampered).status))
    statuses = [ask(port, "GET", "/limited").status for _ in range(BURST + 1)]
    wanted = [200] * BURST + [429]
    check("rate limit", f"GET /limited x {BURST + 1}", " ".join(map(str, wanted)), " ".join(map(str, statuses)))
    preflight = {"origin": ORIGIN, "access-control-request-method": "GET"}
    reply = ask(port, "OPTIONS", "/hello", preflight)
    allowed = reply.headers.get("access-control-allow-origin", "no origin allowed")
    check("CORS preflight", "OPTIONS /hello", f"200 {ORIGIN}", f"{reply.status} {allowed}")
    check("unknown path", "GET /nowhere", "404", str(ask(port, "GET", "/nowhere").status))
    return checks


def table(checks: list[Check], terminal: Terminal) -> str:
    """The checks as a small table."""
    header = ("what", "request", "answer", "")
    rows = [(one.name, one.request, one.got, "ok" if one.holds else f"expected {one.expected}") for one in checks]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(3)]
    lines = []
    for number, row in enumerate((header, *rows)):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        verdict = terminal.paint(row[3], Paint.GOOD if row[3] == "ok" else Paint.ERROR) if number else ""
        lines.append(f"  {cells}  {verdict}".rstrip())
    return "\n".join(lines)


def edition(port: int) -> str:
    """What the public route says in its header."""
    return ask(port, "GET", "/hello").headers.get("x-edition", "")


def milliseconds_until(port: int, wanted: str, since: float, seconds: float = 10.0) -> float | None:
    """Milliseconds from `since` (time.perf_counter) until Envoy answers with this edition; None when it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        while time.perf_counter() - since < seconds:
            connection.request("GET", "/hello")
            response = connection.getresponse()
            response.read()
            if response.getheader("x-edition") == wanted:
                return (time.perf_counter() - since) * 1000
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return None
