"""One backend in four places: two Kubernetes clusters, a Consul datacenter and a DNS name, in this order.

All of it is real and in a network namespace of its own: two API servers, Consul, the control plane, Envoy. The members
of the clusters have equal namespaces and names.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.plane import Plane, forward, gateway
from tests.support.backends import HttpBackend
from tests.support.client import Connection
from tests.support.clock import Clock
from tests.support.consul import Consul
from tests.support.kubernetes import Kubernetes
from tests.support.load import Load, answers
from tests.support.network import network
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.tools import needs, unavailable
from tests.support.waiting import until

CRDS = Path(__file__).resolve().parents[2] / "manifests" / "crds"
ADDRESSES = {
    "eu-1": "10.200.1.1", "eu-2": "10.200.1.2", "us-1": "10.200.2.1", "us-2": "10.200.2.2", "dc-1": "10.200.3.1",
    "dns": "127.0.0.1",
}  # fmt: skip
PORT = 8080
SHOP, EU, US, TEAM = "shop.example.com", "eu.example.com", "us.example.com", "team.example.com"
"""Hosts: all places in order; the service of the first cluster alone; that of the second; what is granted to a team."""
NUMBER = "number.example.com"
"""The service of the second cluster by the number of its port."""


class Clouds:
    """The places, a control plane that watches all of them, and a proxy."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.eu, self.us = Kubernetes(folder / "eu"), Kubernetes(folder / "us")
        self.consul = Consul(folder / "consul")
        self.clusters = {"eu": self.eu, "us": self.us}
        for one in self.clusters.values():
            stack.callback(one.stop)
            one.launch()
        self.consul.start(ready=False)
        stack.callback(self.consul.kill)
        self.backends: dict[str, HttpBackend] = {}
        self.open(*ADDRESSES)
        stack.callback(lambda: self.close(*self.backends))
        self.relay = stack.enter_context(Relay(self.eu.port))
        self.way_to_consul = stack.enter_context(Relay(self.consul.port))
        for name, one in self.clusters.items():
            one.wait()
            self.furnish(name)
        self.consul.until_ready()
        self.consul.register("web", ADDRESSES["dc-1"], PORT, node="dc-1")
        self.port = free_port()
        self.clock = Clock(folder)
        configuration = str(folder / "controlplane.yaml")
        self.plane = stack.enter_context(
            Plane(self._project(folder), "--config", configuration, **self.clock.environment)
        )
        self.plane.write(self.gateway())
        self.plane.start().ready().envoy().ready()
        self.becomes("eu-1", "eu-2")

    def _project(self, folder: Path) -> Path:
        """The control plane's folder, and beside it its configuration. The first cluster and Consul are reached by relays."""
        project = folder / "project"
        project.mkdir()
        token = folder / "token"
        token.write_text(self.consul.token())
        way = f"https://127.0.0.1:{self.relay.port}"
        eu = self.kubeconfig = self.eu.kubeconfig(folder / "eu.kubeconfig", server=way)
        us = self.us.kubeconfig(folder / "us.kubeconfig")
        sources = {
            "kubernetes": [
                {"name": "eu", "kubeconfig": str(eu), "specs": True, "status": False, "region": "eu"},
                {"name": "us", "kubeconfig": str(us), "region": "us"},
            ],
            "consul": [
                {"name": "dc", "address": f"http://127.0.0.1:{self.way_to_consul.port}", "tokenFile": str(token)}
            ],
        }
        (folder / "controlplane.yaml").write_text(yaml.safe_dump({"sources": sources}))
        return project

    def gateway(self, *, crowd: bool = False) -> dict[str, Any]:
        """The gateway spec; `crowd`: with one more service of the first cluster."""
        eu, us = ({"kubernetes": {"cluster": name, "service": "shop/web", "port": "http"}} for name in ("eu", "us"))
        members = [
            eu,
            us,
            {"consul": {"datacenter": "dc", "service": "web"}},
            {"dns": {"host": "localhost", "port": PORT}},
        ]
        placed = [{**member, "priority": level} for level, member in enumerate(members)]
        backends = [
            {"name": "web", "members": placed},
            {"name": "eu", "members": [eu]},
            {"name": "us", "members": [us]},
            {"name": "number", "members": [{"kubernetes": {**us["kubernetes"], "port": 80}}]},
        ]
        if crowd:
            member = {"kubernetes": {"cluster": "eu", "service": "many/crowd", "port": "http"}}
            backends.append({"name": "crowd", "members": [member]})
        routes = [forward("crowd", "/", "crowd", ["crowd.example.com"])] if crowd else []
        routes += [forward("web", "/", "web", [SHOP]), forward("eu", "/", "eu", [EU]), forward("us", "/", "us", [US])]
        routes.append(forward("number", "/", "number", [NUMBER]))
        delegates = [{"name": "team", "namespaces": ["team"], "hosts": [TEAM]}]
        return gateway(
            port=self.port,
            routes=routes,
            backends=backends,
            delegates=delegates,
            # For pods that die before anybody knows; all requests here are safe to repeat.
            defaults={"retry": {"attempts": 3, "when": ["connect-failure", "refused-stream", "reset"]}},
        )

    def furnish(self, cluster: str) -> None:
        """Everything in a cluster that is empty."""
        one = self.clusters[cluster]
        one.define(*(yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))))
        for namespace in ("shop", "team", "many"):
            one.create({"kind": "Namespace", "metadata": {"name": namespace}})
        one.service("shop", "web")
        self.pods(cluster, f"{cluster}-1", f"{cluster}-2")

    # -- what happens in the places --------------------------------------------------------------------------------

    def pods(self, cluster: str, *ready: str, others: Collection[str] = (), port: str = "http") -> None:
        """The pods of a cluster: these are ready, `others` are not; what their port is called."""
        listed = [
            {"addresses": [ADDRESSES[name]], "conditions": {"ready": good, "serving": good, "terminating": False}}
            for names, good in ((ready, True), (others, False))
            for name in names
        ]
        self.clusters[cluster].slice("shop", "web-1", "web", listed, {port: PORT})

    def open(self, *names: str) -> None:
        """These backends listen."""
        for name in names:
            self.backends[name] = HttpBackend(name, address=ADDRESSES[name], port=PORT)

    def close(self, *names: str) -> None:
        """These do not, and their connections end."""
        for name in names:
            self.backends.pop(name).__exit__(None, None, None)

    def healthy(self) -> None:
        """Every place as it was in the beginning."""
        self.relay.slow_down(None)
        self.relay.flip(self.eu.port)
        self.way_to_consul.flip(self.consul.port)
        for name, one in self.clusters.items():
            until(lambda name=name: self.up(f"kubernetes/{name}"), f"{name} can be read")  # type: ignore[misc]
            one.service("shop", "web")
            self.pods(name, f"{name}-1", f"{name}-2")
        until(lambda: self.up("consul/dc"), "Consul can be read")
        self.consul.check("web", "dc-1", "passing")
        self.becomes("eu-1", "eu-2")
        self.becomes("us-1", "us-2", host=US)

    def lose_disk(self) -> None:
        """The etcd of the first cluster has an empty one from now on."""
        self.eu.stop()
        self.eu.wipe()
        self.eu.launch()
        self.eu.wait()

    def list_twice(self) -> None:
        """Wait until everything in the first cluster is listed two more times: when the second begins, the first counts."""
        kubeconfig = self.kubeconfig.read_text()
        for name in ("localhost", "127.0.0.1"):  # under another name it may be another cluster
            before = self.eu.asked("LIST", "endpointslices")
            self.kubeconfig.write_text(kubeconfig.replace("127.0.0.1", name))
            self.relay.cut()
            until(lambda before=before: self.eu.asked("LIST", "endpointslices") > before, "it is listed")  # type: ignore[misc]

    # -- what is seen of it ------------------------------------------------------------------------------------------

    def up(self, source: str) -> bool:
        """Whether a source can be read."""
        return self.plane.metric(f'controlplane_source_up{{source="{source}"}}') == 1

    def source(self, name: str) -> dict[str, Any]:
        """What is said of a source."""
        return next(dict(one) for one in self.plane.json("/v1/sources")["sources"] if one["name"] == name)

    def served(self, host: str = SHOP, times: int = 30) -> set[str]:
        """Who answers; a status, where nobody does."""
        with Connection(self.port) as connection:
            found = [connection.request("/", host) for _ in range(times)]
        return {json.loads(one.body)["backend"] if one.status == 200 else str(one.status) for one in found}

    def becomes(self, *names: str, host: str = SHOP) -> None:
        """Wait until exactly these answer."""
        until(lambda: self.served(host) == set(names), f"{', '.join(names)} answer for {host}")

    def changing(self, times: int) -> float:
        """The median of the seconds that a change of the second cluster takes, from its being written to its use."""
        found = []
        for number in range(times):
            name = f"us-{number % 2 + 1}"
            self.pods("us", name)
            written = time.monotonic()
            until(lambda name=name: self.served(US, 4) == {name}, f"{name} answers", step=0.001)  # type: ignore[misc]
            found.append(time.monotonic() - written)
        return sorted(found)[times // 2]

    def cpu_seconds(self) -> float:
        """What the control plane has used."""
        fields = Path(f"/proc/{self.plane.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pushes(self) -> float:
        """Responses sent to proxies so far."""
        return self.plane.metric("controlplane_pushes_total")

    def settled(self) -> float:
        """The same, once nothing has been sent for a while."""
        seen, since = self.pushes(), time.monotonic()

        def quiet() -> bool:
            nonlocal seen, since
            if (now := self.pushes()) != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > 3.0

        until(quiet, "nothing is sent any more", step=0.1)
        return seen

    def eds(self) -> float:
        """Of these, those that carry endpoints."""
        return self.plane.metric('controlplane_pushes_total{type="ClusterLoadAssignment"}')

    def load(self, *hosts: str) -> Load:
        """Constant load; every request must be answered with 200."""
        return Load(lambda: Connection(self.port), *(answers("/", host) for host in hosts or (SHOP, US)))


@contextmanager
def clouds(folder: Path) -> Iterator[Clouds]:
    """All of it, at work; this thread is in their network namespace."""
    needs("etcd", "kube-apiserver", "consul")
    try:
        home = network()
    except OSError as error:
        unavailable(str(error))
    with home.entered(), ExitStack() as stack:
        yield Clouds(folder, stack)
