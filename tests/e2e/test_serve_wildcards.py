"""Wildcard hosts below others, while requests flow to a proxy that is far away: each step of a change takes a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.plane import Plane, answers, gateway, respond
from tests.support.certificates import authority
from tests.support.client import Connection, trusting
from tests.support.load import Load
from tests.support.load import answers as answered
from tests.support.ports import free_port
from tests.support.relay import Pace, Relay
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

DISTANCE = Pace(0.05)
WIDE = respond("wide", "/", "wide", ["*.example.com"])
GRANTED = {"name": "pay", "namespaces": ["pay"], "hosts": ["*.foo.example.com"], "pathPrefixes": ["/pay", "/buy"]}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        yield plane


@pytest.fixture
def relay(plane: Plane) -> Iterator[Relay]:
    """What the control plane sends arrives later; it runs when the test has written its specs."""
    plane.write(gateway("nobody", role="nobody"), file="nobody.yaml")
    plane.start().ready()
    with Relay(int(plane.xds.rpartition(":")[2])) as relay:
        relay.slow_down(DISTANCE)
        yield relay


def team(*paths: str, host: str = "*.foo.example.com") -> dict[str, Any]:
    return {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "RouteSpec",
        "metadata": {"name": "app", "namespace": "pay"},
        "spec": {
            "gateway": "platform/edge",
            "routes": [respond(f"route{path.replace('/', '-')}", path, f"team{path}", [host]) for path in paths],
        },
    }


def test_a_wildcard_host_comes_below_another_goes_and_is_replaced(plane: Plane, relay: Relay) -> None:
    """Whoever asks is answered by the one or by the other."""
    port = free_port()

    def write(*names: str) -> None:
        below = [respond(name, "/", name, [f"*.{name}.example.com"]) for name in names]
        plane.write(gateway(port=port, routes=[WIDE, *below]))

    def serves(body: str, host: str) -> None:
        until(lambda: answers(port, body, host=host), f"{host} is answered by {body}")

    write()
    plane.envoy(bootstrap=plane.bootstrap(through=relay.port)).ready()
    serves("wide", "x.foo.example.com")
    asks = [answered(path, f"x.{name}.example.com") for name in ("foo", "bar") for path in ("/", "/some/where")]
    with Load(lambda: Connection(port), *asks):
        for _ in range(2):
            write("foo")
            serves("foo", "x.foo.example.com")
            write("bar")
            serves("bar", "x.bar.example.com")
            serves("wide", "x.foo.example.com")
            write()
            serves("wide", "x.bar.example.com")


def test_a_team_takes_other_paths_of_a_wildcard_host_and_the_gateway_the_rest(plane: Plane, relay: Relay) -> None:
    """Of an open wildcard, the proxies know the segments; one that is declared as a whole has all."""
    port = free_port()
    host = "x.foo.example.com"

    def write(*paths: str, whole: bool = False) -> None:
        own = [respond("own", "/", "own", ["*.foo.example.com"])] if whole else []
        plane.write(
            gateway(port=port, routes=[WIDE, *own], delegates=[GRANTED]),
            *([team(*paths)] if paths else []),
            file="all.yaml",
        )
        for path in ("/pay", "/buy", "/"):
            body = f"team{path}" if path in paths else "own" if whole else "wide"
            until(lambda path=path, body=body: answers(port, body, path, host=host), f"{path} is answered by {body}")

    plane.write(gateway(port=port, routes=[WIDE], delegates=[GRANTED]), file="all.yaml")
    plane.envoy(bootstrap=plane.bootstrap(through=relay.port)).ready()
    write()
    with Load(lambda: Connection(port), *(answered(path, host) for path in ("/pay", "/buy", "/", "/some/where"))):
        write("/pay")
        write("/pay", "/buy")
        write("/buy")
        write("/pay")
        write("/pay", whole=True)
        write("/buy")
        write(whole=True)
        write("/pay", "/buy")
        write()


def test_a_wildcard_host_gets_another_certificate(plane: Plane, relay: Relay) -> None:
    """Another filter chain, whose requests are sent to its own shards by the table that comes after these."""
    port = free_port()
    for name in ("one", "two"):
        authority().leaf("*.example.com").write(plane.secrets, name)

    def write(certificate: str, body: str) -> None:
        tls = [{"hosts": ["*.example.com"], "certificate": {"secretRef": certificate}}]
        listener = {"name": "https", "port": port, "protocol": "HTTPS", "tls": tls}
        plane.write(gateway(listeners=[listener], routes=[respond("wide", "/", body, ["*.example.com"])]))

    def connect() -> Connection:
        return Connection(port, trusting(authority().pem), "x.example.com")

    def anew(_: Connection) -> None:
        with connect() as connection:
            assert connection.request("/", "x.example.com").status == 200

    def serves(body: bytes) -> bool:
        try:
            with connect() as connection:
                return connection.request("/", "x.example.com").body == body
        except OSError:
            return False

    write("one", "first")
    plane.envoy(bootstrap=plane.bootstrap(through=relay.port)).ready()
    until(lambda: serves(b"first"), "it answers")
    with Load(connect, answered("/", "x.example.com"), anew):
        for certificate, body in (("two", "second"), ("one", "third")):
            write(certificate, body)
            until(lambda body=body: serves(body.encode()), f"it answers by certificate {certificate}")
