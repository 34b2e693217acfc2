"""What a real Envoy refuses, in both variants: found, held back alone, everything else in use, and put right.

A protocol that only looks right is not enough here: Envoy's memory of what it refused is part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import scoped_route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401  named in an Any
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from google.protobuf import json_format

from controlplane.resources import Resource
from controlplane.xds.observer import StreamStatus
from tests.protocol.dialogue import CDS, LDS, SRDS, Change, removed
from tests.protocol.rig import PATIENCE, Rig, run, running, until
from tests.support.client import Connection
from tests.support.envoy import Envoy

REGEX = {"safe_regex": {"regex": "("}}
"""No regex: accepted by us, refused by Envoy."""
ADS = {"ads": {}, "resource_api_version": "V3"}
HTTP = "type.googleapis.com/envoy.extensions.filters.http."
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
UPSTREAM = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def resource(url: str, kind: Any, **content: Any) -> Change:
    body = json_format.ParseDict(content, kind()).SerializeToString(deterministic=True)
    return url, content["name"], Resource(url, content["name"], body)


def cluster(name: str, **more: Any) -> Change:
    return resource(CDS, cluster_pb2.Cluster, name=name, type="STATIC", connect_timeout="1s", **more)


def scope(name: str, body: str, **match: Any) -> Change:
    """A scope of the header value `name`."""
    route = {"match": match or {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": body}}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    key = {"fragments": [{"string_key": name}]}
    configuration = {"name": name, "virtual_hosts": hosts}
    return resource(
        SRDS, scoped_route_pb2.ScopedRouteConfiguration, name=name, key=key, route_configuration=configuration
    )


def listener(name: str, address: str = "127.0.0.1") -> Change:
    builder = {"fragments": [{"header_value_extractor": {"name": "x-scope", "element_separator": ",", "index": 0}}]}
    manager = {
        "@type": MANAGER,
        "stat_prefix": "test",
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{HTTP}router.v3.Router"}}],
        "scoped_routes": {
            "name": "test",
            "scope_key_builder": builder,
            "rds_config_source": ADS,
            "scoped_rds": {"scoped_rds_config_source": ADS},
        },
    }
    chain = {"filters": [{"name": "manager", "typed_config": manager}]}
    where = {"socket_address": {"address": address, "port_value": 0}}
    return resource(LDS, listener_pb2.Listener, name=name, address=where, filter_chains=[chain])


def bootstrap(port: int, api_type: str) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    http2 = {"@type": f"type.googleapis.com/{UPSTREAM}", "explicit_http_config": {"http2_protocol_options": {}}}
    assignment = {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    xds = {
        "name": "xds",
        "type": "STATIC",
        "typed_extension_protocol_options": {UPSTREAM: http2},
        "load_assignment": assignment,
    }
    services = [{"envoy_grpc": {"cluster_name": "xds"}}]
    ads = {"api_type": api_type, "transport_api_version": "V3", "grpc_services": services}
    return {
        "node": {"id": "n", "cluster": "c"},
        "dynamic_resources": {"ads_config": ads, "cds_config": ADS, "lds_config": ADS},
        "static_resources": {"clusters": [xds]},
    }


@dataclass
class Proxy:
    rig: Rig
    envoy: Envoy

    async def refuses(self, names: Iterable[str], *changes: Change) -> None:
        """Publish, and wait until exactly these are held back and nothing else waits."""
        self.rig.publish(*changes)
        sequence = self.rig.store.sequence

        def rested() -> bool:
            (status,) = self.rig.server.nodes()
            held = {name for one in status.types for name in one.held}
            return held == set(names) and (status.settled >= sequence or (bool(held) and not _waiting(status)))

        await until(rested)

    def shown(self, name: str) -> str | None:
        """The version that is shown of what is held back."""
        (status,) = self.rig.server.nodes()
        return next(one.held[name] for one in status.types if name in one.held)

    async def until_answers(self, scope: str, body: bytes) -> None:
        """Wait until it uses this content."""
        async with asyncio.timeout(PATIENCE):
            while (answer := await self.ask(scope)) != (200, body):
                assert answer[0] in {200, 404}

    async def ask(self, scope: str, path: str = "/") -> tuple[int, bytes]:
        def ask() -> tuple[int, bytes]:
            with Connection(self.envoy.port("edge")) as connection:
                answer = connection.request(path, "any.test", headers={"x-scope": scope})
                return answer.status, answer.body

        return await asyncio.to_thread(ask)

    async def until_clusters(self, expected: dict[str, str | None]) -> None:
        """Wait until it has these, each with its other name."""
        async with asyncio.timeout(PATIENCE):
            while True:
                dump = await asyncio.to_thread(self.envoy.config_dump, "dynamic_active_clusters")
                found = [each["cluster"] for each in dump["configs"]]
                if {one["name"]: one.get("alt_stat_name") for one in found} == expected:
                    return


def _waiting(status: StreamStatus) -> bool:
    """Whether something was sent and not answered."""
    nonces = ((one.sent_nonce, one.acked_nonce, one.nack.nonce if one.nack else "") for one in status.types)
    return any(sent not in (acked, refused) for sent, acked, refused in nonces)


def awaited(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def sync(*args: Any, **options: Any) -> None:
        run(lambda: test(*args, **options))

    return sync


@pytest.fixture(params=["DELTA_GRPC", "GRPC"], ids=["delta", "sotw"])
def proxy(request: pytest.FixtureRequest) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_proxy(*content: Change) -> AsyncIterator[Proxy]:
        async with running() as rig:
            rig.publish(listener("edge"), *content)
            envoy = await asyncio.to_thread(lambda: Envoy(bootstrap(rig.port, request.param)).ready())
            try:
                yield Proxy(rig, envoy)
            finally:
                await asyncio.to_thread(envoy.stop)

    return open_proxy


@pytest.mark.parametrize("bad", ["a", "b", "c"])
@awaited
async def test_scopes_that_came_with_a_bad_one_are_used(proxy: Any, bad: str) -> None:
    """Wherever the bad one stands: Envoy notes those before it as known, and would not use them when sent again."""
    names = ["a", "b", "c", "d"]
    before = {name: scope(name, "1") for name in names}
    async with proxy(*before.values()) as one:
        await one.refuses(
            [bad], *(scope(name, "2", **REGEX if name == bad else {}) for name in names), scope("new", "2")
        )
        good = before[bad][2]
        assert good is not None
        assert one.shown(bad) == good.version
        for name in (*names, "new"):
            await one.until_answers(name, b"1" if name == bad else b"2")
        await one.refuses([], scope(bad, "3"))
        await one.until_answers(bad, b"3")


@awaited
async def test_two_bad_scopes_are_found(proxy: Any) -> None:
    names = [f"s{number}" for number in range(9)]
    async with proxy(*(scope(name, "1") for name in names)) as one:
        bad = {"s2", "s6"}
        await one.refuses(bad, *(scope(name, "2", **REGEX if name in bad else {}) for name in names))
        for name in names:
            await one.until_answers(name, b"1" if name in bad else b"2")
        assert len(one.rig.observer.refusals) <= 9


@awaited
async def test_clusters(proxy: Any) -> None:
    """One that Envoy names, and one that breaks a rule of the message, which refuses the whole response unread."""
    async with proxy(cluster("a"), cluster("b")) as one:
        for bad in ({"type": "EDS"}, {"connect_timeout": "-1s"}):
            content = {"name": "a", "type": "STATIC", "connect_timeout": "1s", **bad}
            change = resource(CDS, cluster_pb2.Cluster, **content)
            await one.refuses(["a"], change, cluster("b", alt_stat_name=str(bad)))
            await one.until_clusters({"a": None, "b": str(bad)})


@awaited
async def test_listeners(proxy: Any) -> None:
    async with proxy(scope("a", "1")) as one:
        await one.refuses(["bad"], listener("bad", "192.0.2.1"), listener("good"))
        assert one.shown("bad") is None
        assert await asyncio.to_thread(one.envoy.port, "good")
        await one.refuses([], removed(LDS, "bad"))
        assert await one.ask("a") == (200, b"1")
