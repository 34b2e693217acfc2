"""What shards cost a request: CPU of Envoy with our configuration, by xDS, against a hand-written static one.

Both Envoys run at the same time, idle but for the one under load; rounds alternate, and what is compared is the median
over rounds. *Hit*: the shard of the path's first segment exists. *Miss*: it does not, and the host's fallback answers.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.bench import handwritten
from tests.bench.fleet import backend
from tests.bench.probing import Client
from tests.bench.processes import ControlPlane, Envoy, free_port, until
from tests.bench.result import Plan, Result, median
from tests.bench.specs import LABELS

PATHS: Mapping[str, tuple[str, float]] = {"hit": ("/api/items", 5.0), "miss": ("/items/1", 15.0)}
"""By what it shows: the path, and the microseconds that a request may cost more."""
HOSTS = 1_000
CONNECTIONS = 16

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


def run(plan: Plan) -> Iterator[Result]:
    """Microseconds of CPU a request, requests a second, p99."""
    if (wrk := _wrk()) is None:
        print("  wrk is not installed and cannot be (Debian, Ubuntu: apt-get install wrk); left out")
        return
    folder = plan.folder / "dataplane"
    hosts = [f"h{index}.example.com" for index in range(10 if plan.quick else HOSTS)]
    ours_port, static_port, backend_port = free_port(), free_port(), free_port()
    key_set = _key_set()
    _write_specs(folder / "specs", ours_port, backend_port, hosts, key_set)
    static = handwritten.configuration(static_port, backend_port, hosts, key_set)
    with backend(backend_port, folder), ControlPlane(folder / "specs", folder) as control_plane:
        control_plane.ready()
        with Envoy.of(control_plane, LABELS, folder) as ours, Envoy(static, folder, "static") as by_hand:
            sides = {"ours": (ours, ours_port), "static": (by_hand, static_port)}
            for _, port in sides.values():
                for path, _ in PATHS.values():
                    client = Client(port)
                    until(lambda c=client, p=path: c.ask(hosts[-1], p).status == 200, f"port {port} answers {path}")
                    client.close()
            for what, (path, goal) in PATHS.items():
                yield from _compare(wrk, plan, what, sides, hosts[len(hosts) // 2], path, goal)


def _compare(
    wrk: str, plan: Plan, what: str, sides: Mapping[str, tuple[Envoy, int]], host: str, path: str, goal: float
) -> Iterator[Result]:
    rounds: dict[str, list[Round]] = {side: [] for side in sides}
    # Short rounds, and many: what else the machine does weighs on neighbours alike, and the median of differences is left.
    for number in range(1 if plan.quick else 30):
        for side, (envoy, port) in sides.items() if number % 2 else reversed(sides.items()):
            rounds[side].append(_round(wrk, envoy, f"http://127.0.0.1:{port}{path}", host, seconds=1))
    size = 10 if plan.quick else HOSTS
    for side, of_side in rounds.items():
        yield Result(
            "dataplane", size, f"{what}, {side}: CPU of a request", median([one.cpu_us for one in of_side]), "us"
        )
        rate = median([one.requests_per_second for one in of_side])
        yield Result("dataplane", size, f"{what}, {side}: requests", rate, "1/s")
        yield Result("dataplane", size, f"{what}, {side}: p99", median([one.p99_ms for one in of_side]), "ms")
    more = [ours.cpu_us - static.cpu_us for ours, static in zip(rounds["ours"], rounds["static"], strict=True)]
    yield Result("dataplane", size, f"{what}: CPU more than static", median(more), "us", goal)


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
