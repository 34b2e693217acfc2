"""Every golden case as gRPC without a proxy gets it: a real client refuses nothing of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from controlplane.compile.offline import Compiled
from controlplane.compile.xds_types import CLUSTER, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION
from controlplane.names import Family
from controlplane.resources import Resource
from controlplane.snapshot.store import View
from controlplane.xds.nodes import Node, Peer
from controlplane.xds.observer import State, StreamStatus
from tests.compile.grpc_lookup import GrpcLookup
from tests.golden.cases import Case, cases
from tests.protocol.rig import OneView, running, until
from tests.support.edge import compiled
from tests.support.proxyless import Client


class ByNode(OneView):
    """Each node sees the case that it is named after."""

    def admit(self, node: Node, peer: Peer) -> View | None:
        return self.store.view([node.id])


def here(resource: Resource) -> Resource:
    """The resource with all its endpoints on this machine."""
    message: Any
    if resource.type_url == CLUSTER:
        message = cluster_pb2.Cluster.FromString(resource.body)
        endpoints, host = message.load_assignment.endpoints, "localhost"
    elif resource.type_url == LOAD_ASSIGNMENT:
        message = endpoint_pb2.ClusterLoadAssignment.FromString(resource.body)
        endpoints, host = message.endpoints, "127.0.0.{}"
    else:
        return resource
    for number, endpoint in enumerate((each for one in endpoints for each in one.lb_endpoints), 1):
        endpoint.endpoint.address.socket_address.address = host.format(number)
    return Resource(resource.type_url, resource.name, message.SerializeToString(deterministic=True))


def spoken(case: Case, secrets: Path) -> Compiled:
    """The case, with backends that speak gRPC."""
    case.compile(secrets)
    text = case.given.read_text()
    if not re.search(r"protocol: (HTTP1|HTTP2|GRPC)\b", text):
        text = re.sub(r"^( +)members:", r"\1protocol: GRPC\n\1members:", text, flags=re.MULTILINE)
        text = text.replace(", members:", ", protocol: GRPC, members:")
    return compiled(text, secrets)


def bootstrap(port: int, case: str) -> str:
    provider = {"plugin_name": "file_watcher", "config": {"ca_certificate_file": "/nowhere"}}
    return json.dumps(
        {
            "xds_servers": [{"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}]}],
            "node": {"id": case},
            "certificate_providers": {"default": provider, "server": provider},
        }
    )


@pytest.mark.parametrize("go", [False, True], ids=["C core", "Go"])
def test_a_real_client_refuses_nothing(tmp_path: Path, go: bool) -> None:
    names: dict[str, list[str]] = {}
    content: dict[str, list[Resource]] = {}
    for case in cases():
        result = spoken(case, tmp_path)
        view = tuple(result.gateways)
        result.compiler.add_view(view, Family.GRPC)
        result.compiler.commit_now()
        found = [here(one) for one in result.resources(view, Family.GRPC)]
        content[case.name] = found
        names[case.name] = [name for name in GrpcLookup(found).names() if "*" not in name]

    async def serve() -> None:
        async with running() as rig:
            rig.server._directory = ByNode(rig.store)
            publication = {case: [(one.type_url, one.name, one) for one in found] for case, found in content.items()}
            rig.store.publish(publication)
            with Client(go=go) as client:
                for case, targets in names.items():
                    text = bootstrap(rig.port, case)
                    for target in targets:
                        await asyncio.to_thread(client.call, target, timeout=0.2, bootstrap=text)
                    await until(partial(synced, rig.server.nodes, len(targets)))
                    taken.update((case, one.type_url) for status in rig.server.nodes() for one in status.types)
                    await asyncio.to_thread(client.close)
                    await until(lambda: not rig.server.nodes())
            assert rig.observer.refusals == []

    taken: set[tuple[str, str]] = set()
    asyncio.run(serve())
    for case, targets in names.items():
        if targets:
            assert {(case, LISTENER), (case, ROUTE_CONFIGURATION)} <= taken
    for url in (CLUSTER, LOAD_ASSIGNMENT):
        assert len([case for case, taken_url in taken if taken_url == url]) > len(content) / 3


def synced(streams: Callable[[], list[StreamStatus]], count: int) -> bool:
    """Whether this many streams have taken over all that they asked for and is known."""
    nodes = streams()
    types = [one for status in nodes for one in status.types]
    known = [one for one in types if one.type_url != LOAD_ASSIGNMENT or one.state is not State.NOT_SENT]
    routed = [one for one in types if one.type_url == ROUTE_CONFIGURATION]
    return len(nodes) == len(routed) == count and all(one.state is State.SYNCED for one in known)
