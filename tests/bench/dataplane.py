"""What shards cost a request: CPU of Envoy with our configuration, by xDS, against a hand-written static one.

All Envoys run at the same time, idle but for the one under load, and rounds alternate. Two processes of one
configuration differ by microseconds a request for as long as they live, by where their memory happens to lie: so every
side is started often, and each life is compared with the mean of two Envoys that have the static configuration. How far
these two are apart shows what such a comparison says of no difference at all.

*Hit*: the shard of the path's first segment exists. *Miss*: it does not, and the host's fallback answers.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.bench import handwritten
from tests.bench.fleet import backend
from tests.bench.probing import Client
from tests.bench.processes import ControlPlane, Envoy, until
from tests.bench.result import Plan, Result, median
from tests.bench.specs import LABELS
from tests.support.ports import free_port

PATHS: Mapping[str, tuple[str, float]] = {"hit": ("/api/items", 5.0), "miss": ("/items/1", 15.0)}
"""By what it shows: the path, and the microseconds that a request may cost more."""
HOSTS = 1_000
CONNECTIONS = 16
LIVES, ROUNDS = 16, 1
"""How often each Envoy is started, and how often each of a start is put under load for a second."""

_GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: bench, namespace: bench}}
spec:
  fleet: {{selector: {{matchLabels: {{role: bench}}}}}}
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
  identity:
    jwt:
      - name: corp
        issuer: https://id.example.com/
        audiences: [app]
        jwks: {{inline: '{key_set}'}}
        claimsToHeaders: {{sub: x-user-id}}
  policies:
    - {{name: browser, cors: {{origins: ["https://app.example.com"], methods: [GET]}}}}
    - {{name: burst, rateLimit: {{local: [{{requests: 1000000, per: second}}]}}}}
  backends: [{{name: app, members: [{{static: {{address: 127.0.0.1, port: {backend_port}}}}}]}}]
  routes:
"""
_ROUTE = """\
    - name: {name}
      hosts: [{host}]
      match: [{{path: {{prefix: {prefix}}}, methods: [GET]}}]
      public: true
      use: [browser, burst]
      transform: {{request: {{headers: {{set: {{x-edge: one}}}}}}}}
      to: [{{backend: app}}]
"""


@dataclass(frozen=True, slots=True)
class Round:
    """What one run of wrk showed."""

    cpu_us: float
    requests_per_second: float
    p99_ms: float


Sides = dict[str, tuple[Envoy, int]]
"""The Envoys that are compared, and their ports."""
Life = dict[str, dict[str, list[Round]]]
"""By path and side: the rounds of one start of the Envoys."""


def run(plan: Plan) -> Iterator[Result]:
    """Microseconds of CPU a request, requests a second, p99."""
    if (wrk := _wrk()) is None:
        print("  wrk is not installed and cannot be (Debian, Ubuntu: apt-get install wrk); left out")
        return
    folder = plan.folder / "dataplane"
    hosts = [f"h{index}.example.com" for index in range(10 if plan.quick else HOSTS)]
    ours_port, backend_port = free_port(), free_port()
    key_set = _key_set()
    _write_specs(folder / "specs", ours_port, backend_port, hosts, key_set)
    lives: list[Life] = []
    with backend(backend_port, folder), ControlPlane(folder / "specs", folder) as control_plane:
        control_plane.ready()
        for number in range(1 if plan.quick else LIVES):
            with ExitStack() as running:
                sides: Sides = {"ours": (running.enter_context(Envoy.of(control_plane, LABELS, folder)), ours_port)}
                for side in ("static", "static again"):
                    port = free_port()
                    configuration = handwritten.configuration(port, backend_port, hosts, key_set)
                    sides[side] = running.enter_context(Envoy(configuration, folder, side.replace(" ", "-"))), port
                for _, port in sides.values():
                    for path, _ in PATHS.values():
                        client = Client(port)
                        until(partial(_answers, client, hosts[-1], path), f"port {port} answers {path}")
                        client.close()
                lives.append(_life(wrk, sides, hosts[len(hosts) // 2], 1 if plan.quick else ROUNDS, number))
    for what, (_, goal) in PATHS.items():
        yield from _said(what, len(hosts), [life[what] for life in lives], goal)


def _answers(client: Client, host: str, path: str) -> bool:
    return client.ask(host, path).status == 200


def _life(wrk: str, sides: Sides, host: str, count: int, number: int) -> Life:
    """What each side showed, by path and side. Whoever is first in one round is last in the next."""
    life: Life = {what: {side: [] for side in sides} for what in PATHS}
    for turn in range(number, number + count):
        for what, (path, _) in PATHS.items():
            for side, (envoy, port) in sides.items() if turn % 2 else reversed(sides.items()):
                life[what][side].append(_round(wrk, envoy, f"http://127.0.0.1:{port}{path}", host, seconds=1))
    return life


def _said(what: str, size: int, lives: list[dict[str, list[Round]]], goal: float) -> Iterator[Result]:
    for side in lives[0]:
        of_side = [one for life in lives for one in life[side]]
        yield Result(
            "dataplane", size, f"{what}, {side}: CPU of a request", median([one.cpu_us for one in of_side]), "us"
        )
        rate = median([one.requests_per_second for one in of_side])
        yield Result("dataplane", size, f"{what}, {side}: requests", rate, "1/s")
        yield Result("dataplane", size, f"{what}, {side}: p99", median([one.p99_ms for one in of_side]), "ms")
    more = [_cpu(life, "ours") - (_cpu(life, "static") + _cpu(life, "static again")) / 2 for life in lives]
    apart = [abs(_cpu(life, "static") - _cpu(life, "static again")) for life in lives]
    yield Result("dataplane", size, f"{what}: CPU more than static", median(more), "us", goal)
    yield Result("dataplane", size, f"{what}: two static ones apart", median(apart), "us")


def _cpu(life: dict[str, list[Round]], side: str) -> float:
    """Microseconds of CPU of a request in one life of an Envoy."""
    return median([one.cpu_us for one in life[side]])


def _round(wrk: str, envoy: Envoy, url: str, host: str, seconds: int) -> Round:
    before = envoy.cpu_seconds()
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H", f"Host: {host}", url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = envoy.cpu_seconds() - before
    if "Non-2xx" in said:
        raise RuntimeError(f"{url} failed under load:\n{said}")
    requests = int(_found(r"(\d+) requests in", said)[1])
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", said)[1])
    tail = _found(r"99%\s+([\d.]+)(us|ms|s)", said)
    return Round(used / requests * 1e6, rate, float(tail[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[tail[2]])


def _found(pattern: str, text: str) -> re.Match[str]:
    if (match := re.search(pattern, text)) is None:
        raise RuntimeError(f"wrk did not say {pattern}:\n{text}")
    return match


def _wrk() -> str | None:
    """The load generator; installed where that is a matter of course."""
    if (found := shutil.which("wrk")) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "wrk"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True)
        found = shutil.which("wrk")
    return found


def _key_set() -> str:
    point = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    x = base64.urlsafe_b64encode(point).rstrip(b"=").decode()
    return json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "one", "x": x}]})


def _write_specs(folder: Path, port: int, backend_port: int, hosts: list[str], key_set: str) -> None:
    folder.mkdir(parents=True)
    text = _GATEWAY.format(port=port, backend_port=backend_port, key_set=key_set)
    for number, host in enumerate(hosts):
        text += _ROUTE.format(name=f"api-{number}", host=host, prefix="/api")
        text += _ROUTE.format(name=f"all-{number}", host=host, prefix="/")
    (folder / "gateway.yaml").write_text(text)
