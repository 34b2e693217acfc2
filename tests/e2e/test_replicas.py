"""Replicas are interchangeable: same inputs, same bytes, and a proxy that moves between them receives nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.xds import types
from tests.e2e.plane import Plane, answers, ask, forward, gateway, respond, static
from tests.e2e.raw import Client, issued
from tests.support.backends import HttpBackend
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.tokens import key_set, rsa_key
from tests.support.waiting import until

TYPES = (types.CLUSTER, types.LISTENER, types.SCOPED_ROUTES, types.EXTENSION, types.SECRET)


@pytest.fixture
def planes(tmp_path: Path) -> Iterator[tuple[Plane, Plane]]:
    """Two replicas with folders of their own, and copies of one authority."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with Plane(folders[0], insecure=False) as one, Plane(folders[1], insecure=False) as two:
        yield one, two


def together(planes: tuple[Plane, Plane], *documents: dict[str, Any]) -> None:
    """Both start, with the same specs and the authority that the first one made."""
    one, two = planes
    for plane in planes:
        plane.write(*documents)
    one.start().ready()
    two.state.mkdir(mode=0o700)
    shutil.copytree(one.state / "ca", two.state / "ca")
    two.start().ready()


def documents(port: int, backend: int, body: str = "first") -> dict[str, Any]:
    routes = [
        forward("proxied", "/api", "api"),
        *(respond(f"r{number}", f"/r{number}", body, hosts=[f"h{number}.example"]) for number in range(20)),
        respond("main", "/", body),
    ]
    return gateway(port=port, routes=routes, backends=[static("api", backend)])


def port_of(plane: Plane) -> int:
    return int(plane.xds.rpartition(":")[2])


def test_same_inputs_are_the_same_bytes(planes: tuple[Plane, Plane]) -> None:
    together(planes, documents(free_port(), 9))

    def seen(plane: Plane, delta: bool) -> list[Any]:
        pair = issued(planes[0], role="edge")
        with Client(plane, pair, delta=delta) as client:
            return [sorted(one.SerializeToString() for one in client.ask(url, *("*",))) for url in TYPES[:3]]

    for delta in (True, False):
        assert seen(planes[0], delta) == seen(planes[1], delta)
    assert planes[0].version() == planes[1].version()
    shown = [plane.json("/v1/gateways/platform/edge/snapshot?bodies=1") for plane in planes]
    assert shown[0]["resources"] == shown[1]["resources"]


@pytest.mark.envoy
@pytest.mark.parametrize("variant", ["DELTA_GRPC", "GRPC"])
def test_a_proxy_that_moves_receives_nothing_that_it_has(planes: tuple[Plane, Plane], variant: str) -> None:
    port, delta = free_port(), variant == "DELTA_GRPC"
    with HttpBackend("api") as backend:
        together(planes, documents(port, backend.port))
        one, two = planes
        with Relay(port_of(one)) as relay:
            bootstrap = one.bootstrap().replace("DELTA_GRPC", variant)
            with Envoy(through(bootstrap, one, relay)) as envoy:
                envoy.ready()
                until(lambda: answers(port, "first"), "it answers")
                assert ask(port, "/api").status == 200
                settled(one)
                for there, here in ((one, two), (two, one)):
                    before = pushed(here, delta)
                    updates = changes(envoy)
                    relay.flip(port_of(here))
                    until(lambda plane=here: nodes(plane), "it is at the other")
                    until(lambda plane=there: not nodes(plane), "it has left")
                    settled(here)
                    assert pushed(here, delta) == before
                    assert changes(envoy) == updates
                # What did change meanwhile is what it receives at the other one.
                for plane in planes:
                    plane.write(documents(port, backend.port, "second"))
                    plane.barrier()
                relay.flip(port_of(two))
                until(lambda: answers(port, "second"), "it has what changed")


def through(bootstrap: str, plane: Plane, relay: Relay) -> str:
    """The bootstrap with the relay in the place of the control plane."""
    document = yaml.safe_load(bootstrap)
    text = yaml.safe_dump(document)
    assert f"port_value: {port_of(plane)}" in text
    return text.replace(f"port_value: {port_of(plane)}", f"port_value: {relay.port}")


def nodes(plane: Plane) -> list[Any]:
    return list(plane.json("/v1/nodes")["nodes"])


def settled(plane: Plane) -> None:
    """Wait until its proxies have all that is published."""
    until(
        lambda: (found := nodes(plane)) and all(one["settled"] == one["sequence"] for one in found), "they have it all"
    )


def pushed(plane: Plane, delta: bool) -> float:
    """Resources that were sent; in the state of the world, of the types whose versions stand for a whole set."""
    labels = [""] if delta else [f'{{type="{name}"' for name in ("Cluster", "Listener", "ScopedRouteConfiguration")]
    return sum(plane.metric(f"controlplane_pushed_resources_total{label}") for label in labels)


def changes(envoy: Envoy) -> dict[str, int]:
    """What has come and gone in Envoy so far."""
    return envoy.stats("(listener|cluster)_(added|modified|removed)$")


def test_a_proxy_on_its_way_from_another_replica_finds_what_its_routes_require(tmp_path: Path) -> None:
    """None is connected here when the provider gets another name: the routes that one may come with name the former."""
    keys = {"inline": key_set(rsa_key())}

    def named(provider: str) -> dict[str, Any]:
        issuer = {"name": provider, "issuer": "https://id.example/", "audiences": ["a"], "jwks": keys}
        route = respond("main", "/", "first") | {"public": None, "auth": {"anyOf": [{"jwt": provider}]}}
        route = {key: value for key, value in route.items() if value is not None}
        return gateway(routes=[route], identity={"jwt": [issuer]})

    with Plane(tmp_path) as plane:
        plane.write(named("former"))
        plane.start().ready()
        plane.write(named("latter"))
        plane.barrier()
        with Client(plane, None, labels={"role": "edge"}, tls=False) as client:
            (known,) = client.ask(types.EXTENSION, "gatewayspec/jwt")
        assert b"platform/edge|any:latter" in known.value
        assert b"platform/edge|any:former" in known.value
