"""TTLs with a real Envoy: what is repeated lives, what is not expires, and nothing else is touched by either."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.runtime.v3 import rtds_pb2
from google.protobuf import json_format

from controlplane.resources import Resource
from controlplane.xds import types
from tests.protocol.dialogue import Change
from tests.protocol.rig import PATIENCE, Rig, run, running
from tests.support.envoy import Envoy

pytestmark = pytest.mark.envoy

TTL = timedelta(seconds=6)
"""Who is not heard for so long is gone; a busy machine stands still for shorter."""
BEATS = 4
"""More than a TTL: without heartbeats the resource would be gone."""


def bootstrap(port: int, api_type: str) -> dict[str, Any]:
    """An Envoy that takes clusters and one layer of its runtime from the server."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    server = {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": "n", "cluster": "c", "client_features": ["xds.config.resource-in-sotw"]},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": ads,
        },
        "layered_runtime": {"layers": [{"name": "ours", "rtds_layer": {"name": "layer", "rtds_config": ads}}]},
        "static_resources": {"clusters": [server]},
    }


def cluster(name: str, ttl: timedelta | None) -> Change:
    body = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC).SerializeToString()
    return types.CLUSTER, name, Resource(types.CLUSTER, name, body, ttl=ttl)


def layer(ttl: timedelta | None) -> Change:
    message = json_format.ParseDict({"name": "layer", "layer": {"ours.key": 7}}, rtds_pb2.Runtime())
    return types.RUNTIME, "layer", Resource(types.RUNTIME, "layer", message.SerializeToString(), ttl=ttl)


def stat(envoy: Envoy, name: str) -> int:
    return int(envoy.admin(f"/stats?filter=^{name}$").split(":")[1])


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)


async def beats(rig: Rig, url: str) -> None:
    """Wait until that many heartbeats went out."""
    seen = rig.observer.pushes.count(url)
    async with asyncio.timeout(PATIENCE):
        while rig.observer.pushes.count(url) < seen + BEATS:  # noqa: ASYNC110 - what it waits for signals nobody
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("api_type", ["DELTA_GRPC", "GRPC"])
@pytest.mark.parametrize("unified", ["false", "true"])
def test_what_is_repeated_lives_and_expires_when_we_are_gone(api_type: str, unified: str) -> None:
    async def test() -> None:
        async with running() as rig:
            rig.publish(cluster("mortal", TTL), cluster("immortal", None), layer(TTL))
            document = bootstrap(rig.port, api_type)
            flag = {"name": "flag", "static_layer": {"envoy.reloadable_features.unified_mux": unified == "true"}}
            document["layered_runtime"]["layers"].insert(0, flag)
            with await asyncio.to_thread(Envoy, document) as envoy:
                await asyncio.to_thread(envoy.ready)
                await asyncio.gather(beats(rig, types.CLUSTER), beats(rig, types.RUNTIME))

                def clusters() -> str:
                    return envoy.admin("/clusters")

                def runtime() -> str:
                    return envoy.admin("/runtime")

                assert "immortal::" in await asyncio.to_thread(clusters)
                assert "mortal::" in (await asyncio.to_thread(clusters)).replace("immortal", "")
                assert "ours.key" in await asyncio.to_thread(runtime)
                assert await asyncio.to_thread(stat, envoy, "cluster_manager.cluster_removed") == 0
                assert await asyncio.to_thread(stat, envoy, "cluster_manager.cds.update_rejected") == 0
                (status,) = rig.server.nodes()
                assert {each.state for each in status.types} == {"synced"}, rig.observer.refusals
                await rig.server.stop(0)
                await eventually(lambda: "mortal::" not in clusters().replace("immortal", ""))
                await eventually(lambda: "ours.key" not in runtime())
                assert "immortal::" in await asyncio.to_thread(clusters)

    run(test)
